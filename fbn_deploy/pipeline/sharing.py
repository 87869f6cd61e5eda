"""Scoring by all processes of a job: the first one asks, each scores its share, answers gather."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fbn_deploy.distributed import Job
from fbn_deploy.space import Architecture, SearchSpace


class Values(Protocol):
    """What gives an architecture its values: indicators, or a short training."""

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """The name of each value, and whether its higher ones rank first."""

    def __call__(self, architecture: Architecture) -> dict[str, float]: ...


Timed = tuple[dict[str, float], float]  # indicator → value, and seconds


class SharedScoring:
    """Values of many architectures, the same as those of one process: a value depends on the
    architecture, and on nothing that was computed before it. Of several ``scorings`` each call
    asks one, by number."""

    def __init__(self, scorings: Sequence[Values], space: SearchSpace, job: Job) -> None:
        self.scorings, self._space, self.job = scorings, space, job

    def __call__(self, architectures: Sequence[Architecture], number: int = 0) -> list[Timed]:
        """Values and seconds of each; called at the first process, while the others ``serve``."""
        asked = [dict(architecture) for architecture in architectures]
        return self._shared(*self.job.share((number, asked)))

    def serve(self) -> None:
        """Scores shares of what the first process asks for, until it ends that."""
        while (asked := self.job.share(None)) is not None:
            self._shared(*asked)

    def end(self) -> None:
        """Lets the other processes go on."""
        self.job.share(None)

    def _shared(self, number: int, asked: list[dict[str, str]]) -> list[Timed]:
        scoring, job = self.scorings[number], self.job
        own = [self._timed(scoring, each) for each in asked[job.rank :: job.size]]
        found: list[Any] = [None] * len(asked)
        for rank, values in enumerate(job.gather(own)):
            found[rank :: job.size] = values
        return [(values, seconds) for values, seconds in found]

    def _timed(self, scoring: Values, choices: dict[str, str]) -> Timed:
        started = time.perf_counter()
        values = scoring(self._space.architecture(choices))
        return values, round(time.perf_counter() - started, 6)
