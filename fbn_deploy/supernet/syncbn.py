"""BatchNorm over the batch of a whole job: statistics of all processes' images.

PyTorch's ``SyncBatchNorm`` runs on accelerators only; this one runs on CPUs too and leaves every
module in its place. With n images × pixels in all, over which Σ runs:

    μ = Σx / n,  σ² = Σx² / n − μ²,  x̂ = (x − μ) / √(σ² + ε),  y = γ x̂ + β
    ∂L/∂x = γ / √(σ² + ε) · (g − Σg / n − x̂ · Σ(g x̂) / n),  g = ∂L/∂y

(Ioffe and Szegedy 2015, section 3). Two numbers a channel travel forward, two backward. The sums
of x and x² come, in double precision, from each process's own mean and variance. The gradients of
γ and β are the process's own; whoever averages gradients over the job makes them whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.distributed import Job


class _JobBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor,
        var: torch.Tensor,
        eps: float,
        count: float,
        job: Job,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps, ctx.count, ctx.job = eps, count, job
        return nn.functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        invstd = (var + ctx.eps).rsqrt()
        by_x, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, mean, invstd, False, ctx.eps, [True, True, True]
        )  # as if μ and σ² were constants; by_weight is Σ(g x̂), by_bias Σg of this process
        sums = ctx.job.sum_(torch.stack([by_bias, by_weight]).double()) / ctx.count
        scale = weight.double() * invstd.double()
        slope = -scale * sums[1] * invstd.double()  # what is missing is affine in x
        offset = -scale * sums[0] - slope * mean.double()
        shape = (1, -1, *(1,) * (x.dim() - 2))
        by_x = by_x.addcmul_(x, slope.to(x.dtype).view(shape)).add_(offset.to(x.dtype).view(shape))
        return by_x, by_weight, by_bias, None, None, None, None, None


def _forward(bn: _BatchNorm, x: torch.Tensor, job: Job) -> torch.Tensor:
    axes = [0, *range(2, x.dim())]
    own = x.numel() // x.shape[1]
    with torch.no_grad():
        var, mean = torch.var_mean(x.detach().float(), axes, correction=0)
        var, mean = var.double(), mean.double()
        sums = job.sum_(torch.stack([mean, var + mean * mean]))  # every process has as many images
        mean = sums[0] / job.size
        var = (sums[1] / job.size - mean * mean).clamp_(min=0)
        count = own * job.size
        mean_, var_ = mean.to(bn.weight.dtype), var.to(bn.weight.dtype)
        _track(bn, mean_, (var * (count / max(1, count - 1))).to(bn.weight.dtype))
    y: torch.Tensor = _JobBatchNorm.apply(x, bn.weight, bn.bias, mean_, var_, bn.eps, count, job)
    return y


def _track(bn: _BatchNorm, mean: torch.Tensor, unbiased: torch.Tensor) -> None:
    """Running statistics as PyTorch keeps them; ``momentum=None`` is a cumulative average."""
    if bn.running_mean is None or bn.running_var is None or bn.num_batches_tracked is None:
        return
    bn.num_batches_tracked.add_(1)
    share = 1 / float(bn.num_batches_tracked) if bn.momentum is None else bn.momentum
    bn.running_mean.lerp_(mean, share)
    bn.running_var.lerp_(unbiased, share)


class JobBatchNorm1d(nn.BatchNorm1d):
    """A ``BatchNorm1d`` that normalises, in training, by the images of all processes of ``job``."""

    job: Job

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _forward(self, x, self.job) if self.training else super().forward(x)


class JobBatchNorm2d(nn.BatchNorm2d):
    """A ``BatchNorm2d`` that normalises, in training, by the images of all processes of ``job``."""

    job: Job

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _forward(self, x, self.job) if self.training else super().forward(x)


OVER_A_JOB: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: JobBatchNorm1d,
    nn.BatchNorm2d: JobBatchNorm2d,
}


def synchronise_batchnorm(network: nn.Module, job: Job) -> None:
    """From now on the BatchNorms of ``network`` normalise, in training mode, by the images of all
    processes of ``job``, which pass their parts of a batch, equal in size, at the same time."""
    if job.size == 1:
        return
    for module in network.modules():
        if type(module) in OVER_A_JOB and module.weight is not None:
            module.__class__ = OVER_A_JOB[type(module)]
            module.job = job  # type: ignore[assignment]


def plain_batchnorm(network: nn.Module) -> None:
    """Takes back what ``synchronise_batchnorm`` did."""
    plain = {over_a_job: single for single, over_a_job in OVER_A_JOB.items()}
    for module in network.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
            del module.job
