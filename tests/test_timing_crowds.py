"""Timing on a core that somebody else computes on, too, as a simulated machine has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from test_timing import FIVE_ROUNDS, HandMachine

from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.machine import Snapshot
from fbn_deploy.latency.protocol import CONFIRM
from fbn_deploy.latency.timing import time_runs


class CrowdedMachine(HandMachine):
    """While ``crowded(now)`` holds, arithmetic and runs take 1.5 times as long."""

    def __init__(self, crowded: Callable[[float], bool], *, pressed: bool = False) -> None:
        super().__init__()
        self.crowded, self.pressed = crowded, pressed

    def snapshot(self) -> Snapshot:
        """Where ``pressed``, tasks wait for a core all the time."""
        if self.pressed:
            self.pressure_s = self.time_s
        return super().snapshot()

    def look(self) -> Pace:
        return Pace(90.0 if self.crowded(self.time_s) else 60.0, 40.0)

    def enqueue(self) -> None:
        self.time_s += 0.0015 if self.crowded(self.time_s) else 0.001


def test_rounds_on_a_shared_core_stay_out_of_the_median() -> None:
    machine = CrowdedMachine(lambda now_s: int(now_s / 0.03) % 2 == 0)
    timing = time_runs(machine.enqueue, FIVE_ROUNDS, machine)
    assert timing.value_ms == pytest.approx(1.0)
    assert timing.worst_round_ms == pytest.approx(1.0)
    assert timing.p99_ms == pytest.approx(1.5)
    assert 0 < timing.crowded < 1
    assert timing.pace == Pace(60.0, 40.0)
    assert timing.disturbed == ()


def test_a_crowd_is_waited_for_as_long_as_the_protocol_is_patient() -> None:
    patient = dataclasses.replace(FIVE_ROUNDS, limit_s=0.1, patience_s=0.5)
    machine = CrowdedMachine(lambda now_s: now_s < 0.4)
    timing = time_runs(machine.enqueue, patient, machine, pace=Pace(60.0, 40.0))
    assert timing.value_ms == pytest.approx(1.0)
    assert 0.4 < machine.time_s < 0.6
    assert timing.disturbed == ()


def test_who_is_not_patient_does_not_wait_for_a_crowd_to_end() -> None:
    protocol = dataclasses.replace(FIVE_ROUNDS, limit_s=0.1, patience_s=0.5)
    machine = CrowdedMachine(lambda now_s: True)
    time_runs(machine.enqueue, protocol, machine, pace=Pace(60.0, 40.0), patient=False)
    assert machine.time_s < 0.2


def test_crowds_that_come_and_go_leave_a_round_its_time() -> None:
    patient = dataclasses.replace(FIVE_ROUNDS, limit_s=1.0, patience_s=2.0)
    for pace in (Pace(60.0, 40.0), None):  # known before, or found by the first quiet moment
        machine = CrowdedMachine(lambda now_s: int(now_s / 0.1) % 2 == 1)
        timing = time_runs(machine.enqueue, patient, machine, pace=pace)
        assert timing.value_ms == pytest.approx(1.0)
        assert timing.worst_round_ms == pytest.approx(1.0)
        assert timing.rounds == 5


def test_a_few_calm_moments_of_many_rounds_count_together() -> None:
    """Of each 50 ms 10 are calm, and less counts: no round has half its time."""
    protocol = dataclasses.replace(FIVE_ROUNDS, round_s=0.03, limit_s=0.5)
    machine = CrowdedMachine(lambda now_s: now_s % 0.05 > 0.01)
    timing = time_runs(machine.enqueue, protocol, machine, pace=Pace(60.0, 40.0))
    assert timing.value_ms == pytest.approx(1.0)
    assert not timing.crowded_out
    assert timing.crowded > 0.7


def test_runs_next_to_a_crowd_are_left_out() -> None:
    """What began and ended between two moments of a crowd may have met it."""
    machine = CrowdedMachine(lambda now_s: now_s % 0.02 > 0.012)
    met = machine.enqueue

    def enqueue() -> None:
        met()
        since_s = machine.time_s % 0.02
        machine.time_s += 0.0004 if since_s < 0.001 or 0.010 < since_s < 0.012 else 0.0

    timing = time_runs(enqueue, FIVE_ROUNDS, machine, pace=Pace(60.0, 40.0))
    assert timing.worst_round_ms == pytest.approx(1.0)


@pytest.mark.parametrize(("crowds", "worst_ms"), [(True, 1.0), (False, 1.3)])
def test_a_crowd_s_use_of_the_memory_is_left_out_and_a_network_s_own_variation_is_not(
    crowds: bool, worst_ms: float
) -> None:
    """Without a crowd anywhere, runs that take longer at the same clock are the network's."""
    machine = CrowdedMachine(lambda now_s: crowds and now_s % 0.1 > 0.05)
    met = machine.enqueue

    def enqueue() -> None:
        met()
        machine.time_s += 0.0003 if now_and_then(machine.time_s) else 0.0

    def now_and_then(now_s: float) -> bool:
        return now_s % 0.3 > 0.2

    protocol = dataclasses.replace(FIVE_ROUNDS, min_rounds=60)
    timing = time_runs(enqueue, protocol, machine, pace=Pace(60.0, 40.0))
    assert timing.worst_round_ms == pytest.approx(worst_ms)


