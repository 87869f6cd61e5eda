"""Which images train, which guide the search, which give the final accuracy; all by number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fbn_deploy.data.images import Images
from fbn_deploy.data.source import Rows, Source, some
from fbn_deploy.errors import FBNError

Triple = tuple[float, float, float]  # red, green, blue

_TEST_FRACTION = 0.2
_TEST_SEED = 0  # the test images of a set without test/ are the same ones in every run


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images and their labels (int64)."""

    images: Images
    rows: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor | Sequence[int]) -> Tensor:
        """The images at these positions of the split: uint8 ``(B, 3, R, R)``, channels-last."""
        return self.images.batch(self.rows[torch.as_tensor(indices, dtype=torch.int64)])

    def only(self, indices: Tensor) -> Split:
        """The images at these positions, as a split."""
        return Split(self.images, self.rows[indices], self.labels[indices])


@dataclass(frozen=True)
class HeldOut:
    """The split of a run, made once: rows by number, for a data set of that ``fingerprint``."""

    fingerprint: str
    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    normalization: tuple[Triple, Triple] | None = None
    """Mean and standard deviation of the training images; None: an older version split them."""

    def rows(self, left_out: Iterable[int] = ()) -> dict[str, Rows]:
        """Rows of the splits without those in ``left_out``."""
        damaged = list(left_out)
        found = {
            name: np.array(getattr(self, name), dtype=np.int64)
            for name in ("train", "validation", "test")
        }
        return {name: rows[~np.isin(rows, damaged)] for name, rows in found.items()}

    def as_json(self) -> dict[str, Any]:
        """For ``split.json``."""
        rows = {name: list(getattr(self, name)) for name in ("train", "validation", "test")}
        told: dict[str, Any] = {"fingerprint": self.fingerprint}
        if self.normalization is not None:
            mean, std = self.normalization
            told |= {"mean": list(mean), "std": list(std)}
        return told | rows

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> HeldOut:
        """The inverse of ``as_json``; anything else raises ``FBNError``."""
        names = ("train", "validation", "test")
        fingerprint = content.get("fingerprint")
        if not isinstance(fingerprint, str) or not all(_are_rows(content.get(n)) for n in names):
            raise FBNError(f"A split has a fingerprint and the numbers of {', '.join(names)}.")
        train, validation, test = (tuple(content[name]) for name in names)
        return HeldOut(fingerprint, train, validation, test, _normalization(content))


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(type(row) is int and row >= 0 for row in value)


def _normalization(content: Mapping[str, Any]) -> tuple[Triple, Triple] | None:
    if "mean" not in content and "std" not in content:
        return None
    mean, std = (_triple(content.get(name)) for name in ("mean", "std"))
    if mean is None or std is None or min(std) <= 0:
        raise FBNError("Its mean and std are three numbers each, those of std above 0.")
    return mean, std


def _triple(value: Any) -> Triple | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(each) in (int, float) and math.isfinite(each) for each in value):
        return None
    red, green, blue = map(float, value)
    return red, green, blue


def split_rows(
    source: Source, validation_fraction: float, seed: int, left_out: Sequence[int] = ()
) -> dict[str, Rows]:
    """Rows of ``train``, ``validation`` and ``test``, each class in its proportion.

    What the set does not bring along is held out of ``train``: first ``test``, a fifth, when it
    has neither val/ nor test/; then ``validation``. A ``val/`` without ``test/`` is the test: its
    accuracy is what people publish for such a set, so the search must not look at it. The rows in
    ``left_out`` are in no split.
    """
    parts = {name: rows[~np.isin(rows, left_out)] for name, rows in source.parts.items()}
    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    if test is None:
        val, test = None, val
    _require_enough(source, train, held_out=(test is None) + (val is None))
    if test is None:
        train, test = _hold_out(train, source.labels, _TEST_FRACTION, _TEST_SEED)
    if val is None:
        train, val = _hold_out(train, source.labels, validation_fraction, seed)
    return {"train": train, "validation": val, "test": test}


def _require_enough(source: Source, train: Rows, *, held_out: int) -> None:
    """Each class keeps one image to train on and gives one to each split held out of it."""
    counts = np.bincount(source.labels[train], minlength=len(source.classes))
    needed = 1 + held_out
    few = [
        f"{source.classes[label]} ({counts[label]})" for label in np.flatnonzero(counts < needed)
    ]
    if few:
        raise FBNError(
            f"{source.name} has too few training images of {some(few)}: each class needs {needed}, "
            "so that some can be held out. Add images, or remove the class."
        )


def _hold_out(rows: Rows, labels: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Takes ``fraction`` of each class out of ``rows``, at least one image: (kept, held out)."""
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for label in np.unique(labels[rows]):
        members = rng.permutation(rows[labels[rows] == label])
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:count])
        kept.append(members[count:])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(held))


def sample_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """``count`` positions of a split with its classes in equal numbers (all, if it has fewer).

    Classes take turns, so every beginning of the result is balanced too; where a class runs out,
    the others fill up.
    """
    rng = np.random.default_rng(seed)
    order = torch.from_numpy(rng.permutation(len(labels)))
    shuffled = labels[order].numpy()
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(shuffled):
        members = shuffled == label
        turn[members] = np.arange(members.sum())
    return order[torch.from_numpy(np.argsort(turn, kind="stable")[:count])]
