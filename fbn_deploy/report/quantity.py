"""The quantities that budgets limit, as charts show them."""

from __future__ import annotations

from dataclasses import dataclass

from fbn_deploy.search.budgets import Budget


@dataclass(frozen=True)
class Quantity:
    """``scale`` of the budget's units are one ``unit`` of a chart; ``axis`` names both."""

    noun: str
    unit: str
    axis: str
    scale: float = 1.0


_QUANTITIES = {
    "latency": Quantity("latency", "ms", "latency, ms"),
    "flops": Quantity("multiply-adds", "M", "million multiply-adds", 1e6),
    "params": Quantity("parameters", "M", "million parameters", 1e6),
}


def quantity_of(budget: Budget) -> Quantity:
    return _QUANTITIES[budget.kind]
