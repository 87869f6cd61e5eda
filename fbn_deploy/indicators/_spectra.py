"""How the channels at BatchNorms correlate: eigenvalues of outputs, and of gradients there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

MAX_POSITIONS = 8  # a side of a feature map, whose pixels enter a BatchNorm's correlations
# Of one BatchNorm, whose correlations are read. Eigenvalues cost the cube of it; and where channels
# outnumber samples (64 images of 2 × 2 pixels), the smallest are zero whatever the network is: on
# NAS-Bench-Macro, up to 768 channels wide at half width, the composite's τ was 0.77 without it and
# 0.83 with it.
MAX_CHANNELS = 256
LEAST_VARIANCE = 1e-8  # of a normalised channel; one with less does not vary


def spectrum(features: torch.Tensor) -> torch.Tensor | None:
    """Eigenvalues, rising, of the correlations between the channels of ``features``, (B, C, …);
    None if no channel varies.

    A grid of at most 8 × 8 positions stands for a feature map, and evenly spaced channels for more
    than ``MAX_CHANNELS``. Channels that do not vary correlate with none, themselves included.
    """
    return _eigenvalues(_samples(features))


def gradient_spectrum(gradients: torch.Tensor) -> torch.Tensor | None:
    """The same of gradients, whose size says nothing: they are scaled to a mean square of 1."""
    size = gradients.square().mean().sqrt()
    return _eigenvalues(_samples(gradients) / size) if float(size) > 0 else None


def _samples(features: torch.Tensor) -> torch.Tensor:
    """``features`` at the positions that are read, a row for each."""
    samples = features.detach().movedim(1, -1)
    if features.dim() == 4:
        step = max(1, features.shape[-1] // MAX_POSITIONS)
        samples = samples[:, ::step, ::step]
    return samples.flatten(0, -2)


def _eigenvalues(samples: torch.Tensor) -> torch.Tensor | None:
    rows = samples[:, :: math.ceil(samples.shape[1] / MAX_CHANNELS)].float()
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    variances = covariance.diagonal()
    if not float(variances.max()) > LEAST_VARIANCE:  # nor if it is NaN
        return None
    deviations = variances.clamp(min=LEAST_VARIANCE).sqrt()
    correlation = covariance / deviations[:, None] / deviations[None, :]
    with _one_thread():
        # Single precision: λ within about 1e-6, at a seventh of the time for 256 channels. It does
        # not always converge where many channels are copies of each other.
        try:
            eigenvalues: torch.Tensor = torch.linalg.eigvalsh(correlation).double()
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            eigenvalues = torch.linalg.eigvalsh(correlation.double())
    return eigenvalues.clamp(min=0)


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
def spectra_collected(norms: Iterable[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Collects, in the next forward pass, the ``spectrum`` of the output of each of ``norms``."""
    spectra: dict[nn.Module, torch.Tensor] = {}

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found = spectrum(output)
        if found is not None:
            spectra[module] = found

    hooks = [norm.register_forward_hook(add) for norm in norms]
    try:
        yield spectra
    finally:
        for hook in hooks:
            hook.remove()
