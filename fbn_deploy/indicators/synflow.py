"""SynFlow as a proxy (Tanaka et al. 2020; Abdelfattah et al. 2021).

s = log Σ |w · ∂R/∂w| over the weights of all convolutions and linear layers, R the sum of the
outputs for one image of ones, in a network whose parameters are replaced by their absolute values
and whose BatchNorms are bypassed. No data, no labels; in double precision, for the sum spans tens
of orders of magnitude. The logarithm, which the papers do not take, ranks alike.

All that flows is positive, so that a ReLU passes it; other activations would not (ReLU6 stops at
6), and all are bypassed.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._codes import ACTIVATIONS
from fbn_deploy.indicators._layers import gradients, weights
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def synflow(candidate: Candidate) -> float:
    """log Σ |w · ∂R/∂w|; −∞ when nothing flows."""
    network = _linear(candidate.subnet()).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    ones = torch.ones_like(candidate.images[:1], dtype=torch.double)
    w = weights(network)
    g = gradients(network(ones).sum(), w)
    total = sum((a * b).abs().sum().item() for a, b in zip(w, g, strict=True))
    return math.log(total) if total > 0 else float("-inf")


def _linear(network: nn.Module) -> nn.Module:
    """``network`` without BatchNorms and activations; changed in place."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, (_BatchNorm, *ACTIVATIONS)):
                setattr(module, name, nn.Identity())
    return network


INDICATOR = Indicator(
    "synflow",
    "log of the sum of synaptic saliencies (SynFlow)",
    synflow,
    needs=frozenset({Need.SKELETON}),
)
