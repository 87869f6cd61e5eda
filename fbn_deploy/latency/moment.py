"""What the machine did while a network was measured, in numbers that a fit tells from the network.

Slices in a crowd are left out (``rounds.py``), but who shares a core, a cache or the memory with us
slows what remains as well, by minutes. Whole networks read more weights than the second cache holds
and feel it; blocks do not. So a predictor is fitted with these numbers as covariates (analysis of
covariance, Fisher 1932) and predicts for what is typical of them (``predictor.py``). On a quiet
machine they do not vary, and say nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fbn_deploy.latency.record import LatencyRecord

Moment = tuple[float, float, float]
# How much a relative latency may change with each: deviations of the prior.
EXPECTED: Moment = (0.2, 2.0, 0.5)
UNKNOWN: Moment = (math.nan, math.nan, math.nan)


def moment_of(record: LatencyRecord) -> Moment:
    """The share of the time that was crowded, the logarithms of what the chain of divisions (ρ) and
    reading memory took; NaN where that is unknown, or where the device's own clock timed."""
    timing = record.timing
    if timing.pace is None:
        return UNKNOWN
    memory = math.nan if timing.memory_us is None else math.log(timing.memory_us)
    return timing.crowded, math.log(timing.reference_us), memory
