"""AZ-NAS's trainability (Lee and Ham 2024): whether gradients keep their size through a block.

With g_l a random Rademacher gradient at the output of block l and g_{l−1} what the block makes of
it at its input, the block's Jacobian is estimated by M_l = E[g_{l−1} g_lᵀ] over images and
positions, (C_{l−1}, C_l). With σ_l its largest singular value

    s = mean_l (−σ_l − 1/(σ_l + 1e-6) + 2),

0 at σ_l = 1 and negative elsewhere. Where a block reduces the resolution r times, r × r positions
of its input become channels of one. A block that passes the gradient on unchanged computes nothing
and makes s = −∞, as in AZ-NAS's published code.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import torch
from torch import nn

from fbn_deploy.indicators._blocks import block_features, channels_last
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def trainability(candidate: Candidate) -> float:
    """The mean over blocks; NaN for a network without blocks."""
    pairs = list(pairwise(block_features(candidate)))
    scores = [_block(entering, leaving) for entering, leaving in reversed(pairs)]
    return fmean(scores) if scores else float("nan")


def _block(entering: torch.Tensor, leaving: torch.Tensor) -> float:
    """−σ − 1/(σ + 1e-6) + 2 of one block."""
    g_out = torch.randint(0, 2, leaving.shape).to(leaving) * 2 - 1
    if leaving.requires_grad:
        (g_in,) = gradients((leaving * g_out).sum(), [entering])
    else:
        g_in = torch.zeros_like(entering)  # a block of zeros
    if torch.equal(g_in, g_out):
        return float("-inf")
    g_in = _on_grid(g_in, leaving)
    rows, columns = channels_last(g_in), channels_last(g_out)
    m = rows.T @ columns / len(columns)
    sigma = float(torch.linalg.matrix_norm(m, ord=2))
    return -sigma - 1 / (sigma + 1e-6) + 2


def _on_grid(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """``gradient`` with r × r neighbouring positions as channels of one, so that it has as many
    positions as ``like``; padded with zeros where r does not divide its side."""
    if gradient.dim() != 4 or gradient.shape[2:] == like.shape[2:]:
        return gradient
    height, width = like.shape[2:]
    r = -(-gradient.shape[2] // height)
    missing = (0, r * width - gradient.shape[3], 0, r * height - gradient.shape[2])
    return nn.functional.pixel_unshuffle(nn.functional.pad(gradient, missing), r)


INDICATOR = Indicator(
    "az-trainability",
    "how well blocks keep the size of gradients (AZ-NAS)",
    trainability,
    needs=frozenset({Need.SKELETON}),
)
