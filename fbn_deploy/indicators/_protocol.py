"""What an indicator is: a formula over a candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fbn_deploy import plugins
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need


@dataclass(frozen=True)
class Indicator:
    """A named formula, and what it ``needs`` beyond a forward pass of the first probe batch.

    A value that is not finite (a network whose output is constant, say) ranks last.
    """

    name: str
    description: str
    value: Callable[[Candidate], float]
    higher_is_better: bool = True
    needs: frozenset[Need] = frozenset()


def indicators() -> list[Indicator]:
    """All indicators, by name."""
    return [indicator(name) for name in plugins.names("fbn_deploy.indicators")]


def indicator(name: str) -> Indicator:
    """The indicator of that name; ``FBNError`` lists what exists."""
    found: Indicator = plugins.load("fbn_deploy.indicators", name, "indicator").INDICATOR
    return found
