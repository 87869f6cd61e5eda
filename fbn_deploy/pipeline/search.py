"""The stage that ends with a chosen architecture whose budget was confirmed on the target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError, NothingFitsError
from fbn_deploy.files import read_json, write_json
from fbn_deploy.indicators import composite_rank, indicators_of, needs_training
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.pipeline.answers import Coster, scorers
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import Task
from fbn_deploy.search import algorithms
from fbn_deploy.search.budgets import Budget, on_targets
from fbn_deploy.search.candidates import Candidate, Population
from fbn_deploy.search.pareto import pareto_front
from fbn_deploy.search.problem import Outcome, Problem, Progress
from fbn_deploy.search.survey import Survey, sample_distinct, survey
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.targets import default_target, ready_target

if TYPE_CHECKING:
    import onnx_ir

SCHEMA = 1
SURVEYED = 24  # architectures that show what the budget means
CONFIRMED_AT_MOST = 30  # candidates measured with care before the search gives up


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
        measured = any(budget.kind == "latency" for budget in self.budgets)
        default = None
        if measured:
            default = ready_target(self.target).name if self.target else default_target().name
        budgets = on_targets(self.budgets, default)
        for budget in budgets:
            if budget.target:
                ready_target(budget.target)
        algorithms.load(self.algorithm, self.candidates)
        indicators_of(self.indicator)
        return SearchSettings(**{**vars(self), "budgets": budgets, "target": default})

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "budgets": [budget.to_json() for budget in self.budgets]}


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
    cache = LatencyCache()
    meters = {
        budget.target: LatencyMeter(
            ready_target(budget.target),
            batch=settings.batch,
            threads=settings.threads,
            cache=cache,
        )
        for budget in settings.budgets
        if budget.target
    }
    coster = Coster(supernet, meters, reporter)
    started = time.monotonic()
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
    winner, confirmations = _confirmed(outcome.population, settings, coster, context)
    seconds = {
        "train": round(trained.seconds, 3),
        "survey": round(surveyed - started, 3),
        "search": round(searched - surveyed, 3),
        "confirm": round(time.monotonic() - searched, 3),
        "latency": round(sum(meter.seconds for meter in meters.values()), 3),
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
    if content["settings"] != settings.as_json():
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


def _confirmed(
    population: Population, settings: SearchSettings, coster: Coster, context: Context
) -> tuple[Candidate, dict[str, Confirmation]]:
    """The best candidate whose latencies, measured with care by fresh processes, are met."""
    budgets = [budget for budget in settings.budgets if budget.target]
    nearest: list[str] = []
    tried = population.best(CONFIRMED_AT_MOST)
    with context.reporter.task("Confirming on the target", len(tried), "networks") as task:
        for number, candidate in enumerate(tried):
            task.update(number)
            confirmations: dict[str, Confirmation] = {}
            for budget in budgets:
                assert budget.target is not None
                confirmation = _measured_with_care(
                    coster.meters[budget.target],
                    coster.deployed(candidate.architecture),
                    budget.limit,
                )
                confirmations[budget.target] = confirmation
                if not confirmation.meets(budget.limit):
                    nearest.append(budget.text_of(confirmation.upper_ms))
                    break
            else:
                return candidate, confirmations
    raise NothingFitsError(
        f"None of the {len(tried)} best candidates met the budget when it was measured with care; "
        f"the nearest took {min(nearest)}. Allow more, or measure on a quieter machine."
    )


def _measured_with_care(meter: LatencyMeter, model: onnx_ir.Model, limit_ms: float) -> Confirmation:
    """By three fresh processes; by one only when that one is over the limit already."""
    first = meter.confirm_in_fresh_process(model, processes=1)
    return meter.confirm_in_fresh_process(model) if first.meets(limit_ms) else first


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
    if settings.target is not None and settings.target in confirmations:
        measured = {
            **best["costs"]["latency_ms"],
            "measured": confirmations[settings.target].value_ms,
        }
        best = {**best, "costs": {**best["costs"], "latency_ms": measured}}
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
            "meets_budget": True,
            "confirmed": confirmed,
        },
        "timing": dict(seconds),
    }


def _entry(
    space: SearchSpace, coster: Coster, candidate: Candidate, rank: float, target: str | None
) -> dict[str, Any]:
    costs: dict[str, Any] = {
        "flops": coster.flops(candidate.architecture),
        "params": coster.params(candidate.architecture),
    }
    measured = {
        cost.partition(":")[2]: value
        for cost, value in candidate.costs.items()
        if cost.startswith("latency_ms:")
    }
    if measured:
        first = target if target in measured else next(iter(measured))
        costs["latency_ms"] = {
            "predicted": None,
            "interval": None,
            "measured": measured[first or ""],
        }
        costs["latency_ms_by_target"] = measured
    return {
        "architecture": dict(candidate.architecture),
        "indicators": dict(candidate.scores),
        "rank": rank,
        "costs": costs,
    }
