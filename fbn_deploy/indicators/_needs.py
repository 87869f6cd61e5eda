"""What an indicator may need beyond one forward pass of the first probe batch."""

from __future__ import annotations

import enum


class Need(enum.Enum):
    """The first four are computed for a candidate only if one of the indicators asked for needs
    them; the others say what a candidate has to be part of."""

    CODES = "the kernel of activation codes"
    SPECTRA = "the eigenvalues of every BatchNorm's output correlations"
    GRADIENTS = "one backward pass: facts of the loss's gradients at every BatchNorm's output"
    BATCHES = "forward passes of all probe batches"
    SKELETON = "the space's own skeleton: it reads the bare network or its counts, no supernet"
    TRAINING = "a trained supernet: what it reads, training has written"
