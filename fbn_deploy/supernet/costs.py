"""FLOPs and parameters of architectures, counted on the folded network.

One multiply-add is one FLOP (fvcore's convention, as in the papers of all spaces here). Inserted
BatchNorms cost nothing: they are folded away before deployment. A BatchNorm of the space itself
leaves one bias a channel.

A path's cost is that of the fixed layers plus that of each chosen op, so every op is counted once
and architectures are sums. An op that a forward pass calls more than once, also for several
decisions that share it, costs its FLOPs as often and its parameters once. Where the space builds
its subnets itself, each of those is counted.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice, choices, each_choice_input, select_path
from fbn_deploy.supernet.fairbn import FairBN
from fbn_deploy.supernet.supernet import Supernet, materialize

Count = tuple[int, int]  # FLOPs, parameters
Option = tuple[str, str]  # of a decision


class CostTable(Protocol):
    """What the network costs that an architecture stands for."""

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds for one image."""

    def params(self, architecture: Architecture) -> int:
        """Weights and biases of the folded network."""


def cost_table(supernet: Supernet) -> CostTable:
    """The costs of all architectures of ``supernet``."""
    return SubnetCosts(supernet) if supernet.definition.builds_subnets else _op_costs(supernet)


@dataclass(frozen=True)
class SubnetCosts:
    """Costs of networks that the space builds itself, each counted when it is asked for."""

    supernet: Supernet
    _known: dict[Architecture, Count] = field(default_factory=dict, repr=False, compare=False)

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds for one image."""
        return self._counted(architecture)[0]

    def params(self, architecture: Architecture) -> int:
        """Weights and biases of the folded network."""
        return self._counted(architecture)[1]

    @torch.no_grad()
    def _counted(self, architecture: Architecture) -> Count:
        if architecture not in self._known:
            definition = self.supernet.definition
            network = definition.subnet(architecture, self.supernet.num_classes, seed=0)
            self._known[architecture] = _count(network.eval(), (definition.example(),))
        return self._known[architecture]


@dataclass(frozen=True)
class OpCosts:
    """FLOPs and parameters of the fixed layers, and of each option of each decision.

    Parameters lie there by what has them, since options may share ops.
    """

    fixed_flops: int
    fixed_params: Mapping[int, int]
    option_flops: Mapping[Option, int]
    option_params: Mapping[Option, Mapping[int, int]]

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds for one image."""
        return self.fixed_flops + sum(self.option_flops[each] for each in architecture.choices)

    def params(self, architecture: Architecture) -> int:
        """Weights and biases of the folded network."""
        found = dict(self.fixed_params)
        for each in architecture.choices:
            found.update(self.option_params[each])
        return sum(found.values())


@torch.no_grad()
def _op_costs(supernet: Supernet) -> OpCosts:
    """Counts every candidate op of ``supernet`` once, on one image of its resolution."""
    network, example = supernet.network, supernet.definition.example()
    blocks = choices(network)
    architecture = Architecture.of(
        {c.decision.name: c.decision.options[0] for c in blocks.values()}
    )
    select_path(network, architecture)
    training = network.training
    network.eval()
    try:
        with each_choice_input(network) as calls:
            network(example)
        flops: Counter[Option] = Counter()
        params: dict[Option, dict[int, int]] = {}
        for path, choice in blocks.items():
            for option, op in choice.candidates.items():
                key, bare = (choice.decision.name, option), _bare(op)
                flops[key] += sum(_flops(bare, inputs) for inputs in calls[path])
                params.setdefault(key, {}).update(_params(bare.modules()))
        whole = _flops(materialize(network, architecture, fair=False), (example,))
    finally:
        network.train(training)
    fixed = whole - sum(flops[each] for each in architecture.choices)
    return OpCosts(fixed, _params(_fixed_modules(network)), flops, params)


def _fixed_modules(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` and all modules within it, up to its choices."""
    if not isinstance(module, Choice):
        yield module
        for child in module.children():
            yield from _fixed_modules(child)


def _bare(op: nn.Module) -> nn.Module:
    """``op`` without the BatchNorm that was added to it."""
    return _bare(op.op) if isinstance(op, FairBN) else op


def _count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Count:
    return _flops(module, inputs), sum(_params(module.modules()).values())


def _flops(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fvcore uses torch.jit, which says that it is old
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(module, inputs)
            analysis.set_op_handle("aten::batch_norm", lambda inputs, outputs: Counter())
            return int(analysis.total())
    finally:
        logger.setLevel(level)


def _params(modules: Iterable[nn.Module]) -> dict[int, int]:
    """What has parameters in the folded network (a weight, a BatchNorm) by its id → how many."""
    found = {}
    for module in modules:
        if isinstance(module, _BatchNorm):
            found[id(module)] = module.num_features
        else:
            found |= {id(p): p.numel() for p in module.parameters(recurse=False)}
    return found
