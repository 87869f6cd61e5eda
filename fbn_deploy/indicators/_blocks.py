"""The primary blocks of a network, and what leaves them: what AZ-NAS (Lee and Ham 2024) reads.

A block is a top-level child of the network that holds a decision's op, or that lies between two
such children (a reduction, say). Where one child holds all decisions, its children are meant, and
so on inwards; the members of a ``ModuleList`` or ``ModuleDict`` stand for themselves. A choice
that fell on the identity is no block: it makes the network shorter. In a network that the space
builds without choices, every child with parameters is a block, except the first (the stem) and
those that give no feature map.

As in AZ-NAS's published code the network is initialised anew with Kaiming's normal distribution
(fan-in) and sees Gaussian noise in place of images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import weighted_layers
from fbn_deploy.supernet.supernet import Chosen


def block_features(candidate: Candidate) -> list[torch.Tensor]:
    """What enters the first block, then what leaves each block, (B, C, H, W) each.

    They hang together in one autograd graph. The noise is drawn from the global random state.
    """
    network = candidate.subnet()
    _initialise(network)
    noise = torch.randn(candidate.images.shape).to(candidate.images.device)
    return run_through_blocks(network, noise.requires_grad_(True))[1]


def run_through_blocks(
    network: nn.Module, images: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The output of ``network``, and the feature maps that enter its first block and leave each, in
    one autograd graph if ``images`` take gradients. ``network`` keeps the hooks."""
    found = blocks(network)
    features: list[torch.Tensor] = []

    def entering(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not features:
            features.append(inputs[0])
        return (features[0].clone(), *inputs[1:]) if inputs[0] is features[0] else inputs

    def leaving(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        features.append(output)
        return output.clone()  # what follows may work in place

    if found:
        found[0].register_forward_pre_hook(entering)
    for block in found:
        block.register_forward_hook(leaving)
    output: torch.Tensor = network(images)
    return output, [feature for feature in features if feature.dim() > 2]


def blocks(network: nn.Module) -> list[nn.Module]:
    """The primary blocks of a bare network, in the order of registration."""
    children = _children(network)
    deciding = [n for n, child in enumerate(children) if _decides(child)]
    if not deciding:
        layers = [child for child in children if any(True for _ in child.parameters())]
        return blocks(layers[0]) if len(layers) == 1 else layers[1:]
    if len(deciding) == 1 and not isinstance(children[deciding[0]], Chosen):
        return blocks(children[deciding[0]])
    between = children[deciding[0] : deciding[-1] + 1]
    return [child for child in between if not _is_identity(child)]


def entropies(candidate: Candidate) -> list[float]:
    """The entropy of every block's features, the first one's input before them."""
    with torch.no_grad():
        return [entropy(feature) for feature in block_features(candidate)]


def entropy(feature: torch.Tensor) -> float:
    """H = −Σ λ̃ log λ̃ of the eigenvalues of the features' covariance, scaled to a sum of 1.

    (B, C, H, W) are B·H·W samples of C channels: the entropy of their PCA coefficients.
    """
    samples = channels_last(feature).double()
    centred = samples - samples.mean(0)
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / len(samples)).clamp(min=0)
    share = eigenvalues / eigenvalues.sum()
    return float(-(share * (share + 1e-8).log()).sum())


def channels_last(feature: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) or (B, N, C) → (samples, C)."""
    moved = feature.movedim(1, -1) if feature.dim() == 4 else feature
    return moved.flatten(0, -2)


def _children(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        is_list = isinstance(child, nn.ModuleList | nn.ModuleDict)  # neither is ever called
        found += _children(child) if is_list else [child]
    return found


def _decides(module: nn.Module) -> bool:
    return any(isinstance(within, Chosen) for within in module.modules())


def _is_identity(module: nn.Module) -> bool:
    """Whether ``module`` is a choice that fell on the identity."""
    if not isinstance(module, Chosen):
        return False
    (op,) = module.children()
    return isinstance(op, nn.Identity)


@torch.no_grad()
def _initialise(network: nn.Module) -> None:
    for layer in weighted_layers(network):
        drawn = torch.empty_like(layer.weight, device="cpu")  # the same numbers on every device
        nn.init.kaiming_normal_(drawn, mode="fan_in", nonlinearity="relu")
        layer.weight.copy_(drawn)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
