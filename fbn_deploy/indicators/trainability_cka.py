"""Trainability as what a block leaves of the gradients that pass through it.

With g_l the loss's gradients where block l ends, (B, …) for B images, and K_l the B × B matrix of
their inner products about their mean, a block passes on

    CKA(K_{l−1}, K_l) = ⟨K_{l−1}, K_l⟩ / (‖K_{l−1}‖ ‖K_l‖)

(linear centred kernel alignment, Kornblith et al. 2019): 1 where the same images' gradients are
alike before as behind it, near 0 where it shatters them (Balduzzi et al. 2017), as deep stacks of
convolutions do and identity paths do not. s = mean over the blocks of ``_blocks.py``, of the bare
network on the first probe batch. It depends on no width: K is of images.

It ranks among all candidates as well, but what it is for is the best of them, which other
indicators hardly order (``benchmarks/results/ablation.md``).
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import torch
from torch import nn

from fbn_deploy.indicators._blocks import run_through_blocks
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._protocol import Indicator

_LEAST = 1e-30  # of a norm; gradients below do not differ between images


def gradient_cka(candidate: Candidate) -> float:
    """Mean of CKA over blocks, from 0 to 1; NaN if gradients arrive at no block."""
    kernels = gradient_kernels(candidate.subnet(), candidate.images, candidate.labels)
    passed = [float(cka(entering, leaving)) for entering, leaving in pairwise(kernels)]
    return fmean(passed) if passed else float("nan")


def gradient_kernels(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor]:
    """K (B, B) of the gradients where the first block begins and where each ends, if one arrives,
    on the CPU. L is the cross-entropy summed over the images."""
    network.requires_grad_(False)
    logits, features = run_through_blocks(network, images.clone().requires_grad_(True))
    depend = [feature for feature in features if feature.requires_grad]
    if not logits.requires_grad or not depend:
        return []
    loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
    found = torch.autograd.grad(loss, depend, allow_unused=True)
    kernels = [_kernel(gradient) for gradient in found if gradient is not None]
    return list(torch.stack(kernels).cpu()) if kernels else []  # a GPU is waited for once


def cka(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """⟨K, L⟩ / (‖K‖ ‖L‖), of two (B, B)."""
    product: torch.Tensor = (one * other).sum() / (one.norm() * other.norm()).clamp(min=_LEAST)
    return product


def _kernel(gradient: torch.Tensor) -> torch.Tensor:
    """Inner products of the rows of ``gradient`` (B, …) about their mean; its size is no matter."""
    rows = gradient.flatten(1).float()
    rows = rows - rows.mean(0)
    rows = rows / rows.norm().clamp(min=_LEAST)
    kernel: torch.Tensor = rows @ rows.T
    return kernel


INDICATOR = Indicator(
    "trainability-cka",
    "how alike the images' gradients are before and behind a block, mean over blocks",
    gradient_cka,
)
