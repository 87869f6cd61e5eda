"""GraSP as a proxy (Wang et al. 2020; Abdelfattah et al. 2021, equation 1).

s = −Σ w · (H g) over the weights of all convolutions and linear layers, g = ∂L/∂w, H = ∂²L/∂w²; by
a second backward pass H g = ∂(gᵀ g₀)/∂w with g₀ = g held fixed. L is the cross-entropy of one
batch. The sign is Abdelfattah et al.'s, with which higher is meant to be better.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._layers import gradients, loss, weights
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def grasp(candidate: Candidate) -> float:
    """−Σ w · (H g)."""
    network = candidate.subnet()
    w = weights(network)
    g = gradients(loss(network, candidate.images, candidate.labels), w, create_graph=True)
    flow = sum(((a * a.detach()).sum() for a in g), start=candidate.images.new_zeros(()))
    h = gradients(flow, w)
    return -float(sum((a * b).sum().item() for a, b in zip(w, h, strict=True)))


INDICATOR = Indicator(
    "grasp",
    "how pruning changes the gradient flow (GraSP)",
    grasp,
    needs=frozenset({Need.SKELETON}),
)
