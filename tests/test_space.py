"""Decisions, architectures and search spaces."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture, Decision, SearchSpace

SPACE = SearchSpace("toy", (Decision("a", ("x", "y")), Decision("b", ("p", "q", "r"))))


def test_an_architecture_is_equal_in_any_order_and_hashable() -> None:
    one, two = Architecture.of({"a": "x", "b": "p"}), Architecture.of({"b": "p", "a": "x"})
    assert one == two
    assert len({one, two}) == 1
    assert dict(one) == {"a": "x", "b": "p"}


def test_the_size_counts_all_assignments() -> None:
    assert SPACE.size == 2 * 3


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(FBNError) as error:
        SPACE.architecture({"a": "z", "c": "p"})
    message = str(error.value)
    assert "'z'" in message
    assert "'b' has no option" in message
    assert "no decision 'c'" in message


@given(st.integers(0, 10_000))
def test_text_and_parse_are_inverse(seed: int) -> None:
    architecture = SPACE.sample(random.Random(seed))
    assert SPACE.parse(SPACE.text(architecture)) == architecture


@given(st.integers(0, 10_000))
def test_children_take_every_option_from_a_parent(seed: int) -> None:
    rng = random.Random(seed)
    a, b = SPACE.sample(rng), SPACE.sample(rng)
    child = SPACE.crossover(a, b, rng)
    assert all(child[name] in (a[name], b[name]) for name in child)


def test_mutation_with_probability_zero_is_a_copy() -> None:
    parent = SPACE.sample(random.Random(0))
    assert SPACE.mutate(parent, random.Random(1), 0.0) == parent


def test_every_draw_obeys_the_validity_rule() -> None:
    space = SearchSpace("toy", SPACE.decisions, is_valid=lambda arch: arch["a"] == "x")
    rng = random.Random(0)
    drawn = [space.sample(rng) for _ in range(20)]
    drawn += [space.mutate(drawn[0], rng, 1.0) for _ in range(20)]
    assert all(architecture["a"] == "x" for architecture in drawn)


def test_an_impossible_validity_rule_is_reported() -> None:
    space = SearchSpace("toy", SPACE.decisions, is_valid=lambda arch: False)
    with pytest.raises(FBNError, match="No valid architecture"):
        space.sample(random.Random(0))


def test_a_space_without_decisions_is_refused() -> None:
    with pytest.raises(FBNError, match="at least one Choice"):
        SearchSpace("empty", ())
