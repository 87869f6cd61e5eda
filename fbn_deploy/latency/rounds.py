"""Rounds of runs: how they are sampled, and what of them had the core to itself.

A round consists of slices of 30 ms, each between two looks at who else computes on the core
(``crowding.py``). A slice in a crowd is left out, and the round goes on until it has its time in
slices of its own, as long as the protocol is patient; none begins in a crowd meanwhile. Quiet
moments are often shorter than a round: on a shared AMD EPYC that was crowded for 25 to 70 % of the
time, a MobileNet of 0.6 ms under ``CONFIRM``, four times on each of two runtimes, in turns with
rounds in one piece, took 0.601 to 0.617 and 0.542 to 0.551 ms (in one piece 0.606 to 0.634 and
0.542 to 0.695); bounds were 1.01 to 1.11 times the median (1.02 to 1.28), in 18 s (24 s).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fbn_deploy.latency.crowding import Pace, best_pace
from fbn_deploy.latency.machine import Machine
from fbn_deploy.latency.protocol import TimingProtocol

Enqueue = Callable[[], "float | None"]

MIN_ROUNDS = 3
_MIN_RUNS_PER_SLICE = 3
_SLICE_S = 0.03
_OWN = 0.5  # of a round's time in slices of its own: less than that says little
# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom; beyond the table: normal.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
_T_MANY = 2.0
# A core that slept for 0.35 s needs 5 ms of work until arithmetic has its full speed (it begins
# at 0.4 of it; medians of 60 pauses): what is read before that looks like a crowd.
_WAKING_S = 0.02
_ASKING_S = 0.005  # of runs between two looks at a crowd: asleep, the core would look crowded


@dataclass(frozen=True)
class Slice:
    """Runs one after the other. Samples in milliseconds."""

    clean_ms: tuple[float, ...]
    preempted_ms: tuple[float, ...]
    waitless_ms: tuple[float, ...]
    """The preempted samples less what they waited for a core."""
    seconds: float
    reference_us: float
    paces: tuple[Pace, ...]
    """Before and after it; none when the device's own clock timed."""

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

    def own(self, best: Pace | None) -> Round:
        """Its slices that had the core to themselves."""
        return Round(tuple(each for each in self.slices if each.is_own(best)))


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
    _waited_s: float = 0.0
    _crowded_s: float = 0.0  # of slices, so far as was known at their end

    def run(self) -> None:
        """Rounds until the interval is narrow enough, or the time limit ends it (three rounds at
        least, however slow the network)."""
        protocol, start_s = self.protocol, self.machine.now_s()
        while True:
            self.rounds.append(self._round())
            limit_s = protocol.limit_s + min(self.lost_s, protocol.patience_s)
            enough = len(self.rounds) >= MIN_ROUNDS
            over = enough and self.machine.now_s() - start_s >= limit_s
            if over or self._settled():
                return
            if protocol.pause_s:
                pause(protocol.pause_s, self.enqueue, self.machine)
                self.paused_s += protocol.pause_s

    @property
    def own(self) -> list[Round]:
        """What had the core to itself, of the rounds in which that is enough to count."""
        least_s = _OWN * self.protocol.round_s
        own = [each.own(self.best) for each in self.rounds]
        return [each for each in own if each.slices and each.seconds >= least_s]

    @property
    def slices(self) -> list[Slice]:
        return [each for round_ in self.rounds for each in round_.slices]

    @property
    def lost_s(self) -> float:
        """Seconds that went to crowds: waited for their end, or sampled in them."""
        return self._waited_s + self._crowded_s

    def _settled(self) -> bool:
        """Whether there are enough rounds and their interval is narrow enough."""
        medians = [each.median_ms for each in self.own]
        if len(medians) < max(self.protocol.min_rounds, MIN_ROUNDS):
            return False
        return half_width(medians) <= self.protocol.width * statistics.median(medians)

    def _round(self) -> Round:
        """Slices until the round has its time: of its own, or of any once patience is over."""
        taken: list[Slice] = []
        while True:
            self._await_own_core()
            taken.append(self._slice())
            self.best = best_pace((self.best, *taken[-1].paces))
            own = taken[-1].is_own(self.best)
            self._crowded_s += 0.0 if own else taken[-1].seconds
            impatient = self.lost_s >= self.protocol.patience_s
            each_s = [each.seconds for each in taken if impatient or each.is_own(self.best)]
            if sum(each_s) >= self.protocol.round_s:
                return Round(tuple(taken))

    def _await_own_core(self) -> None:
        """Runs until nobody else computes on the core, as long as patience lasts."""
        if self.best is None:
            return
        machine = self.machine
        start_s = now_s = machine.now_s()
        while now_s - start_s < self.protocol.patience_s - self.lost_s:
            reference_us = machine.reference_us()
            if not Pace(machine.arithmetic_us(), reference_us).is_crowded(self.best):
                break
            work(self.enqueue, _ASKING_S, machine)
            now_s = machine.now_s()
        self._waited_s += now_s - start_s

    def _slice(self) -> Slice:
        machine, enqueue = self.machine, self.enqueue
        started_s, reference_us = machine.now_s(), machine.reference_us()
        arithmetic_us = machine.arithmetic_us()
        now_s, preemptions = machine.now_s, machine.preemptions
        clean: list[float] = []
        preempted: list[float] = []
        waitless: list[float] = []
        device_ms = enqueue()  # the reference and the pause have cooled the caches
        # Nobody shares a core with a device that has a clock of its own: one slice a round.
        slice_s = _SLICE_S if device_ms is None else math.inf
        switches, waited_s = preemptions(), machine.snapshot().waited_s
        end_s = now_s() + min(slice_s, self.protocol.round_s)
        while len(clean) + len(preempted) < _MIN_RUNS_PER_SLICE or now_s() < end_s:
            start_s = now_s()
            device_ms = enqueue()
            elapsed_ms = (now_s() - start_s) * 1e3 if device_ms is None else device_ms
            switched = preemptions()
            if switched == switches:
                clean.append(elapsed_ms)
                continue
            before_s, waited_s = waited_s, machine.snapshot().waited_s
            wait_ms = (waited_s - before_s) * 1e3 if self.one_thread and device_ms is None else 0.0
            preempted.append(elapsed_ms)
            waitless.append(elapsed_ms - wait_ms if wait_ms < elapsed_ms else elapsed_ms)
            switches = preemptions()  # reading the counters may have been interrupted as well
        paces: tuple[Pace, ...] = ()
        if device_ms is None:
            both_us = (arithmetic_us, machine.arithmetic_us())
            paces = tuple(Pace(each_us, reference_us) for each_us in both_us)
        return Slice(
            clean_ms=tuple(clean),
            preempted_ms=tuple(preempted),
            waitless_ms=tuple(waitless),
            seconds=now_s() - started_s,
            reference_us=reference_us,
            paces=paces,
        )
