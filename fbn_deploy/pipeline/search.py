"""The stage that ends with a chosen architecture whose budget was confirmed on the target."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fbn_deploy.differing import differing, told
from fbn_deploy.errors import FBNError, NothingFitsError
from fbn_deploy.files import write_json
from fbn_deploy.indicators import needs_training
from fbn_deploy.pipeline.aim import aimed, stretches
from fbn_deploy.pipeline.answers import Coster
from fbn_deploy.pipeline.confirm import confirmed_winner
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.finalists import trial_scorer, with_finalists
from fbn_deploy.pipeline.latency import UNKNOWN_MS
from fbn_deploy.pipeline.latency_sources import latency_sources
from fbn_deploy.pipeline.looks import Looks, looks
from fbn_deploy.pipeline.search_content import search_content
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.stored_search import stored_search
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import Task
from fbn_deploy.search import algorithms
from fbn_deploy.search.budgets import Budget
from fbn_deploy.search.candidates import Costs
from fbn_deploy.search.problem import Outcome, Problem, Progress
from fbn_deploy.search.survey import sample_distinct, survey
from fbn_deploy.space import Architecture, SearchSpace

SURVEYED = 24  # architectures that show what the budget means


def search(context: Context, settings: SearchSettings) -> dict[str, Any]:
    """The content of ``search.json``, which is written; found there if the search is done.

    Raises ``NothingFitsError`` when no architecture meets the budgets. Of several processes the
    first one searches and measures; the others score what it asks them to.
    """
    run, reporter, job = context.run, context.reporter, context.job
    proxy = settings.proxy and context.definition.proxy != context.definition
    settings = dataclasses.replace(settings, proxy=proxy)
    if job.is_first:
        settings = settings.resolved()
    stored: dict[str, Any] | None = job.share(_stored(context, settings) if job.is_first else None)
    if stored is not None:
        reporter.say(f"Search: {run.search}, done before")
        return stored
    context.refuse_changed_space()
    trained = trained_supernet(context, needed=needs_training([settings.indicator]))
    supernet = trained.supernet
    scored_in = trained.scored_in(context, [settings.indicator], proxy=settings.proxy)
    ranking = looks(
        context,
        scored_in,
        trained.settings.as_json(),
        settings.indicator,
        batches=settings.probe_batches,
        size=settings.probe_size,
    )
    trial = trial_scorer(context, supernet.space) if settings.finalists else None
    if not job.is_first:
        ranking.shared.serve()
        if trial is not None:
            trial.shared.serve()
        answer: dict[str, Any] = job.share(None)
        return answer
    coster = Coster(supernet, settings.batch, reporter, settings.form())
    started = time.monotonic()
    coster.latencies.update(latency_sources(context, settings, supernet, coster))
    tabled = time.monotonic()
    surveyed = _surveyed(supernet.space, settings.budgets, coster, context)
    seen = survey(settings.budgets, [costs for _, costs in surveyed])
    reporter.say(seen.text())
    stretch: Mapping[str, float] = stretches(
        settings.budgets, surveyed, coster.latencies, coster.deployed, reporter
    )
    aimed_at = time.monotonic()
    outcome, stretch = _outcome(context, settings, supernet.space, ranking, coster, stretch)
    ranking.shared.end()
    outcome = dataclasses.replace(outcome, population=ranking.with_second_looks(outcome.population))
    reporter.say(f"{outcome.ending} {outcome.tally.text()}")
    for latency in coster.latencies.values():
        if latency.doubt:
            reporter.say(latency.doubt)
    searched = time.monotonic()
    if trial is not None:
        population = with_finalists(outcome.population, settings.finalists, trial, context)
        outcome = dataclasses.replace(outcome, population=population)
        trial.shared.end()
    tried = time.monotonic()
    winner, confirmations = confirmed_winner(
        outcome.population, settings.budgets, coster.latencies, coster.deployed, reporter
    )
    seconds = {
        "train": round(trained.seconds, 3),
        "table": round(tabled - started, 3),
        "survey": round(aimed_at - tabled, 3),
        "search": round(searched - aimed_at, 3),
        "trial": round(tried - searched, 3),
        "confirm": round(time.monotonic() - tried, 3),
        "latency": round(sum(each.seconds for each in coster.latencies.values()), 3),
    }
    found = search_content(
        context, settings, coster, outcome, seen, stretch, winner, confirmations, seconds
    )
    found["scored_in"] = scored_in.definition.as_json()
    write_json(run.search, found)
    job.share(found)
    return found


def chosen_architecture(context: Context) -> Architecture:
    """The architecture that the run's search chose."""
    job = context.job
    content = job.share(stored_search(context.run) if job.is_first else None)
    network = context.definition.network(len(context.data.classes), context.seed)
    return context.definition.search_space(network).architecture(content["best"]["architecture"])


