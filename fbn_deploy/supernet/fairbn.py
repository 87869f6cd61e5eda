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


class FairBN(nn.Module):
    """An op followed by the BatchNorm that it did not bring."""

    def __init__(self, op: nn.Module, num_channels: int) -> None:
        super().__init__()
        self.op = op
        self.bn = nn.BatchNorm2d(num_channels)

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
    ``FBNError`` where the candidates of a choice do not agree on the shape of their output.
    """
    found = choices(network)
    for path, shapes in candidate_shapes(network, example).items():
        choice = found[path]
        for option, op in choice.candidates.items():
            if last_batchnorm(op) is None:
                choice.candidates[option] = FairBN(op, shapes[1])
    return network


@torch.no_grad()
def candidate_shapes(network: nn.Module, example: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Module path of each choice → the one output shape of all its candidates."""
    training = network.training
    network.eval()
    found: dict[str, tuple[int, ...]] = {}
    mistakes: list[str] = []
    try:
        with each_choice_input(network) as inputs:
            network(example)
        for path, choice in choices(network).items():
            if path not in inputs:
                continue  # inside a candidate that is not chosen: it has no input of its own yet
            shapes = {o: tuple(op(*inputs[path]).shape) for o, op in choice.candidates.items()}
            found[path] = next(iter(shapes.values()))
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
