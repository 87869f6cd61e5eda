"""The images of a data set by number: decoded once into memory, or batch by batch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fbn_deploy.data.reader import Reader, UnreadableImageError
from fbn_deploy.errors import FBNError

Progress = Callable[[int, int], None]

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


@dataclass(frozen=True)
class StoredImages:
    """Decoded images in memory: uint8 ``(N, R, R, 3)``."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: Tensor) -> Tensor:
        return self.pixels.index_select(0, rows).permute(0, 3, 1, 2)


class DecodedImages:
    """Images that are decoded whenever they are asked for, by a pool of threads."""

    def __init__(self, reader: Reader, resolution: int) -> None:
        self._reader = reader
        self._resolution = resolution
        self._pool = ThreadPoolExecutor(_num_threads(), thread_name_prefix="decode")

    def __len__(self) -> int:
        return len(self._reader)

    def batch(self, rows: Tensor) -> Tensor:
        reads = self._pool.map(lambda row: self._reader.read(row, self._resolution), rows.tolist())
        try:
            pixels = np.stack(list(reads))
        except UnreadableImageError as error:
            raise _unreadable([str(error)], len(self)) from error
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def images_from(
    reader: Reader,
    resolution: int,
    *,
    memory_limit_bytes: int,
    progress: Progress | None = None,
) -> Images:
    """All images of ``reader``: decoded once into memory when they fit, else batch by batch.

    Raises one ``FBNError`` that counts the unreadable images and names the first ones. Images
    that do not fit into memory are only looked at here (their header), since decoding all of
    them would be long work; one that is damaged further in surfaces in its batch.
    """
    if len(reader) * resolution * resolution * 3 > memory_limit_bytes:
        _for_each(len(reader), reader.check, progress)
        return DecodedImages(reader, resolution)

    pixels = np.empty((len(reader), resolution, resolution, 3), dtype=np.uint8)

    def decode(row: int) -> None:
        pixels[row] = reader.read(row, resolution)

    _for_each(len(reader), decode, progress)
    return StoredImages(torch.from_numpy(pixels))


def _for_each(count: int, work: Callable[[int], None], progress: Progress | None) -> None:
    """Runs ``work`` on every row, in threads where that is faster."""

    def failure(row: int) -> str | None:
        try:
            work(row)
        except UnreadableImageError as error:
            return str(error)
        return None

    def run(rows: range) -> list[str]:
        return [text for row in rows if (text := failure(row))]

    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    failures: list[str] = []

    def collect(chunk: range, failed: list[str]) -> None:
        failures.extend(failed)
        if progress:
            progress(chunk.stop, count)

    chunk_ms = 0.0
    for chunk in chunks[:2]:  # the second tells the time: the first also loads Pillow's plugins
        started = time.perf_counter()
        collect(chunk, run(chunk))
        chunk_ms = (time.perf_counter() - started) * 1000
    threads = _num_threads() if chunk_ms / _CHUNK > _WORTH_THREADS_MS else 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        futures = [pool.submit(run, chunk) for chunk in chunks[2:]]
        for chunk, future in zip(chunks[2:], futures, strict=True):
            collect(chunk, future.result())
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise _unreadable(failures, count)


def _unreadable(failures: list[str], count: int) -> FBNError:
    named = "\n".join(f"  {failure}" for failure in failures[:_NAMED])
    more = f"\n  and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
    return FBNError(
        f"{len(failures)} of {count} images cannot be read:\n{named}{more}\n"
        "Remove or replace them and start again."
    )


def _num_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
