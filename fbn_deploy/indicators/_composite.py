"""The composite performance indicator: the mean of its indicators' ranks.

Ranks are taken over all candidates evaluated so far, ties share the mean of their ranks, and rank
1 is the best. A value that is not finite ranks last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from fbn_deploy.indicators._protocol import indicator

# FBN-NAS's three perspectives: expressivity, trainability, uncertainty.
COMPOSITES: dict[str, tuple[str, ...]] = {
    "cpi": ("expressivity-regions", "trainability", "uncertainty"),
}


def indicators_of(name: str) -> tuple[str, ...]:
    """The indicators that ``name`` is made of: a composite's parts, or itself."""
    return COMPOSITES.get(name) or (indicator(name).name,)


def composite_rank(names: Sequence[str], scores: Sequence[Mapping[str, float]]) -> list[float]:
    """The mean rank of every candidate over the indicators ``names``; lower is better."""
    ranks = []
    for name in names:
        sign = -1.0 if indicator(name).higher_is_better else 1.0
        values = [sign * score[name] for score in scores]
        ranks.append(rankdata([v if math.isfinite(v) else math.inf for v in values]))
    mean: list[float] = np.mean(ranks, axis=0).tolist()
    return mean
