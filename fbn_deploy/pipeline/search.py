"""The stage that ends with a chosen architecture whose budget was confirmed on the target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import composite_rank, indicators_of, needs_training
from fbn_deploy.latency.blocks import Cutter
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.latency.predictor import MIN_PROBES
from fbn_deploy.pipeline.answers import Coster, scorers
from fbn_deploy.pipeline.confirm import confirmed_winner
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.latency import (
    PREDICTORS,
    Latency,
    Predicted,
    pays,
    table_for,
    whole_or_predicted,
)
from fbn_deploy.pipeline.parts import PROBES, Parts, parts_of
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import Task
from fbn_deploy.search import algorithms
from fbn_deploy.search.budgets import Budget, on_targets
from fbn_deploy.search.candidates import Candidate
from fbn_deploy.search.pareto import pareto_front
from fbn_deploy.search.problem import Outcome, Problem, Progress
from fbn_deploy.search.survey import Survey, sample_distinct, survey
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.choice import choices
from fbn_deploy.supernet.supernet import Supernet
from fbn_deploy.targets import default_target, ready_target

SCHEMA = 1
FEW_BLOCKS = 20  # no space has fewer
SURVEYED = 24  # architectures that show what the budget means


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for and how. ``probe_batches`` × ``probe_size`` images see a candidate."""

    budgets: tuple[Budget, ...]
    target: str | None = None
    threads: int = 1
    batch: int = 1
    algorithm: str = "evolution"
    candidates: int = 100
    indicator: str = "cpi"
    probe_batches: int = 4
    probe_size: int = 64
    predictor: str = "auto"
    """``table``: latencies predicted from measured blocks; ``whole``: every network measured;
    ``auto``: what takes fewer measurements."""
    latency_tables: tuple[str, ...] = ()
    """Files that fbn measure wrote on devices; their targets are predicted and not measured."""

    def resolved(self) -> SearchSettings:
        """With every latency budget on a target that exists and is ready; checked throughout."""
        if not self.budgets:
            raise FBNError(
                "A search needs a budget: --latency-budget 10ms, --flops-budget 300M or "
                "--params-budget 4M, in any combination."
            )
        if min(self.threads, self.batch, self.candidates) < 1 or self.probe_batches < 2:
            raise FBNError(
                "Threads, batch and candidates are at least 1, probe batches at least 2; asked: "
                f"{self.threads}, {self.batch}, {self.candidates}, {self.probe_batches}."
            )
        if self.predictor not in PREDICTORS:
            raise unknown("latency predictor", self.predictor, PREDICTORS)
        elsewhere = [LatencyTable.load(Path(path)).target for path in self.latency_tables]
        default = None
        if any(budget.kind == "latency" for budget in self.budgets):
            default = self.target or (elsewhere[0] if elsewhere else default_target().name)
        budgets = on_targets(self.budgets, default)
        for target in {budget.target for budget in budgets} - {None, *elsewhere}:
            assert target is not None
            ready_target(target)
        if idle := set(elsewhere) - {budget.target for budget in budgets}:
            raise FBNError(
                f"A latency table is of {', '.join(sorted(idle))}, on which there is no budget; "
                "add one, or leave the table out."
            )
        algorithms.load(self.algorithm, self.candidates)
        indicators_of(self.indicator)
        return SearchSettings(**{**vars(self), "budgets": budgets, "target": default})

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "budgets": [budget.to_json() for budget in self.budgets],
            "latency_tables": list(self.latency_tables),
        }


def search(context: Context, settings: SearchSettings) -> dict[str, Any]:
    """The content of ``search.json``, which is written; found there if the search is done.

    Raises ``NothingFitsError`` when no architecture meets the budgets. Of several processes the
    first one searches and measures; the others score what it asks them to.
    """
    run, reporter, job = context.run, context.reporter, context.job
    if job.is_first:
        settings = settings.resolved()
    stored: dict[str, Any] | None = job.share(_stored(context, settings) if job.is_first else None)
    if stored is not None:
        reporter.say(f"Search: {run.search}, done before")
        return stored
    trained = trained_supernet(context, needed=needs_training([settings.indicator]))
    supernet = trained.supernet
    scorer = scorers(
        context,
        supernet,
        trained.settings.as_json(),
        [settings.indicator],
        batches=settings.probe_batches,
        size=settings.probe_size,
    )[settings.indicator]
    if not job.is_first:
        scorer.shared.serve()
        answer: dict[str, Any] = job.share(None)
        return answer
    coster = Coster(supernet, settings.batch, reporter)
    started = time.monotonic()
    coster.latencies.update(_latencies(context, settings, supernet, coster))
    tabled = time.monotonic()
    seen = _survey(supernet.space, settings.budgets, coster, context)
    reporter.say(seen.text())
    surveyed = time.monotonic()

    with reporter.task("Searching", settings.candidates, "candidates") as task:
        outcome = algorithms.load(settings.algorithm, settings.candidates).run(
            supernet.space,
            Problem(
                score=scorer,
                rank=lambda scores: composite_rank(settings.indicator, scores),
                cost=coster,
                budgets=settings.budgets,
                progress=lambda progress: _show(task, progress),
            ),
            context.seed,
        )
    scorer.shared.end()
    reporter.say(f"{outcome.ending} {outcome.tally.text()}")
    searched = time.monotonic()
    winner, confirmations = confirmed_winner(
        outcome.population, settings.budgets, coster.latencies, coster.deployed, reporter
    )
    seconds = {
        "train": round(trained.seconds, 3),
        "table": round(tabled - started, 3),
        "survey": round(surveyed - tabled, 3),
        "search": round(searched - surveyed, 3),
        "confirm": round(time.monotonic() - searched, 3),
        "latency": round(sum(each.seconds for each in coster.latencies.values()), 3),
    }
    found = _report(
        context, settings, coster, outcome, seen, winner, confirmations, seconds, supernet.space
    )
    write_json(run.search, found)
    job.share(found)
    return found


