"""NAS-Bench-Macro (Su et al. 2021): a chain of 8 layers with 3 ops each, 6,561 networks.

Skeleton, as in github.com/xiusu/NAS-Bench-Macro: a 3×3 stem with 32 channels; stages of 2, 3 and
3 layers with 64, 128 and 256 channels, the first layer of each with stride 2; a 1×1 convolution
to 1,280 channels, pooling, classifier. Each layer is the identity, an inverted residual with
expansion 3 and kernel 3, or one with expansion 6 and kernel 5; where the identity has to reduce
it is a 1×1 convolution of stride 2. Activations are ReLU.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ConvBN, InvertedResidual, divisible

OPS = ("identity", "mb3_k3", "mb6_k5")  # digits 0, 1, 2
LAYERS = (2, 3, 3)  # of each stage
NAMES = [[f"stage{s}.{i}" for i in range(n)] for s, n in enumerate(LAYERS, 1)]
EXAMPLE = "12021012"
PROXY = {"width": 0.5}


def network(num_classes: int, resolution: int = 32, width: float = 1.0) -> nn.Module:
    """The chain with open layers; ``width`` scales all channels, 1.0 being the benchmark's."""
    if width <= 0:
        raise FBNError(f"nasbench_macro takes a width above 0; asked: {width}.")
    channels, head = divisible(32 * width), divisible(1280 * width)
    layers: dict[str, nn.Module] = {
        "stem": ConvBN(3, channels, 3, act=True, activation=nn.ReLU),
    }
    for stage in NAMES:
        for layer, name in enumerate(stage):
            out_channels, stride = (channels, 1) if layer else (2 * channels, 2)
            layers[name.replace(".", "_")] = Choice(
                name, _candidates(channels, out_channels, stride)
            )
            channels = out_channels
    layers["head"] = ConvBN(channels, head, 1, act=True, activation=nn.ReLU)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(head, num_classes)
    return nn.Sequential(OrderedDict(layers))


def canonical(architecture: Architecture) -> str:
    """The digits with the identities of each stage moved to its end, the first layer left alone:
    that one has a stride, so its identity is a convolution."""
    found = ""
    for stage in NAMES:
        first, *rest = (_digit(architecture[name]) for name in stage)
        found += first + "".join(sorted(rest, key=lambda digit: digit == "0"))
    return found


def text(architecture: Architecture) -> str:
    """The 8 digits by which the benchmark names its networks, e.g. ``12021012``."""
    return "".join(_digit(architecture[name]) for stage in NAMES for name in stage)


def parse(digits: str) -> dict[str, str]:
    """Layer → op out of the benchmark's 8 digits. Zeros that a table of numbers has lost in front
    are put back."""
    names = [name for stage in NAMES for name in stage]
    digits = digits.strip()
    if digits.isdecimal() and digits == str(int(digits)):
        digits = digits.zfill(len(names))
    if len(digits) != len(names) or set(digits) - set("012"):
        raise FBNError(
            f"Cannot read the NAS-Bench-Macro architecture {digits!r}; "
            f"write {len(names)} digits of 0, 1 and 2, such as {EXAMPLE}."
        )
    return {name: OPS[int(digit)] for name, digit in zip(names, digits, strict=True)}


def _digit(option: str) -> str:
    return str(OPS.index(option))


def _candidates(channels: int, out_channels: int, stride: int) -> dict[str, nn.Module]:
    def inverted(expansion: int, kernel: int) -> nn.Module:
        return InvertedResidual(
            channels,
            out_channels,
            kernel,
            expansion=expansion,
            stride=stride,
            activation=nn.ReLU,
        )

    same = stride == 1 and channels == out_channels
    return {
        "identity": nn.Identity() if same else ConvBN(channels, out_channels, 1, stride=stride),
        "mb3_k3": inverted(3, 3),
        "mb6_k5": inverted(6, 5),
    }
