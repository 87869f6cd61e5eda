"""What a search is handed, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Population, Rank, Scores
from fbn_deploy.space import Architecture


@dataclass(frozen=True)
class Tally:
    """What became of the architectures that were drawn.

    ``over_budget`` counts each refused architecture once, under the cost that refused it.
    """

    drawn: int = 0
    duplicates: int = 0  # the same network was drawn before, whether it fitted or not
    over_budget: Mapping[str, int] = field(default_factory=dict)
    fitting: int = 0

    def text(self) -> str:
        """``90 drawn: 20 duplicates, 30 over budget (10 flops, 20 latency_ms:…), 40 fitting``."""
        refused = ", ".join(f"{count} {cost}" for cost, count in self.over_budget.items())
        return (
            f"{self.drawn} drawn: {self.duplicates} duplicates, "
            f"{sum(self.over_budget.values())} over budget{f' ({refused})' if refused else ''}, "
            f"{self.fitting} fitting"
        )


@dataclass(frozen=True)
class Progress:
    """Where a search stands: told after every new architecture and every scored batch."""

    scored: int
    total: int
    tally: Tally


def _silent(progress: Progress) -> None:
    pass


@dataclass(frozen=True)
class Problem:
    """The questions that a search asks.

    ``score`` takes a batch of architectures that fit and answers in the same order. ``cost`` is
    asked for one budget at a time, counts before latencies, and no further once one is broken:
    a measurement is only paid for architectures that meet everything cheaper. ``rank`` gets all
    candidates so far.
    """

    score: Callable[[Sequence[Architecture]], Sequence[Scores]]
    rank: Rank
    cost: Callable[[Architecture, Budget], float]
    budgets: tuple[Budget, ...] = ()
    progress: Callable[[Progress], None] = _silent


@dataclass(frozen=True)
class Outcome:
    """What a search found, what it drew for it, and why it ended (one sentence)."""

    population: Population
    tally: Tally
    ending: str
