"""The quantities that budgets limit, as charts show them."""

from __future__ import annotations

from dataclasses import dataclass

from fbn_deploy.report.searched import Search
from fbn_deploy.search.budgets import Budget


@dataclass(frozen=True)
class Quantity:
    """``scale`` of the budget's units are one ``unit`` of a chart; ``axis`` names both."""

    noun: str
    unit: str
    axis: str
    scale: float = 1.0


_COUNTED = {
    "flops": Quantity("multiply-adds", "M", "million multiply-adds", 1e6),
    "params": Quantity("parameters", "M", "million parameters", 1e6),
}


def quantity_of(search: Search, budget: Budget) -> Quantity:
    """What ``budget`` limits; a latency in the precision of ``search``."""
    if budget.kind != "latency":
        return _COUNTED[budget.kind]
    noun = f"latency{search.in_precision}"
    return Quantity(noun, "ms", f"{noun}, ms")
