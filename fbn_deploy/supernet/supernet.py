"""The supernet: a space's network with its BatchNorms in place, and the subnets inside it."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.choice import Choice, choices, refuse_nested
from fbn_deploy.supernet.definition import SpaceDefinition
from fbn_deploy.supernet.fairbn import (
    FairBN,
    candidate_shapes,
    fair_shapes,
    last_batchnorm,
    make_fair,
)

BN_MODES = ("fair", "conv-only")


@dataclass(frozen=True)
class Supernet:
    """All candidate ops of a space in one network; ``network`` runs the path selected last.

    ``seed`` drew its initial weights.
    """

    network: nn.Module
    space: SearchSpace
    definition: SpaceDefinition
    num_classes: int
    bn: str
    seed: int = 0

    @functools.cached_property
    def _ends(self) -> dict[tuple[str, str], list[_BatchNorm]]:
        ends: dict[tuple[str, str], list[_BatchNorm]] = {}
        for choice in choices(self.network).values():
            for option, op in choice.candidates.items():
                if (bn := last_batchnorm(op)) is not None:
                    ends.setdefault((choice.decision.name, option), []).append(bn)
        return ends

    def choice_ends(self, architecture: Architecture) -> set[_BatchNorm]:
        """The last BatchNorm of every op that ``architecture`` chooses, where it has one."""
        return {bn for choice in architecture.choices for bn in self._ends.get(choice, [])}


def build_supernet(
    definition: SpaceDefinition, num_classes: int, *, bn: str = "fair", seed: int = 0
) -> Supernet:
    """The untrained supernet, weights drawn from ``seed``.

    ``bn="fair"`` adds a BatchNorm to every candidate op that has none (FBN-NAS); ``"conv-only"``
    leaves the space as its author wrote it (BN-NAS, the control).
    """
    network = definition.network(num_classes, seed)
    space = definition.search_space(network)
    _check_parts(network, definition, bn)
    with _running(definition):
        if bn == "fair":
            make_fair(network, definition.example(2))
        else:
            candidate_shapes(network, definition.example(2))
    return Supernet(network, space, definition, num_classes, bn, seed)


def check_network(network: nn.Module, definition: SpaceDefinition, bn: str) -> None:
    """``FBNError`` wherever ``build_supernet`` raises it; ``network`` is left as it is."""
    _check_parts(network, definition, bn)
    with _running(definition):
        (fair_shapes if bn == "fair" else candidate_shapes)(network, definition.example(2))


def _check_parts(network: nn.Module, definition: SpaceDefinition, bn: str) -> None:
    if bn not in BN_MODES:
        raise unknown("BatchNorm mode", bn, BN_MODES)
    if not definition.builds_subnets:
        refuse_nested(network)
    for path, module in network.named_modules():
        if isinstance(module, _BatchNorm) and not (module.affine and module.track_running_stats):
            raise FBNError(
                f"The BatchNorm {path} of the search space {definition.name!r} has no scales or no "
                "running statistics; make it with affine=True and track_running_stats=True."
            )


@contextlib.contextmanager
def _running(definition: SpaceDefinition) -> Iterator[None]:
    """Every candidate runs within the block; what fails there is a mistake of what was asked."""
    try:
        yield
    except FBNError:
        raise
    except Exception as error:  # a feature map smaller than a kernel, a mistake in its forward
        raise FBNError(
            f"The network of the search space {definition.name!r} does not run on images of "
            f"{definition.resolution}×{definition.resolution} pixels with the options "
            f"{dict(definition.options)} ({type(error).__name__}: {error}). Pass a larger "
            "--resolution or other options, or mend its forward."
        ) from error


class Chosen(nn.Module):
    """The op that was chosen, in the place of its choice; the option's name stays in its path."""

    def __init__(self, option: str, op: nn.Module) -> None:
        super().__init__()
        self.chosen = option
        self.add_module(option, op)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.get_submodule(self.chosen)(*inputs)
        return output


def materialize(network: nn.Module, architecture: Architecture, *, fair: bool = True) -> nn.Module:
    """A copy of ``network`` with the chosen ops in the place of its choices: a plain module.

    ``fair=False`` also takes the added BatchNorms out, which gives the bare architecture.
    """
    blocks = list(choices(network).values())
    chosen = {id(block.candidates[architecture[block.decision.name]]) for block in blocks}
    ops = {id(op) for block in blocks for op in block.candidates.values()}
    # What no block chooses is not copied; one that several share may be chosen in some.
    subnet = copy.deepcopy(network, dict.fromkeys(ops - chosen))
    return _plain(subnet, architecture, fair)


def _plain(module: nn.Module, architecture: Architecture, fair: bool) -> nn.Module:
    """``module`` without choices, and without added BatchNorms unless ``fair``."""
    if isinstance(module, Choice):
        option = architecture[module.decision.name]
        return Chosen(option, _plain(module.candidates[option], architecture, fair))
    if isinstance(module, FairBN) and not fair:
        return _plain(module.op, architecture, fair)
    for name, child in list(module.named_children()):
        setattr(module, name, _plain(child, architecture, fair))
    return module
