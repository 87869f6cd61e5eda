"""Trainability as what a block leaves of the gradients that pass through it.

With g_l the loss's gradients where block l ends, (B, …) for B images, and K_l the B × B matrix of
their inner products about their mean, a block passes on

    CKA(K_{l−1}, K_l) = ⟨K_{l−1}, K_l⟩ / (‖K_{l−1}‖ ‖K_l‖)

(linear centred kernel alignment, Kornblith et al. 2019): 1 where the same images' gradients are
alike before as behind it, near 0 where it shatters them (Balduzzi et al. 2017), as deep stacks of
convolutions do and identity paths do not. s = mean over the blocks of ``_blocks.py``, of the bare
network on the first probe batch. It depends on no width: K is of images.

Of all candidates it tells little, as a network without layers passes everything on; among good
ones it does.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import nn

from fbn_deploy.indicators._blocks import blocks
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._protocol import Indicator

_LEAST = 1e-30  # of a norm; gradients below do not differ between images


def gradient_cka(candidate: Candidate) -> float:
    """Mean of CKA over blocks, from 0 to 1; NaN if gradients arrive at no block."""
    network = candidate.subnet().requires_grad_(False)
    kernels = gradient_kernels(network, blocks(network), candidate.images, candidate.labels)
    passed = [float(cka(entering, leaving)) for entering, leaving in pairwise(kernels)]
    return fmean(passed) if passed else float("nan")


def gradient_kernels(
    network: nn.Module, of: list[nn.Module], images: torch.Tensor, labels: torch.Tensor
) -> list[torch.Tensor]:
    """K (B, B) of the gradients at the input of the first block of ``of`` and at the output of
    each, where one arrives, on the CPU. L is the cross-entropy summed over the images.

    ``network`` is left with its hooks.
    """
    found: dict[int, torch.Tensor] = {}

    def watched(features: torch.Tensor, place: int) -> torch.Tensor:
        def read(gradient: torch.Tensor) -> None:
            found[place] = _kernel(gradient)

        if not features.requires_grad:  # a block whose output depends on nothing
            return features
        features.register_hook(read)  # type: ignore[no-untyped-call]
        return features.clone()  # what follows may work in place

    def entering(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (watched(inputs[0].detach().requires_grad_(), 0), *inputs[1:])

    if of:
        of[0].register_forward_pre_hook(entering)
    for place, block in enumerate(of, 1):
        block.register_forward_hook(lambda _, __, output, place=place: watched(output, place))
    logits = network(images)
    if logits.requires_grad:
        nn.functional.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    return [found[place].cpu() for place in sorted(found)]


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
