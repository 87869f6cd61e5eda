"""Uncertainty as the smallest eigenvalues of the correlations of normalised features.

A Bayesian linear model on features with correlation R has posterior covariance ∝ (R + ε)⁻¹
(Bishop 2006, equation 3.54): its most uncertain direction has variance 1/(λ_min + ε), λ_min the
smallest eigenvalue of R. The sum of λ_min over a path's BatchNorms is therefore large where every
op adds features that the data determine, and zero where channels repeat each other. MeCo (Jiang
et al. 2023) sums the same eigenvalue over convolutions and relates it to convergence; here it is
read behind the fair BatchNorms, so that every op counts.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def smallest_eigenvalues(candidate: Candidate) -> float:
    """Σ over BatchNorms of λ_min of their output's correlations, each from 0 to 1."""
    norms = candidate.observation.norms
    return float(sum(float(n.spectrum[0]) for n in norms if n.spectrum is not None))


INDICATOR = Indicator(
    "uncertainty-eigenvalue",
    "smallest eigenvalue of the correlations of normalised features, summed over BatchNorms",
    smallest_eigenvalues,
    needs=frozenset({Need.SPECTRA}),
)
