"""The subnet that is trained, and what of it exists in training only.

Drop-path: a space places ``torchvision.ops.StochasticDepth`` modules wherever a path may be
dropped; their probability is set here. Auxiliary classifier: a network with a method
``add_auxiliary()`` returns ``(logits, auxiliary logits)`` in training once that was called, and
``network.auxiliary = None`` takes it off again (Liu et al. 2019).
"""

from __future__ import annotations

from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.definition import SpaceDefinition
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize


def subnet(
    definition: SpaceDefinition,
    architecture: Architecture,
    num_classes: int,
    *,
    fair_bn: bool,
    seed: int,
) -> nn.Module:
    """The untrained subnet, weights drawn from ``seed``.

    Where the space builds its subnets itself, those have no BatchNorms added.
    """
    if definition.builds_subnets:
        return definition.subnet(architecture, num_classes, seed)
    supernet = build_supernet(
        definition, num_classes, bn="fair" if fair_bn else "conv-only", seed=seed
    )
    return materialize(supernet.network, architecture)


def subnet_of_supernet(supernet: Supernet, architecture: Architecture) -> nn.Module:
    """The subnet with the weights that it has in the trained ``supernet``."""
    if supernet.definition.builds_subnets:
        raise FBNError(
            f"A subnet of {supernet.definition.name} is another network than its path in the "
            "supernet, so it cannot start from there; leave --warm-start out."
        )
    return materialize(supernet.network, architecture).requires_grad_(True)


def set_drop_path(network: nn.Module, probability: float) -> int:
    """Sets the probability with which each path is dropped; returns how many paths there are."""
    from torchvision.ops import StochasticDepth

    paths = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for path in paths:
        path.p = probability
    return len(paths)


def add_auxiliary(network: nn.Module) -> bool:
    """Gives ``network`` its auxiliary classifier, weights from the global random numbers; False
    where its space has none."""
    add = getattr(network, "add_auxiliary", None)
    if add is None:
        return False
    add()
    return True


def remove_auxiliary(network: nn.Module) -> None:
    """Takes the auxiliary classifier off again, if there is one."""
    if getattr(network, "auxiliary", None) is not None:
        setattr(network, "auxiliary", None)  # noqa: B010  a module has it only where its space does
