"""Timing against a machine whose clock the test turns by hand."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.latency import machine as machines
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.machine import Snapshot, ThisMachine
from fbn_deploy.latency.protocol import CONFIRM, QUICK, TimingProtocol
from fbn_deploy.latency.timing import time_runs

pytestmark = pytest.mark.alone  # It judges how steady the machine is.

FIVE_ROUNDS = TimingProtocol(
    name="five", warmup_s=0.0, warmup_runs=1, round_s=0.01, min_rounds=5, width=0.01, limit_s=1.0
)


class HandMachine:
    """Time passes only when a run takes it or someone sleeps."""

    def __init__(self) -> None:
        self.time_s = self.waited_s = self.pressure_s = self.steal_s = 0.0
        self.switches = 0
        self.slept_s: list[float] = []

    def now_s(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.time_s += seconds

    def preemptions(self) -> int:
        return self.switches

    def look(self) -> Pace:
        return Pace(60.0, 40.0)

    def read_memory(self) -> float:
        return 250.0

    def run_queue_delay_s(self) -> float:
        return self.waited_s

    def snapshot(self) -> Snapshot:
        stolen_s = dict.fromkeys(range(15), 0.0) | {15: self.steal_s}
        return Snapshot(self.time_s, self.waited_s, self.pressure_s, stolen_s, load=0.5)

    def runs_of(self, durations_ms: Iterator[float]) -> Callable[[], None]:
        def enqueue() -> None:
            self.time_s += next(durations_ms) / 1e3

        return enqueue


def test_equal_runs_are_their_own_median_minimum_and_percentiles() -> None:
    machine = HandMachine()
    timing = time_runs(machine.runs_of(itertools.repeat(1.0)), FIVE_ROUNDS, machine)
    for number in (timing.value_ms, timing.min_ms, timing.p90_ms, timing.p99_ms, timing.low_ms):
        assert number == pytest.approx(1.0)
    assert timing.rounds == 5
    assert timing.n in (50, 51, 52, 53, 54, 55)
    assert timing.disturbed == ()


def test_runs_of_the_warm_up_are_not_counted() -> None:
    machine = HandMachine()
    durations = itertools.chain([50.0], itertools.repeat(1.0))
    timing = time_runs(machine.runs_of(durations), FIVE_ROUNDS, machine)
    assert timing.p99_ms == pytest.approx(1.0)


def test_rounds_go_on_until_the_interval_is_narrow() -> None:
    """Rounds alternate by ±2 %: the half-width t·s/√k falls under 1 % only after many."""
    machine = HandMachine()
    durations = itertools.cycle([0.98] * 12 + [1.02] * 12)
    timing = time_runs(machine.runs_of(durations), FIVE_ROUNDS, machine)
    assert timing.rounds > 5
    assert (timing.high_ms - timing.value_ms) / timing.value_ms <= 0.011


def test_the_time_limit_ends_a_measurement_that_never_settles() -> None:
    machine = HandMachine()
    durations = itertools.cycle([1.0] * 7 + [1.5] * 7 + [2.0] * 7)
    timing = time_runs(machine.runs_of(durations), FIVE_ROUNDS, machine)
    assert 1.0 <= machine.time_s < 1.1
    assert any("rounds varied" in reason for reason in timing.disturbed)


def test_a_slow_network_gets_three_rounds_of_three_runs() -> None:
    machine = HandMachine()
    timing = time_runs(machine.runs_of(itertools.repeat(900.0)), FIVE_ROUNDS, machine)
    assert (timing.rounds, timing.n) == (3, 9)


def test_preempted_runs_stay_out_of_the_median_and_in_the_tail() -> None:
    machine = HandMachine()
    run = itertools.count()

    def enqueue() -> None:
        preempted = next(run) % 3 == 0
        machine.switches += preempted
        machine.time_s += 0.004 if preempted else 0.001

    timing = time_runs(enqueue, FIVE_ROUNDS, machine)
    assert timing.value_ms == pytest.approx(1.0)
    assert timing.p90_ms == pytest.approx(4.0)
    assert timing.preempted == pytest.approx(1 / 3, abs=0.1)


def test_when_most_runs_are_preempted_all_of_them_count() -> None:
    machine = HandMachine()

    def enqueue() -> None:
        machine.switches += 1
        machine.time_s += 0.002

    timing = time_runs(enqueue, FIVE_ROUNDS, machine)
    assert timing.value_ms == pytest.approx(2.0)
    assert timing.preempted == 1.0


@pytest.mark.parametrize(("one_thread", "expected_ms"), [(True, 2.0), (False, 7.0)])
def test_what_preempted_runs_of_one_thread_waited_is_taken_off(
    one_thread: bool, expected_ms: float
) -> None:
    machine = HandMachine()

    def enqueue() -> None:
        machine.switches += 1
        machine.time_s += 0.007
        machine.waited_s += 0.005

    timing = time_runs(enqueue, FIVE_ROUNDS, machine, one_thread=one_thread)
    assert timing.value_ms == pytest.approx(expected_ms)
    assert timing.min_ms <= timing.value_ms
    assert timing.p90_ms == pytest.approx(7.0)
    assert any("waited for a core 71%" in reason for reason in timing.disturbed)


def test_nothing_is_taken_off_what_the_device_s_own_clock_says() -> None:
    machine = HandMachine()

    def enqueue() -> float:
        machine.switches += 1
        machine.time_s += 0.007
        machine.waited_s += 0.005
        return 0.5

    assert time_runs(enqueue, FIVE_ROUNDS, machine, one_thread=True).value_ms == 0.5


@pytest.mark.parametrize(
    ("counter", "said"),
    [("waited_s", "core 20%"), ("pressure_s", "core 20%"), ("steal_s", "hypervisor took 20%")],
)
def test_a_disturbance_is_named(counter: str, said: str) -> None:
    machine = HandMachine()

    def enqueue() -> None:
        machine.time_s += 0.001
        setattr(machine, counter, getattr(machine, counter) + 0.0002)

    timing = time_runs(enqueue, FIVE_ROUNDS, machine)
    assert len(timing.disturbed) == 1
    assert said in timing.disturbed[0]


def test_what_is_stolen_of_each_allowed_core_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = "cpu  9 0 9 99 0 0 0 900 0 0\n" + "".join(
        f"cpu{core} 9 0 9 99 0 0 0 {100 * core} 0 0\n" for core in range(16)
    )
    (tmp_path / "stat").write_text(stat + "intr 1 2 3 4 5 6 7 8 9\n")
    monkeypatch.setattr(machines, "_PROC", tmp_path)
    monkeypatch.setattr(machines, "allowed_cores", lambda: (2, 15))
    ticks = os.sysconf("SC_CLK_TCK")
    assert ThisMachine().snapshot().steal_s == {2: 200 / ticks, 15: 1500 / ticks}
    (tmp_path / "stat").unlink()
    assert ThisMachine().snapshot().steal_s == {}


def test_a_disturbed_measurement_is_made_again_and_the_quiet_one_returned() -> None:
    machine = HandMachine()
    protocol = TimingProtocol("again", 0.0, 1, 0.01, 5, 0.01, 1.0, attempts=3)

    def enqueue() -> None:
        loaded = not machine.slept_s  # the load ends while the second attempt waits
        machine.time_s += 0.002 if loaded else 0.001
        machine.waited_s += 0.001 if loaded else 0.0

    timing = time_runs(enqueue, protocol, machine)
    assert timing.value_ms == pytest.approx(1.0)
    assert timing.disturbed == ()
    assert len(machine.slept_s) == 1


def test_a_machine_that_stays_loaded_is_tried_as_often_as_the_protocol_says() -> None:
    machine = HandMachine()
    protocol = TimingProtocol("again", 0.0, 1, 0.01, 5, 0.01, 1.0, attempts=3)

    def enqueue() -> None:
        machine.time_s += 0.002
        machine.waited_s += 0.001

    assert time_runs(enqueue, protocol, machine).disturbed
    assert machine.slept_s == [1.0, 2.0]


def test_confirmation_spreads_at_least_three_rounds_over_seconds() -> None:
    machine = HandMachine()
    timing = time_runs(machine.runs_of(itertools.repeat(1.0)), CONFIRM, machine)
    assert timing.rounds >= 3
    assert sum(machine.slept_s) > 1.0
    assert timing.worst_round_ms == pytest.approx(1.0)


def test_a_quick_measurement_of_a_1_ms_network_takes_a_third_of_a_second() -> None:
    machine = HandMachine()
    time_runs(machine.runs_of(itertools.repeat(1.0)), QUICK, machine)
    assert machine.time_s == pytest.approx(1 / 3, abs=0.05)


def test_the_collector_is_off_meanwhile_and_given_back_after_an_error() -> None:
    def enqueue() -> None:
        assert not gc.isenabled()
        raise RuntimeError("the device is gone")

    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        time_runs(enqueue, FIVE_ROUNDS, HandMachine())
    assert gc.isenabled()


@given(st.lists(st.floats(0.5, 3.0), min_size=3, max_size=30))
def test_statistics_are_ordered(durations_ms: list[float]) -> None:
    machine = HandMachine()
    timing = time_runs(machine.runs_of(itertools.cycle(durations_ms)), FIVE_ROUNDS, machine)
    assert min(durations_ms) - 1e-9 <= timing.min_ms <= timing.value_ms
    assert timing.min_ms <= timing.p90_ms <= timing.p99_ms
    assert timing.low_ms <= timing.value_ms <= timing.high_ms
    assert timing.worst_round_ms <= max(durations_ms) + 1e-9


def test_this_machine_reads_counters_that_never_fall() -> None:
    machine = ThisMachine()
    before, switches = machine.snapshot(), machine.preemptions()
    look = machine.look()
    after = machine.snapshot()
    assert after.time_s > before.time_s
    assert after.waited_s >= before.waited_s
    assert after.pressure_s >= before.pressure_s
    assert machine.preemptions() >= switches
    assert look.arithmetic_us > 0
    assert look.reference_us > 0


def test_a_chain_that_was_interrupted_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ρ of 60 µs instead of 40 would give the smallest κ, for good."""
    durations_s = iter([40e-6, 60e-6, 1e-6, 60e-6, 40e-6])  # two chains, one work, and a chain
    now_s = 0.0

    def work(*_: int) -> None:
        nonlocal now_s
        now_s += next(durations_s)

    monkeypatch.setattr(machines, "_divisions", lambda: work)
    monkeypatch.setattr(machines, "_exponentials", lambda: work)
    monkeypatch.setattr(machines, "time", SimpleNamespace(perf_counter=lambda: now_s))
    look = ThisMachine().look()
    assert (look.arithmetic_us, look.reference_us) == pytest.approx((60.0, 40.0))
