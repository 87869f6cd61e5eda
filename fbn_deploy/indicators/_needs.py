"""What an indicator may need beyond one forward pass of the first probe batch."""

from __future__ import annotations

import enum


class Need(enum.Enum):
    """Computed for a candidate only if one of the indicators asked for needs it."""

    CODES = "the kernel of activation codes"
    SPECTRA = "the eigenvalues of every BatchNorm's output correlations"
    GRADIENTS = "one backward pass: facts of the loss's gradients at every BatchNorm's output"
    BATCHES = "forward passes of all probe batches"
    TRAINING = "a trained supernet: what it reads, training has written"
