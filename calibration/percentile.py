"""The magnitude that 99.99 % of all values stay below."""

from __future__ import annotations

import numpy as np

from fbn_deploy.export.histogram import Histogram

PERCENTILE = 99.99
"""Of all values, zeros included. Wu et al. 2020 (Integer quantization for deep learning
inference, table 5) find 99.99 % or 99.999 % best for most networks."""


def amax(histogram: Histogram) -> float:
    """The upper edge of the bin in which the percentile lies."""
    below = histogram.num_zeros + np.cumsum(histogram.counts)
    bin_number = int(np.searchsorted(below, below[-1] * PERCENTILE / 100))
    number = min(bin_number + 1, len(histogram.counts))
    return histogram.amax * number / len(histogram.counts)
