"""How the channels at BatchNorms correlate: eigenvalues of outputs, and of gradients there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Of a feature map of W positions a side, every ⌊W / 8⌋-th enters a BatchNorm's correlations: all of
# them below 16, then 8 to 12.
POSITIONS = 8
# Of one BatchNorm, whose correlations are read. Eigenvalues cost the cube of it; and where channels
# outnumber samples (64 images of 2 × 2 pixels), the smallest are zero whatever the network is: on
# NAS-Bench-Macro, up to 768 channels wide at half width, the composite's τ was 0.77 without it and
# 0.83 with it.
MAX_CHANNELS = 256
LEAST_VARIANCE = 1e-8  # of a normalised channel; one with less does not vary


@dataclass(frozen=True)
class Correlations:
    """Between the channels of some features, (C, C). ``varies`` is a single boolean: false where
    no channel does, or where the features are not finite. Neither is read before ``spectra``: on
    a GPU that would wait for it."""

    matrix: torch.Tensor
    varies: torch.Tensor


def correlations(features: torch.Tensor) -> Correlations:
    """Between the channels of ``features``, (B, C, …).

    A grid of positions (``POSITIONS``) stands for a feature map, and evenly spaced channels for
    more than ``MAX_CHANNELS``. Channels that do not vary correlate with none, themselves included.
    """
    return _correlations(_samples(features))


def gradient_correlations(gradients: torch.Tensor) -> Correlations:
    """The same of gradients, whose size says nothing: they are scaled to a mean square of 1."""
    return _correlations(_samples(gradients) / gradients.square().mean().sqrt())


def spectra(of: Sequence[Correlations]) -> list[torch.Tensor | None]:
    """Eigenvalues of each, rising, in double precision; None where nothing varies.

    They are decomposed on the CPU, wherever the correlations lie: matrices this small leave a GPU
    idle.
    """
    if not of:
        return []
    varying = torch.stack([each.varies for each in of]).tolist()
    matrices = fetched([each.matrix for each in of])
    with _one_thread():
        return [
            _eigenvalues(matrix) if varies else None
            for matrix, varies in zip(matrices, varying, strict=True)
        ]


def _samples(features: torch.Tensor) -> torch.Tensor:
    """``features`` at the positions that are read, a row for each."""
    samples = features.detach().movedim(1, -1)
    if features.dim() == 4:
        step = max(1, features.shape[-1] // POSITIONS)
        samples = samples[:, ::step, ::step]
    return samples.flatten(0, -2)


def _correlations(samples: torch.Tensor) -> Correlations:
    rows = samples[:, :: math.ceil(samples.shape[1] / MAX_CHANNELS)].float()
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    variances = covariance.diagonal()
    deviations = variances.clamp(min=LEAST_VARIANCE).sqrt()
    matrix = covariance / deviations[:, None] / deviations[None, :]
    return Correlations(matrix, variances.max() > LEAST_VARIANCE)


def _eigenvalues(matrix: torch.Tensor) -> torch.Tensor:
    # Single precision: λ within about 1e-6, at a seventh of the time for 256 channels. It does
    # not always converge where many channels are copies of each other.
    try:
        eigenvalues: torch.Tensor = torch.linalg.eigvalsh(matrix).double()
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        eigenvalues = torch.linalg.eigvalsh(matrix.double())
    return eigenvalues.clamp(min=0)


def fetched(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copies on the CPU, in one transfer: a GPU is waited for once, not for each."""
    if not tensors:
        return []
    together = torch.cat([each.flatten() for each in tensors]).cpu()
    parts = torch.split(together, [each.numel() for each in tensors])
    return [part.view(each.shape) for part, each in zip(parts, tensors, strict=True)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK on matrices this small loses by threads: two took ten times as long as one on 256
    channels (6.2 ms, two cores of an Intel Xeon), half of what a candidate cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def correlations_collected(norms: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Correlations]]:
    """Collects, in the next forward pass, the ``correlations`` of the output of each of
    ``norms``."""
    found: dict[nn.Module, Correlations] = {}

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found[module] = correlations(output)

    hooks = [norm.register_forward_hook(add) for norm in norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
