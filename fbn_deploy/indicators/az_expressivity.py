"""AZ-NAS's expressivity (Lee and Ham 2024): how evenly features fill their space.

s = Σ_l H_l, H_l the entropy of the eigenvalues of the covariance of block l's features.
"""

from __future__ import annotations

from fbn_deploy.indicators._blocks import entropies
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def expressivity(candidate: Candidate) -> float:
    """Σ_l H_l, the input of the first block included; NaN when a block's features are constant."""
    return sum(entropies(candidate))


INDICATOR = Indicator(
    "az-expressivity",
    "entropy of the features of all blocks (AZ-NAS)",
    expressivity,
    needs=frozenset({Need.SKELETON}),
)
