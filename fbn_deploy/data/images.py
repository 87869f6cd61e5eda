"""The images of a data set by number: decoded once into memory, or batch by batch."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from fbn_deploy.cores import own_cores
from fbn_deploy.data.reader import Pixels, Reader, UnreadableImageError
from fbn_deploy.errors import FBNError

Progress = Callable[[int, int], None]
Read = TypeVar("Read")

_CHUNK = 64  # images per task: long enough to hide the pool's overhead, short for the progress
_NAMED = 5  # unreadable images that an error names
# Pillow decodes without Python's lock but opens a file with it: below this, threads only wait for
# the lock (60,000 PNGs of 32×32 at 0.1 ms: 5.5 s in one thread, 9 s in two on two cores).
_WORTH_THREADS_MS = 0.25


class Images(Protocol):
    """Images of one size, by number."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> Tensor:
        """The images with these numbers: uint8 ``(B, 3, R, R)``, channels-last in memory."""
        ...

    def original(self, row: int) -> Image.Image:
        """The image as it was before it became a square, where that is still there; in RGB."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether nothing is decoded any more."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """Decoded images in memory: uint8 ``(N, R, R, 3)``."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Tensor) -> Tensor:
        return self.pixels.index_select(0, rows).permute(0, 3, 1, 2)

    def original(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row].numpy())

    @property
    def in_memory(self) -> bool:
        return True


class DecodedImages:
    """Images that are decoded whenever they are asked for, by a pool of threads.

    An image that turns out to be damaged then is replaced by the next one of its class, and named
    on stderr, until a process has met ``limit`` of them; one more is an ``FBNError``.
    """

    def __init__(
        self, reader: Reader, resolution: int, substitutes: Sequence[int], limit: int
    ) -> None:
        self._reader, self._resolution = reader, resolution
        self._substitutes, self._limit = substitutes, limit
        self._damaged: dict[int, str] = {}
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def in_memory(self) -> bool:
        return False

    def batch(self, rows: Tensor) -> Tensor:
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            threads = 1 if get_worker_info() else own_cores()  # a core has a worker already
            self._pool = os.getpid(), ThreadPoolExecutor(threads, "decode")
        pixels = np.stack(list(self._pool[1].map(self._square, rows.tolist())))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def original(self, row: int) -> Image.Image:
        return self._readable(row, self._reader.original)

    def _square(self, row: int) -> Pixels:
        return self._readable(row, lambda at: self._reader.read(at, self._resolution))

    def _readable(self, row: int, read: Callable[[int], Read]) -> Read:
        at = row
        while True:
            try:
                return read(at)
            except UnreadableImageError as error:
                if at not in self._damaged:
                    self._damaged[at] = str(error)
                    if len(self._damaged) > self._limit:
                        raise unreadable(list(self._damaged.values()), len(self)) from error
                    print(f"Left out, it cannot be read: {error}", file=sys.stderr, flush=True)
                at = self._substitutes[at]
                if at == row:
                    raise unreadable(list(self._damaged.values()), len(self)) from error


def images_from(
    reader: Reader,
    resolution: int,
    labels: NDArray[np.int64],
    *,
    memory_limit_bytes: int,
    limit: int,
    progress: Progress | None = None,
) -> tuple[Images, dict[int, str]]:
    """All images of ``reader``, decoded once into memory when they fit, else batch by batch; and
    those that cannot be read, row → why.

    Images that do not fit into memory are only looked at here (their header), since decoding all
    of them would be long work; up to ``limit`` of them may turn out to be damaged further in.
    """
    if len(reader) * resolution * resolution * 3 > memory_limit_bytes:
        failures = _for_each(len(reader), reader.check, progress)
        substitutes = _next_of_class(labels, failures)
        return DecodedImages(reader, resolution, substitutes, limit - len(failures)), failures

    pixels = np.empty((len(reader), resolution, resolution, 3), dtype=np.uint8)

    def decode(row: int) -> None:
        pixels[row] = reader.read(row, resolution)

    failures = _for_each(len(reader), decode, progress)
    return StoredImages(torch.from_numpy(pixels)), failures


def _next_of_class(labels: NDArray[np.int64], damaged: Mapping[int, str]) -> Sequence[int]:
    """Row → the next row of the same class that is not known to be damaged, around to the first."""
    following = np.arange(len(labels))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        good = rows[~np.isin(rows, list(damaged))]
        if len(good):
            following[rows] = good[np.searchsorted(good, rows, side="right") % len(good)]
    return following.tolist()  # type: ignore[no-any-return]


def _for_each(count: int, work: Callable[[int], None], progress: Progress | None) -> dict[int, str]:
    """Runs ``work`` on every row, in threads where that is faster; row → why it is unreadable."""

    def failure(row: int) -> str | None:
        try:
            work(row)
        except UnreadableImageError as error:
            return str(error)
        return None

    def run(rows: range) -> dict[int, str]:
        return {row: text for row in rows if (text := failure(row))}

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    failures: dict[int, str] = {}

    def collect(chunk: range, failed: dict[int, str]) -> None:
        failures.update(failed)
        if progress:
            progress(chunk.stop, count)

    chunk_ms = 0.0
    for chunk in chunks[:2]:  # the second tells the time: the first also loads Pillow's plugins
        started = time.perf_counter()
        collect(chunk, run(chunk))
        chunk_ms = (time.perf_counter() - started) * 1000
    threads = own_cores() if chunk_ms / _CHUNK > _WORTH_THREADS_MS else 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        futures = [pool.submit(run, chunk) for chunk in chunks[2:]]
        for chunk, future in zip(chunks[2:], futures, strict=True):
            collect(chunk, future.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return failures


def unreadable(failures: Sequence[str], count: int) -> FBNError:
    """The error for images that cannot be read: their number and the first ones."""
    named = "\n".join(f"  {failure}" for failure in failures[:_NAMED])
    more = f"\n  and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return FBNError(
        f"{len(failures)} of {count} images cannot be read:\n{named}{more}\n"
        "Remove or replace them and start again."
    )
