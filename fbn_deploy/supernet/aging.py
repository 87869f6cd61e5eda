"""BatchNorms as a training leaves them, before there was any.

What folding leaves of a network depends on its BatchNorms: at initialisation all scales are alike
and no shift is there, so that nothing remains; after training a few scales do, and the signs of
negative ones. A latency is promised for the trained network, so what is measured must look like it.
Added BatchNorms have no negative scales: retraining keeps them so (``keep_scales_positive``).
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.supernet.fairbn import FairBN

_SEED = 0
_NEGATIVE = 8  # one scale in so many
Network = TypeVar("Network", bound=nn.Module)


def as_if_trained(network: Network) -> Network:
    """A copy of ``network``: no scale is 1, no shift 0, and some scales are negative in BatchNorms
    that the space brought itself. The same network gives the same copy."""
    aged = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(_SEED)
    norms = [module for module in aged.modules() if isinstance(module, _BatchNorm)]
    added = {id(module.bn) for module in aged.modules() if isinstance(module, FairBN)}
    for norm in norms:
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 1.5),
        ):
            if tensor is not None:
                drawn = torch.empty(tensor.shape).uniform_(low, high, generator=generator)
                tensor.data.copy_(drawn)
        if id(norm) not in added and norm.weight is not None:
            norm.weight.data[::_NEGATIVE] *= -1
    return aged
