"""What a backward pass brings to the BatchNorms: the loss's gradients at their outputs.

No gradient of a weight is computed, and none before the first BatchNorm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def outputs_collected(norms: Iterable[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collects, in the next forward pass, the output of each of ``norms``, as gradients reach it:
    the pass has to be one with gradients."""
    outputs: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        kept = output if output.requires_grad else output.detach().requires_grad_(True)
        outputs[module] = kept
        return kept.clone()  # what follows may work in place

    hooks = [norm.register_forward_hook(keep) for norm in norms]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def gradients_at(
    outputs: dict[nn.Module, torch.Tensor], logits: torch.Tensor, labels: torch.Tensor
) -> dict[nn.Module, torch.Tensor]:
    """∂L/∂output for each BatchNorm that the logits depend on, L the cross-entropy summed over the
    images: so a row is what one image adds, as far as batch statistics let it be told apart."""
    if not outputs:
        return {}
    loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    found = torch.autograd.grad(loss, list(outputs.values()), allow_unused=True)
    return {norm: g for norm, g in zip(outputs, found, strict=True) if g is not None}
