"""Random changes of a training batch that keep its labels right.

An augmentation maps uint8 ``(B, 3, R, R)`` to the same shape, channels-last in memory, and draws
only from the generator it is handed: the same generator state gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Random(Protocol):
    """The draws that augmentations make: one row for each image of the batch. ``numpy``'s
    ``Generator`` has them."""

    def random(self, size: Any, /) -> Any:
        """Uniform in [0, 1)."""

    def integers(self, low: int, high: int, size: Any) -> Any:
        """From ``low`` to ``high − 1``."""

    def uniform(self, low: float, high: float, size: Any) -> Any:
        """Uniform in [low, high)."""


Augmentation = Callable[[Tensor, Random], Tensor]


@dataclass(frozen=True)
class DrawnFor:
    """Draws for a batch of ``total`` images, of which only those in ``own`` are here: whoever
    holds the other parts, they are changed as if the batch were in one place."""

    rng: np.random.Generator
    total: int
    own: slice

    def random(self, size: Any, /) -> Any:
        return self.rng.random(self._whole(size))[self.own]

    def integers(self, low: int, high: int, size: Any) -> Any:
        return self.rng.integers(low, high, size=self._whole(size))[self.own]

    def uniform(self, low: float, high: float, size: Any) -> Any:
        return self.rng.uniform(low, high, size=self._whole(size))[self.own]

    def _whole(self, size: Any) -> tuple[int, ...]:
        return (self.total, *(size[1:] if isinstance(size, tuple) else ()))


@dataclass(frozen=True)
class Shift:
    """Moves each image by up to ``pixels`` in both directions; black comes in at the border.

    With 4 pixels at 32×32 this is the padded random crop of He et al. 2016, section 4.2.
    """

    pixels: int

    def __call__(self, images: Tensor, rng: Random) -> Tensor:
        count, _, height, width = images.shape
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, *(self.pixels,) * 4))
        offsets = rng.integers(0, 2 * self.pixels + 1, size=(count, 2)).tolist()
        shifted = torch.empty((count, height, width, 3), dtype=images.dtype)
        for k, (top, left) in enumerate(offsets):
            shifted[k] = padded[k, top : top + height, left : left + width]
        return shifted.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Flip:
    """Mirrors every second image on average."""

    def __call__(self, images: Tensor, rng: Random) -> Tensor:
        chosen = torch.from_numpy(rng.random(len(images)) < 0.5)
        flipped = images.clone()
        flipped[chosen] = images[chosen].flip(3)
        return flipped


@dataclass(frozen=True)
class ResizedCrop:
    """Enlarges a random rectangle of each image to the whole (Szegedy et al. 2015, section 6).

    ``scale``: the rectangle's share of the area; ``ratio``: width to height, log-uniform; a side
    that comes out longer than the image is cut to it. The paper's smallest share, 0.08, is for
    1.2 million images; 0.35 is fastai's for its small sets (Imagenette), where training is short.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, images: Tensor, rng: Random) -> Tensor:
        count, _, height, width = images.shape
        area = rng.uniform(*self.scale, size=count)
        ratio = np.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), size=count))
        heights = np.rint(height * np.minimum(np.sqrt(area / ratio), 1)).astype(int).clip(1)
        widths = np.rint(width * np.minimum(np.sqrt(area * ratio), 1)).astype(int).clip(1)
        tops = (rng.random(count) * (height - heights + 1)).astype(int)
        lefts = (rng.random(count) * (width - widths + 1)).astype(int)
        boxes = np.stack([tops, lefts, tops + heights, lefts + widths], axis=1).tolist()
        resized = [
            F.interpolate(
                image[:, :, top:bottom, left:right], size=(height, width), mode="bilinear"
            )
            for image, (top, left, bottom, right) in zip(torch.split(images, 1), boxes, strict=True)
        ]
        return torch.cat(resized).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Chain:
    """One augmentation after the other."""

    steps: tuple[Augmentation, ...]

    def __call__(self, images: Tensor, rng: Random) -> Tensor:
        for step in self.steps:
            images = step(images, rng)
        return images


def default_augmentation(resolution: int, *, mirrored: bool) -> Augmentation:
    """Shifts by an eighth, and flips, up to 64 pixels; resized crops and flips above. Images that
    may not be mirrored (digits) are small writing: they are only shifted."""
    if not mirrored:
        return Shift(resolution // 8)
    if resolution <= 64:
        return Chain((Shift(resolution // 8), Flip()))
    return Chain((ResizedCrop(), Flip()))
