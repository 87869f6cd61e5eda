"""The screen in front of the scores: architectures are drawn, what is new and fits comes out."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from fbn_deploy.errors import NothingFitsError
from fbn_deploy.search.budgets import Budget, cheapest_first
from fbn_deploy.search.candidates import Candidate, Costs, Population
from fbn_deploy.search.problem import Outcome, Problem, Progress, Tally
from fbn_deploy.space import Architecture, SearchSpace

DRAWS = 10  # draws for each architecture wanted, as in the published code of SPOS
MISSES = 2  # new architectures in a row that are over budget, for each one wanted
FEW = 25  # fewer than this are looked for as hard as this many


@dataclass(frozen=True)
class Fitting:
    """A new architecture that meets every budget, not yet scored."""

    architecture: Architecture
    canonical: str
    costs: Costs


@dataclass(frozen=True)
class Miss:
    """A new architecture that broke a budget, with the costs known until then."""

    architecture: Architecture
    costs: Costs
    broken: Budget
    unmet: int  # budgets that are broken or were not reached

    @property
    def distance(self) -> tuple[int, float]:
        """Smaller is nearer: fewer unmet budgets, then the smaller multiple of the broken one."""
        return self.unmet, self.costs[self.broken.cost] / self.broken.limit


class Screen:
    """Draws architectures for one search, counts what becomes of them and remembers the misses.

    Every loop is bounded: a budget that next to nothing meets and a space that is exhausted give
    fewer architectures than were asked for, never an endless search.
    """

    def __init__(self, space: SearchSpace, problem: Problem, total: int) -> None:
        self._space = space
        self._problem = problem
        self._budgets = cheapest_first(problem.budgets)
        self._total = total  # candidates that the search wants in all
        self._scored = 0
        self._seen: set[str] = set()
        self._misses: list[Miss] = []
        self._tally = Tally()
        self._at_last_fit = Tally()

    def fill(self, draw: Callable[[], Architecture], wanted: int) -> list[Fitting]:
        """Up to ``wanted`` new architectures that fit, in the order in which they were drawn."""
        found: list[Fitting] = []
        misses_in_a_row = 0
        for _ in range(DRAWS * max(wanted, FEW)):
            if len(found) >= wanted or misses_in_a_row >= MISSES * max(wanted, FEW):
                break
            match self._screened(draw()):
                case Fitting() as fitting:
                    found.append(fitting)
                    misses_in_a_row = 0
                case Miss():
                    misses_in_a_row += 1
        return found

    def scored(self, fitting: Sequence[Fitting]) -> list[Candidate]:
        """The same architectures with their scores, from one batch."""
        scores = self._problem.score([each.architecture for each in fitting])
        self._scored += len(fitting)
        self._report()
        return [
            Candidate(each.architecture, each.canonical, its_scores, each.costs)
            for each, its_scores in zip(fitting, scores, strict=True)
        ]

    def nearest(self, count: int) -> list[Miss]:
        """The misses nearest to the budgets, nearest first; among equals the one drawn first."""
        return heapq.nsmallest(count, self._misses, key=lambda miss: miss.distance)

    def outcome(self, population: Population) -> Outcome:
        """What the search hands back. Raises ``NothingFitsError`` if the population is empty."""
        if not population:
            raise NothingFitsError(self._nothing_fits())
        return Outcome(population, self._tally, self._ending(len(population)))

    def _screened(self, architecture: Architecture) -> Fitting | Miss | None:
        """What a drawn architecture is; ``None`` for a network that was drawn before."""
        canonical = self._space.canonical(architecture)
        tally = replace(self._tally, drawn=self._tally.drawn + 1)
        if canonical in self._seen:
            self._tally = replace(tally, duplicates=tally.duplicates + 1)
            return None
        self._seen.add(canonical)
        costs: dict[str, float] = {}
        for position, budget in enumerate(self._budgets):
            costs[budget.cost] = self._problem.cost(architecture, budget)
            if not budget.is_met_by(costs[budget.cost]):
                miss = Miss(architecture, costs, budget, unmet=len(self._budgets) - position)
                self._misses.append(miss)
                self._tally = replace(tally, over_budget=_plus_one(tally.over_budget, budget.cost))
                self._report()
                return miss
        self._tally = self._at_last_fit = replace(tally, fitting=tally.fitting + 1)
        self._report()
        return Fitting(architecture, canonical, costs)

    def _report(self) -> None:
        self._problem.progress(Progress(self._scored, self._total, self._tally))

    def _ending(self, scored: int) -> str:
        if scored >= self._total:
            return f"All {scored} candidates were scored."
        counts = f"{scored} of {self._total} candidates were scored"
        barren = self._tally.drawn - self._at_last_fit.drawn
        if barren >= DRAWS * FEW and self._tally.over_budget == self._at_last_fit.over_budget:
            return f"The space is exhausted: {barren} draws in a row brought nothing new; {counts}."
        return f"Too few new architectures fit the budget: {counts}."

    def _nothing_fits(self) -> str:
        (nearest,) = self.nearest(1)
        tried = len(self._misses)
        asked = " and ".join(budget.text for budget in self._budgets)
        found = " and ".join(
            budget.text_of(nearest.costs[budget.cost])
            for budget in self._budgets
            if budget.cost in nearest.costs
        )
        alone = len(self._budgets) == 1
        superlative = nearest.broken.superlatives[0] if alone else "nearest"
        return (
            f"None of {tried} architectures meets {asked}; the {superlative} one found takes "
            f"{found}: {self._space.text(nearest.architecture)}. "
            "Raise the budget or search a smaller space."
        )


def _plus_one(counts: Mapping[str, int], name: str) -> dict[str, int]:
    return {**counts, name: counts.get(name, 0) + 1}
