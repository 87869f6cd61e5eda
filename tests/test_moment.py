"""What the machine did while something was timed, and what of it is unknown."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from test_latency_cache import record
from test_timing import FIVE_ROUNDS, HandMachine

from fbn_deploy.latency import machine as machines
from fbn_deploy.latency.machine import ThisMachine
from fbn_deploy.latency.moment import UNKNOWN, moment_of
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.latency.timing import time_runs


def at(**numbers: float | None) -> LatencyRecord:
    known = {"best_arithmetic_us": 25.0, "best_reference_us": 7.0, "reference_us": 7.7}
    return record(**known | numbers)


def test_a_moment_is_its_crowd_its_clock_and_its_memory() -> None:
    assert moment_of(at(crowded=0.25, memory_us=300.0)) == pytest.approx(
        (0.25, math.log(7.7), math.log(300.0))
    )


def test_a_record_from_before_memory_was_read_does_not_know_it() -> None:
    crowded, clock, memory = moment_of(at(memory_us=None))
    assert (crowded, clock) == pytest.approx((0.0, math.log(7.7)))
    assert math.isnan(memory)


def test_a_device_with_its_own_clock_is_not_judged_by_this_machine() -> None:
    known = moment_of(at(best_arithmetic_us=None, best_reference_us=None, memory_us=300.0))
    assert known is UNKNOWN


class MemoryMachine(HandMachine):
    """Memory takes longer with each time that it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read_s: list[float] = []

    def read_memory(self) -> float:
        self.read_s.append(self.time_s)
        return 200.0 + 10.0 * len(self.read_s)


def test_memory_is_read_every_50_ms_and_the_run_after_it_is_not_counted() -> None:
    machine = MemoryMachine()
    durations_ms = itertools.repeat(1.0)

    def enqueue() -> None:
        cold = machine.read_s[-1:] == [machine.time_s]
        machine.time_s += (2.0 if cold else next(durations_ms)) / 1e3

    protocol = dataclasses.replace(FIVE_ROUNDS, round_s=0.05)
    timing = time_runs(enqueue, protocol, machine)
    assert timing.p99_ms == pytest.approx(1.0)
    assert len(machine.read_s) == 5
    assert [b - a for a, b in itertools.pairwise(machine.read_s)] == pytest.approx(
        [0.052] * 4, abs=0.002
    )
    assert timing.memory_us == 230.0


def test_a_slow_network_is_not_run_again_after_every_run() -> None:
    machine = MemoryMachine()
    runs: list[float] = []

    def enqueue() -> None:
        machine.time_s += 0.3
        runs.append(machine.time_s)

    timing = time_runs(enqueue, FIVE_ROUNDS, machine)
    assert timing.n == 9  # three rounds
    assert len(runs) == 1 + 1 + timing.n  # warm-up, memory
    assert timing.memory_us == 210.0


def test_a_device_with_its_own_clock_tells_nothing_of_this_memory() -> None:
    machine = MemoryMachine()

    def enqueue() -> float:
        machine.time_s += 0.001
        return 0.8

    assert time_runs(enqueue, FIVE_ROUNDS, machine).memory_us is None
    assert len(machine.read_s) == 1


def test_this_machine_reads_other_memory_each_time() -> None:
    pieces = machines._pieces()
    read = [next(pieces) for _ in range(33)]
    assert all(piece.sum() == 524_288 for piece in read)  # ones
    addresses = [piece.ctypes.data for piece in read]
    assert len({*addresses[:32]}) == 32
    assert addresses[32] == addresses[0]
    assert ThisMachine().read_memory() > 0
    assert next(pieces).ctypes.data == addresses[2]  # one was read meanwhile
