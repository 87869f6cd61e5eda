"""What a data set gives before anything is decoded: a reader, labels and the parts it comes in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fbn_deploy.data.reader import Reader
from fbn_deploy.errors import FBNError

Rows = NDArray[np.int64]

_NAMED = 10


@dataclass(frozen=True)
class Source:
    """``labels[row]`` is the class of image ``row``; ``parts`` maps ``"train"`` and, where the
    set has them, ``"val"`` and ``"test"`` to their rows. ``mirrored`` says whether an image and
    its mirror image mean the same. ``fingerprint`` is a SHA-256 of the content. ``files`` names the
    file of each row, from the set's folder on (``train/cat/1.jpg``, ``train-00.tar/1.jpg``); it is
    empty where images are no files of their own."""

    name: str
    classes: tuple[str, ...]
    reader: Reader
    labels: Rows
    parts: dict[str, Rows]
    mirrored: bool
    fingerprint: str
    files: Sequence[str] = ()


def mistakes_error(what: str, mistakes: Sequence[str]) -> FBNError:
    """One error for all mistakes of one input."""
    if len(mistakes) == 1:
        return FBNError(f"Cannot use {what}: {mistakes[0]}.")
    listed = "\n".join(f"  - {mistake}" for mistake in mistakes)
    return FBNError(f"Cannot use {what}, for {len(mistakes)} reasons:\n{listed}")


def some(names: Iterable[str]) -> str:
    """``a, b, c``, in order; beyond ten only their number."""
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more
