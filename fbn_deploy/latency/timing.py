"""How a latency is timed: warm-up, rounds until the median is known, disturbance detected.

Samples are wall times of single runs. A run during which the kernel took the core away (an
involuntary context switch of this process) says nothing about the network: such samples are
counted, kept in p90 and p99, and left out of the median as long as half of them remain. Where
preemption is the rule (a long run on a busy machine has no undisturbed sample at all), what the
process waited for a core meanwhile (the scheduler's run-queue delay) is taken off each of them;
with several threads that wait at the same time it is not known, and nothing is taken off. In the
same way moments are left out during which somebody else computed on our core (``rounds.py``).

The confidence interval comes from the medians of rounds (batch means): m ± t·s/√k over k rounds,
because neighbouring runs are far from independent. It covers what varies between rounds, not a
drift slower than the whole measurement.

Which statistic? On a shared virtual machine with two cores, 17 fresh processes over five
minutes, six networks (0.08 to 3 ms, two runtimes), samples without preemption: the standard
deviation of the estimate between processes was 3.6 to 5.4 % for the median of 0.3 s, 4.3 to 7 %
for the minimum, 3.4 to 7 % for low quantiles, 3.6 to 5.2 % for the median of round medians; ten
times longer windows gained little (3.1 to 4.3 % for the median). No statistic repeats better than
the median, and all repeat worse than the interval within one process says: there, it covered the
median of eight processes in 50 to 75 % of the cases for ``confirm``, in 0 to 50 % for ``quick``.
What is left is the machine's speed, which drifts over seconds and moves different networks
together (correlation 0.5 to 0.85). Dividing by the time of a fixed piece of work measured
meanwhile (``reference_us``) takes the deviation between processes from 2 to 5 % down to 1 to 2 %
in most rows of ``benchmarks/timing.py``.

So a promise is measured over time and in several processes (``confirm.py``), and stretched to the
machine's slow speed (``slowdown.py``, with figures). The worst round of three processes, a minute
apart each, held for 94 to 98 % of the medians of other processes, which used 92 % of it; that of
two processes for 91 to 94 %. Under three busy loops on the two cores, the median stayed within 1 %
for 0.1 and 0.5 ms and within 4 % for 3 ms, and was called disturbed.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fbn_deploy.latency.crowding import Pace, best_pace
from fbn_deploy.latency.machine import Machine, Snapshot, ThisMachine
from fbn_deploy.latency.protocol import TimingProtocol
from fbn_deploy.latency.rounds import MIN_ROUNDS, Enqueue, Sampling, half_width, pause, work

# A measurement is called disturbed beyond these shares. A quiet process on the machine above
# shows under 1 % of each, and its rounds vary by 2 to 3 %. Steal hits few runs and makes those
# long, which moves no median: 65 networks measured twice with 3 to 10 % of it were 3 % apart in the
# mean, 164 without any 4 %.
_MAX_WAITED = 0.03
_MAX_PRESSURE = 0.10
_MAX_STEAL = 0.10
_MAX_SPREAD = 0.05
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Timing:
    """The result. Times in milliseconds; shares and ``spread`` are fractions."""

    value_ms: float
    """Median of the runs that were not preempted."""
    low_ms: float
    high_ms: float
    """The median's 95 % confidence interval, from the rounds' medians."""
    worst_round_ms: float
    """The largest median of a round."""
    p90_ms: float
    p99_ms: float
    min_ms: float
    """The shortest run; the median where waits were taken off and that is less."""
    n: int
    rounds: int
    spread: float
    """Robust standard deviation (MAD) of the rounds' medians over their median."""
    preempted: float
    """Share of runs with an involuntary context switch."""
    waited: float
    """Share of the time that this process waited for a core."""
    load: float
    """One-minute load average at the end; this process is part of it."""
    reference_us: float
    """Time of a fixed piece of CPU work meanwhile: the machine's speed."""
    disturbed: tuple[str, ...]
    """What disturbed the measurement, in words; empty when nothing did."""
    best_arithmetic_us: float | None = None
    best_reference_us: float | None = None
    """a and ρ in the best moment (``crowding.py``); None where the device's own clock
    times."""
    known_kappa: float | None = None
    """a₀ / ρ₀ as known at the end, by which slices were judged; None in older records as well."""
    crowded: float = 0.0
    """Share of the time during which somebody else computed on the core; left out of
    the median and ``worst_round_ms`` unless ``crowded_out``."""
    crowded_out: bool = False
    """Whether so little was sampled with the core to itself that the crowded time counts too."""
    memory_us: float | None = None
    """Reading 2 MiB of memory meanwhile; None where the device's own clock times, and in older
    records."""

    @property
    def pace(self) -> Pace | None:
        """The best one; None where the device's own clock times."""
        if self.best_arithmetic_us is None or self.best_reference_us is None:
            return None
        return Pace(self.best_arithmetic_us, self.best_reference_us)


