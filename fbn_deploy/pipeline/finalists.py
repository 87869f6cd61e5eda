"""The best candidates of a search, ordered anew after a short training of each.

Many indicators sort good candidates from bad ones cheaply, and hardly order the good ones among
each other. A short training does that, and would be misled by bad ones that learn fast at first. So
the first tenth is trained, on the same images, and its order is the mean of both ranks; everybody
else keeps the place behind it. With ``cpi``, whose second look orders the best, it brings nothing
(``benchmarks/results/ablation.md``), so none is tried unless it is asked for.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy.stats import rankdata

from fbn_deploy.pipeline.answers import LAST, Scorer
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.sharing import SharedScoring
from fbn_deploy.retrain.trial import LOSS, Trial, TrialSettings
from fbn_deploy.search.candidates import Candidate, Population, Rank
from fbn_deploy.space import SearchSpace

SHARE = 0.1  # of all candidates
LEAST = 3


def number_tried(count: int, candidates: int) -> int:
    """How many of ``candidates`` are ``count`` finalists, of whom there are a tenth at most."""
    return min(count, math.ceil(SHARE * candidates))


def trial_scorer(context: Context, space: SearchSpace) -> Scorer:
    """Architectures → ``trial_loss``, remembered in the run directory, shared by all processes."""
    settings = TrialSettings(seed=context.seed)
    trial = Trial(context.definition, context.data, settings, fair_bn=context.bn == "fair")
    about = {**context.identity, "trial": settings.as_json()}
    return Scorer(SharedScoring([trial], space, context.job), space, about, context.run.scores)


def with_finalists(
    population: Population, count: int, scorer: Scorer, context: Context
) -> Population:
    """``population`` with its best tried: ``count`` of them, but no more than a tenth of all,
    rounded up. Of fewer than three the mean of two ranks cannot change the order: none is tried."""
    finalists = population.best(number_tried(count, len(population)))
    if len(finalists) < LEAST:
        context.reporter.say(
            f"No finalists were trained: of {len(population)} candidates they are "
            f"{len(finalists)}, and fewer than {LEAST} cannot change the order."
        )
        return population
    tried: dict[str, Mapping[str, float]] = {}
    with context.reporter.task("Training finalists briefly", len(finalists), "networks") as task:
        for start in range(0, len(finalists), context.job.size):
            some = finalists[start : start + context.job.size]
            found = scorer([each.architecture for each in some])
            tried |= {each.canonical: values for each, values in zip(some, found, strict=True)}
            task.update(len(tried))
    losses = [values[LOSS] for values in tried.values() if values[LOSS] < LAST]
    context.reporter.say(
        f"{len(tried)} finalists were trained for {TrialSettings().steps} steps each"
        + (f", to losses of {min(losses):.3f} to {max(losses):.3f}" if losses else "")
        + (f"; {diverged} diverged" if (diverged := len(tried) - len(losses)) else "")
    )
    return Population(
        by_trial(population.rank),
        tuple(
            dataclasses.replace(each, scores={**each.scores, **tried.get(each.canonical, {})})
            for each in population
        ),
    )


def by_trial(rank: Rank) -> Rank:
    """Candidates that were tried first, by the mean of their ranks by ``rank`` and by loss, of
    equals the better by ``rank``; behind them the others by ``rank``."""

    def ranks(candidates: Sequence[Candidate]) -> Sequence[float]:
        by_score = list(rank(candidates))
        places = by_score.copy()
        tried = [number for number, each in enumerate(candidates) if LOSS in each.scores]
        others = [number for number, each in enumerate(candidates) if LOSS not in each.scores]
        if tried:
            by_loss = rankdata([candidates[number].scores[LOSS] for number in tried])
            first = rankdata([by_score[number] for number in tried])
            both = rankdata(by_loss + (1 + 1e-6) * first)
            for number, place in zip(tried, both, strict=True):
                places[number] = float(place)
        for number, place in zip(others, rankdata([by_score[n] for n in others]), strict=True):
            places[number] = len(tried) + float(place)
        return places

    return ranks
