"""Trainability as γ/σ, from the Lipschitz bound of BatchNorm (Santurkar et al. 2018).

‖∂L̂/∂y‖² ≤ (γ²/σ²) · (…): the larger γ/σ, the larger the gradients that reach the weights before a
BatchNorm. The median over channels and then over the path's BatchNorms: nearly dead channels have
tiny σ and would rule a mean. A BatchNorm behind a zero op has σ = 0 and says nothing: left out.
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def trainability(candidate: Candidate) -> float:
    """Median over BatchNorms of the median over channels of |γ|/σ, σ = √(var + ε)."""
    norms = candidate.observation.norms
    ratios = [(n.gamma.abs() / n.sigma).median() for n in norms if n.is_alive]
    return float(torch.stack(ratios).median()) if ratios else float("nan")


INDICATOR = Indicator(
    "trainability",
    "median of |γ|/σ with recalibrated σ",
    trainability,
    needs=frozenset({Need.BATCHES, Need.TRAINING}),
)
