"""A chain of inverted-residual layers, at any size: the two MobileNet spaces of FBN-NAS.

At 224 pixels and width 1, each with a fixed block between its stem and its first stage:

* ``spos``, 21 layers, as in the code of BN-NAS (github.com/bychen515/BNNAS): a 40-channel stem, a
  block to 24, stages 32×4 / 56×4 / 112×4 / 128×4 / 256×4 / 432, a 1,728-channel head;
* ``fairnas``, 19 layers (Chu et al. 2021): a 32-channel stem, a block to 16, stages 32×2 / 40×4 /
  80×4 / 96×4 / 192×4 / 320, a 1,280-channel head.

Every layer chooses kernel 3, 5 or 7 and expansion 3 or 6; where the stride is 1 and the width
stays, the identity is a choice too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import chain

from torch import nn

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.space import Architecture, choices_from
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ConvBN, InvertedResidual, divisible

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 6)
OPS = tuple(f"mb{expansion}_k{kernel}" for kernel in KERNELS for expansion in EXPANSIONS)
NUMBERED = ("identity", *OPS, *(f"{op}_se" for op in OPS))  # as -1, 0, 1, …
DEPTH = 4
MIN_FEATURES = 4  # pixels a side of the last feature map, where the resolution allows


@dataclass(frozen=True)
class Stage:
    """``share``: its layers as a share of the option ``depth``, rounded up, at least one."""

    channels: int
    may_reduce: bool
    share: float = 1.0

    def layers(self, depth: int) -> int:
        return max(1, math.ceil(depth * self.share))


@dataclass(frozen=True)
class Skeleton:
    """Channels at width 1 of stem, fixed block, stages and head."""

    stem: int
    first: int
    stages: tuple[Stage, ...]
    head: int

    def layers(self, depth: int) -> list[list[str]]:
        """The names of the layers of each stage."""
        return [
            [f"stage{number}.{layer}" for layer in range(stage.layers(depth))]
            for number, stage in enumerate(self.stages, 1)
        ]


SKELETONS = {
    "spos": Skeleton(
        stem=40,
        first=24,
        stages=(
            Stage(32, True),
            Stage(56, True),
            Stage(112, True),
            Stage(128, False),
            Stage(256, True),
            Stage(432, False, share=0),
        ),
        head=1728,
    ),
    "fairnas": Skeleton(
        stem=32,
        first=16,
        stages=(
            Stage(32, True, share=0.5),
            Stage(40, True),
            Stage(80, True),
            Stage(96, False),
            Stage(192, True),
            Stage(320, False, share=0),
        ),
        head=1280,
    ),
}


def network(
    num_classes: int,
    resolution: int = 32,
    width: float = 0.75,
    depth: int = DEPTH,
    squeeze_excite: bool = False,
    skeleton: str = "spos",
) -> nn.Module:
    """The space as one network for images of ``resolution`` × ``resolution``.

    ``width`` scales all channels, 1.0 being the network of the paper; ``depth`` is the number of
    layers a stage (the last one keeps one, FairNAS's first has half as many); ``squeeze_excite``
    adds a variant with attention to every block. Of the five reductions (stem and four stages)
    the first ones are left out for small images, so that the last feature map keeps at least 4
    pixels a side.
    """
    if skeleton not in SKELETONS:
        raise unknown("skeleton of the search space 'mobilenet' called", skeleton, SKELETONS)
    if depth < 1 or width <= 0 or resolution < 8:
        raise FBNError(
            f"mobilenet takes depth ≥ 1, width > 0, resolution ≥ 8; "
            f"asked: depth {depth}, width {width}, resolution {resolution}."
        )
    plan = SKELETONS[skeleton]
    reductions = iter(_reductions(resolution))
    stem, channels = divisible(plan.stem * width), divisible(plan.first * width)
    layers: dict[str, nn.Module] = {
        "stem": ConvBN(3, stem, 3, stride=next(reductions), act=True),
        "stage0": InvertedResidual(stem, channels, 3, expansion=1),
    }
    for stage, names in zip(plan.stages, plan.layers(depth), strict=True):
        out_channels = divisible(stage.channels * width)
        for layer, name in enumerate(names):
            stride = next(reductions) if stage.may_reduce and layer == 0 else 1
            candidates = _candidates(channels, out_channels, stride, squeeze_excite)
            layers[name.replace(".", "_")] = Choice(name, candidates)
            channels = out_channels
    head = divisible(plan.head * width)
    layers["head"] = ConvBN(channels, head, 1, act=True)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(head, num_classes)
    return nn.Sequential(OrderedDict(layers))


def canonical(architecture: Architecture) -> str:
    """``decision=option,…`` with the identities of each stage moved to its end.

    The layers of a stage are alike, except the first one where it changes width or stride; that
    one cannot be the identity, so it stays where it is.
    """
    stages: dict[str, list[str]] = {}
    for name in architecture:
        stages.setdefault(name.partition(".")[0], []).append(name)
    moved: dict[str, str] = {}
    for names in stages.values():
        names.sort(key=lambda name: int(name.partition(".")[2]))
        options = sorted((architecture[name] for name in names), key=lambda op: op == "identity")
        moved |= zip(names, options, strict=True)
    return ",".join(f"{name}={option}" for name, option in sorted(moved.items()))


def parse(text: str) -> dict[str, str]:
    """Decisions out of ``decision=option,…``, or out of one number for each of the 21 or 19 layers.

    ``[3, -1, 0, …]`` is how BN-NAS writes its networks: −1 is the identity; 0 to 5 are 3×3 r3,
    3×3 r6, 5×5 r3, 5×5 r6, 7×7 r3, 7×7 r6 (r: expansion). Here 6 to 11 are those with attention.
    """
    if not text.strip().startswith("["):
        return choices_from(text)
    known = [[*chain(*plan.layers(DEPTH))] for plan in SKELETONS.values()]
    try:
        numbers = [int(part) for part in text.strip().strip("[]").split(",")]
        (names,) = (names for names in known if len(names) == len(numbers))
        if min(numbers) < -1:
            raise ValueError
        return {name: NUMBERED[n + 1] for name, n in zip(names, numbers, strict=True)}
    except (ValueError, IndexError):
        raise FBNError(
            f"Cannot read the MobileNet {text!r}; write decision=option,… or "
            f"{' or '.join(str(len(names)) for names in known)} numbers from -1 (identity) to "
            f"{len(NUMBERED) - 2}, such as [3, -1, 0, …]."
        ) from None


def _candidates(
    channels: int, out_channels: int, stride: int, squeeze_excite: bool
) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for attend in (False, True) if squeeze_excite else (False,):
        for kernel in KERNELS:
            for expansion in EXPANSIONS:
                found[f"mb{expansion}_k{kernel}" + "_se" * attend] = InvertedResidual(
                    channels,
                    out_channels,
                    kernel,
                    expansion=expansion,
                    stride=stride,
                    squeeze_excite=attend,
                )
    if stride == 1 and channels == out_channels:
        found["identity"] = nn.Identity()
    return found


def _reductions(resolution: int) -> list[int]:
    """The strides of the stem and the four reducing stages for that resolution."""
    count = 0
    while count < 5 and resolution / 2 ** (count + 1) >= MIN_FEATURES:
        count += 1
    return [1] * (5 - count) + [2] * count
