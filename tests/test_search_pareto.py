"""The Pareto front against its definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.search.pareto import dominates, front, pareto_front
from fbn_deploy.space import Architecture

FEW_VALUES = st.integers(0, 4).map(float)  # so that ties are common
CLOUDS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FEW_VALUES, min_size=width, max_size=width), max_size=30)
)


@given(CLOUDS)
def test_the_front_is_what_no_point_dominates(points: list[list[float]]) -> None:
    assert front(points) == [
        position
        for position, point in enumerate(points)
        if not any(dominates(other, point) for other in points)
    ]


@given(CLOUDS)
def test_every_point_is_on_the_front_or_dominated_by_it(points: list[list[float]]) -> None:
    on_front = [points[position] for position in front(points)]
    assert all(point in on_front or any(dominates(f, point) for f in on_front) for point in points)


def test_equal_points_do_not_dominate_each_other() -> None:
    assert front([(1, 2), (1, 2), (2, 2)]) == [0, 1]


def test_without_points_there_is_no_front() -> None:
    assert front([]) == []


def test_a_front_of_candidates_trades_rank_for_each_cost() -> None:
    def candidate(name: str, score: float, ms: float, flops: float) -> Candidate:
        costs = {"latency_ms": ms, "flops": flops}
        return Candidate(Architecture.of({"d": name}), name, {"rank": score}, costs)

    population = Population(
        lambda candidates: [each.scores["rank"] for each in candidates],
        (
            candidate("slow", 0, ms=9, flops=9),
            candidate("light", 2, ms=5, flops=1),
            candidate("fast", 1, ms=2, flops=5),
            candidate("beaten", 3, ms=5, flops=5),
        ),
    )

    def names(*costs: str) -> list[str]:
        return [each.canonical for each in pareto_front(population, costs)]

    assert names("latency_ms") == ["slow", "fast"]
    assert names("flops") == ["slow", "fast", "light"]
    assert names("latency_ms", "flops") == ["slow", "fast", "light"]
    assert names() == ["slow"]
