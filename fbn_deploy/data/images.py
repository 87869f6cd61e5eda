"""Square RGB images by number: read one by one, kept in memory or decoded batch by batch.

Every image becomes R×R: its EXIF orientation is applied, transparency is laid on white, grey and
palette images become RGB, the largest centred square is cut out and resized (bilinear with
antialiasing, Pillow's integer arithmetic). That equals "shorter side to R, then centre crop".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from fbn_deploy.errors import FBNError

Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]

_CHUNK = 128  # images per task: long enough to hide the pool's overhead, short for the progress
_NAMED = 5  # unreadable images that an error names


class Images(Protocol):
    """Images of one size, by number."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> Tensor:
        """The images with these numbers: uint8 ``(B, 3, R, R)``, channels-last in memory."""
        ...


class Reader(Protocol):
    """Where images come from, one at a time; used by several threads at once."""

    def __len__(self) -> int: ...

    def read(self, row: int, resolution: int) -> Pixels:
        """Image ``row`` as ``(R, R, 3)``; raises ``UnreadableImageError``."""
        ...

    def check(self, row: int) -> None:
        """Raises ``UnreadableImageError`` if a quick look shows that ``read`` would fail."""
        ...


class UnreadableImageError(Exception):
    """One image that cannot be decoded: its path and the reason."""


@dataclass(frozen=True)
class ImageFiles:
    """Reads image files with Pillow; ``names`` are relative to ``root``."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int, resolution: int) -> Pixels:
        path = self.root / self.names[row]
        try:
            with Image.open(path) as image:
                # JPEG decodes at 1/2, 1/4 or 1/8 of its size when that leaves twice what we need.
                image.draft(None, (2 * resolution, 2 * resolution))
                return square_pixels(image, resolution)
        except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
            raise UnreadableImageError(f"{path} ({error})") from error

    def check(self, row: int) -> None:
        path = self.root / self.names[row]
        try:
            with Image.open(path):
                pass
        except Exception as error:
            raise UnreadableImageError(f"{path} ({error})") from error


@dataclass(frozen=True)
class ImageArrays:
    """Reads images out of one uint8 array ``(N, H, W, 3)``."""

    pixels: Pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, row: int, resolution: int) -> Pixels:
        pixels: Pixels = self.pixels[row]
        if pixels.shape[:2] == (resolution, resolution):
            return pixels
        return square_pixels(Image.fromarray(pixels), resolution)

    def check(self, row: int) -> None:
        """Nothing can be wrong with pixels in memory."""


def square_pixels(image: Image.Image, resolution: int) -> Pixels:
    """The image as ``(R, R, 3)``, by the rules at the top of this file."""
    ImageOps.exif_transpose(image, in_place=True)
    rgb = _rgb(image)
    width, height = rgb.size
    if (width, height) != (resolution, resolution):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        rgb = rgb.resize(
            (resolution, resolution),
            Image.Resampling.BILINEAR,
            box=(left, top, left + side, top + side),
            reducing_gap=3.0,  # Pillow: "almost indistinguishable from fair resampling"
        )
    return np.asarray(rgb)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip it to white
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point images have no agreed range; save it with 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
    """Runs ``work`` on every row in threads (Pillow decodes without the GIL)."""

    def failure(row: int) -> str | None:
        try:
            work(row)
        except UnreadableImageError as error:
            return str(error)
        return None

    def run(rows: range) -> list[str]:
        return [text for row in rows if (text := failure(row))]

    failures: list[str] = []
    pool = ThreadPoolExecutor(_num_threads(), thread_name_prefix="decode")
    try:
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        futures = [pool.submit(run, chunk) for chunk in chunks]
        for chunk, future in zip(chunks, futures, strict=True):
            failures += future.result()
            if progress:
                progress(chunk.stop, count)
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
