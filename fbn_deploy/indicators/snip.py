"""SNIP as a proxy (Lee et al. 2019; Abdelfattah et al. 2021, equation 1).

s = Σ |w · ∂L/∂w| over the weights of all convolutions and linear layers, L the cross-entropy of
one batch.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients, loss, weights
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def snip(candidate: Candidate) -> float:
    """Σ |w · ∂L/∂w|."""
    network = candidate.subnet()
    w = weights(network)
    g = gradients(loss(network, candidate.images, candidate.labels), w)
    return float(sum((a * b).abs().sum().item() for a, b in zip(w, g, strict=True)))


INDICATOR = Indicator(
    "snip", "sum of |weight · gradient| (SNIP)", snip, needs=frozenset({Need.SKELETON})
)
