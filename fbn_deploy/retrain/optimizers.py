"""timm's optimizers, as far as they work here."""

from __future__ import annotations

import torch
from torch import nn

from fbn_deploy.checkpoint import training_state
from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.retrain.recipes import Recipe


def usable_optimizer(network: nn.Module, chosen: Recipe) -> torch.optim.Optimizer:
    """The optimizer of ``chosen`` for ``network``, after it was tried on a weight of its own.

    ``FBNError`` where timm has none of that name, or it needs another device or package, takes no
    step after a plain backward pass, or keeps what a checkpoint does not hold.
    """
    from timm.optim import list_optimizers

    if chosen.optimizer not in list_optimizers():
        raise unknown("optimizer", chosen.optimizer, list_optimizers())
    weight = torch.ones(2, 2, device=next(network.parameters()).device, requires_grad=True)
    tried = nn.ParameterList([weight])
    try:
        tried[0].square().sum().backward()
        optimizer = _made(tried, chosen)
        optimizer.step()
    except Exception as error:  # assertions, imports, whatever its authors raise
        raise FBNError(
            f"The optimizer {chosen.optimizer!r} does not work here "
            f"({type(error).__name__}: {error}); choose another one, such as sgd, adamw or lamb."
        ) from error
    training_state(tried, optimizer)
    return _made(network, chosen)


def _made(network: nn.Module, chosen: Recipe) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        network,
        opt=chosen.optimizer,
        lr=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        momentum=chosen.momentum,
        filter_bias_and_bn=not chosen.decay_vectors,
    )
    return optimizer
