"""Whether somebody else computed on our core while we timed.

The cores of a virtual machine are often hardware threads. Whoever runs on the other thread of the
same core takes a share of its arithmetic units, and nothing in the guest tells: no steal, no
pressure, no context switch. What tells is the ratio

    κ = a / ρ

of two fixed pieces of work: a, products of matrices and exponentials in float32, which fight for
the arithmetic units, and ρ, SHA-256, which has a unit to itself. Both follow the clock, so κ does
not. With a₀ and ρ₀ the shortest times that are known of the device, a round with

    a / ρ > 1.1 a₀ / ρ₀        where a is the longer one of before and after it

is *crowded* and left out of the median like a preempted run, as long as enough others remain. (The
smallest κ would be no such measure: an interrupted ρ makes it too small, for good.)

Two cores of a shared AMD EPYC, 60 s of turns: κ stood at 1.44 (10th to 50th percentile: 1.44 to
1.45) and beyond 2.0 in the top decile, where MobileNets took 1.4 to 1.6 times as long; ρ alone
moved by 4 %. Of 120 such networks timed for 0.3 s each, a third was crowded throughout; a predictor
fitted on 60 of them left 16.3 % of error on ONNX Runtime and 15.1 % on OpenVINO, and 2.7 % and
2.3 % minutes later, when crowded rounds were left out. Crowds last from milliseconds to minutes.
(a was products alone then. On a newer EPYC crowds make products take 1.13 times as long,
exponentials 1.35 and a MobileNet on ONNX Runtime 1.22 times: of 283 moments of 40 s, 14 of them
alone on the core, products with a limit of 1.15 missed 79 % of the crowded ones. κ by both works
was within 1.6 % of the least in 13 of the 14, beyond 1.1 of it in 97.4 % of the crowded ones.)
A machine's own cores may be such neighbours: a busy loop on one raised κ on the other at times.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CROWDED = 1.15


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
    """(a₀, ρ₀): the one of ``paces`` whose a is the shortest; None where nothing is known."""
    known = [each for each in paces if each is not None]
    return min(known, key=lambda pace: (pace.arithmetic_us, pace.reference_us), default=None)
