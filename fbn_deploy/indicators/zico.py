"""ZiCo (Li et al. 2023, equation 12): the inverse coefficient of variation of gradients.

    s = Σ_layers log Σ_w E|g| / √Var(g)

over the weights w of each convolution and linear layer, mean and standard deviation over the
gradients g of two batches at initialisation; weights whose gradient does not vary are left out.
The anchors, which all probe batches share, are left out as well: they would make batches alike.
"""

from __future__ import annotations

import math

import torch

from fbn_deploy.errors import FBNError
from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients, loss, weights
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator

BATCHES = 2  # as in the paper's experiments


def zico(candidate: Candidate) -> float:
    """s; −∞ when no gradient varies. Raises ``FBNError`` for fewer than two probe batches."""
    batches = candidate.batches[:BATCHES]
    if len(batches) < BATCHES:
        raise FBNError(f"zico compares the gradients of {BATCHES} probe batches; there is only 1.")
    anchors = candidate.setting.probe.anchors
    network = candidate.subnet()
    w = weights(network)
    found = [gradients(loss(network, i[anchors:], t[anchors:]), w) for i, t in batches]
    sums = [_inverse_variation(torch.stack(g)) for g in zip(*found, strict=True)]
    return sum(math.log(s) for s in sums if s > 0) if any(sums) else float("-inf")


def _inverse_variation(g: torch.Tensor) -> float:
    """Σ_w E|g| / √Var(g) of one layer, from (batches, *weight shape)."""
    deviation = g.std(0, correction=0)
    varies = deviation > 0
    return float((g.abs().mean(0)[varies] / deviation[varies]).sum())


INDICATOR = Indicator(
    "zico",
    "inverse coefficient of variation of gradients (ZiCo)",
    zico,
    needs=frozenset({Need.SKELETON}),
)
