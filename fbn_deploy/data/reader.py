"""One image at a time, from a file or an array, as a square of RGB pixels.

Every image becomes R×R: its EXIF orientation is applied, transparency is laid on white, grey and
palette images become RGB, the largest centred square is cut out and resized (bilinear with
antialiasing, Pillow's integer arithmetic). That equals "shorter side to R, then centre crop".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]


class Reader(Protocol):
    """Where images come from, one at a time; used by several threads at once."""

    def __len__(self) -> int: ...

    def read(self, row: int, resolution: int) -> Pixels:
        """Image ``row`` as ``(R, R, 3)``; raises ``UnreadableImageError``."""
        ...

    def check(self, row: int) -> None:
        """Raises ``UnreadableImageError`` if a quick look shows that ``read`` would fail."""
        ...

    def original(self, row: int) -> Image.Image:
        """Image ``row`` at its own size, upright, in RGB; raises ``UnreadableImageError``."""
        ...


class UnreadableImageError(Exception):
    """One image that cannot be decoded: its path and the reason."""


def decoded(source: Path | BinaryIO, place: Path, resolution: int) -> Pixels:
    """The encoded image in ``source`` as ``(R, R, 3)``; ``place`` names it in an error."""
    try:
        with Image.open(source) as image:
            # JPEG decodes at 1/2, 1/4 or 1/8 of its size when that leaves twice what we need.
            image.draft(None, (2 * resolution, 2 * resolution))
            return square_pixels(image, resolution)
    except Exception as error:  # Pillow's decoders raise whatever a damaged file makes them
        raise _unreadable(place, error) from error


def looked_at(source: Path | BinaryIO, place: Path) -> None:
    """Raises ``UnreadableImageError`` unless ``source`` begins like an image."""
    try:
        with Image.open(source):
            pass
    except Exception as error:
        raise _unreadable(place, error) from error


def upright(source: Path | BinaryIO, place: Path) -> Image.Image:
    """The encoded image in ``source`` at its own size, upright, in RGB."""
    try:
        with Image.open(source) as image:
            ImageOps.exif_transpose(image, in_place=True)
            rgb = _rgb(image)
            rgb.load()
            return rgb
    except Exception as error:
        raise _unreadable(place, error) from error


@dataclass(frozen=True)
class ImageFiles:
    """Reads image files; ``names`` are relative to ``root``."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int, resolution: int) -> Pixels:
        path = self.root / self.names[row]
        return decoded(path, path, resolution)

    def check(self, row: int) -> None:
        path = self.root / self.names[row]
        looked_at(path, path)

    def original(self, row: int) -> Image.Image:
        path = self.root / self.names[row]
        return upright(path, path)


def _unreadable(path: Path, error: Exception) -> UnreadableImageError:
    unknown = isinstance(error, UnidentifiedImageError)  # its message only repeats the path
    return UnreadableImageError(f"{path} ({'damaged, or no image' if unknown else error})")


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

    def original(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])


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
        raise ValueError("floating-point images have no agreed range; use 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
