"""Batches for training and evaluation, made in the background while the consumer computes.

Training batch number k depends on the seed and on k alone: the order of its epoch comes from
``(seed, epoch)``, its augmentation from ``(seed, k)``. A run that was killed after k batches goes
on with batch k and sees, byte for byte, what it would have seen.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fbn_deploy.data.augment import Augmentation, DrawnFor
from fbn_deploy.data.dataset import ImageData
from fbn_deploy.data.splits import Split
from fbn_deploy.data.workers import from_workers
from fbn_deploy.distributed import ALONE, Job
from fbn_deploy.randomness import start_step, states_kept

Batch = tuple[Tensor, Tensor]  # float32 (B, 3, R, R) channels-last and normalised; int64 (B,)
Transform = Callable[[Image.Image], Tensor]  # any RGB image → float32 (3, R, R), normalised
T = TypeVar("T")

_AHEAD = 4  # batches that wait for the consumer
_ORDER, _AUGMENT = 0, 1  # streams of random numbers under one seed


@dataclass(frozen=True, eq=False)
class TrainBatches:
    """Shuffled, augmented batches of ``split``, all full: what is left of an epoch waits for
    another one. A split smaller than ``batch_size`` is one batch. ``augment=None``: unchanged.

    In a job of several processes each one gets its part of the batch that one process would get.
    ``transform`` makes each image from its original instead, on the random numbers of PyTorch,
    NumPy and Python, which start anew for every image. ``workers`` processes make batches ahead;
    without them one thread does.
    """

    data: ImageData
    split: Split
    batch_size: int
    seed: int
    augment: Augmentation | None
    job: Job = ALONE
    transform: Transform | None = None
    workers: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.split) // self.batch_size)

    def at(self, step: int) -> Batch:
        """Batch number ``step`` of the run, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = _order(self.seed, epoch, len(self.split))
        whole = order[position * self.batch_size : (position + 1) * self.batch_size]
        own = self.job.part(len(whole), "A batch")
        indices = whole[own]
        if self.transform:
            return self._transformed(indices, step, own.start), self.split.labels[indices]
        images = self.split.batch(indices)
        if self.augment:
            rng = np.random.default_rng((self.seed, _AUGMENT, step))
            images = self.augment(images, DrawnFor(rng, len(whole), own))
        return self.data.normalize(images), self.split.labels[indices]

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches ``start`` to ``stop - 1``, prefetched. Close it, or drop it, to end early."""
        if self.workers:
            return from_workers(self.at, range(start, stop), self.workers, self._bytes)
        if self.transform:  # its random numbers are the process's, which a thread would disturb
            return map(self.at, range(start, stop))
        return prefetched(self.at, range(start, stop))

    @property
    def _bytes(self) -> int:
        """The size of this process's part of a batch: float32, three channels."""
        images = min(self.batch_size, len(self.split)) // self.job.size
        return images * 3 * self.data.resolution**2 * 4

    def _transformed(self, indices: Tensor, step: int, first: int) -> Tensor:
        assert self.transform is not None
        images = []
        with states_kept():
            for position, index in enumerate(indices.tolist(), first):
                start_step(self.seed, _AUGMENT, step, position)
                row = int(self.split.rows[index])
                images.append(self.transform(self.split.images.original(row)))
        return torch.stack(images).contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=4)  # an epoch's order serves all its batches
def _order(seed: int, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, _ORDER, epoch)).permutation(count))


def train_batches(
    data: ImageData,
    split: Split,
    *,
    batch_size: int,
    seed: int,
    augment: bool = True,
    job: Job = ALONE,
    transform: Transform | None = None,
    workers: int = 0,
) -> TrainBatches:
    """Training batches of ``split`` with the augmentation that suits ``data``; ``FBNError`` when
    a batch cannot be divided evenly among the processes of ``job``."""
    job.part(min(batch_size, len(split)), "A batch")
    changes = data.augment if augment else None
    return TrainBatches(data, split, batch_size, seed, changes, job, transform, workers)


def eval_batches(data: ImageData, split: Split, batch_size: int) -> Iterator[Batch]:
    """All of ``split`` in its order, unchanged, prefetched; the last batch may be smaller."""

    def at(indices: Tensor) -> Batch:
        return data.normalize(split.batch(indices)), split.labels[indices]

    return prefetched(at, torch.split(torch.arange(len(split)), batch_size))


def prefetched(make: Callable[[T], Batch], items: Iterable[T]) -> Generator[Batch, None, None]:
    """``make(item)`` for every item, in order, made ahead by one background thread.

    An exception in the thread is raised here, in its turn. The thread ends with the generator,
    also when that is closed or dropped before its end.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=_AHEAD)
    stopped = threading.Event()

    def put(value: Batch | BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(value, timeout=0.1)

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put(make(item))
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (value := ready.get()) is not None:
            if isinstance(value, BaseException):
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
