"""Trainability as the conditioning of the gradients that arrive at BatchNorms.

A layer's Fisher information is nearly A ⊗ G, A the covariance of what it reads and G that of the
gradients at its output (Martens and Grosse 2015, "K-FAC"); descent is as slow along a direction as
that direction's eigenvalue is small. With λ_min the smallest eigenvalue of the correlations between
the channels of ∂L/∂y, y a BatchNorm's output, L the cross-entropy of a batch,

    s = mean of λ_min over the path's BatchNorms that end no candidate op.

Those that end one are left out: it goes into a sum, whose gradient is the same for all its terms
whatever the ops are. Where a path has no others, all count.
"""

from __future__ import annotations

from statistics import fmean

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def gradient_conditioning(candidate: Candidate) -> float:
    """Mean of λ_min, from 0 to 1; NaN if no gradient arrives at any BatchNorm."""
    norms = [n for n in candidate.observation.norms if n.gradients is not None]
    inner = [n for n in norms if not n.ends_choice] or norms
    spectra = [n.gradients.spectrum for n in inner if n.gradients is not None]
    values = [float(spectrum[0]) for spectrum in spectra if spectrum is not None]
    return fmean(values) if values else float("nan")


INDICATOR = Indicator(
    "trainability-gradients",
    "smallest eigenvalue of the correlations of gradients, mean over inner BatchNorms",
    gradient_conditioning,
    needs=frozenset({Need.GRADIENTS}),
)
