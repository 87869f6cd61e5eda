"""Evolution with the numbers of SPOS (Guo et al., "Single Path One-Shot Neural Architecture
Search with Uniform Sampling", 2020, algorithm 1): 20 generations of 50, of which the best 10 of all
so far have 25 mutants at p = 0.1 and 25 children by crossover; the first generation is random.

Two things are added. Places that mutation and crossover leave empty are filled at random. And
while fewer than 10 candidates fit, the architectures nearest to the budget are parents too (the
feasibility rule of Deb, "An efficient constraint handling method for genetic algorithms", 2000):
a budget that no random draw meets is approached, generation by generation, until one fits or
none comes nearer. Where a generation finds fewer that fit than it wants, more generations follow.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from fbn_deploy.search.candidates import Population
from fbn_deploy.search.problem import Outcome, Problem
from fbn_deploy.search.screen import Fitting, Screen
from fbn_deploy.space import Architecture, SearchSpace

LONGER = 3  # times as many generations as full ones would take, once something fits
STUCK = 2  # generations in a row that find nothing that fits and come no nearer


@dataclass(frozen=True)
class Evolution:
    """``candidates`` in all, in generations of ``population``."""

    candidates: int = 1000
    population: int = 50
    top: int = 10
    mutations: int = 25
    crossovers: int = 25
    probability: float = 0.1  # with which a mutation draws a decision anew

    @property
    def generations(self) -> int:
        return math.ceil(self.candidates / self.population)

    def run(self, space: SearchSpace, problem: Problem, seed: int) -> Outcome:
        rng = random.Random(seed)
        screen = Screen(space, problem, self.candidates)
        population = Population(problem.rank)
        generations = stuck = 0
        while len(population) < self.candidates and generations < LONGER * self.generations:
            nearest = screen.nearest(1)
            wanted = min(self.population, self.candidates - len(population))
            parents = self._parents(population, screen)
            fitting = self._children(space, screen, parents, wanted, rng)
            if population or not parents:
                fitting += screen.fill(lambda: space.sample(rng), wanted - len(fitting))
            if fitting:
                population = population.grown(screen.scored(fitting))
                generations += 1
            else:
                stuck = stuck + 1 if screen.nearest(1) == nearest else 0
                if population or stuck == STUCK:
                    break
        return screen.outcome(population)

    def _parents(self, population: Population, screen: Screen) -> list[Architecture]:
        """The best candidates, and behind them the nearest misses where there is room."""
        best = [candidate.architecture for candidate in population.best(self.top)]
        return best + [miss.architecture for miss in screen.nearest(self.top - len(best))]

    def _children(
        self,
        space: SearchSpace,
        screen: Screen,
        parents: list[Architecture],
        wanted: int,
        rng: random.Random,
    ) -> list[Fitting]:
        """Up to ``wanted`` new architectures that fit: mutants, then children of two parents."""

        def mutant() -> Architecture:
            return space.mutate(rng.choice(parents), rng, self.probability)

        def child() -> Architecture:
            a, b = rng.sample(parents, 2)
            return space.crossover(a, b, rng)

        found: list[Fitting] = []
        if parents:
            found += screen.fill(mutant, min(self.mutations, wanted))
        if len(parents) > 1:
            found += screen.fill(child, min(self.crossovers, wanted - len(found)))
        return found


def algorithm(candidates: int) -> Evolution:
    """Evolution in the proportions of SPOS: 1000 candidates give exactly its numbers, 100 give 7
    generations of 16."""
    population = max(8, round(50 * math.sqrt(candidates / 1000)))
    return Evolution(
        candidates,
        population,
        top=max(2, population // 5),
        mutations=population // 2,
        crossovers=population // 2,
    )
