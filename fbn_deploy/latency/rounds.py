"""Rounds of runs: how they are sampled, and what of them had the core to itself.

A round consists of slices of 1 ms, or of one run that is longer, each between two looks at who else
computes on the core (``crowding.py``). Slices in a crowd, or within 2 ms of one, are left out, and
the round goes on until it has its time in slices of its own, as long as the protocol is patient.
Who computes next to us uses caches and memory as well, and that lasts longer than what a look sees:
where a crowd was there at all, slices are left out too in which runs took 1.15 times the cycles of
the fastest twentieth or more (cycles in terms of ρ, so that a slower clock leaves nothing out).
What use of the last cache and the memory does from other cores, no look at this one tells: reading
memory is timed every 50 ms, and kept beside the latency (``moment.py``).

A MobileNet of 0.77 ms (when calm) on ONNX Runtime on two cores of a shared Intel Xeon, crowded for
50 to 90 % of the time. Slices of 30 ms and SHA-256 for ρ, as it was before: 0.89, 1.14 and 1.38 ms
by ``QUICK``, 1.15, 0.91 and 1.05 by ``CONFIRM``. Like this, minutes later: 0.78, 0.79, 0.79 and
0.79; 0.80, 0.81, 0.83 and 0.84, bounds to 0.86. Between: slices of 1 ms without what is next to a
crowd 0.82 to 0.84 and 0.84 to 0.88; without the limit of 1.15, now and then 1.13, when of thousands
of slices the few hundred with calm looks took 1.1 ms each for a quarter of a second.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fbn_deploy.latency.crowding import Pace, best_pace
from fbn_deploy.latency.machine import Machine
from fbn_deploy.latency.protocol import TimingProtocol

Enqueue = Callable[[], "float | None"]

MIN_ROUNDS = 3
_MIN_RUNS = 3  # in a round
_MIN_SLICES = 3  # of their own in a third of a measurement: fewer say little
_SLICE_S = 0.001
_CALM_S = 0.002
_MEMORY_S = 0.05  # memory is read that often,
_SELDOM = 20  # and so seldom that the run after it takes a twentieth of the time
CROWDS = 0.1  # of the time: beyond it somebody is there, and uses caches and memory as well
_SLOWED = 1.15  # times the cycles of the fastest twentieth: by that
_OWN = 0.5  # of a round's time in slices of its own: with less it is no round
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond the table: normal.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_T_MANY = 2.0
# A core that slept for 0.35 s needs 5 ms of work until arithmetic has its full speed (it begins
# at 0.4 of it; medians of 60 pauses): what is read before that looks like a crowd.
_WAKING_S = 0.02


@dataclass(frozen=True)
class Slice:
    """Runs one after the other. Samples in milliseconds."""

    clean_ms: tuple[float, ...]
    preempted_ms: tuple[float, ...]
    waitless_ms: tuple[float, ...]
    """The preempted samples less what they waited for a core."""
    started_s: float
    ended_s: float
    reference_us: float
    memory_us: float | None
    """Of the last time that memory was read; None when the device's own clock timed."""
    paces: tuple[Pace, ...]
    """Before and after it; none when the device's own clock timed."""

    @property
    def seconds(self) -> float:
        return self.ended_s - self.started_s

    @property
    def runs(self) -> int:
        return len(self.clean_ms) + len(self.preempted_ms)

    @functools.cached_property
    def cycles(self) -> float:
        """How long a run took in chains of divisions, of which the clock has no part."""
        return statistics.median(self.clean_ms or self.waitless_ms) / self.reference_us

    def is_own(self, best: Pace | None) -> bool:
        """Whether nobody else computed on the core, as far as ``best`` tells."""
        return best is None or not any(pace.is_crowded(best) for pace in self.paces)


