"""Building blocks that search spaces share. None knows of searching or of fair BatchNorm."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.ops import StochasticDepth


class Zero(nn.Module):
    """Zeros of the input's shape, at ``stride``: the op of an edge that is not there.

    ``channels`` is their number where it differs from the input's.
    """

    def __init__(self, stride: int = 1, channels: int | None = None) -> None:
        super().__init__()
        self.stride, self.channels = stride, channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        like = x[:, :, :: self.stride, :: self.stride]
        shape = like.shape if self.channels is None else (len(x), self.channels, *like.shape[2:])
        return x.new_zeros(()).expand(shape)


class ConvBN(nn.Sequential):
    """Convolution without bias → BatchNorm → optional activation (ReLU6 unless told otherwise),
    padded to keep H × W at stride 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = False,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)
        if act:
            self.act = activation()


class ReLUConvBN(nn.Sequential):
    """ReLU → convolution without bias → BatchNorm: the order of the NAS-Bench-201 cells."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1
    ) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2018): x · σ(W₂ ReLU(W₁ mean(x)))."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        gate: torch.Tensor = self.gate(self.expand(self.act(self.reduce(pooled))))
        return x * gate


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): expand 1×1, depthwise k×k, project 1×1.

    The input is added where the stride is 1 and the width stays; there retraining may drop the
    path beside it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        expansion: int,
        stride: int = 1,
        squeeze_excite: bool = False,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.is_residual = stride == 1 and in_channels == out_channels
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = ConvBN(in_channels, hidden, 1, act=True, activation=activation)
        self.depthwise = ConvBN(
            hidden, hidden, kernel, stride=stride, groups=hidden, act=True, activation=activation
        )
        self.attend = SqueezeExcite(hidden) if squeeze_excite else nn.Identity()
        self.project = ConvBN(hidden, out_channels, 1)
        self.drop_path = StochasticDepth(0.0, "row") if self.is_residual else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.attend(self.depthwise(self.expand(x))))
        return x + self.drop_path(y) if self.is_residual else y


def divisible(channels: float, divisor: int = 8) -> int:
    """``channels`` rounded to a multiple of ``divisor``, by at most 10 % down (MobileNetV2)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
