"""The content of ``search.json``: from what a search found to plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fbn_deploy.latency.meter import Confirmation
from fbn_deploy.pipeline.answers import Coster
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.latency import Latency
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.stored_search import SCHEMA
from fbn_deploy.search.candidates import Candidate
from fbn_deploy.search.pareto import pareto_front
from fbn_deploy.search.problem import Outcome
from fbn_deploy.search.survey import Survey
from fbn_deploy.space import Architecture, SearchSpace


def search_content(
    context: Context,
    settings: SearchSettings,
    coster: Coster,
    outcome: Outcome,
    seen: Survey,
    stretch: Mapping[str, float],
    winner: Candidate,
    confirmations: Mapping[str, Confirmation],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What ``search.json`` holds of a search that found ``winner``."""
    space, population = coster.space, outcome.population
    ranked = population.ranked()
    candidates = [
        _entry(space, coster, candidate, rank, settings.target) for rank, candidate in ranked
    ]
    positions = {id(candidate): number for number, (_, candidate) in enumerate(ranked)}
    best = candidates[positions[id(winner)]]
    confirmed = {name: each.as_json() for name, each in confirmations.items()}
    if confirmations:
        best = {**best, "costs": _with_confirmed(best["costs"], settings.target, confirmations)}
    return {
        "schema": SCHEMA,
        "space": context.definition.as_json(),
        "data": {"name": context.data.name, "fingerprint": context.data.fingerprint},
        "seed": context.seed,
        "budgets": [budget.to_json() for budget in settings.budgets],
        "settings": settings.as_json(),
        "survey": {**seen.to_json(), "stretch": dict(stretch)},
        "tally": {**asdict(outcome.tally), "ending": outcome.ending},
        "candidates": candidates,
        "pareto": {
            budget.cost: [positions[id(c)] for c in pareto_front(population, [budget.cost])]
            for budget in settings.budgets
        },
        "best": {
            **best,
            "text": space.text(winner.architecture),
            "meets_budget": True if coster.measures else None,
            "confirmed": confirmed,
        },
        "latency": {name: each.about() for name, each in coster.latencies.items()},
        "timing": dict(seconds),
    }


def _with_confirmed(
    costs: Mapping[str, Any], target: str | None, confirmations: Mapping[str, Confirmation]
) -> dict[str, Any]:
    """The costs of the winner, with what its confirmation measured."""
    by_target = {
        name: {**each, "measured": confirmations[name].value_ms} if name in confirmations else each
        for name, each in costs["latency_ms_by_target"].items()
    }
    first = by_target[target if target in by_target else next(iter(by_target))]
    return {**costs, "latency_ms": first, "latency_ms_by_target": by_target}


def _entry(
    space: SearchSpace, coster: Coster, candidate: Candidate, rank: float, target: str | None
) -> dict[str, Any]:
    costs: dict[str, Any] = {
        "flops": coster.flops(candidate.architecture),
        "params": coster.params(candidate.architecture),
    }
    by_target = {
        name: _latency_entry(latency, candidate.architecture)
        for name, latency in coster.latencies.items()
    }
    if by_target:
        costs["latency_ms"] = by_target[target if target in by_target else next(iter(by_target))]
        costs["latency_ms_by_target"] = by_target
    return {
        "architecture": dict(candidate.architecture),
        "indicators": dict(candidate.scores),
        "rank": rank,
        "costs": costs,
    }


def _latency_entry(latency: Latency, architecture: Architecture) -> dict[str, Any]:
    """What is known of a network's latency; None for what was not predicted or not measured."""
    prediction = latency.prediction(architecture)
    return {
        "predicted": prediction.value_ms if prediction else None,
        "interval": [prediction.low_ms, prediction.high_ms] if prediction else None,
        "measured": latency.known_ms(architecture),
    }
