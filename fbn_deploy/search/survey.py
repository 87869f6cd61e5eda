"""What a budget means in a space: the costs of sampled architectures, and how many meet it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fbn_deploy.search.budgets import Budget, violations
from fbn_deploy.space import Architecture, SearchSpace

DRAWS = 10  # draws for each architecture wanted, before a small space is taken as it is


@dataclass(frozen=True)
class Range:
    """The costs that one budget limits, over the sample."""

    budget: Budget
    least: float
    median: float
    most: float
    meeting: int  # architectures that meet this budget

    def to_json(self) -> dict[str, object]:
        return {
            "budget": self.budget.to_json(),
            "least": self.least,
            "median": self.median,
            "most": self.most,
            "meeting": self.meeting,
        }


@dataclass(frozen=True)
class Survey:
    """A sample of ``count`` architectures against the budgets."""

    count: int
    ranges: tuple[Range, ...]
    fitting: int  # architectures that meet all the budgets

    @property
    def share(self) -> float:
        """The share of the sample that fits, from 0 to 1."""
        return self.fitting / self.count

    @property
    def binds(self) -> bool:
        """Whether the budgets part the sample: some architectures fit and some do not."""
        return 0 < self.fitting < self.count

    def text(self) -> str:
        """One line a budget, then whether they bind."""
        lines = [self._line(each) for each in self.ranges]
        if len(self.ranges) > 1:
            lines.append(f"{self._portion(self.fitting)} meet all of these budgets.")
        lines += [self._verdict(each) for each in self.ranges if each.meeting in (0, self.count)]
        if self.fitting == 0 and all(each.meeting for each in self.ranges):
            lines.append("No sampled architecture meets all the budgets together.")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        return {
            "count": self.count,
            "fitting": self.fitting,
            "ranges": [each.to_json() for each in self.ranges],
        }

    def _line(self, each: Range) -> str:
        least, most = each.budget.superlatives
        amount = each.budget.amount_of
        return (
            f"{self._portion(each.meeting)} meet {each.budget.text}: {least} "
            f"{amount(each.least)}, median {amount(each.median)}, {most} {amount(each.most)}."
        )

    def _verdict(self, each: Range) -> str:
        budget = each.budget
        if each.meeting:
            return (
                f"Every one of {self.count} sampled architectures meets {budget.text}: "
                "the budget does not bind."
            )
        return (
            f"None of {self.count} sampled architectures meets {budget.text}: "
            f"the {budget.superlatives[0]} takes {budget.amount_of(each.least)}."
        )

    def _portion(self, part: int) -> str:
        return f"{part} of {self.count} sampled architectures ({part / self.count:.0%})"


def survey(budgets: Sequence[Budget], costs: Sequence[Mapping[str, float]]) -> Survey:
    """The survey of a sample, given every budgeted cost of each of its architectures."""
    assert costs, "A survey needs at least one architecture."
    return Survey(
        count=len(costs),
        ranges=tuple(_range(budget, [each[budget.cost] for each in costs]) for budget in budgets),
        fitting=sum(not violations(budgets, each) for each in costs),
    )


def sample_distinct(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """``count`` different networks drawn uniformly; fewer if the space hardly has as many."""
    rng = random.Random(seed)
    sampled: dict[str, Architecture] = {}
    for _ in range(DRAWS * count):
        if len(sampled) == count:
            break
        architecture = space.sample(rng)
        sampled.setdefault(space.canonical(architecture), architecture)
    return list(sampled.values())


def _range(budget: Budget, values: Sequence[float]) -> Range:
    return Range(
        budget=budget,
        least=min(values),
        median=statistics.median(values),
        most=max(values),
        meeting=sum(budget.is_met_by(value) for value in values),
    )
