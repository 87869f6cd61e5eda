"""Recalibration of BatchNorm statistics: what a path's own activations have, not the supernet's.

During single-path training the running statistics mix all paths. For one candidate they are
gathered anew: the average, over some batches, of each batch's mean and (unbiased) variance.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from fbn_deploy.supernet.choice import active_modules


def active_batchnorms(network: nn.Module) -> list[_BatchNorm]:
    """The BatchNorms on the selected path of ``network``, in the order of registration."""
    return [m for m in active_modules(network) if isinstance(m, _BatchNorm)]


@contextlib.contextmanager
def fresh_statistics(network: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Within the block every forward pass of the selected path normalises by its own batch, and
    adds that batch's statistics, with equal weight, to running statistics that start empty.

    Gives the path's BatchNorms. Modes and momenta are given back at the end; the new statistics
    stay.
    """
    norms = active_batchnorms(network)
    modes = [(module, module.training) for module in active_modules(network)]
    momenta = [bn.momentum for bn in norms]
    for module, _ in modes:
        module.training = False
    for bn in norms:
        bn.reset_running_stats()
        bn.training = True
    hooks = [_cumulative(bn) for bn in norms]
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()
        for bn, momentum in zip(norms, momenta, strict=True):
            bn.momentum = momentum
        for module, training in modes:
            module.training = training


def _cumulative(bn: _BatchNorm) -> RemovableHandle:
    """Lets ``bn`` average the statistics of the passes to come: the n-th counts 1/n. (A momentum
    of None says the same, and reads n from the device each time, which waits for a GPU.)"""
    passes = itertools.count(2)
    bn.momentum = 1.0

    def next_pass(module: nn.Module, inputs: object, output: object) -> None:
        bn.momentum = 1.0 / next(passes)

    return bn.register_forward_hook(next_pass)


@contextlib.contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Gives the running statistics of the selected path back at the end of the block."""
    kept = [
        (buffer, buffer.clone()) for bn in active_batchnorms(network) for buffer in bn.buffers()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@torch.no_grad()
def recalibrate_batchnorm(network: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Sets, in place, the running statistics of the selected path to those of ``batches``.

    ``batches`` are images of shape (N, 3, H, W), normalised as in training.
    """
    with fresh_statistics(network):
        for images in batches:
            network(images)
    return network
