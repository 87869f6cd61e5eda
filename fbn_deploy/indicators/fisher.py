"""Fisher pruning's saliency as a proxy (Theis et al. 2018, Turner et al. 2020).

For channel c of the output a of every convolution and linear layer, over the B images of a batch,
L its cross-entropy:

    Δ_c = 1/(2B) Σ_b (Σ_spatial a_bc · ∂L/∂a_bc)²,   s = Σ_c Δ_c

Abdelfattah et al. (2021) define s so; their code, besides, counts each Δ_c once for every weight
of its channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients, loss, weighted_layers
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def fisher(candidate: Candidate) -> float:
    """Σ_c Δ_c."""
    network = candidate.subnet()
    a: list[torch.Tensor] = []

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        a.append(output)
        return output.clone()  # what follows may work in place

    for layer in weighted_layers(network):
        layer.register_forward_hook(add)
    g = gradients(loss(network, candidate.images, candidate.labels), a)
    return sum(_saliency(x.detach() * y) for x, y in zip(a, g, strict=True))


def _saliency(product: torch.Tensor) -> float:
    """Σ_c Δ_c of one layer; the channels of (B, C, H, W) are second, else last."""
    channels = product if product.dim() == 4 else product.movedim(-1, 1)
    spatial = channels.reshape(*channels.shape[:2], -1)
    return float(spatial.sum(2).square().mean(0).sum() / 2)


INDICATOR = Indicator(
    "fisher", "sum of Fisher saliencies of all channels", fisher, needs=frozenset({Need.SKELETON})
)
