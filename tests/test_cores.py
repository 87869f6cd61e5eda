"""Cores that are not alike: what is measured on little ones is not taken for big ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fbn_deploy import cores
from fbn_deploy.cores import core_class
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.protocol import QUICK
from fbn_deploy.latency.record import Conditions, conditions_of
from fbn_deploy.targets import ready_target

Machine = Callable[[str, Mapping[int, object], set[int]], None]
CAPACITY, MAX_FREQ = "cpu_capacity", "cpufreq/cpuinfo_max_freq"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this a machine whose cores have the figures ``speeds`` in ``file`` and are ``allowed``
    to the process."""

    def made(file: str, speeds: Mapping[int, object], allowed: set[int]) -> None:
        for core, speed in speeds.items():
            path = tmp_path / f"cpu{core}" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{speed}\n")
        (tmp_path / "cpuidle").mkdir(exist_ok=True)
        cores._speeds.cache_clear()
        monkeypatch.setattr(cores, "_CPUS", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed, raising=False)

    return made


def conditions() -> Conditions:
    target = ready_target("onnxruntime-cpu")
    return conditions_of(
        target, network="n", inputs={}, batch=1, threads=1, precision="fp32", protocol=QUICK,
        settings=target.settings,
    )  # fmt: skip


@pytest.mark.parametrize("file", [CAPACITY, MAX_FREQ])
def test_unequal_cores_are_other_conditions_and_other_arithmetic(
    machine: Machine, file: str
) -> None:
    speeds = {core: 446 if core < 4 else 1024 for core in range(8)}
    seen = {}
    for allowed in ({0}, {7}, {0, 7}):
        machine(file, speeds, allowed)
        seen[conditions().key()] = arithmetic_work()
    assert len(seen) == len(set(seen.values())) == 3
    machine(file, speeds, {1})
    assert conditions().settings["core_class"] == f"{Path(file).name} 446"
    assert conditions().key() in seen


def test_equal_cores_add_nothing_to_the_conditions(machine: Machine) -> None:
    before = conditions().as_json(), arithmetic_work()
    assert "core_class" not in before[0]["settings"]
    machine(MAX_FREQ, {0: 3_000_000, 1: 3_000_000}, {1})
    assert (conditions().as_json(), arithmetic_work()) == before


def test_a_capacity_counts_before_a_frequency(machine: Machine) -> None:
    """One core of a kind may be allowed a higher clock than the others."""
    machine(MAX_FREQ, {0: 5_000_000, 1: 5_100_000}, {0})
    machine(CAPACITY, {0: 1024, 1: 1024}, {0})
    assert core_class() is None


def test_what_the_system_does_not_say_is_passed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(CAPACITY, {0: 446, 1: "?", 2: 1024}, {1})
    assert core_class() is None
    machine(CAPACITY, {}, {1, 2})
    assert core_class() == "cpu_capacity 1024"
    monkeypatch.delattr(os, "sched_getaffinity")
    assert core_class() is None
