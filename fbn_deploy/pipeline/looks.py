"""How a search ranks its candidates: all of them at a first look, the best of them at a second.

A composite may read an indicator that only orders its best fifth (``indicators/_composite.py``).
That one is computed for candidates that stand there, now or at an earlier rank: 206 of the first
968 of a search (NAS-Bench-201, evolution). The ranks are those that the values of all would give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fbn_deploy.indicators import composite, composite_rank, looked_at_again
from fbn_deploy.pipeline.answers import Scorer, scorers
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.sharing import SharedScoring
from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.supernet import Supernet


class Looks:
    """The values and ranks of a search by the indicator or composite ``name``."""

    def __init__(self, name: str, first: Scorer, second: Scorer | None = None) -> None:
        self._name, self._first, self._second = name, first, second

    @property
    def shared(self) -> SharedScoring:
        """What all processes of the job score for both looks."""
        return self._first.shared

    def score(self, architectures: Sequence[Architecture]) -> list[Mapping[str, float]]:
        """The values of the first look."""
        return self._first(architectures)

    def rank(self, candidates: Sequence[Candidate]) -> list[float]:
        """The rank of every candidate; lower is better."""
        if self._second is not None:
            best = looked_at_again(self._name, [each.scores for each in candidates])
            self._second([candidates[number].architecture for number in best])
        return composite_rank(self._name, [self._scores(each) for each in candidates])

    def with_second_looks(self, population: Population) -> Population:
        """``population`` with the values of second looks, for those who got one."""
        return Population(
            population.rank,
            tuple(dataclasses.replace(each, scores=self._scores(each)) for each in population),
        )

    def _scores(self, candidate: Candidate) -> Mapping[str, float]:
        again = self._second.known(candidate.canonical) if self._second else {}
        return {**candidate.scores, **again}


def looks(
    context: Context, supernet: Supernet, trained: Any, name: str, *, batches: int, size: int
) -> Looks:
    """The looks by ``name``; for the rest see ``scorers``."""
    of = composite(name)
    groups = [of.of_all] + ([(of.among_best,)] if of.among_best else [])
    return Looks(name, *scorers(context, supernet, trained, groups, batches=batches, size=size))