def test_a_slower_clock_is_not_a_crowd() -> None:
    """Both works and the runs take longer by the same factor: the median is of both speeds."""
    machine = CrowdedMachine(lambda now_s: False)

    def slow() -> float:
        return 1.5 if machine.time_s % 0.2 > 0.1 else 1.0

    def enqueue() -> None:
        machine.time_s += 0.001 * slow()

    machine.look = lambda: Pace(60.0 * slow(), 40.0 * slow())  # type: ignore[method-assign]
    protocol = dataclasses.replace(FIVE_ROUNDS, min_rounds=60)
    timing = time_runs(enqueue, protocol, machine, pace=Pace(60.0, 40.0))
    assert timing.worst_round_ms == pytest.approx(1.5)
    assert timing.crowded < 0.1


def test_a_crowd_that_stays_is_named_where_a_calmer_core_is_known() -> None:
    patient = dataclasses.replace(FIVE_ROUNDS, limit_s=0.1, patience_s=0.2, attempts=3)
    machine = CrowdedMachine(lambda now_s: True)
    timing = time_runs(machine.enqueue, patient, machine, pace=Pace(60.0, 40.0))
    assert timing.value_ms == pytest.approx(1.5)
    assert timing.disturbed == ("somebody else computed on the core 100% of the time",)
    assert timing.crowded_out
    assert machine.time_s == pytest.approx(0.3, abs=0.03), "It was waited for more than once."
    assert time_runs(machine.enqueue, patient, machine).disturbed == ()


def test_attempts_share_their_patience_with_a_crowd() -> None:
    """Of each 0.13 s an attempt has 0.015 of its own, so that five rounds lose about 0.5 s."""
    patient = dataclasses.replace(FIVE_ROUNDS, limit_s=0.1, patience_s=1.0, attempts=3)
    machine = CrowdedMachine(lambda now_s: now_s % 0.13 > 0.015, pressed=True)
    timing = time_runs(machine.enqueue, patient, machine, pace=Pace(60.0, 40.0))
    assert timing.value_ms == pytest.approx(1.0)
    assert timing.disturbed, "By the pressure, so that three attempts were made."
    assert len(machine.slept_s) == 2
    awake_s = machine.time_s - sum(machine.slept_s)
    assert 1.0 < awake_s < 1.4


def test_an_attempt_in_a_crowd_that_only_a_later_one_tells_is_not_the_result() -> None:
    """Both were disturbed by what waited meanwhile, and equally even."""
    machine = CrowdedMachine(lambda now_s: now_s < 1.0, pressed=True)
    protocol = dataclasses.replace(FIVE_ROUNDS, limit_s=0.1, attempts=2)
    timing = time_runs(machine.enqueue, protocol, machine)
    assert len(machine.slept_s) == 1
    assert timing.value_ms == pytest.approx(1.0)


def test_a_core_that_slept_is_awake_before_it_is_asked_for_a_crowd() -> None:
    """For 5 ms after a pause arithmetic is slow though nobody shares the core."""
    machine = CrowdedMachine(lambda now_s: now_s < woken_s + 0.005)
    woken_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal woken_s
        machine.time_s += seconds
        woken_s = machine.time_s

    machine.sleep = sleep  # type: ignore[method-assign]
    timing = time_runs(machine.enqueue, CONFIRM, machine, pace=Pace(60.0, 40.0))
    assert timing.crowded == 0.0
    assert timing.rounds == CONFIRM.min_rounds


def test_a_device_with_a_clock_of_its_own_is_not_asked_for_a_crowd() -> None:
    machine = CrowdedMachine(lambda now_s: int(now_s / 0.03) % 2 == 0)

    def enqueue() -> float:
        machine.time_s += 0.001
        return 1.0

    timing = time_runs(enqueue, FIVE_ROUNDS, machine)
    assert timing.pace is None
    assert timing.crowded == 0.0
