"""Random search: uniform draws, kept if they are new and meet the budgets."""

from __future__ import annotations

import random
from dataclasses import dataclass

from fbn_deploy.search.candidates import Population
from fbn_deploy.search.problem import Outcome, Problem
from fbn_deploy.search.screen import Screen
from fbn_deploy.space import SearchSpace


@dataclass(frozen=True)
class RandomSearch:
    """``candidates`` in all, scored ``batch`` at a time."""

    candidates: int = 1000
    batch: int = 50

    def run(self, space: SearchSpace, problem: Problem, seed: int) -> Outcome:
        rng = random.Random(seed)
        screen = Screen(space, problem, self.candidates)
        population = Population(problem.rank)
        while missing := self.candidates - len(population):
            fitting = screen.fill(lambda: space.sample(rng), min(self.batch, missing))
            if not fitting:
                break
            population = population.grown(screen.scored(fitting))
        return screen.outcome(population)


def algorithm(candidates: int) -> RandomSearch:
    return RandomSearch(candidates)
