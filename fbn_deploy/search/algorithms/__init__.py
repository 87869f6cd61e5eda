"""Search algorithms, one file each; a new file here is a new ``--algorithm``.

The file defines ``algorithm(candidates)``: a search that scores that many candidates in all. A
search draws at random from its seed only, so that the same answers give the same outcome.
"""

from __future__ import annotations

from typing import Protocol, cast

from fbn_deploy import plugins
from fbn_deploy.errors import FBNError
from fbn_deploy.search.problem import Outcome, Problem
from fbn_deploy.space import SearchSpace


class Algorithm(Protocol):
    """A way to look for good architectures inside the budgets."""

    def run(self, space: SearchSpace, problem: Problem, seed: int) -> Outcome:
        """The outcome of one search. Raises ``NothingFitsError`` (exit code 3)."""
        ...


def names() -> list[str]:
    """The names of all algorithms."""
    return plugins.names(__name__)


def load(name: str, candidates: int = 1000) -> Algorithm:
    """The algorithm ``name``, sized to score ``candidates`` architectures in all."""
    module = plugins.load(__name__, name, kind="search algorithm")
    if candidates < 1:
        raise FBNError(f"A search scores at least one candidate; {candidates} were asked for.")
    return cast("Algorithm", module.algorithm(candidates))