@dataclass(frozen=True)
class Round:
    """Slices that count together."""

    slices: tuple[Slice, ...]

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.slices)

    @functools.cached_property
    def used_ms(self) -> tuple[float, ...]:
        """The clean samples, or all when preemption was the rule."""
        clean = tuple(ms for each in self.slices for ms in each.clean_ms)
        waitless = tuple(ms for each in self.slices for ms in each.waitless_ms)
        return clean if len(clean) >= len(waitless) else clean + waitless

    @functools.cached_property
    def median_ms(self) -> float:
        return statistics.median(self.used_ms)

    def calm(self, best: Pace | None) -> Round:
        """Its slices that nobody crowded, nor 2 ms before or after."""
        crowds_s = sorted(
            look_s
            for each in self.slices
            for look_s, pace in zip((each.started_s, each.ended_s), each.paces, strict=True)
            if best is not None and pace.is_crowded(best)
        )

        def is_calm(each: Slice) -> bool:
            next_one = bisect.bisect_left(crowds_s, each.started_s - _CALM_S)
            return next_one == len(crowds_s) or crowds_s[next_one] > each.ended_s + _CALM_S

        return Round(tuple(each for each in self.slices if is_calm(each)))

    def within(self, cycles: float) -> Round:
        """Its slices whose runs took so many ``cycles`` at most."""
        return Round(tuple(each for each in self.slices if each.cycles <= cycles))


def work(enqueue: Enqueue, seconds: float, machine: Machine, runs: int = 1) -> None:
    """Runs for ``seconds``, and at least so many times."""
    end_s = machine.now_s() + seconds
    done = 0
    while done < runs or machine.now_s() < end_s:
        enqueue()
        done += 1


def pause(seconds: float, enqueue: Enqueue, machine: Machine) -> None:
    """Sleeps, and wakes the core."""
    machine.sleep(seconds)
    work(enqueue, _WAKING_S, machine)


