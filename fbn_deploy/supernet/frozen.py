"""Frozen ops that keep less for the backward pass.

When only BatchNorms are trained, a convolution needs its weight for the input's gradient but not
its input; then nothing needs a ReLU's output either, only its sign. PyTorch's own ops keep those
tensors; the functions here do not. Their values are the same, and without gradients they are
PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _FrozenConvolution(torch.autograd.Function):
    """y = conv(x, w) that saves w only: ∂L/∂x = conv_transpose(∂L/∂y, w), ∂L/∂w is not wanted."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        conv: nn.Conv2d,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.input_shape, ctx.conv = x.shape, conv
        return nn.functional.conv2d(
            x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        (weight,), conv = ctx.saved_tensors, ctx.conv
        input_gradient = torch.ops.aten.convolution_backward(
            gradient,
            _shape_only(ctx.input_shape, gradient),
            weight,
            None,
            conv.stride,
            conv.padding,
            conv.dilation,
            False,
            (0, 0),
            conv.groups,
            (True, False, False),
        )[0]
        return input_gradient, None, None, None


class _MaskedReLU(torch.autograd.Function):
    """y = max(x, 0) that saves where y > 0 as one byte an element."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(x)
        ctx.save_for_backward(y.to(torch.bool))  # a cast is vectorised on CPUs; y > 0 is not
        return y

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (positive,) = ctx.saved_tensors
        mask = positive.view(torch.uint8).to(gradient.dtype)
        masked: torch.Tensor = torch.ops.aten.threshold_backward(gradient, mask, 0)
        return masked


class _ShapeSavingPool(torch.autograd.Function):
    """Average pooling that saves the shape of its input instead of the input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pool: nn.AvgPool2d) -> torch.Tensor:
        ctx.input_shape, ctx.pool = x.shape, pool
        return nn.AvgPool2d.forward(pool, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        pool: nn.AvgPool2d = ctx.pool
        input_gradient = torch.ops.aten.avg_pool2d_backward(
            gradient,
            _shape_only(ctx.input_shape, gradient),
            _pair(pool.kernel_size),
            _pair(pool.stride),
            _pair(pool.padding),
            pool.ceil_mode,
            pool.count_include_pad,
            pool.divisor_override,
        )
        return input_gradient, None


def _shape_only(shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """Memory of that shape in the layout of ``like``, for kernels that never read its values."""
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


class FrozenConv2d(nn.Conv2d):
    """A ``Conv2d`` whose parameters are frozen; in training it does not keep its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled() or self.weight.requires_grad:
            return super().forward(x)
        y: torch.Tensor = _FrozenConvolution.apply(x, self.weight, self.bias, self)
        return y


class MaskedReLU(nn.ReLU):
    """A ``ReLU`` that keeps one byte an element for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: torch.Tensor = _MaskedReLU.apply(x)
        return y


class ShapeSavingAvgPool2d(nn.AvgPool2d):
    """An ``AvgPool2d`` that keeps only a shape for the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: torch.Tensor = _ShapeSavingPool.apply(x, self)
        return y


LEAN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FrozenConv2d,
    nn.ReLU: MaskedReLU,
    nn.AvgPool2d: ShapeSavingAvgPool2d,
}


def train_only_batchnorm(network: nn.Module) -> nn.Module:
    """Freezes, in place, everything but the γ and β of BatchNorms, and makes frozen ops lean.

    Parameter names and values do not change, only which of them are trained.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(True)
        elif type(module) in LEAN and getattr(module, "padding_mode", "zeros") == "zeros":
            if isinstance(getattr(module, "padding", None), str):
                continue  # 'same' is resolved inside Conv2d.forward only
            module.__class__ = LEAN[type(module)]
    return network
