"""Counts of full-size networks without computing them: everything is on the meta device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from fbn_deploy.space import Architecture
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import materialize


def supernet_without_weights(
    space: str, resolution: int, num_classes: int, **options: Any
) -> nn.Module:
    with torch.device("meta"):
        return definition(space, resolution, options).network(num_classes, seed=0)


def bare(network: nn.Module, architecture: Architecture) -> nn.Module:
    return materialize(network, architecture, fair=False)


def params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def counted(network: nn.Module, resolution: int) -> Counter[str]:
    """For one image: ``multiply-adds`` of convolutions and the classifier, and by the names of
    their types how many values other layers give. ``network`` is on the meta device."""
    found: Counter[str] = Counter()

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            found["multiply-adds"] += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            found["multiply-adds"] += layer.weight.numel()
        elif not any(layer.children()):
            found[type(layer).__name__] += output.numel()

    hooks = [layer.register_forward_hook(add) for layer in network.modules()]
    network.eval()(torch.zeros(1, 3, resolution, resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    return found
