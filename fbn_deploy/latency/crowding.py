"""Whether somebody else computed on our core while we timed.

The cores of a virtual machine are often hardware threads. Whoever runs on the other thread of the
same core takes a share of its units, and nothing in the guest tells: no steal, no pressure, no
context switch. What tells is the ratio

    κ = a / ρ

of two fixed pieces of work: a, exponentials in float32, which keep the core's units busy, and ρ, a
chain of divisions, each of which waits for the one before and leaves most of the core to others.
Both follow the clock, so κ does not. With a₀ and ρ₀ those of one moment, the one of the least a · ρ
that is known of the device, a moment with

    a / ρ > 1.2 a₀ / ρ₀

is *crowded* and left out of the median like a preempted run, as long as enough others remain. (The
smallest κ would be no such measure: an interrupted ρ makes it too small, for good. Nor would the
shortest a and ρ of different moments, whose clocks may differ.)

Two cores of a shared Intel Xeon (Ice Lake), looks in turns with a MobileNet of 0.77 ms on ONNX
Runtime, on OpenVINO, and with nothing: κ was 3.5 to 3.9 alone and 4.6 to 5.7 in a crowd, and in
between for 1 to 3 % of 1,000 looks each. The best of hundreds of records had 3.29 to 3.54, which is
why the limit is 1.2: at 1.15 times 3.29 many calm moments would be crowded. In a crowd exponentials
take 1.5 to 1.7 times as long, the chain 1.15 times and the network 1.6 times. The clock moves the
chain from 6.2 to 7.7 µs, between idle moments and AVX-512, and κ not at all. Crowds last from a
tenth of a millisecond to minutes.
(ρ was SHA-256 before, which has a unit to itself on the AMD EPYC where it was chosen. On the Xeon
it takes 1.25 to 1.45 times as long in a crowd, and that κ said nothing of the network's time:
Spearman 0.03. Products of matrices tell less than exponentials on both, and chains of additions,
multiplications or hypotenuses move more than divisions.)
A machine's own cores may be such neighbours: a busy loop on one raised κ on the other at times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CROWDED = 1.2


@dataclass(frozen=True)
class Pace:
    """How long both pieces of work took, in microseconds: a and ρ."""

    arithmetic_us: float
    reference_us: float

    @property
    def kappa(self) -> float:
        return self.arithmetic_us / self.reference_us

    def is_crowded(self, best: Pace) -> bool:
        """Whether the core was shared, where ``best`` is (a₀, ρ₀)."""
        return is_crowded(self.kappa, best)


def is_crowded(kappa: float, best: Pace) -> bool:
    """Whether κ is one of a core that was shared, where ``best`` is (a₀, ρ₀)."""
    return kappa > CROWDED * best.kappa


def best_pace(paces: Iterable[Pace | None]) -> Pace | None:
    """(a₀, ρ₀): the one of ``paces`` with the least a · ρ; None where nothing is known."""
    known = [each for each in paces if each is not None]
    return min(known, key=lambda pace: pace.arithmetic_us * pace.reference_us, default=None)
