"""The best candidates of a search, ordered by a short training of each.

An indicator sorts good candidates from bad ones cheaply, and hardly orders the good ones among
each other (``benchmarks/results/ablation.md``). So the first few are trained briefly, on the same
images, and the faster one learns the better its place; everybody else keeps the place behind them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from scipy.stats import rankdata

from fbn_deploy.pipeline.answers import Scorer
from fbn_deploy.pipeline.context import Context
from fbn_deploy.retrain.trial import LOSS, Trial, TrialSettings
from fbn_deploy.search.candidates import Population, Rank
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.definition import SpaceDefinition

FINALISTS = 24  # where the space says how they are tried cheaply


def number_of_finalists(asked: int | None, definition: SpaceDefinition) -> int:
    """``asked``; unless said, what the space affords."""
    return asked if asked is not None else FINALISTS * definition.has_trial


def trial_scorer(context: Context, space: SearchSpace) -> Scorer:
    """Architectures → ``trial_loss``, remembered in the run directory, shared by all processes."""
    settings = TrialSettings(seed=context.seed)
    trial = Trial(context.definition, context.data, settings, fair_bn=context.bn == "fair")
    about = {**context.identity, "trial": settings.as_json()}
    return Scorer(trial, space, about, context.run.scores, context.job)


def with_finalists(
    population: Population, count: int, scorer: Scorer, context: Context
) -> Population:
    """``population`` with the ``count`` best tried, and ordered by their losses."""
    finalists = population.best(count)
    tried: dict[str, Mapping[str, float]] = {}
    with context.reporter.task("Training finalists briefly", len(finalists), "networks") as task:
        for start in range(0, len(finalists), context.job.size):
            some = finalists[start : start + context.job.size]
            losses = scorer([each.architecture for each in some])
            tried |= {each.canonical: loss for each, loss in zip(some, losses, strict=True)}
            task.update(len(tried))
    losses = [float(loss[LOSS]) for loss in tried.values()]
    context.reporter.say(
        f"{len(tried)} finalists were trained for {TrialSettings().steps} steps each: losses of "
        f"{min(losses):.3f} to {max(losses):.3f} order them"
    )
    return Population(
        by_trial(population.rank),
        tuple(
            dataclasses.replace(each, scores={**each.scores, **tried.get(each.canonical, {})})
            for each in population
        ),
    )


def by_trial(rank: Rank) -> Rank:
    """Candidates that were tried first, by their loss; behind them the others by ``rank``."""

    def ranks(scores: Sequence[Mapping[str, float]]) -> Sequence[float]:
        places = list(rank(scores))
        tried = [number for number, each in enumerate(scores) if LOSS in each]
        others = [number for number, each in enumerate(scores) if LOSS not in each]
        for some, values, ahead in (
            (tried, [scores[number][LOSS] for number in tried], 0),
            (others, [places[number] for number in others], len(tried)),
        ):
            for number, place in zip(some, rankdata(values), strict=True):
                places[number] = ahead + float(place)
        return places

    return ranks
