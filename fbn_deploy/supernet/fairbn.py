"""Fair BatchNorm: every candidate op of every choice ends in a BatchNorm.

Convolution blocks bring one of their own; pooling, identity and zero ops do not, so that a
comparison by BatchNorm quantities would leave them out (BN-NAS). FBN-NAS gives each of them one.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.errors import FBNError
from fbn_deploy.supernet.choice import choices, each_choice_input

LEAST_SCALE = 0.01  # starts at 1
# By the dimensions of an output: (N, C) of linear layers, (N, C, H, W) of feature maps.
NORMS: dict[int, type[_BatchNorm]] = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d}


class FairBN(nn.Module):
    """An op followed by the BatchNorm that it did not bring; outputs have ``dimensions``."""

    def __init__(self, op: nn.Module, num_channels: int, dimensions: int = 4) -> None:
        super().__init__()
        self.op = op
        self.bn = NORMS[dimensions](num_channels)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.bn(self.op(*inputs))
        return output


@torch.no_grad()
def keep_scales_positive(network: nn.Module) -> None:
    """Lifts the scales of added BatchNorms to ``LEAST_SCALE``.

    Folding cannot move a sign through a ReLU: a negative one would stay behind as a
    multiplication. Training hardly asks for any (from 1 to 0.47 at the least, in two epochs of
    ``quick`` on CIFAR-10), so that this costs nothing there, and makes sure of it.
    """
    for module in network.modules():
        if isinstance(module, FairBN):
            module.bn.weight.clamp_(min=LEAST_SCALE)


class _Tracer(fx.Tracer):
    """Enters no convolution and no activation that is derived from PyTorch's either: those of
    ``frozen.py`` compute their own gradients, which cannot be traced."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        derived = any(
            each is not nn.Module and each.__module__.startswith("torch.nn.modules")
            for each in type(m).__mro__
        )
        return (derived and not any(m.children())) or super().is_leaf_module(
            m, module_qualified_name
        )


def last_batchnorm(op: nn.Module) -> _BatchNorm | None:
    """The BatchNorm whose output ``op`` returns, also as a term of a residual sum; else None.

    An op that ``torch.fx`` cannot trace is judged by its last registered leaf module.
    """
    if isinstance(op, FairBN):
        return op.bn
    try:
        graph = _Tracer().trace(op)
    except Exception:
        leaves = [m for m in op.modules() if not any(m.children())]
        return leaves[-1] if leaves and isinstance(leaves[-1], _BatchNorm) else None
    (output,) = (node for node in graph.nodes if node.op == "output")
    pending = [output.args[0]]
    while pending:
        node = pending.pop()
        if not isinstance(node, fx.Node):
            continue
        if node.op == "call_module":
            module = op.get_submodule(str(node.target))
            if isinstance(module, _BatchNorm):
                return module
        if getattr(node.target, "__name__", node.target) in {"add", "add_", "iadd"}:
            pending += node.args
        elif getattr(node.target, "__name__", "") == "stochastic_depth":
            pending.append(node.args[0])
    return None


@torch.no_grad()
def make_fair(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """Appends a BatchNorm, in place, to every candidate op that does not end in one.

    ``example`` is an input of shape (N, 3, H, W) by which the widths are found. Raises
    ``FBNError`` where ``fair_shapes`` does.
    """
    found = choices(network)
    for path, shape in fair_shapes(network, example).items():
        choice = found[path]
        for option, op in choice.candidates.items():
            if last_batchnorm(op) is None:
                choice.candidates[option] = FairBN(op, shape[1], len(shape))
    return network


def fair_shapes(network: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The ``candidate_shapes``; ``FBNError`` also for an op that does not end in a BatchNorm and
    whose output takes none of ``NORMS``."""
    shapes = candidate_shapes(network, example)
    found = choices(network)
    mistakes = [
        f"choice {found[path].decision.name!r} at {path}: option {option!r} gives {shape}"
        for path, shape in shapes.items()
        if len(shape) not in NORMS
        for option, op in found[path].candidates.items()
        if last_batchnorm(op) is None
    ]
    if mistakes:
        raise FBNError(
            "Fair BatchNorms go behind outputs of shape (N, C) or (N, C, H, W): "
            f"{'; '.join(mistakes)}. Let such options end in a BatchNorm of their own, or pass "
            "--bn conv-only."
        )
    return shapes


@torch.no_grad()
def candidate_shapes(network: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Module path of each choice → the one output shape of all its candidates, of a choice that
    runs more than once in its first run."""
    training = network.training
    network.eval()
    found: dict[str, tuple[int, ...]] = {}
    mistakes: list[str] = []
    try:
        with each_choice_input(network) as inputs:
            network(example)
        for path, choice in choices(network).items():
            for received in inputs[path]:  # nothing inside a candidate that is not chosen
                shapes = {o: tuple(op(*received).shape) for o, op in choice.candidates.items()}
                found.setdefault(path, next(iter(shapes.values())))
                if len(set(shapes.values())) > 1:
                    mistakes.append(f"choice {choice.decision.name!r} at {path}: {shapes}")
    finally:
        network.train(training)
    if mistakes:
        raise FBNError(
            "The candidates of a choice must give outputs of one shape, but they differ: "
            + "; ".join(mistakes)
        )
    return found
