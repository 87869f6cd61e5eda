"""What the machine did while a network was measured, in numbers that a fit tells from the network.

Slices in a crowd are left out (``rounds.py``), but who shares a core, a cache or the memory with us
slows what remains as well, for minutes. Whole networks read more weights than the second cache
holds and feel it; blocks do not. (On a shared Xeon, networks of 5 to 15 MB of weights were up to
30 % apart between two runs of a table, while nine of ten of their blocks repeated within 3 %. In 49
half-seconds without a crowd, a network of 12 MB followed cold reads of 4 and of 16 MB with
correlations of 0.88 to 0.95.) So a predictor is fitted with these numbers as covariates (analysis
of covariance, Fisher 1932) and predicts for what is typical of them (``predictor.py``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fbn_deploy.latency.record import LatencyRecord


class Moment(NamedTuple):
    """NaN is what is not known."""

    crowd: float
    """Share of the time during which somebody else computed on the core."""
    clock: float
    """Logarithm of what the chain of divisions, ρ, took (``crowding.py``)."""
    memory: float
    """Logarithm of what reading memory took."""


UNKNOWN = Moment(math.nan, math.nan, math.nan)
EXPECTED = Moment(crowd=0.2, clock=1.0, memory=0.5)
"""By how much a relative latency may change with each: deviations of the prior. All of the clock,
since all work follows it; half of the memory's, which is read between computations (in 17 pairs of
measurements without a crowd, networks followed cold reads of 8 MB with exponents of 0.39 on ONNX
Runtime and 0.67 on OpenVINO); a fifth from no crowd to one that is always there, whose own slices
are left out: a guess. On one table, (0.2, 2, 0.5) and twice that gave the same errors."""


def moment_of(record: LatencyRecord) -> Moment:
    """Unknown where the device's own clock timed."""
    timing = record.timing
    if timing.pace is None:
        return UNKNOWN
    memory = math.nan if timing.memory_us is None else math.log(timing.memory_us)
    return Moment(timing.crowded, math.log(timing.reference_us), memory)
