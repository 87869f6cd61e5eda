"""The number of linear regions that images fall into (TE-NAS, Chen et al. 2021, equation 5).

R̂ = the number of distinct activation codes among the images of a batch, at initialisation. In a
network of usual width every image has a code of its own: R̂ then tells only degenerate networks
from others. TE-NAS counted it in a network of one cell with one channel, which not every space
has; AZ-NAS's comparison counts it in the whole network, as here.
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._codes import activation_codes
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def linear_regions(candidate: Candidate) -> float:
    """R̂; NaN without activation modules."""
    codes = activation_codes(candidate.subnet(), candidate.images)
    if not codes:
        return float("nan")
    return float(len(torch.unique(torch.cat(codes, 1), dim=0)))


INDICATOR = Indicator(
    "linear-regions",
    "distinct activation codes of the images (of wide networks all)",
    linear_regions,
    needs=frozenset({Need.SKELETON}),
)