def _outcome(
    context: Context,
    settings: SearchSettings,
    space: SearchSpace,
    ranking: Looks,
    coster: Coster,
    stretch: Mapping[str, float],
) -> tuple[Outcome, Mapping[str, float]]:
    """What the algorithm finds among candidates that are as far below the budgets as ``stretch``
    says; where nothing is, among those that meet the budgets themselves. And the stretch that was
    held to."""
    algorithm = algorithms.load(settings.algorithm, settings.candidates)

    def found_under(budgets: Sequence[Budget]) -> Outcome:
        with context.reporter.task("Searching", settings.candidates, "candidates") as task:
            problem = Problem(
                score=ranking.score,
                rank=ranking.rank,
                cost=coster,
                budgets=tuple(budgets),
                progress=lambda progress: _show(task, progress),
            )
            return algorithm.run(space, problem, context.seed)

    lower = aimed(settings.budgets, stretch)
    try:
        return found_under(lower), stretch
    except NothingFitsError:
        if lower == settings.budgets:
            raise
        missed = " and ".join(budget.text for budget in lower)
        context.reporter.say(f"Nothing meets {missed}; looking for what meets the budget itself.")
    return found_under(settings.budgets), dict.fromkeys(stretch, 1.0)


def _stored(context: Context, settings: SearchSettings) -> dict[str, Any] | None:
    path = context.run.search
    if not path.exists():
        return None
    found = stored_search(context.run)
    # Settings that did not exist when it was written.
    former = SearchSettings((), finalists=0, proxy=False).as_json()
    there = _readable({**former, **found["settings"]})
    if differences := differing(there, _readable(settings.as_json())):
        raise FBNError(
            f"{path} holds the result of another search ({told(differences)}); it was left as it "
            "is. Choose another directory with --run, or move that file away to search again with "
            "the same supernet."
        )
    return found


def _readable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with budgets as texts, which have all their digits."""
    texts = [Budget.from_json(budget).text for budget in settings["budgets"]]
    return {**settings, "budgets": ", ".join(texts)}


def _surveyed(
    space: SearchSpace, budgets: Sequence[Budget], coster: Coster, context: Context
) -> list[tuple[Architecture, Costs]]:
    """Sampled architectures and what they cost under each budget."""
    sample = sample_distinct(space, SURVEYED, context.seed)
    with context.reporter.task("What the budget means here", len(sample), "networks") as task:
        for number, architecture in enumerate(sample, 1):
            for budget in budgets:
                coster(architecture, budget)
            task.update(number)
    # Asked again, since the last of them may have told that the first were measured in a crowd.
    costs = [{each.cost: coster(architecture, each) for each in budgets} for architecture in sample]
    found: list[tuple[Architecture, Costs]] = [
        (architecture, known)
        for architecture, known in zip(sample, costs, strict=True)
        if max(known.values()) < UNKNOWN_MS
    ]
    if lacking := len(sample) - len(found):
        context.reporter.say(
            f"{lacking} of {len(sample)} sampled architectures are not predicted by a latency "
            "table, which lacks blocks of them; they cannot be chosen."
        )
    if not found:
        raise FBNError("The latency table knows none of the sampled architectures; measure anew.")
    return found


def _show(task: Task, progress: Progress) -> None:
    tally = progress.tally
    refused = sum(tally.over_budget.values())
    task.update(progress.scored, f"{tally.fitting} fit, {refused} over budget")
