"""A chain of inverted-residual layers: the 21-layer ImageNet space of FBN-NAS, at any size.

At 224 pixels and width 1: a 40-channel stem, a fixed block to 24, stages 32×4 / 56×4 / 112×4 /
128×4 / 256×4 / 432, and a 1,728-channel head. Every layer chooses kernel 3, 5 or 7 and expansion
3 or 6; where the stride is 1 and the width stays, the identity is a choice too.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ConvBN, InvertedResidual, divisible

KERNELS = (3, 5, 7)
EXPANSIONS = (3, 6)
STAGES = ((32, True), (56, True), (112, True), (128, False), (256, True), (432, False))
# (channels, whether its first layer may reduce); the last stage has one layer
MIN_FEATURES = 4  # pixels a side of the last feature map, where the resolution allows


def network(
    num_classes: int,
    resolution: int = 32,
    width: float = 0.75,
    depth: int = 4,
    squeeze_excite: bool = False,
) -> nn.Module:
    """The space as one network for images of ``resolution`` × ``resolution``.

    ``width`` scales all channels, 1.0 being the network of the paper; ``depth`` is the number of
    layers a stage (the last stage keeps one); ``squeeze_excite`` adds a variant with attention to
    every block. Of the five reductions (stem and four stages) the first ones are left out for
    small images, so that the last feature map keeps at least 4 pixels a side.
    """
    if depth < 1 or width <= 0 or resolution < 8:
        raise FBNError(
            f"mobilenet takes depth ≥ 1, width > 0, resolution ≥ 8; "
            f"asked: depth {depth}, width {width}, resolution {resolution}."
        )
    reductions = iter(_reductions(resolution))
    channels = divisible(40 * width)
    layers: dict[str, nn.Module] = {
        "stem": ConvBN(3, channels, 3, stride=next(reductions), act=True),
        "stage0": InvertedResidual(channels, divisible(24 * width), 3, expansion=1),
    }
    channels = divisible(24 * width)
    for number, (full_width, reduces) in enumerate(STAGES, 1):
        out_channels = divisible(full_width * width)
        for layer in range(1 if number == len(STAGES) else depth):
            stride = next(reductions) if reduces and layer == 0 else 1
            name = f"stage{number}.{layer}"
            candidates = _candidates(channels, out_channels, stride, squeeze_excite)
            layers[name.replace(".", "_")] = Choice(name, candidates)
            channels = out_channels
    head = divisible(1728 * width)
    layers["head"] = ConvBN(channels, head, 1, act=True)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(head, num_classes)
    return nn.Sequential(OrderedDict(layers))


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
