"""How a latency is timed: warm-up, rounds until the median is known, disturbance detected.

Samples are wall times of single runs. A run during which the kernel took the core away (an
involuntary context switch of this process) says nothing about the network: such samples are
counted, kept in p90 and p99, and left out of the median as long as half of them remain. Where
preemption is the rule (a long run on a busy machine has no undisturbed sample at all), what the
process waited for a core meanwhile (the scheduler's run-queue delay) is taken off each of them;
with several threads that wait at the same time it is not known, and nothing is taken off. In the
same way rounds are left out during which somebody else computed on our core (``crowding.py``),
and none begins while somebody does, as long as the protocol is patient.

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
machine's slow speed (``slowdown.py``, with figures). The worst round of three processes alone held
for 94 to 98 % of the medians of other processes, minutes apart, which used 92 % of it; that of two
processes for 91 to 94 %. Under three busy loops on the two cores, the median stayed within 1 % for
0.1 and 0.5 ms and within 4 % for 3 ms, and was called disturbed.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fbn_deploy.latency.crowding import Pace, best_pace
from fbn_deploy.latency.machine import Machine, Snapshot, ThisMachine

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond the table: normal.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_T_MANY = 2.0
# A measurement is called disturbed beyond these shares. A quiet process on the machine above
# shows under 1 % of each, and its rounds vary by 2 to 3 %.
_MAX_WAITED = 0.03
_MAX_PRESSURE = 0.10
_MAX_STEAL = 0.02
_MAX_SPREAD = 0.05
_MIN_RUNS_PER_ROUND = _MIN_ROUNDS = 3
# Changes when the same runs would give another number.
_METHOD = "waits and crowded rounds off, awake, by products and exponentials, in quiet moments"
# A core that slept for 0.35 s needs 5 ms of work until arithmetic has its full speed (it begins
# at 0.4 of it; medians of 60 pauses): what is read before that looks like a crowd.
_WAKING_S = 0.02
_ASKING_S = 0.005  # of runs between two looks at a crowd: asleep, the core would look crowded

Enqueue = Callable[[], "float | None"]
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class TimingProtocol:
    """How long and how often. Times in seconds; ``width`` is the half-width of the median's
    95 % interval, relative to it, at which timing ends. ``limit_s`` ends it in any case,
    and later by what was lost to a crowd, ``patience_s`` at most."""

    name: str
    warmup_s: float
    warmup_runs: int
    round_s: float
    min_rounds: int
    width: float
    limit_s: float
    patience_s: float = 0.0
    pause_s: float = 0.0
    attempts: int = 1

    @property
    def label(self) -> str:
        """Name, method and every number: records made otherwise are not mixed with these."""
        numbers = dataclasses.astuple(self)[1:]
        return f"{self.name}({', '.join(f'{number:g}' for number in numbers)}; {_METHOD})"


QUICK = TimingProtocol(
    name="quick",
    warmup_s=0.04,
    warmup_runs=5,
    round_s=0.03,
    min_rounds=9,
    width=0.015,
    limit_s=0.9,
    patience_s=0.5,
)
"""A candidate in a search: 0.3 s for a 1 ms network on a quiet machine."""

CONFIRM = TimingProtocol(
    name="confirm",
    warmup_s=0.2,
    warmup_runs=10,
    round_s=0.25,
    min_rounds=6,
    width=0.015,
    limit_s=5.0,
    patience_s=20.0,
    pause_s=0.35,
    attempts=3,
)
"""A promise: rounds spread over seconds, timed again (three times at most) when disturbed."""

PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, CONFIRM)}


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
    """The shortest a and ρ of the rounds (``crowding.py``); None where the device's own clock
    times."""
    crowded: float = 0.0
    """Share of rounds during which somebody else computed on the core; left out of the median and
    ``worst_round_ms`` unless the measurement is called disturbed by them."""

    @property
    def crowded_out(self) -> bool:
        """Whether so few rounds had the core to themselves that the crowded ones count as well."""
        own = round(self.rounds * (1 - self.crowded))
        return self.crowded > 0 and own < _MIN_ROUNDS

    @property
    def pace(self) -> Pace | None:
        """a and ρ at their shortest; None where the device's own clock times."""
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
    in all; the one with the fewest disturbances and the narrowest interval is returned. A crowd
    that outlasts ``protocol.patience_s`` is not waited for again: it lasts for minutes.
    """
    machine = machine or ThisMachine()
    if not patient:
        protocol = dataclasses.replace(protocol, patience_s=0.0)
    timings: list[Timing] = []
    with _without_gc():
        _work(enqueue, protocol.warmup_s, machine, runs=protocol.warmup_runs)
        for attempt in range(protocol.attempts):
            if attempt:
                _pause(2.0 ** (attempt - 1), enqueue, machine)
            timings.append(_timed_rounds(enqueue, protocol, machine, one_thread, pace))
            if not timings[-1].disturbed or timings[-1].crowded_out:
                break
    return min(timings, key=lambda t: (len(t.disturbed), (t.high_ms - t.low_ms) / t.value_ms))


@dataclass(frozen=True)
class _Round:
    clean_ms: tuple[float, ...]
    preempted_ms: tuple[float, ...]
    waitless_ms: tuple[float, ...]
    """The preempted samples less what they waited for a core."""
    seconds: float
    reference_us: float
    paces: tuple[Pace, ...]
    """Before and after the round; none when the device's own clock timed."""

    @property
    def used_ms(self) -> tuple[float, ...]:
        """The clean samples, or all when preemption was the rule."""
        enough = len(self.clean_ms) >= len(self.preempted_ms)
        return self.clean_ms if enough else self.clean_ms + self.waitless_ms

    @property
    def median_ms(self) -> float:
        return statistics.median(self.used_ms)


