"""``Choice``: the module that holds the candidate ops of one decision.

A search space is an ordinary PyTorch model with ``Choice`` blocks wherever its designer left a
decision open. Blocks that share a decision share its name; then they share its option as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture, Decision

ONNX_DOMAIN = "fbn"  # the open choice in an exported supernet is the node fbn::Choice


class Choice(nn.Module):
    """Runs the chosen one of its candidate ops: ``Choice("stage2.1", {"mb3_k3": …, …})``.

    All candidates take the same input and give outputs of the same shape.
    """

    def __init__(self, name: str, candidates: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if any("." in option for option in candidates):
            raise FBNError(
                f"Choice {name!r}: an option's name cannot hold a dot: {list(candidates)}."
            )
        self.decision = Decision(name, tuple(candidates))
        self.candidates = nn.ModuleDict(dict(candidates))
        self.chosen = self.decision.options[0]
        self.is_open = False

    @property
    def op(self) -> nn.Module:
        """The candidate that is chosen now."""
        return self.candidates[self.chosen]

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if not self.is_open:
            output: torch.Tensor = self.op(*inputs)
            return output
        outputs = [op(*inputs) for op in self.candidates.values()]
        return torch.onnx.ops.symbolic(
            f"{ONNX_DOMAIN}::Choice",
            outputs,
            {"decision": self.decision.name, "options": list(self.decision.options)},
            dtype=outputs[0].dtype,
            shape=outputs[0].shape,
            version=1,
        )


def choices(network: nn.Module) -> dict[str, Choice]:
    """Module path → ``Choice``, in the order of registration."""
    return {path: m for path, m in network.named_modules() if isinstance(m, Choice)}


def decisions_of_choices(network: nn.Module) -> dict[str, str]:
    """Module path of each ``Choice`` → the name of the decision that it follows."""
    return {path: choice.decision.name for path, choice in choices(network).items()}


def decisions(network: nn.Module) -> tuple[Decision, ...]:
    """The decisions of a network, one for each name; blocks that share a name must agree."""
    found: dict[str, Decision] = {}
    for path, choice in choices(network).items():
        known = found.setdefault(choice.decision.name, choice.decision)
        if known != choice.decision:
            raise FBNError(
                f"Choice blocks share the name {known.name!r} but not their options: "
                f"{known.options} and, at {path}, {choice.decision.options}."
            )
    return tuple(found.values())


def select_path(network: nn.Module, architecture: Architecture | Mapping[str, str]) -> None:
    """Makes every ``Choice`` of ``network`` run the op that ``architecture`` names."""
    options = dict(architecture)
    for choice in choices(network).values():
        choice.chosen = options[choice.decision.name]


def active_modules(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` and all modules within it that lie on the selected path."""
    yield module
    children = [module.op] if isinstance(module, Choice) else module.children()
    for child in children:
        yield from active_modules(child)


@contextlib.contextmanager
def opened(network: nn.Module) -> Iterator[None]:
    """Within the block every choice is open: its node in an ONNX export reads all candidates."""
    blocks = list(choices(network).values())
    for choice in blocks:
        choice.is_open = True
    try:
        yield
    finally:
        for choice in blocks:
            choice.is_open = False


def refuse_nested(network: nn.Module) -> None:
    """``FBNError`` for a choice within a candidate of another one: costs would be no sums."""
    for path, choice in choices(network).items():
        for option, op in choice.candidates.items():
            if choices(op):
                raise FBNError(
                    f"Choice {choice.decision.name!r} at {path} has another choice within its "
                    f"option {option!r}; place it beside, not within."
                )


@contextlib.contextmanager
def each_choice_input(network: nn.Module) -> Iterator[dict[str, list[tuple[torch.Tensor, ...]]]]:
    """Collects, for every forward pass within the block, module path → what the choice received,
    call by call."""
    seen: dict[str, list[tuple[torch.Tensor, ...]]] = {path: [] for path in choices(network)}

    def recorder(path: str) -> Any:
        return lambda module, inputs: seen[path].append(inputs)

    hooks = [m.register_forward_pre_hook(recorder(p)) for p, m in choices(network).items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