def _fast(slices: Iterable[Slice]) -> float:
    """How many cycles a run takes in the fastest twentieth of ``slices``; infinite without any."""
    cycles = sorted(each.cycles for each in slices)
    return cycles[len(cycles) // 20] if cycles else math.inf


def half_width(medians: Sequence[float]) -> float:
    """Half-width of the 95 % interval of the rounds' mean; infinite for one round."""
    k = len(medians)
    if k < 2:
        return math.inf
    t = _T[k - 2] if k - 2 < len(_T) else _T_MANY
    return t * statistics.stdev(medians) / math.sqrt(k)


@dataclass
class Sampling:
    """The rounds of one measurement. ``one_thread`` says that one thread at a time works on a
    run, ``best`` what is known of the core when nobody shares it (``crowding.py``)."""

    enqueue: Enqueue
    protocol: TimingProtocol
    machine: Machine
    one_thread: bool
    best: Pace | None
    rounds: list[Round] = field(default_factory=list)
    paused_s: float = 0.0
    lost_s: float = 0.0
    """Seconds of what does not count as the core's own, so far as is known."""
    _last: Pace | None = None  # the look at the end of a slice is the one before the next
    _memory_us: float | None = None
    _memory_due_s: float = -math.inf

    def __post_init__(self) -> None:
        self._runs = _Runs(self.enqueue, self.machine, self.one_thread)

    def run(self) -> None:
        """Rounds until the interval is narrow enough, or the time limit ends it (three rounds at
        least, however slow the network)."""
        protocol, start_s = self.protocol, self.machine.now_s()
        while True:
            self.rounds.append(self._round())
            own = self.own
            self.lost_s = sum(r.seconds for r in self.rounds) - sum(r.seconds for r in own)
            limit_s = protocol.limit_s + min(self.lost_s, protocol.patience_s)
            enough = len(self.rounds) >= MIN_ROUNDS
            over = enough and self.machine.now_s() - start_s >= limit_s
            if over or self._is_settled(own):
                return
            if protocol.pause_s:
                pause(protocol.pause_s, self.enqueue, self.machine)
                self.paused_s += protocol.pause_s
                self._last = None

    @property
    def own(self) -> list[Round]:
        """What had the core to itself: of the rounds in which that is enough to count; where these
        are few, of all together, in thirds; nothing where that is too little."""
        if not any(each.paces for each in self.slices):  # a device that nobody here computes on
            return self.rounds
        own = [each.calm(self.best) for each in self.rounds]
        if self.crowded > CROWDS:
            fast = _fast(slice_ for each in own for slice_ in each.slices)
            own = [each.within(_SLOWED * fast) for each in own]
        least_s = _OWN * self.protocol.round_s
        rounds = [each for each in own if each.slices and each.seconds >= least_s]
        if len(rounds) >= MIN_ROUNDS:
            return rounds
        slices = [slice_ for each in own for slice_ in each.slices]
        if len(slices) < MIN_ROUNDS * _MIN_SLICES:
            return []
        ends = [number * len(slices) // MIN_ROUNDS for number in range(MIN_ROUNDS + 1)]
        return [Round(tuple(slices[a:b])) for a, b in itertools.pairwise(ends)]

    @property
    def slices(self) -> list[Slice]:
        return [each for round_ in self.rounds for each in round_.slices]

    @property
    def crowded(self) -> float:
        """Share of the sampled time during which somebody else computed on the core."""
        own_s = math.fsum(each.seconds for each in self.slices if each.is_own(self.best))
        return 1.0 - own_s / math.fsum(each.seconds for each in self.slices)

    def _is_settled(self, rounds: Sequence[Round]) -> bool:
        """Whether there are enough rounds and their interval is narrow enough."""
        medians = [each.median_ms for each in rounds]
        if len(medians) < max(self.protocol.min_rounds, MIN_ROUNDS):
            return False
        return half_width(medians) <= self.protocol.width * statistics.median(medians)

    def _round(self) -> Round:
        """Slices until the round has its time: of its own, or of any once patience is over."""
        taken: list[Slice] = []
        own_s, own_runs = 0.0, 0
        while True:
            last = self._slice()
            taken.append(last)
            self.best = best_pace((self.best, *last.paces))
            is_own = last.is_own(self.best)
            self.lost_s += 0.0 if is_own else last.seconds
            if is_own or self.lost_s >= self.protocol.patience_s:
                own_s, own_runs = own_s + last.seconds, own_runs + last.runs
            if own_s >= self.protocol.round_s and own_runs >= _MIN_RUNS:
                return Round(tuple(taken))

    def _read_memory(self) -> None:
        """Times it, and then brings the network back into the caches, by a run that does not
        count; not again where runs have the device's own clock, which tells nothing of this
        machine's memory."""
        memory_us, read_s = self.machine.read_memory(), self.machine.now_s()
        if self.enqueue() is not None:
            self._memory_due_s = math.inf
            return
        self._memory_us, now_s = memory_us, self.machine.now_s()
        self._memory_due_s = now_s + max(_MEMORY_S, _SELDOM * (now_s - read_s))
        self._last = None

    def _slice(self) -> Slice:
        machine = self.machine
        if machine.now_s() >= self._memory_due_s:
            self._read_memory()
        started_s, before = machine.now_s(), self._last or machine.look()
        runs = self._runs
        runs.begin()
        begun_s, device_ms = machine.now_s(), runs.take()
        slice_s = _SLICE_S if device_ms is None else self.protocol.round_s
        while machine.now_s() - begun_s < slice_s:
            runs.take()
        self._last = machine.look()
        return Slice(
            clean_ms=tuple(runs.clean_ms),
            preempted_ms=tuple(runs.preempted_ms),
            waitless_ms=tuple(runs.waitless_ms),
            started_s=started_s,
            ended_s=machine.now_s(),
            reference_us=before.reference_us,
            memory_us=self._memory_us,
            paces=(before, self._last) if device_ms is None else (),
        )


class _Runs:
    """Runs that are timed one after the other, told by whether they were preempted."""

    def __init__(self, enqueue: Enqueue, machine: Machine, one_thread: bool) -> None:
        self._enqueue, self._machine, self._one_thread = enqueue, machine, one_thread
        self._switches = -1

    def begin(self) -> None:
        """Forgets what was taken, and who waited meanwhile."""
        self.clean_ms: list[float] = []
        self.preempted_ms: list[float] = []
        self.waitless_ms: list[float] = []
        if self._switches != self._machine.preemptions():
            self._waited_s = self._machine.run_queue_delay_s()
            self._switches = self._machine.preemptions()

    def take(self) -> float | None:
        """Times one run; what it returns (``time_runs``)."""
        machine = self._machine
        start_s = machine.now_s()
        device_ms = self._enqueue()
        elapsed_ms = (machine.now_s() - start_s) * 1e3 if device_ms is None else device_ms
        if machine.preemptions() == self._switches:
            self.clean_ms.append(elapsed_ms)
            return device_ms
        before_s, self._waited_s = self._waited_s, machine.run_queue_delay_s()
        told = self._one_thread and device_ms is None
        wait_ms = (self._waited_s - before_s) * 1e3 if told else 0.0
        self.preempted_ms.append(elapsed_ms)
        self.waitless_ms.append(elapsed_ms - wait_ms if wait_ms < elapsed_ms else elapsed_ms)
        self._switches = machine.preemptions()  # reading may have been interrupted as well
        return device_ms
