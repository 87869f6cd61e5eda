"""Budgets: what a network may cost at most, read strictly and said plainly.

A cost has a name, and a budget says which one it limits (``Budget.cost``):

    latency on a target      latency_ms:onnxruntime-cpu
    multiply-adds            flops
    parameters               params

A cost equal to its limit meets the budget.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal, cast

from fbn_deploy.errors import FBNError

Kind = Literal["latency", "flops", "params"]


@dataclass(frozen=True)
class _Form:
    """How the budgets of one kind are written."""

    noun: str
    unit: str
    scales: Mapping[str, Decimal]  # suffix → multiple of the unit
    examples: str
    least: str  # what the network with the smallest cost is called
    most: str


_ALL_DIGITS = 17  # of a double: enough to tell any two apart
_COUNTS = {"k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9)}

# The order is that of the price of knowing the cost: counts are free, a latency is measured.
_FORMS: Mapping[str, _Form] = {
    "flops": _Form(
        noun="FLOPs budget",
        unit="FLOPs",
        scales=_COUNTS,
        examples="300M, 1.2G or 800k",
        least="lightest",
        most="heaviest",
    ),
    "params": _Form(
        noun="parameter budget",
        unit="parameters",
        scales=_COUNTS,
        examples="4.2M, 900k or 1G",
        least="smallest",
        most="largest",
    ),
    "latency": _Form(
        noun="latency budget",
        unit="ms",
        scales={"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)},
        examples="10ms, 1.5 ms, 800us or 2s, or openvino-cpu:5ms to name the target",
        least="fastest",
        most="slowest",
    ),
}


@dataclass(frozen=True)
class Budget:
    """A limit on one cost. ``limit`` is in ``unit``; only a latency has a ``target``.

    A latency budget whose ``target`` is ``None`` holds on the default target; ``on_targets``
    fills it in.
    """

    kind: Kind
    limit: float
    target: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _FORMS:
            raise FBNError(f"No budget kind {self.kind!r}; there are: {', '.join(_FORMS)}.")
        if not 0 < self.limit <= sys.float_info.max:
            raise FBNError(f"A {self._form.noun} is finite and above zero, not {self.limit}.")
        if self.target is not None and self.kind != "latency":
            raise FBNError(f"A {self._form.noun} has no target, but {self.target!r} was given.")

    @property
    def unit(self) -> str:
        """``ms``, ``FLOPs`` (one multiply-add is one FLOP) or ``parameters``."""
        return self._form.unit

    @property
    def cost(self) -> str:
        """The name of the cost that is limited."""
        if self.kind != "latency":
            return self.kind
        return f"latency_ms:{self.target}" if self.target else "latency_ms"

    @property
    def superlatives(self) -> tuple[str, str]:
        """What networks of the smallest and the largest cost are called: fastest and slowest."""
        return self._form.least, self._form.most

    @property
    def text(self) -> str:
        """``10 ms on openvino-cpu``, ``300M FLOPs``: the limit with all its digits."""
        return self._amount(self.limit) + self._place

    def text_of(self, cost: float) -> str:
        """A value of the limited cost in the same words, to four significant digits.

        Where rounding would hide that the budget is broken, as many more as show it.
        """
        return self.amount_of(cost) + self._place

    def amount_of(self, cost: float) -> str:
        """``text_of`` without the target: ``10 ms``."""
        rounded = (float(f"{cost:.{digits}g}") for digits in range(4, _ALL_DIGITS + 1))
        met = self.is_met_by(cost)
        return self._amount(next(value for value in rounded if self.is_met_by(value) == met))

    def is_met_by(self, cost: float) -> bool:
        assert not math.isnan(cost), f"The cost {self.cost} is not a number."
        return cost <= self.limit

    def to_json(self) -> dict[str, object]:
        return {"kind": self.kind, "limit": self.limit, "unit": self.unit, "target": self.target}

    @classmethod
    def from_json(cls, data: object) -> Budget:
        """The inverse of ``to_json``; anything else raises ``FBNError``."""
        if not isinstance(data, Mapping) or data.keys() != {"kind", "limit", "unit", "target"}:
            raise FBNError(f"A budget has the keys kind, limit, unit and target, unlike {data!r}.")
        kind, limit, target = data["kind"], data["limit"], data["target"]
        if not isinstance(kind, str):
            raise FBNError(f"The kind of a budget is a name, not {kind!r}.")
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise FBNError(f"The limit of a budget is a number, not {limit!r}.")
        if not isinstance(target, str | None):
            raise FBNError(f"The target of a budget is a name or null, not {target!r}.")
        budget = cls(cast("Kind", kind), limit, target)
        if data["unit"] != budget.unit:
            raise FBNError(f"A {kind} budget is in {budget.unit}, not in {data['unit']!r}.")
        return budget

    @property
    def _form(self) -> _Form:
        return _FORMS[self.kind]

    @property
    def _place(self) -> str:
        return f" on {self.target}" if self.target else ""

    def _amount(self, value: float) -> str:
        if self.kind == "latency":
            return f"{_decimal(value)} {self.unit}"
        suffix = max(
            (name for name, scale in _COUNTS.items() if value >= scale),
            key=_COUNTS.__getitem__,
            default="k",
        )
        return f"{_decimal(value, _COUNTS[suffix])}{suffix} {self.unit}"


def latency_budget(text: str) -> Budget:
    """``10ms``, ``1.5 ms``, ``800us``, ``2s`` or ``openvino-cpu:5ms``."""
    target, colon, amount = text.rpartition(":")
    if colon and not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", target.strip()):
        raise _unreadable("latency", text)
    return Budget("latency", _limit("latency", amount, text), target.strip() or None)


def flops_budget(text: str) -> Budget:
    """``300M``, ``1.2G`` or ``800k`` multiply-adds."""
    return Budget("flops", _limit("flops", text, text))


def params_budget(text: str) -> Budget:
    """``4.2M``, ``900k`` or ``1G`` parameters."""
    return Budget("params", _limit("params", text, text))


def on_targets(budgets: Iterable[Budget], default_target: str | None) -> tuple[Budget, ...]:
    """The budgets with the default target where none was named, cheapest cost first.

    Raises ``FBNError`` if two of them limit the same cost: which one was meant is not ours to
    guess.
    """
    placed = [
        replace(budget, target=budget.target or default_target)
        if budget.kind == "latency"
        else budget
        for budget in budgets
    ]
    by_cost: dict[str, list[Budget]] = {}
    for budget in placed:
        by_cost.setdefault(budget.cost, []).append(budget)
    twice = [
        " and ".join(budget.text for budget in same) for same in by_cost.values() if len(same) > 1
    ]
    if twice:
        raise FBNError(f"Two budgets limit the same cost: {'; '.join(twice)}. Keep one of them.")
    return cheapest_first(placed)


def cheapest_first(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """The budgets in the order in which it is cheap to check them: counts before latencies."""
    price = list(_FORMS)
    return tuple(sorted(budgets, key=lambda budget: price.index(budget.kind)))


def violations(budgets: Sequence[Budget], costs: Mapping[str, float]) -> tuple[Budget, ...]:
    """The budgets that these costs break. Every budgeted cost must be known (``KeyError``)."""
    return tuple(budget for budget in budgets if not budget.is_met_by(costs[budget.cost]))


def _limit(kind: Kind, amount: str, text: str) -> float:
    """The number in ``amount`` times its suffix, exactly rounded: ``1.1M`` is 1100000.0."""
    scales = _FORMS[kind].scales
    match = re.fullmatch(rf"([0-9]+(?:\.[0-9]+)?) *({'|'.join(scales)})", amount.strip())
    limit = float(Decimal(match[1]) * scales[match[2]]) if match else 0.0
    if not 0 < limit < math.inf:
        raise _unreadable(kind, text)
    return limit


def _decimal(value: float, scale: Decimal = Decimal(1)) -> str:
    """``value / scale`` with all its digits and no exponent."""
    return format((Decimal(repr(float(value))) / scale).normalize(), "f")


def _unreadable(kind: Kind, text: str) -> FBNError:
    form = _FORMS[kind]
    return FBNError(
        f"Cannot read the {form.noun} {text!r}; write a number greater than zero and its unit, "
        f"such as {form.examples}."
    )