def chosen_architecture(context: Context) -> Architecture:
    """The architecture that the run's search chose."""
    job = context.job
    if job.is_first and not context.run.search.exists():
        raise FBNError(f"{context.run.path} has no search.json yet; run fbn search on it first.")
    content = job.share(read_json(context.run.search) if job.is_first else None)
    network = context.definition.network(len(context.data.classes), context.seed)
    return context.definition.search_space(network).architecture(content["best"]["architecture"])


def _stored(context: Context, settings: SearchSettings) -> dict[str, Any] | None:
    path = context.run.search
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise FBNError(f"{path} is no search result of schema {SCHEMA}; move it away.")
    former = SearchSettings(()).as_json()  # settings that did not exist when it was written
    if {**former, **content["settings"]} != settings.as_json():
        raise FBNError(
            f"{path} holds the result of another search ({_texts(content['settings'])}); it was "
            "left as it is. Choose another directory with --run, or move that file away to search "
            "again with the same supernet."
        )
    found: dict[str, Any] = content
    return found


def _texts(settings: Mapping[str, Any]) -> str:
    budgets = ", ".join(Budget.from_json(budget).text for budget in settings["budgets"])
    return f"{settings['algorithm']}, {settings['candidates']} candidates, {budgets}"


def _survey(
    space: SearchSpace, budgets: Sequence[Budget], coster: Coster, context: Context
) -> Survey:
    sample = sample_distinct(space, SURVEYED, context.seed)
    costs = []
    with context.reporter.task("What the budget means here", len(sample), "networks") as task:
        for number, architecture in enumerate(sample, 1):
            costs.append({budget.cost: coster(architecture, budget) for budget in budgets})
            task.update(number)
    return survey(budgets, costs)


def _show(task: Task, progress: Progress) -> None:
    tally = progress.tally
    refused = sum(tally.over_budget.values())
    task.update(progress.scored, f"{tally.fitting} fit, {refused} over budget")


def _latencies(
    context: Context, settings: SearchSettings, supernet: Supernet, coster: Coster
) -> dict[str, Latency]:
    """Where the latencies on each budgeted target come from."""
    targets = [budget.target for budget in settings.budgets if budget.target]
    tables = {
        table.target: table
        for path in settings.latency_tables
        for table in (_table(Path(path), settings, supernet),)
    }
    here = [target for target in targets if target not in tables]
    parts = _parts(settings, supernet, coster, context) if here else None
    cutter = Cutter(choices(supernet.network))
    cache = LatencyCache() if here else None
    found: dict[str, Latency] = {}
    for target in targets:
        if target in tables:
            found[target] = Predicted(
                tables[target],
                supernet.space,
                lambda architecture: cutter.counts(coster.deployed(architecture)),
                None,
            )
            continue
        meter = LatencyMeter(
            ready_target(target), batch=settings.batch, threads=settings.threads, cache=cache
        )
        found[target] = whole_or_predicted(
            meter, supernet.space, coster.deployed, parts, context.reporter
        )
    return found


def _table(path: Path, settings: SearchSettings, supernet: Supernet) -> LatencyTable:
    asked = (supernet.definition.as_json(), supernet.num_classes, settings.batch)
    return table_for(path, asked, settings.threads)


def _parts(
    settings: SearchSettings, supernet: Supernet, coster: Coster, context: Context
) -> Parts | None:
    """The space cut into blocks, where latencies are to be predicted from them."""
    if settings.predictor == "whole":
        return None
    if supernet.definition.builds_subnets:
        if settings.predictor == "table":
            raise FBNError(
                f"The space {supernet.space.name} builds its networks by itself, so there are no "
                "blocks to measure. Leave --predictor table out; its networks are measured whole."
            )
        return None
    if settings.predictor == "auto" and 2 * settings.candidates <= PROBES + FEW_BLOCKS:
        return None  # no table pays, so the space need not be cut to find out
    parts = parts_of(supernet, coster.deployed, settings.batch, context.reporter)
    worth = settings.predictor == "table" or pays(parts.inventory, settings.candidates)
    return parts if worth and len(parts.inventory.probes) >= MIN_PROBES else None


def _report(
    context: Context,
    settings: SearchSettings,
    coster: Coster,
    outcome: Outcome,
    seen: Survey,
    winner: Candidate,
    confirmations: Mapping[str, Confirmation],
    seconds: Mapping[str, float],
    space: SearchSpace,
) -> dict[str, Any]:
    population = outcome.population
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
        "survey": seen.to_json(),
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
