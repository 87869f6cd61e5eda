"""AZ-NAS's progressivity (Lee and Ham 2024): whether features grow richer from block to block.

s = min_l (H_l − H_{l−1}), H_l the entropy of the eigenvalues of the covariance of block l's
features, H_0 that of the first block's input.
"""

from __future__ import annotations

import math
from itertools import pairwise

from fbn_deploy.indicators._blocks import entropies
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def progressivity(candidate: Candidate) -> float:
    """min_l (H_l − H_{l−1}); NaN for a network without blocks, and where a difference is NaN."""
    growth = [b - a for a, b in pairwise(entropies(candidate))]
    return float("nan") if any(map(math.isnan, growth)) else min(growth, default=float("nan"))


INDICATOR = Indicator(
    "az-progressivity",
    "least growth of entropy between blocks (AZ-NAS)",
    progressivity,
    needs=frozenset({Need.SKELETON}),
)