def _work(enqueue: Enqueue, seconds: float, machine: Machine, runs: int = 1) -> None:
    """Runs for ``seconds``, and at least so many times."""
    end_s = machine.now_s() + seconds
    done = 0
    while done < runs or machine.now_s() < end_s:
        enqueue()
        done += 1


def _pause(seconds: float, enqueue: Enqueue, machine: Machine) -> None:
    machine.sleep(seconds)
    _work(enqueue, _WAKING_S, machine)


def _timed_rounds(
    enqueue: Enqueue,
    protocol: TimingProtocol,
    machine: Machine,
    one_thread: bool,
    pace: Pace | None,
) -> Timing:
    """Rounds until the interval is narrow enough, or the time limit ends it (three rounds at
    least, however slow the network)."""
    rounds: list[_Round] = []
    before = machine.snapshot()
    paused_s = waited_s = crowded_s = 0.0
    while True:
        if pace is not None:
            patience_s = protocol.patience_s - waited_s - crowded_s
            waited_s += _await_own_core(enqueue, machine, pace, patience_s)
        rounds.append(_round(enqueue, protocol, machine, one_thread))
        pace = best_pace((pace, *rounds[-1].paces))
        own = _own(rounds, pace)
        crowded_s = sum(each.seconds for each in rounds) - sum(each.seconds for each in own)
        limit_s = protocol.limit_s + min(waited_s + crowded_s, protocol.patience_s)
        over = len(rounds) >= _MIN_ROUNDS and machine.now_s() - before.time_s >= limit_s
        if over or _settled(own, protocol):
            return _timing(rounds, own, before, machine.snapshot(), paused_s)
        if protocol.pause_s:
            _pause(protocol.pause_s, enqueue, machine)
            paused_s += protocol.pause_s


def _settled(rounds: list[_Round], protocol: TimingProtocol) -> bool:
    """Whether there are enough rounds and their interval is narrow enough."""
    if len(rounds) < max(protocol.min_rounds, _MIN_ROUNDS):
        return False
    medians = [each.median_ms for each in rounds]
    return _half_width(medians) <= protocol.width * statistics.median(medians)


def _await_own_core(enqueue: Enqueue, machine: Machine, best: Pace, at_most_s: float) -> float:
    """Runs until nobody else computes on the core, ``at_most_s`` seconds; how many it took."""
    start_s = now_s = machine.now_s()
    while now_s - start_s < at_most_s:
        reference_us = machine.reference_us()
        if not Pace(machine.arithmetic_us(), reference_us).is_crowded(best):
            break
        _work(enqueue, _ASKING_S, machine)
        now_s = machine.now_s()
    return now_s - start_s


def _own(rounds: list[_Round], best: Pace | None) -> list[_Round]:
    """Those of ``rounds`` that had the core to themselves, as far as is known by now."""
    if best is None:
        return rounds
    return [each for each in rounds if not any(pace.is_crowded(best) for pace in each.paces)]


