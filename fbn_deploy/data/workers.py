"""Batches made ahead by worker processes: PyTorch's ``DataLoader``, one batch a piece of work.

A batch is a function of its number, so it is the same whichever worker makes it, however many
there are, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fbn_deploy.errors import FBNError

_AHEAD = 4  # batches that a worker keeps ready,
_AHEAD_BYTES = 2 * 1024**3  # unless those of all workers would take more shared memory than this
Batch = tuple[Tensor, Tensor]


class _Numbered(Dataset[Batch | str]):
    """Batch by number; a mistake as its text, because a worker's exception loses its words."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Batch | str:
        try:
            return self._make(number)
        except FBNError as error:
            return str(error)


def batches_ahead(workers: int, batch_bytes: int) -> int:
    """How many batches each of ``workers`` keeps ready; at least 1, however large they are."""
    return max(1, min(_AHEAD, _AHEAD_BYTES // max(1, workers * batch_bytes)))


def from_workers(
    make: Callable[[int], Batch], numbers: Sequence[int], workers: int, batch_bytes: int
) -> Generator[Batch, None, None]:
    """``make(number)`` for every number, in order, pinned where a GPU will fetch them; a batch
    takes about ``batch_bytes``."""
    workers = min(workers, max(1, len(numbers)))
    loader: DataLoader[Batch | str] = DataLoader(
        _Numbered(make),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=batches_ahead(workers, batch_bytes),
        pin_memory=torch.cuda.is_available(),
        # Forked workers share the images in memory; spawned ones would copy them.
        multiprocessing_context="fork",
        generator=torch.Generator(),  # not the process's: it is the training's
    )
    for batch in loader:
        if isinstance(batch, str):
            raise FBNError(batch)
        yield batch[0], batch[1]
