"""Trainability as the conditioning of what BatchNorms hand on.

A layer that reads features with covariance R learns at a pace set by R's eigenvalues (LeCun et
al. 1998, "Efficient BackProp", section 4.3). BatchNorm makes the diagonal of R one; what slows
learning then is the correlation between channels. With λ the eigenvalues of a BatchNorm's
output correlations,

    s = mean over the path's BatchNorms of mean_i log(λ_i + 0.1),

at most log 1.1, when all channels are uncorrelated. 0.1 keeps the few smallest λ from ruling the
sum. Fair BatchNorm is what makes it a property of every op: pooling and identity have one too.
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator

FLOOR = 0.1


def conditioning(candidate: Candidate) -> float:
    """Mean over BatchNorms of the mean of log(λ + 0.1); one that does not vary is left out."""
    spectra = [n.spectrum for n in candidate.observation.norms if n.spectrum is not None]
    if not spectra:
        return float("nan")
    return float(torch.stack([(s + FLOOR).log().mean() for s in spectra]).mean())


INDICATOR = Indicator(
    "trainability-conditioning",
    "log-determinant of the correlations of normalised features, mean over BatchNorms",
    conditioning,
    needs=frozenset({Need.SPECTRA}),
)
