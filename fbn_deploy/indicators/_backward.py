"""What a backward pass brings to the BatchNorms: facts of the loss's gradients at their outputs.

The gradients of a path are as large as its activations, so none is kept: as one arrives, all that
indicators read of it is computed. No gradient of a weight is, and none before the first BatchNorm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fbn_deploy.indicators._spectra import gradient_spectrum


@dataclass(frozen=True)
class BackwardFacts:
    """Of ∂L/∂y (B, C, …), y a BatchNorm's output. Without its mean, a row of ``per_image`` is what
    one image adds to the gradient of β, as far as batch statistics let images be told apart."""

    spectrum: torch.Tensor | None
    """Eigenvalues, rising, of the correlations between its channels; None if it does not vary."""
    per_image: torch.Tensor
    """Its sums over positions, (B, C)."""


def backward_facts(gradient: torch.Tensor) -> BackwardFacts:
    """The facts of one gradient, (B, C, …)."""
    per_image = gradient.flatten(2).sum(2) if gradient.dim() > 2 else gradient.clone()
    return BackwardFacts(gradient_spectrum(gradient), per_image)


def backward_pass(
    network: nn.Module, norms: Collection[nn.Module], images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, dict[nn.Module, BackwardFacts]]:
    """The logits of ``images``, and the facts at each of ``norms`` that they depend on.

    L is the cross-entropy summed over the images. Of a BatchNorm that runs more than once, the last
    run counts.
    """
    facts: dict[nn.Module, BackwardFacts] = {}
    starts: list[torch.Tensor] = []

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        def read(gradient: torch.Tensor | None) -> None:
            if gradient is not None and module not in facts:  # the last run comes first
                facts[module] = backward_facts(gradient)

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
    return logits.detach(), facts


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
