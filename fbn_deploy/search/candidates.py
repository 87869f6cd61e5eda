"""Candidates, and the population of all that were scored: ranked against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fbn_deploy.space import Architecture

Scores = Mapping[str, float]  # indicator → value
Costs = Mapping[str, float]  # cost name → value


@dataclass(frozen=True)
class Candidate:
    """A scored architecture. ``canonical`` is the text that it shares with its duplicates."""

    architecture: Architecture
    canonical: str
    scores: Scores
    costs: Costs


Rank = Callable[[Sequence[Candidate]], Sequence[float]]  # lower is better, ties share a rank


@dataclass(frozen=True)
class Population:
    """Every candidate scored so far, in that order, each network once.

    A rank is relative to all the others, so a population that grows is ranked anew.
    """

    rank: Rank
    candidates: tuple[Candidate, ...] = ()
    ranks: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        assert len({c.canonical for c in self.candidates}) == len(self.candidates), "A duplicate."
        ranks = tuple(self.rank(self.candidates)) if self.candidates else ()
        assert len(ranks) == len(self.candidates), "One rank for each candidate."
        object.__setattr__(self, "ranks", ranks)

    def __len__(self) -> int:
        return len(self.candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates)

    def grown(self, candidates: Iterable[Candidate]) -> Population:
        """This population and ``candidates``, all ranked anew."""
        return Population(self.rank, (*self.candidates, *candidates))

    def ranked(self) -> list[tuple[float, Candidate]]:
        """(rank, candidate), best first; among equals the one found first."""
        return sorted(zip(self.ranks, self.candidates, strict=True), key=lambda pair: pair[0])

    def best(self, count: int) -> list[Candidate]:
        """The ``count`` best candidates, best first; fewer if there are fewer."""
        return [candidate for _, candidate in self.ranked()[:count]]
