"""Progressive resizing: training begins on small images, which cost less, and ends on full ones
(Tan and Le 2021, "EfficientNetV2: Smaller Models and Faster Training", section 4)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable

import torch
from torch import nn

from fbn_deploy.randomness import states_kept

SMALLEST = 64  # pixels; images of this size or less are never made smaller
_MULTIPLE = 16
_GROWING = 0.8  # of the steps; the rest, at the lowest rates, sees the images as they will be used


def growing(start: float, resolution: int, steps: int) -> Callable[[int], int]:
    """Step → resolution in pixels: from ``start`` (a share of ``resolution``) it grows linearly,
    in multiples of 16, until it reaches ``resolution`` after four fifths of ``steps``."""
    smallest = min(resolution, max(SMALLEST, start * resolution))

    def at(step: int) -> int:
        share = step / (_GROWING * steps)
        if share >= 1 or smallest == resolution:
            return resolution
        pixels = smallest + share * (resolution - smallest)
        return min(resolution, _MULTIPLE * round(pixels / _MULTIPLE))

    return at


def work(resolution: Callable[[int], int], steps: int) -> Callable[[int], float]:
    """n → the pixels that the first n of ``steps`` see, a channel of an image."""
    pixels = [0, *itertools.accumulate(resolution(step) ** 2 for step in range(steps))]
    return lambda done: float(pixels[done])


def resized(images: torch.Tensor, resolution: int) -> torch.Tensor:
    """``(B, 3, R, R)`` at another R, filtered so that a smaller one has no aliases."""
    if images.shape[-1] == resolution:
        return images
    return nn.functional.interpolate(
        images, size=(resolution, resolution), mode="bilinear", antialias=True
    )


def takes_sizes(network: nn.Module, images: torch.Tensor, resolutions: Iterable[int]) -> bool:
    """Whether ``network`` can pass ``images`` at all of ``resolutions``: one that flattens its
    features before a linear layer cannot. A copy of it is tried, in its mode: an auxiliary
    classifier runs in training only."""
    others = sorted({each for each in resolutions if each != images.shape[-1]})
    if not others:
        return True
    trial = copy.deepcopy(network)
    try:
        with torch.no_grad(), states_kept():
            for each in others:
                trial(resized(images, each))
    except (RuntimeError, AssertionError):  # PyTorch's, and those of timm and exported networks
        return False
    return True
