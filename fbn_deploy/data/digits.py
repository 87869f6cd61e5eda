"""The embedded default: the 1,797 handwritten 8×8 digits that scikit-learn ships."""

from __future__ import annotations

import hashlib

import numpy as np

from fbn_deploy.data.reader import ImageArrays
from fbn_deploy.data.source import Source


def read_digits() -> Source:
    """All digits as one part, grey values 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits

    grey, labels = load_digits(return_X_y=True)
    grey = np.rint(grey.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    pixels = grey.repeat(3, axis=3)
    return Source(
        name="digits",
        classes=tuple("0123456789"),
        reader=ImageArrays(pixels),
        labels=labels.astype(np.int64),
        parts={"train": np.arange(len(labels))},
        mirrored=False,
        fingerprint=hashlib.sha256(grey.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest(),
    )
