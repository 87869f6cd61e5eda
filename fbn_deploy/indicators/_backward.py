"""What a backward pass brings to the BatchNorms: facts of the loss's gradients at their outputs.

The gradients of a path are as large as its activations, so none is kept: as one arrives, it is
reduced to what indicators read of it. No gradient of a weight is computed, and none before the
first BatchNorm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fbn_deploy.indicators._spectra import Correlations, fetched, gradient_correlations, spectra


@dataclass(frozen=True)
class BackwardFacts:
    """Of ∂L/∂y (B, C, …), y a BatchNorm's output. Without its mean, a row of ``per_image`` is what
    one image adds to the gradient of β, as far as batch statistics let images be told apart."""

    spectrum: torch.Tensor | None
    """Eigenvalues, rising, of the correlations between its channels; None if it does not vary."""
    per_image: torch.Tensor
    """Its sums over positions, (B, C)."""


@dataclass(frozen=True)
class Arrived:
    """What is kept of ∂L/∂y as it arrives, where it arrives."""

    correlations: Correlations
    per_image: torch.Tensor


def arrived(gradient: torch.Tensor) -> Arrived:
    """Of one gradient, (B, C, …)."""
    per_image = gradient.flatten(2).sum(2) if gradient.dim() > 2 else gradient.clone()
    return Arrived(gradient_correlations(gradient), per_image)


def backward_facts(of: Sequence[Arrived]) -> list[BackwardFacts]:
    """The facts of each, on the CPU."""
    spectra_of = spectra([each.correlations for each in of])
    sums = fetched([each.per_image for each in of])
    return [BackwardFacts(*facts) for facts in zip(spectra_of, sums, strict=True)]


def backward_pass(
    network: nn.Module, norms: Collection[nn.Module], images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[nn.Module, Arrived]]:
    """The logits of ``images``, and what arrives at each of ``norms`` that they depend on.

    L is the cross-entropy summed over the images. Of a BatchNorm that runs more than once, the last
    run counts.
    """
    found: dict[nn.Module, Arrived] = {}
    starts: list[torch.Tensor] = []

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        def read(gradient: torch.Tensor | None) -> None:
            if gradient is not None and module not in found:  # the last run comes first
                found[module] = arrived(gradient)

        if not output.requires_grad:  # no BatchNorm before this one: the graph starts here
            starts.append(output.new_zeros(()).requires_grad_())
            # A leaf could not be worked on in place by what follows; a sum can.
            output = output + starts[-1]
        # Of the output as it is now, whatever is done to it in place.
        output.register_hook(read)  # type: ignore[no-untyped-call]
        return output

    with _frozen(network), torch.enable_grad():
        hooks = [norm.register_forward_hook(watch) for norm in norms]
        try:
            logits: torch.Tensor = network(images)
        finally:
            for hook in hooks:
                hook.remove()
        if logits.requires_grad:
            loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
            torch.autograd.grad(loss, starts, allow_unused=True)
    return logits.detach(), found


@contextlib.contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Within the block no parameter requires a gradient."""
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
