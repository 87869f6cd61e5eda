"""The γ-indicator of BN-NAS (Chen et al. 2021): how much the BatchNorms let each block through.

The score of a block is the mean of |γ| over the channels of its last BatchNorm; an architecture's
score is the sum over its blocks. On a ``conv-only`` supernet, ops without a BatchNorm count zero.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def gamma(candidate: Candidate) -> float:
    """Σ over the chosen ops of mean |γ| of their last BatchNorm. One whose output does not vary
    (behind a zero op, say) lets nothing through and counts 0; one in a dead end of a cell, which
    nothing but zero ops hands on, varies and counts."""
    norms = [n for n in candidate.observation.norms if n.ends_choice and n.is_alive]
    return float(sum(n.gamma.abs().mean().item() for n in norms))


INDICATOR = Indicator(
    "gamma",
    "sum of mean |γ| of each chosen op's last BatchNorm (BN-NAS)",
    gamma,
    needs=frozenset({Need.TRAINING}),
)
