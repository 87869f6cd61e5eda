"""The largest magnitude that was seen: nothing is clipped, one outlier makes all steps coarse."""

from __future__ import annotations

from fbn_deploy.export.histogram import Histogram


def amax(histogram: Histogram) -> float:
    """max |x|."""
    return histogram.amax