def time_runs(
    enqueue: Enqueue,
    protocol: TimingProtocol,
    machine: Machine | None = None,
    *,
    one_thread: bool = False,
    pace: Pace | None = None,
    patient: bool = True,
) -> Timing:
    """Times ``enqueue``, which runs once and returns when it is done.

    What it returns is the time in milliseconds by the device's clock; where that is None, the
    wall time of the call is taken. ``one_thread`` says that one thread at a time works on a run,
    so that its waiting can be told. ``pace`` is the best that is known of this device. Who is not
    ``patient`` does not wait for a crowd to end.

    A disturbed measurement is made again after a pause that doubles, ``protocol.attempts`` times
    in all; the one with the fewest disturbances and the narrowest interval is returned. All of them
    together lose ``protocol.patience_s`` to crowds at most: what outlasts that lasts for minutes.
    """
    machine = machine or ThisMachine()
    if not patient:
        protocol = dataclasses.replace(protocol, patience_s=0.0)
    taken: list[tuple[Sampling, Snapshot, Snapshot]] = []
    with _without_gc():
        work(enqueue, protocol.warmup_s, machine, runs=protocol.warmup_runs)
        for attempt in range(protocol.attempts):
            if attempt:
                pause(2.0 ** (attempt - 1), enqueue, machine)
            before = machine.snapshot()
            sampling = Sampling(enqueue, protocol, machine, one_thread, pace)
            sampling.run()
            taken.append((sampling, before, machine.snapshot()))
            timing = _timing(*taken[-1])
            if not timing.disturbed or timing.crowded_out:
                break
            pace = sampling.best
            patience_s = max(protocol.patience_s - sampling.lost_s, 0.0)
            protocol = dataclasses.replace(protocol, patience_s=patience_s)
    for sampling, _, _ in taken:  # by the best that was known in the end
        sampling.best = taken[-1][0].best
    timings = [_timing(*each) for each in taken]
    return min(timings, key=lambda t: (len(t.disturbed), (t.high_ms - t.low_ms) / t.value_ms))


def _timing(sampling: Sampling, before: Snapshot, after: Snapshot) -> Timing:
    rounds, slices, own = sampling.rounds, sampling.slices, sampling.own
    crowded = sampling.crowded
    crowded_out = len(own) < MIN_ROUNDS
    used = rounds if crowded_out else own
    everything = sorted(ms for each in slices for ms in each.clean_ms + each.preempted_ms)
    medians = [each.median_ms for each in used]
    best = best_pace(pace for each in slices for pace in each.paces)
    value_ms = statistics.median([ms for each in used for ms in each.used_ms])
    half_ms = half_width(medians)
    center_ms = statistics.median(medians)
    deviations = [abs(median - center_ms) for median in medians]
    spread = _MAD_TO_SIGMA * statistics.median(deviations) / center_ms
    elapsed_s = max(after.time_s - before.time_s, 1e-9)
    busy_s = max(elapsed_s - sampling.paused_s, 1e-9)
    preempted = sum(len(each.preempted_ms) for each in slices) / len(everything)
    waited = (after.waited_s - before.waited_s) / busy_s
    shares = (
        (waited, _MAX_WAITED, "waited for a core {:.0%} of the time"),
        (
            (after.pressure_s - before.pressure_s) / elapsed_s,
            _MAX_PRESSURE,
            "tasks waited for a core {:.0%} of the time (CPU pressure)",
        ),
        (
            _most_stolen_s(before, after) / elapsed_s,
            _MAX_STEAL,
            "the hypervisor took {:.0%} of the time (steal)",
        ),
        (spread, _MAX_SPREAD, "rounds varied by {:.0%}"),
        (
            crowded if crowded_out else 0.0,
            0.0,
            "somebody else computed on the core {:.0%} of the time",
        ),
    )
    reads_us = [each.memory_us for round_ in used for each in round_.slices if each.memory_us]
    return Timing(
        value_ms=value_ms,
        low_ms=max(value_ms - half_ms, 0.0),
        high_ms=value_ms + half_ms,
        worst_round_ms=max(medians),
        p90_ms=_quantile(everything, 0.90),
        p99_ms=_quantile(everything, 0.99),
        min_ms=min(everything[0], value_ms),
        n=len(everything),
        rounds=len(rounds),
        spread=spread,
        preempted=preempted,
        waited=waited,
        load=after.load,
        reference_us=statistics.median(
            each.reference_us for round_ in used for each in round_.slices
        ),
        disturbed=tuple(text.format(share) for share, most, text in shares if share > most),
        best_arithmetic_us=best.arithmetic_us if best else None,
        best_reference_us=best.reference_us if best else None,
        known_kappa=sampling.best.kappa if best and sampling.best else None,
        crowded=crowded,
        crowded_out=crowded_out,
        memory_us=statistics.median(reads_us) if reads_us else None,
    )


def _most_stolen_s(before: Snapshot, after: Snapshot) -> float:
    """Of the core that lost most: a mean over many would hide the one that the runs were on."""
    common = before.steal_s.keys() & after.steal_s.keys()
    return max((after.steal_s[core] - before.steal_s[core] for core in common), default=0.0)


def _quantile(ordered: list[float], share: float) -> float:
    """The smallest sample with at least ``share`` of all at or below it."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


@contextmanager
def _without_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
