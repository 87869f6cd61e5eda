"""How often a tensor's magnitudes occur, counted batch by batch in constant memory.

Counting starts with a limit that is a power of two and covers the first batch; a larger value
doubles the limit, and neighbouring bins are merged. Limits are powers of two and bins aligned, so
the counts depend neither on the order of the images nor on the batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float64]

BINS = 2048
"""Bins of a finished histogram, as TensorRT's entropy calibrator counted."""

LEVELS, UNSIGNED_LEVELS = 127, 255  # of int8, and of uint8 that begins at 0
NOTHING = 1e-30  # and what is smaller counts as 0: no scale of float32 tells it from that
_FINE_BINS = 8 * BINS  # while counting: at least half of them lie below the largest value


@dataclass(frozen=True, eq=False)
class Histogram:
    """Magnitudes of one tensor: ``counts[b]`` values lie in [b, b + 1) · amax / BINS.

    ``amax`` is the largest |x|. Values that are exactly 0 are not in ``counts`` but in
    ``num_zeros``: every quantisation keeps them, and after a Relu they are most of the tensor.
    """

    counts: Counts
    amax: float
    num_zeros: int = 0
    levels: int = LEVELS
    """Steps from 0 to the end of a range in the type that will hold the tensor: 127 in int8, 255
    in uint8 where it is never negative."""

    @property
    def centres(self) -> Counts:
        """The middle of each bin."""
        bins = len(self.counts)
        return np.linspace(0.0, self.amax, bins, endpoint=False) + 0.5 * self.amax / bins


class GrowingHistogram:
    """Counts the values that it is shown. ``value()`` is what was seen so far."""

    def __init__(self) -> None:
        self._counts = np.zeros(_FINE_BINS)
        self._limit = 0.0
        self._amax = 0.0
        self._num_zeros = 0

    @property
    def amax(self) -> float:
        """The largest |x| so far; NaN or infinite if such a value was seen."""
        return self._amax

    def add(self, values: Floats) -> None:
        """Counts ``values``, of any shape. A value that is not finite only makes ``amax`` so."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest) or not math.isfinite(self._amax):
            self._amax = largest if not math.isfinite(largest) else self._amax
            return
        zeros = len(magnitudes) - int(np.count_nonzero(magnitudes))
        self._num_zeros += zeros
        if largest <= NOTHING:
            self._num_zeros += len(magnitudes) - zeros
            return
        self._amax = max(self._amax, largest)
        self._grow(largest)
        bins = (magnitudes * np.float32(_FINE_BINS / self._limit)).astype(np.int32)
        self._counts += np.bincount(bins, minlength=_FINE_BINS)
        self._counts[0] -= zeros

    def _grow(self, largest: float) -> None:
        """Makes the limit the smallest power of two above ``largest``, unless it is more."""
        needed = 2.0 ** math.frexp(largest)[1]
        if self._limit == 0.0:
            self._limit = needed
        while self._limit < needed:
            half = self._counts[0::2] + self._counts[1::2]
            self._counts = np.concatenate([half, np.zeros(_FINE_BINS // 2)])
            self._limit *= 2

    def value(self) -> Histogram:
        """The counts in ``BINS`` bins up to ``amax``; a fine bin across an edge is shared out."""
        if not math.isfinite(self._amax) or self._amax <= NOTHING:
            return Histogram(np.zeros(BINS), self._amax, self._num_zeros)
        below = np.concatenate([[0.0], np.cumsum(self._counts)])
        edges = np.linspace(0.0, self._amax, BINS + 1) * (_FINE_BINS / self._limit)
        edges[-1] = _FINE_BINS
        counts = np.diff(np.interp(edges, np.arange(_FINE_BINS + 1), below))
        return Histogram(counts, self._amax, self._num_zeros)
