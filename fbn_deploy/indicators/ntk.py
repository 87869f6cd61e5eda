"""The condition number of the neural tangent kernel (TE-NAS, Chen et al. 2021, equation 3).

Θ[a, b] = J(x_a) J(x_b)ᵀ, J(x) the gradient of the sum of the logits of x by all parameters, at
initialisation and with batch statistics; κ = λ_max / λ_min. Lower is better. As each image costs a
backward pass through the whole batch, the first ``IMAGES`` of the probe are taken.
"""

from __future__ import annotations

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator

IMAGES = 16


def ntk(candidate: Candidate) -> float:
    """κ; ∞ when Θ is singular."""
    network = candidate.subnet()
    by = list(network.parameters())
    sums = network(candidate.images[:IMAGES]).flatten(1).sum(1)
    rows = []
    for one in sums:
        gradient = torch.autograd.grad(one, by, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.flatten() for g in gradient if g is not None]))
    jacobian = torch.stack(rows).double()
    eigenvalues = torch.linalg.eigvalsh(jacobian @ jacobian.T)
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    return largest / smallest if smallest > 0 else float("inf")


INDICATOR = Indicator(
    "ntk",
    "condition number of the neural tangent kernel (TE-NAS)",
    ntk,
    higher_is_better=False,
    needs=frozenset({Need.SKELETON}),
)
