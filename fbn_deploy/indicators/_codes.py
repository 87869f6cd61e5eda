"""Binary activation codes: which activations of a network are on, for every image of a batch.

Of N activations, those that are on, or off, for both of two images are counted by the kernel
(Mellor et al. 2021, equation 2; c (B, N) in {0, 1}, n = c cᵀ, r its diagonal)

    K = c cᵀ + (1 − c)(1 − c)ᵀ = 2 n − r 1ᵀ − 1 rᵀ + N

Two images have the same code exactly where K_ab = K_aa. Their rows are equal and |K| is 0, whatever
the other images show; so images of one code count once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.SiLU, nn.GELU)
MAX_UNITS = 8192  # of one activation's feature map that enter the kernel of a collection


@torch.no_grad()
def activation_codes(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """For each activation that ``images`` pass, in their order: (B, units) in {0, 1}, 1 where its
    output is > 0."""
    codes: list[torch.Tensor] = []

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        codes.append((output > 0).flatten(1).float())

    with _hooked(network.modules(), add):
        network(images)
    return codes


@contextlib.contextmanager
def code_kernel_collected(modules: Iterable[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collects, in the next forward pass, the one kernel of the activations among ``modules``.

    Of a large feature map, a grid of positions with at most ``MAX_UNITS`` units stands for all of
    them and is scaled up to their number: an estimate of K at a fraction of its cost.
    """
    total: list[torch.Tensor] = []

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        output = output.detach()
        units = output[0].numel()
        if output.dim() == 4:
            step = math.ceil(math.sqrt(units / MAX_UNITS))
            # Channels last: what follows reads memory in its order. The units' order is no matter.
            output = output.permute(0, 2, 3, 1)[:, ::step, ::step]
        codes = output.flatten(1).clamp(min=0).sign_()
        kernel = code_kernel(codes) * (units / codes.shape[1])
        total[:] = [total[0] + kernel] if total else [kernel]

    with _hooked(modules, add):
        yield total


def code_kernel(codes: torch.Tensor) -> torch.Tensor:
    """K (B, B), in double precision, of ``codes`` (B, N)."""
    n = codes @ codes.T
    r = n.diagonal()
    return (2 * n - r[:, None] - r[None, :] + codes.shape[1]).double()


def log_determinant(kernel: torch.Tensor) -> float:
    """log |K| of the distinct codes of ``kernel`` (B, B), in double precision; −∞ where it is 0."""
    kernel = kernel.double()
    seen_before = (kernel == kernel.diagonal()).tril(-1).any(1)
    distinct = kernel[~seen_before][:, ~seen_before]
    sign, logdet = torch.linalg.slogdet(distinct)
    return float(logdet) if sign > 0 else float("-inf")


@contextlib.contextmanager
def _hooked(modules: Iterable[nn.Module], add: Any) -> Iterator[None]:
    hooks = [m.register_forward_hook(add) for m in modules if isinstance(m, ACTIVATIONS)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
