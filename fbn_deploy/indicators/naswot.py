"""NASWOT (Mellor et al. 2021, "Neural Architecture Search without Training", equation 2).

s = log |K|, K[a, b] = N − d(c_a, c_b): of N activations of the untrained network, how many are on,
or off, for both image a and image b. The paper takes 128 images; here it is the first probe batch.
Images of one code count once: one that the batch holds twice would make every candidate's s −∞.

``expressivity-regions`` is the same formula on the trained fair supernet, with large feature maps
sampled; here every activation counts.
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._codes import activation_codes, code_kernel, log_determinant
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def naswot(candidate: Candidate) -> float:
    """log |K| of the images with distinct codes; NaN without activation modules."""
    codes = activation_codes(candidate.subnet(), candidate.images)
    if not codes:
        return float("nan")
    return log_determinant(torch.stack([code_kernel(c) for c in codes]).sum(0))


INDICATOR = Indicator(
    "naswot",
    "log-determinant of the kernel of activation codes, untrained (NASWOT)",
    naswot,
    needs=frozenset({Need.SKELETON}),
)
