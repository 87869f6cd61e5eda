"""Weights and training state as safetensors: written whole or not at all, never a pickle.

A checkpoint is a flat dict of tensors plus a JSON object that says what they belong to. Optimizer
state is flattened to ``optimizer.<parameter name>.<key>`` and, of a group of parameters,
``optimizer_group.<number>.<key>``.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.files import replacing

OPTIMIZER = "optimizer."
GROUP, GROUP_NUMBER = "optimizer_group.", "optimizer_group_number."  # tensors, and numbers


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Writes ``tensors`` with the JSON object ``about`` into one safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"about": json.dumps(about, sort_keys=True)})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(errno.EIO, str(error), str(temporary)) from error


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, about) of a file written by ``save_tensors``.

    Raises ``FBNError`` when it is missing, cut short or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FBNError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise FBNError(
            f"{path} is damaged or no safetensors file ({error}). It was left as it is; move it "
            "away to compute it anew, or choose another directory with --run."
        ) from error


def load_weights(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copies ``tensors`` into ``network``; ``FBNError`` names what does not match."""
    own = network.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | tensors.keys()
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    )
    if wrong:
        raise FBNError(
            f"{path} holds the weights of another network: {len(wrong)} of {len(own)} tensors do "
            f"not match, the first is {wrong[0]}. Use the space and options it was trained with, "
            "or another directory with --run."
        )
    network.load_state_dict(dict(tensors))


def training_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state, flat."""
    tensors = dict(network.state_dict())
    names: dict[torch.Tensor, str] = {
        parameter: name for name, parameter in network.named_parameters()
    }
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor | int | float):
                tensors[f"{OPTIMIZER}{names[parameter]}.{key}"] = torch.as_tensor(value)
            elif value is not None:
                raise FBNError(
                    f"{type(optimizer).__name__} keeps a {type(value).__name__} for each weight, "
                    "which checkpoints do not hold; choose another optimizer."
                )
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():  # some count their steps there
            if key in optimizer.defaults:
                continue
            if isinstance(value, torch.Tensor):
                tensors[f"{GROUP}{number}.{key}"] = value
            elif isinstance(value, int | float):
                tensors[f"{GROUP_NUMBER}{number}.{key}"] = torch.tensor(value)
    return tensors


def _beside(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` in the memory format of ``parameter`` if it has its shape, and on its device unless
    it is a number of steps, which optimizers keep on the CPU."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value.to(parameter.device) if value.dim() else value


def restore_training(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, torch.Tensor],
    path: Path,
) -> None:
    """The inverse of ``training_state``: continues bit by bit where it was saved."""
    weights = {
        n: t for n, t in tensors.items() if not n.startswith((OPTIMIZER, GROUP, GROUP_NUMBER))
    }
    load_weights(network, weights, path)
    parameters = dict(network.named_parameters())
    for name, value in tensors.items():
        if name.startswith(OPTIMIZER):
            owner, _, key = name.removeprefix(OPTIMIZER).rpartition(".")
            parameter = parameters[owner]
            optimizer.state[parameter][key] = _beside(parameter, value)
    for prefix in (GROUP, GROUP_NUMBER):
        for name in (n for n in tensors if n.startswith(prefix)):
            number, _, key = name.removeprefix(prefix).partition(".")
            value = tensors[name]
            optimizer.param_groups[int(number)][key] = value if prefix == GROUP else value.item()
