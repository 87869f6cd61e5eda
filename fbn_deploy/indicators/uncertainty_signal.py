"""Uncertainty as the noise of the gradients that would train the BatchNorms.

Each image b adds g_bc to the gradient of β of channel c. Where images agree, a batch says which way
to go; where they do not, what it says is noise. Over the B images of a batch

    s = mean over BatchNorms of mean_c |mean_b g_bc| / std_b g_bc,

the signal-to-noise ratio, higher for less uncertainty. ZiCo (Li et al. 2023) takes it of weights,
over two batches; here one backward pass does, as β has a gradient from every image.
"""

from __future__ import annotations

from statistics import fmean

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def signal(candidate: Candidate) -> float:
    """Mean over BatchNorms and channels; a channel without gradients counts 0, and a BatchNorm
    without any is left out. NaN if all are."""
    facts = [n.gradients for n in candidate.observation.norms if n.gradients is not None]
    ratios = [_ratio(each.per_image) for each in facts if bool(each.per_image.any())]
    return fmean(ratios) if ratios else float("nan")


def _ratio(per_image: torch.Tensor) -> float:
    """mean_c |mean_b g_bc| / std_b g_bc, of g (B, C)."""
    g = per_image.double()
    noise = g.std(0)
    return float(torch.where(noise > 0, g.mean(0).abs() / noise, 0.0).mean())


INDICATOR = Indicator(
    "uncertainty-signal",
    "signal-to-noise ratio of the gradients of β, mean over BatchNorms",
    signal,
    needs=frozenset({Need.GRADIENTS}),
)
