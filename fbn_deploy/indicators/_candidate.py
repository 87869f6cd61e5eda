"""A candidate: one architecture of one supernet, and all that an indicator may read of it.

Nothing is computed before an indicator asks for it, and then once for all that ask: the set of
forward passes through the supernet (``observation``), the probe's first batch, the counts.
``subnet()`` alone gives a new network each time, which its reader may alter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._observation import Observation, ProbeBatches, observe
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.costs import CostTable, cost_table
from fbn_deploy.supernet.supernet import Supernet, materialize


@dataclass(frozen=True)
class Setting:
    """What all candidates of one scoring share. ``probe`` lies on the device of ``supernet``."""

    supernet: Supernet
    probe: ProbeBatches
    needs: frozenset[Need] = frozenset(Need)

    @cached_property
    def initial(self) -> nn.Module:
        """The space's network at the random initialisation of the supernet, on the CPU, without
        added BatchNorms.

        It is drawn anew from the supernet's seed, so no training shows in it: neither of the
        BatchNorms nor, with ``--train all``, of the weights.
        """
        supernet = self.supernet
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            return supernet.definition.network(supernet.num_classes, supernet.seed)

    @cached_property
    def costs(self) -> CostTable:
        """FLOPs and parameters of every op, counted once for the supernet."""
        return cost_table(replace(self.supernet, network=self.initial))

    @property
    def device(self) -> torch.device:
        """Where the supernet lies."""
        return next(self.supernet.network.parameters()).device


@dataclass(frozen=True)
class Candidate:
    """One architecture in a setting."""

    setting: Setting
    architecture: Architecture

    @cached_property
    def observation(self) -> Observation:
        """What one set of forward passes through the supernet's path showed."""
        setting = self.setting
        return observe(setting.supernet, self.architecture, setting.probe, needs=setting.needs)

    @cached_property
    def batches(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """All probe batches: normalised images (B, 3, H, W) and their labels (B,)."""
        probe = self.setting.probe
        return tuple(
            # A tensor made in inference mode takes part in no backward pass; its copy does.
            (images.clone() if images.is_inference() else images, labels.clone())
            for images, labels in zip(probe.images, probe.labels, strict=True)
        )

    @property
    def images(self) -> torch.Tensor:
        """The first probe batch, normalised, (B, 3, H, W)."""
        return self.batches[0][0]

    @property
    def labels(self) -> torch.Tensor:
        """The labels of the first probe batch, (B,)."""
        return self.batches[0][1]

    def subnet(self) -> nn.Module:
        """A new copy of the bare architecture at its random initialisation, in training mode, on
        the supernet's device: no added BatchNorm, γ, β and statistics as the space sets them."""
        supernet = self.setting.supernet
        if supernet.definition.builds_subnets:
            bare = supernet.definition.subnet(
                self.architecture, supernet.num_classes, supernet.seed
            )
        else:
            bare = materialize(self.setting.initial, self.architecture, fair=False)
        return bare.to(self.setting.device).requires_grad_(True).train()

    @property
    def flops(self) -> int:
        """Multiply-adds of the folded network for one image; one multiply-add is one FLOP."""
        return self.setting.costs.flops(self.architecture)

    @property
    def params(self) -> int:
        """Weights and biases of the folded network."""
        return self.setting.costs.params(self.architecture)