def _round(
    enqueue: Enqueue, protocol: TimingProtocol, machine: Machine, one_thread: bool
) -> _Round:
    started_s, reference_us = machine.now_s(), machine.reference_us()
    arithmetic_us = machine.arithmetic_us()
    now_s, preemptions = machine.now_s, machine.preemptions
    clean: list[float] = []
    preempted: list[float] = []
    waitless: list[float] = []
    device_ms: float | None = None
    enqueue()  # the reference and the pause have cooled the caches
    switches, waited_s = preemptions(), machine.snapshot().waited_s
    end_s = now_s() + protocol.round_s
    while len(clean) + len(preempted) < _MIN_RUNS_PER_ROUND or now_s() < end_s:
        start_s = now_s()
        device_ms = enqueue()
        elapsed_ms = (now_s() - start_s) * 1e3 if device_ms is None else device_ms
        switched = preemptions()
        if switched == switches:
            clean.append(elapsed_ms)
            continue
        before_s, waited_s = waited_s, machine.snapshot().waited_s
        wait_ms = (waited_s - before_s) * 1e3 if one_thread and device_ms is None else 0.0
        preempted.append(elapsed_ms)
        waitless.append(elapsed_ms - wait_ms if wait_ms < elapsed_ms else elapsed_ms)
        switches = preemptions()  # reading the counters may have been interrupted as well
    paces: tuple[Pace, ...] = ()
    if device_ms is None:
        both_us = (arithmetic_us, machine.arithmetic_us())
        paces = tuple(Pace(each_us, reference_us) for each_us in both_us)
    return _Round(
        clean_ms=tuple(clean),
        preempted_ms=tuple(preempted),
        waitless_ms=tuple(waitless),
        seconds=now_s() - started_s,
        reference_us=reference_us,
        paces=paces,
    )


def _timing(
    rounds: list[_Round],
    own: list[_Round],
    before: Snapshot,
    after: Snapshot,
    paused_s: float,
) -> Timing:
    everything = sorted(t for r in rounds for t in r.clean_ms + r.preempted_ms)
    crowded = 1 - len(own) / len(rounds)
    used = own if len(own) >= _MIN_ROUNDS else rounds
    medians = [each.median_ms for each in used]
    best = best_pace(pace for each in rounds for pace in each.paces)
    value_ms = statistics.median([t for r in used for t in r.used_ms])
    half_ms = _half_width(medians)
    center_ms = statistics.median(medians)
    deviations = [abs(median - center_ms) for median in medians]
    spread = _MAD_TO_SIGMA * statistics.median(deviations) / center_ms
    elapsed_s = max(after.time_s - before.time_s, 1e-9)
    busy_s = max(elapsed_s - paused_s, 1e-9)
    preempted = sum(len(r.preempted_ms) for r in rounds) / len(everything)
    waited = (after.waited_s - before.waited_s) / busy_s
    shares = (
        (waited, _MAX_WAITED, "waited for a core {:.0%} of the time"),
        (
            (after.pressure_s - before.pressure_s) / elapsed_s,
            _MAX_PRESSURE,
            "tasks waited for a core {:.0%} of the time (CPU pressure)",
        ),
        (
            (after.steal_s - before.steal_s) / elapsed_s,
            _MAX_STEAL,
            "the hypervisor took {:.0%} of the time (steal)",
        ),
        (spread, _MAX_SPREAD, "rounds varied by {:.0%}"),
        (
            crowded if used is rounds else 0.0,
            0.0,
            "somebody else computed on the core in {:.0%} of the rounds",
        ),
    )
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
        reference_us=statistics.median(r.reference_us for r in used),
        disturbed=tuple(text.format(share) for share, most, text in shares if share > most),
        best_arithmetic_us=best.arithmetic_us if best else None,
        best_reference_us=best.reference_us if best else None,
        crowded=crowded,
    )


def _half_width(medians: list[float]) -> float:
    """Half-width of the 95 % interval of the rounds' mean; infinite for one round."""
    k = len(medians)
    if k < 2:
        return math.inf
    t = _T[k - 2] if k - 2 < len(_T) else _T_MANY
    return t * statistics.stdev(medians) / math.sqrt(k)


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
