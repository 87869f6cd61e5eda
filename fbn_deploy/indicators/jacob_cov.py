"""Jacobian covariance (Mellor et al. 2020, the first version of NASWOT).

J[b] = ∂(Σ logits of image b)/∂(image b), flattened; Σ_J the correlation matrix of its rows; with
v the eigenvalues of Σ_J and k = 1e-5

    s = −Σ_i [log(v_i + k) + 1/(v_i + k)]
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator

K = 1e-5


def jacob_cov(candidate: Candidate) -> float:
    """s; NaN when an image has no gradient."""
    images = candidate.images.clone().requires_grad_(True)
    (jacobian,) = gradients(candidate.subnet()(images).sum(), [images])
    correlation = torch.corrcoef(jacobian.flatten(1).double())
    if not correlation.isfinite().all():
        return float("nan")
    v = torch.linalg.eigvalsh(correlation).clamp(min=0)
    return float(-((v + K).log() + 1 / (v + K)).sum())


INDICATOR = Indicator(
    "jacob-cov",
    "how little the images' Jacobians correlate",
    jacob_cov,
    needs=frozenset({Need.SKELETON}),
)
