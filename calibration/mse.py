"""The range whose INT8 values are nearest to the real ones: least mean squared error.

For a range t the step is t / L, L = 127 in int8 and 255 in uint8 that begins at 0, and a value x
becomes Q(x) = step · round(min(x, t) / step).
The error Σ counts · (x − Q(x))² is a sum of rounding (grows with t) and clipping (falls with t).
"""

from __future__ import annotations

import numpy as np

from fbn_deploy.export.histogram import Histogram

CANDIDATES = 200
SMALLEST = 0.05  # of the largest value: below, a tensor would be clipped beyond recognition


def amax(histogram: Histogram) -> float:
    """The best of ``CANDIDATES`` ranges, evenly spaced up to the largest value."""
    used = np.flatnonzero(histogram.counts)
    x, counts = histogram.centres[used], histogram.counts[used]
    ranges = np.linspace(SMALLEST, 1.0, CANDIDATES) * histogram.amax
    width = histogram.amax / len(histogram.counts)
    errors = []
    for t in ranges:
        step = t / histogram.levels
        # Below one bin the position within the bin decides: the error is then a rounding's own.
        rounding = np.where(step > width, (x - step * np.round(x / step)) ** 2, step**2 / 12)
        errors.append(float(counts @ np.where(x <= t, rounding, (x - t) ** 2)))
    return float(ranges[int(np.argmin(errors))])
