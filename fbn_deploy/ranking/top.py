"""Rank correlation where it matters: among the architectures that turned out best."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from fbn_deploy.ranking.correlation import kendall

SHARE = 0.1
LEAST = 3


def kendall_among_best(
    quality: ArrayLike, outcome: ArrayLike, share: float = SHARE
) -> float | None:
    """Kendall's τ-b among the best ``share`` by outcome: ⌈share · n⌉, and all that tie with the
    last of them. None for fewer than three, of which any order is right or wrong."""
    x, y = np.asarray(quality, float), np.asarray(outcome, float)
    count = math.ceil(round(share * len(y), 9))  # 0.1 · 3 is a little more than 0.3
    best = y >= np.sort(y)[-count]
    return kendall(x[best], y[best]) if best.sum() >= LEAST else None
