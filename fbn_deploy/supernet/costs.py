"""FLOPs and parameters of architectures, counted on the folded network.

One multiply-add is one FLOP (fvcore's convention, as in the papers of all spaces here). Inserted
BatchNorms cost nothing: they are folded away before deployment. A BatchNorm of the space itself
leaves one bias a channel.

A path's cost is that of the fixed layers plus that of each chosen op, so every op is counted once
and architectures are sums. An op that a forward pass calls more than once costs its FLOPs as often.
Where the space builds its subnets itself, each of those is counted.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import choices, each_choice_input, select_path
from fbn_deploy.supernet.fairbn import FairBN
from fbn_deploy.supernet.supernet import Supernet, materialize

Count = tuple[int, int]  # FLOPs, parameters


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
    """FLOPs and parameters of the fixed layers, and of each option of each decision."""

    fixed: Count
    options: Mapping[tuple[str, str], Count]

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds for one image."""
        return self.fixed[0] + sum(self.options[choice][0] for choice in architecture.choices)

    def params(self, architecture: Architecture) -> int:
        """Weights and biases of the folded network."""
        return self.fixed[1] + sum(self.options[choice][1] for choice in architecture.choices)


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
        options: dict[tuple[str, str], Count] = {}
        for path, choice in blocks.items():
            for option, op in choice.candidates.items():
                key, bare = (choice.decision.name, option), _bare(op)
                flops = sum(_flops(bare, inputs) for inputs in calls[path])
                options[key] = _sum(options.get(key, (0, 0)), (flops, _params(bare)))
        whole = _count(materialize(network, architecture, fair=False), (example,))
    finally:
        network.train(training)
    chosen = [options[choice] for choice in architecture.choices]
    fixed = (whole[0] - sum(c[0] for c in chosen), whole[1] - sum(c[1] for c in chosen))
    return OpCosts(fixed, options)


def _sum(a: Count, b: Count) -> Count:
    return a[0] + b[0], a[1] + b[1]


def _bare(op: nn.Module) -> nn.Module:
    """``op`` without the BatchNorm that was added to it."""
    return _bare(op.op) if isinstance(op, FairBN) else op


def _count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Count:
    return _flops(module, inputs), _params(module)


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


def _params(module: nn.Module) -> int:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    affine = sum(p.numel() for bn in norms for p in bn.parameters())
    weights = sum(p.numel() for p in module.parameters()) - affine
    return weights + sum(bn.num_features for bn in norms)
