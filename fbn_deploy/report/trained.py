"""What ``subnet.safetensors`` says of the training, read from its header; no weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.report.fields import Fields

_LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header, little-endian
_MOST_BYTES = 100_000_000  # as the format allows


@dataclass(frozen=True)
class Training:
    """A training that is done. Accuracies are top-1 on test images, between 0 and 1."""

    choices: Mapping[str, str]
    accuracy: float
    trivial: float
    """What always naming the most frequent class reaches."""
    images: int
    seconds: float | None
    losses: tuple[tuple[int, float], ...]
    """Epoch → mean training loss, in nats; empty in files from before it was kept."""
    validation: tuple[tuple[int, float], ...]
    """Epoch → validation accuracy; empty where no epoch was looked at."""
    best_epoch: int | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Unfinished:
    """A training that was stopped, or is going on."""

    step: int
    seconds: float | None
    losses: tuple[tuple[int, float], ...]
    validation: tuple[tuple[int, float], ...]


def read_training(path: Path) -> Training:
    """Raises ``FBNError`` when ``path`` is damaged or was not written by fbn retrain."""
    about = _about(path)
    results = about.part("results")
    return Training(
        choices=about.choices("architecture"),
        accuracy=results.share("accuracy"),
        trivial=results.share("trivial"),
        images=results.count("images"),
        seconds=results.number_or_none("seconds"),
        losses=results.pairs("losses"),
        validation=results.pairs("validation"),
        best_epoch=results.count_or_none("best_epoch"),
        settings=about.part("retrain").content,
    )


def read_unfinished(path: Path) -> Unfinished:
    """The checkpoint at which fbn retrain goes on."""
    about = _about(path)
    return Unfinished(
        step=about.count_or_none("step") or 0,
        seconds=about.number_or_none("seconds"),
        losses=about.part("kept").pairs("losses"),
        validation=about.part("kept").pairs("epochs"),
    )


def _about(path: Path) -> Fields:
    """The JSON object that ``checkpoint.save_tensors`` wrote with the tensors."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if not 0 < length < _MOST_BYTES:
                raise ValueError("its header has no length")
            header = json.loads(file.read(length))
            about = json.loads(header["__metadata__"]["about"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FBNError(
            f"{path} is damaged or was not written by fbn retrain ({error}). Move it away to train "
            "again."
        ) from error
    if not isinstance(about, dict):
        raise FBNError(f"{path} was not written by fbn retrain; move it away.")
    return Fields(path, "", about)
