"""One set of forward passes through a candidate, and everything its indicators read off it.

T batches are pushed through the candidate once. Every batch normalises by its own statistics,
whose average is the candidate's recalibrated σ² (trainability). The first images of every batch
are the same *anchors*, so their T predictions differ by the batches that normalised them: Monte
Carlo BatchNorm (uncertainty). All images have labels (accuracy), and the first batch's activation
signs give the kernel of linear regions. If an indicator reads gradients, one backward pass follows
the first batch, and leaves facts of them. No image is pushed through again for a second indicator.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.data import ImageData, sample_indices
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators._backward import Arrived, BackwardFacts, backward_facts, backward_pass
from fbn_deploy.indicators._codes import code_kernel_collected
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._spectra import Correlations, correlations_collected, fetched, spectra
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import active_modules, select_path
from fbn_deploy.supernet.recalibration import fresh_statistics, statistics_kept
from fbn_deploy.supernet.supernet import Supernet


@dataclass(frozen=True)
class ProbeBatches:
    """``images[t]`` (B, 3, H, W) and ``labels[t]`` (B,); the first ``anchors`` rows of all T
    batches are the same images. ``seed`` drew them, and starts what indicators draw at random."""

    images: tuple[torch.Tensor, ...]
    labels: torch.Tensor
    anchors: int
    seed: int = 0

    def reduced(self, factor: int) -> ProbeBatches:
        """The same batches at a ``factor``-th of their resolution: means of squares of pixels."""
        if factor == 1:
            return self
        images = tuple(nn.functional.avg_pool2d(batch, factor) for batch in self.images)
        return replace(self, images=images)

    def to(self, device: torch.device) -> ProbeBatches:
        """The same batches on ``device``."""
        images = tuple(batch.to(device) for batch in self.images)
        return replace(self, images=images, labels=self.labels.to(device))


@dataclass(frozen=True)
class Norm:
    """A BatchNorm on the candidate's path: γ, β, and recalibrated statistics, each (C,)."""

    gamma: torch.Tensor
    beta: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    eps: float
    ends_choice: bool  # whether it is the last one of a candidate op
    spectrum: torch.Tensor | None = None
    """Eigenvalues, rising, of the correlations between the channels of its output in the first
    batch; None if not asked for, or if the output does not vary."""
    gradients: BackwardFacts | None = None
    """Of the loss's gradients at its output in the first batch; None if not asked for, if none
    arrive, or if the output does not vary."""

    @property
    def sigma(self) -> torch.Tensor:
        """√(var + ε), (C,)."""
        return (self.var + self.eps).sqrt()

    @property
    def is_alive(self) -> bool:
        """False behind a zero op, whose output does not vary."""
        return bool((self.var > 0).any())


@dataclass(frozen=True)
class Observation:
    """What T forward passes of a candidate showed; one, if no indicator needs more.

    ``logits`` (T, B, classes), ``labels`` (T, B). ``code_kernel`` (B, B): for each pair of images
    of the first batch the number of activations with the same sign, or None if not asked for.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    anchors: int
    norms: tuple[Norm, ...]
    code_kernel: torch.Tensor | None


def probe_batches(
    data: ImageData, *, batches: int, batch_size: int, seed: int, anchors: int | None = None
) -> ProbeBatches:
    """T = ``batches`` class-balanced batches from the validation split, a quarter of each, at
    least one image, the anchors unless ``anchors`` says how many.

    A small split is used more than once. Where it has no more than ``batch_size`` images, each of
    several batches holds three quarters of it: whole splits would all be the same images.
    ``FBNError`` where that leaves fewer than three images.
    """
    split = data.validation
    size = min(batch_size, len(split))
    if batches > 1 and size == len(split):
        size = 3 * len(split) // 4
        if size < 3:
            raise FBNError(
                f"Candidates are seen by {batches} batches that differ, which takes at least 4 "
                f"validation images; {data.name} has {len(split)}. Add images."
            )
    anchors = max(1, size // 4) if anchors is None else anchors
    fixed = sample_indices(split.labels, anchors, seed)
    rest = torch.tensor(sorted(set(range(len(split))) - set(fixed.tolist())), dtype=torch.int64)
    images, labels = [], []
    for t in range(batches):
        picked = sample_indices(split.labels[rest], min(size - anchors, len(rest)), seed + 1 + t)
        rows = torch.cat([fixed, rest[picked]])
        images.append(data.normalize(split.batch(rows)))
        labels.append(split.labels[rows])
    return ProbeBatches(tuple(images), torch.stack(labels), anchors, seed)


def observe(
    supernet: Supernet,
    architecture: Architecture,
    probe: ProbeBatches,
    *,
    needs: Collection[Need] = frozenset(Need),
) -> Observation:
    """Runs ``architecture`` on ``probe`` within ``supernet``, which is left as it was."""
    network = supernet.network
    select_path(network, architecture)
    ends = supernet.choice_ends(architecture)
    backward = Need.GRADIENTS in needs
    with (
        torch.inference_mode(not backward),
        torch.no_grad(),
        statistics_kept(network),
        fresh_statistics(network) as norms,
    ):
        with (
            code_kernel_collected(active_modules(network) if Need.CODES in needs else ()) as kernel,
            correlations_collected(norms if Need.SPECTRA in needs else ()) as correlations,
        ):
            images, labels = probe.images[0], probe.labels[0]
            # A tensor made in inference mode takes part in no backward pass; its copy does.
            first, gradients = (
                backward_pass(network, norms, images.clone(), labels.clone())
                if backward
                else (network(images), {})
            )
        logits = [first]
        if Need.BATCHES in needs:
            logits += [network(images) for images in probe.images[1:]]
        found = _facts(norms, ends, correlations, gradients)
    return Observation(
        torch.stack(logits).float(),
        probe.labels[: len(logits)],
        probe.anchors,
        found,
        kernel[0] if kernel else None,
    )


def _facts(
    norms: Sequence[_BatchNorm],
    ends: Collection[nn.Module],
    correlations: Mapping[nn.Module, Correlations],
    gradients: Mapping[nn.Module, Arrived],
) -> tuple[Norm, ...]:
    """All that is known of ``norms``, on the CPU."""
    spectrum = dict(zip(correlations, spectra(list(correlations.values())), strict=True))
    backward = dict(zip(gradients, backward_facts(list(gradients.values())), strict=True))
    parts = [_state(bn) for bn in norms]
    states = iter(fetched([each for part in parts for each in part]))
    found = []
    for bn in norms:
        gamma, beta, mean, var = itertools.islice(states, 4)
        norm = Norm(gamma, beta, mean, var, bn.eps, bn in ends, spectrum.get(bn))
        found.append(replace(norm, gradients=backward.get(bn)) if norm.is_alive else norm)
    return tuple(found)


def _state(bn: _BatchNorm) -> tuple[torch.Tensor, ...]:
    """γ, β, mean and variance."""
    mean, var = bn.running_mean, bn.running_var
    assert mean is not None, "A BatchNorm without running statistics."
    assert var is not None
    return bn.weight.detach(), bn.bias.detach(), mean, var
