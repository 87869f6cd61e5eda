"""How much slower than during a measurement the machine may be later.

Every measurement also times a chain of divisions, ρ (``reference_us``, ``machine.py``): what its
clock is, since a crowd hardly moves it. With ρ₉₅ the 95th percentile of all ρ that the cache knows
of this machine (same target, device, power state), a median m that was measured while the machine
ran at ρ becomes, on a slow day,

    m · max(1, ρ₉₅ / ρ)

so that a network is not promised on the strength of a lucky moment. ρ₉₅ is taken once, when a
record is made, and stored in it: a search that runs again finds the same numbers.

How often the bound of three processes, a minute apart each (those of a confirmation follow at
once), held for the median of another process minutes apart, and how much of it that median used;
six networks on two runtimes, 180 pairs out of 48 processes
(``benchmarks/results/timing.json``, ρ from all of its quick measurements, later ones included; ρ
was SHA-256 then, which on some processors slows down in a crowd as well):

    worst round                    94.4 %, worst network 87 %     92 % used
    … and m · ρ₉₅/ρ (this)         100 %                          90 % used
    … and m · ρ₉₀/ρ                100 %                          90 % used
    worst round · ρ₉₀/ρ            100 %                          89 % used
    worst round · 1.03             99.4 %, worst network 97 %     90 % used

With ρ₉₅ of what came before alone, the second line is 176 of 180 (97.8 %), and 85 of 85 where 20
ρ were known by then. The percentile was chosen on these pairs. In a second session of 77 processes
(not stored), other jobs kept the cores busy. For the 30 processes that ended
undisturbed, the worst round held in 91.7 % of 254 pairs, with m · ρ₉₀/ρ in 97.2 %, with m · ρ₉₅/ρ
in 100 %, 93 % used. For the 47 that were disturbed to their end (the slowest took three times as
long) it was 88.6, 89.6 and 92.2 %: nothing here foresees another job on the same core.

A margin of 3 % does about as well on that machine, whose clock moves by 3 to 15 %; this bound
follows the machine, and stretches nothing where the clock stands still: on a crowded Intel Xeon,
where SHA-256 took 62 to 87 µs and bounds were stretched by up to 1.3, divisions take 7.67 to 7.74.

What others leave of caches and memory moves as well, and ρ does not follow it. On
that Xeon, crowded for 28 to 97 % of the time, medians of one network in other processes, up to half
an hour apart, had a standard deviation of 2.9 % (91 of 30 networks), and hardly followed the share
of the crowd (7 % ± 2 % from none to all). The largest of three bounded 3 of 18 later ones, times
1.02 7, times 1.06 16 and times 1.09 all. So where crowds took more than a tenth of the time, 1.06
is multiplied; not in a crowd that did not end, which makes the median itself too large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fbn_deploy.latency.rounds import CROWDS

if TYPE_CHECKING:
    from fbn_deploy.latency.record import LatencyRecord

SLOW = 0.95  # a promise that holds 19 times of 20
BESIDE_CROWDS = 1.06
MIN_KNOWN = 20  # the survey of a search makes 24; the slowest one is passed over


def slow_reference_us(known_us: Sequence[float]) -> float | None:
    """ρ₉₅ of ``known_us``: the smallest with 95 % of them at or below it. None of fewer than 20."""
    known = sorted(known_us)
    return known[math.ceil(SLOW * len(known)) - 1] if len(known) >= MIN_KNOWN else None


def slowdown_of(record: LatencyRecord) -> float:
    """max(1, ρ₉₅ / ρ) of ``record``, times 1.06 where crowds come and go; the ratio is 1 where no
    ρ₉₅ was known when it was made."""
    timing, slow_us = record.timing, record.slow_reference_us
    clock = 1.0 if slow_us is None else max(1.0, slow_us / timing.reference_us)
    return clock * (BESIDE_CROWDS if timing.crowded > CROWDS and not timing.crowded_out else 1.0)
