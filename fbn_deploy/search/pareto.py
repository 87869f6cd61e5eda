"""The Pareto front: what nothing else beats in one thing without losing in another."""

from __future__ import annotations

from collections.abc import Sequence

from fbn_deploy.search.candidates import Candidate, Population

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is nowhere worse (larger) than ``b`` and somewhere better."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(points: Sequence[Point]) -> list[int]:
    """The positions of the points that no other dominates, ascending; equal points all stay.

    In lexicographic order a point can only be dominated by an earlier one, and then also by one
    that is on the front, so each is compared with the front so far.
    """
    positions: list[int] = []
    for position in sorted(range(len(points)), key=lambda p: tuple(points[p])):
        if not any(dominates(points[other], points[position]) for other in positions):
            positions.append(position)
    return sorted(positions)


def pareto_front(population: Population, costs: Sequence[str]) -> list[Candidate]:
    """The front of rank against the named costs, best rank first.

    One cost gives the plane that is usually drawn; several give their joint front.
    """
    ranked = population.ranked()
    points = [(rank, *(each.costs[cost] for cost in costs)) for rank, each in ranked]
    return [ranked[position][1] for position in front(points)]
