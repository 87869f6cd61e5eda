"""A promise made in a lucky moment is stretched to a slow day, by numbers that never change."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fbn_deploy.latency import confirm
from fbn_deploy.latency.cache import LatencyCache, default_cache_path, known_pace
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.latency.network import network_from
from fbn_deploy.latency.profile import profile_network
from fbn_deploy.latency.record import Conditions, LatencyRecord, utc_now
from fbn_deploy.latency.slowdown import slow_reference_us, slowdown_of
from fbn_deploy.latency.timing import Timing
from fbn_deploy.targets import ready_target

CONDITIONS = Conditions(
    target="onnxruntime-cpu",
    device="a CPU",
    precision="fp32",
    batch=1,
    threads=1,
    network="0" * 64,
    inputs={"x": (1, 3, 32, 32)},
    versions={"onnxruntime": "1.2.3"},
    settings={"spinning": "off"},
    power="",
    protocol="confirm(1)",
)


def record(
    value_ms: float = 1.0,
    reference_us: float = 30.0,
    slow_us: float | None = None,
    conditions: Conditions = CONDITIONS,
    arithmetic: str | None = None,
    **timing: float | None,
) -> LatencyRecord:
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(Timing)), value_ms)
    numbers |= {"n": 10, "rounds": 5, "crowded": 0.0, "crowded_out": False, "disturbed": ()}
    numbers |= {"known_kappa": 1.0, "reference_us": reference_us} | timing
    date = "2026-01-01T00:00:00+00:00"
    return LatencyRecord(
        conditions,
        Timing(**numbers),
        date,
        None,
        slow_us,
        arithmetic=arithmetic or arithmetic_work(),
    )


def test_slow_is_the_19th_of_20_reference_times() -> None:
    """⌈0.95 · 20⌉ = 19 and ⌈0.95 · 21⌉ = 20; the order in which they became known is nothing."""
    known_us = [float(us) for us in range(31, 51)]
    assert slow_reference_us(known_us[::-1]) == 49.0
    assert slow_reference_us([*known_us, 30.0]) == 49.0


def test_19_reference_times_are_too_few() -> None:
    assert slow_reference_us([30.0] * 19) is None
    assert slow_reference_us([30.0] * 20) == 30.0


def test_the_slowdown_is_the_ratio_and_never_below_one() -> None:
    assert slowdown_of(record(reference_us=30.0, slow_us=36.0)) == pytest.approx(1.2)
    assert slowdown_of(record(reference_us=40.0, slow_us=36.0)) == 1.0
    assert slowdown_of(record(reference_us=30.0, slow_us=None)) == 1.0


def test_beside_crowds_a_network_may_be_slower_later() -> None:
    """Not in one that did not end: there the median is of the crowd itself."""
    assert slowdown_of(record(crowded=0.1)) == 1.0
    assert slowdown_of(record(crowded=0.11)) == pytest.approx(1.06)
    assert slowdown_of(record(reference_us=30.0, slow_us=36.0, crowded=0.5)) == pytest.approx(1.272)
    assert slowdown_of(record(crowded=1.0, crowded_out=True)) == 1.0


def test_a_confirmation_in_a_fast_moment_is_stretched() -> None:
    """1.0 ms at 30 µs where slow is 36 µs: 1.0 · 36 / 30 = 1.2, over its worst round of 1.05."""
    fast = record(1.0, 30.0, 36.0, worst_round_ms=1.05)
    slow = record(1.1, 36.0, 36.0, worst_round_ms=1.15)
    confirmation = Confirmation((fast, slow))
    assert confirmation.value_ms == 1.1
    assert confirmation.slowdown == pytest.approx(1.2)
    assert confirmation.upper_ms == pytest.approx(1.2)
    assert not confirmation.meets(1.19)
    assert confirmation.as_json()["slowdown"] == pytest.approx(1.2)


def test_a_confirmation_in_a_slow_moment_keeps_its_worst_round() -> None:
    """1.0 · 36 / 35 = 1.029 is less than the worst round of 1.05."""
    assert Confirmation((record(1.0, 35.0, 36.0, worst_round_ms=1.05),)).upper_ms == 1.05


def test_the_worst_round_of_a_crowd_does_not_count() -> None:
    crowd = {"crowded_out": True, "worst_round_ms": 1.4, "high_ms": 1.1}
    assert Confirmation((record(1.0, 30.0, 36.0, **crowd),)).upper_ms == pytest.approx(1.2)
    assert Confirmation((record(1.0, 35.0, 36.0, **crowd),)).upper_ms == 1.1


def test_without_known_reference_times_the_worst_round_counts() -> None:
    assert Confirmation((record(1.0, 30.0, None, worst_round_ms=1.05),)).upper_ms == 1.05


@pytest.mark.parametrize("name", ["target", "device", "power"])
def test_reference_times_of_other_machines_are_not_known_here(tmp_path: Path, name: str) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    other = dataclasses.replace(CONDITIONS, **{name: "another"})
    network = dataclasses.replace(CONDITIONS, network="1" * 64, protocol="quick(1)", process=2)
    cache.put(record(reference_us=31.0))
    cache.put(record(reference_us=32.0, conditions=network))
    cache.put(record(reference_us=99.0, conditions=other))
    assert sorted(cache.references_us(CONDITIONS)) == [31.0, 32.0]
    assert cache.references_us(other) == [99.0]


def test_a_record_keeps_the_slow_reference_and_an_older_one_has_none() -> None:
    kept = record(slow_us=36.0)
    assert LatencyRecord.from_json(kept.as_json()) == kept
    older = kept.as_json()
    older.pop("slow_reference_us")
    assert LatencyRecord.from_json(older) == dataclasses.replace(kept, slow_reference_us=None)


def test_what_becomes_known_later_does_not_change_a_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 records at 36 µs are known when a network is confirmed at 30 µs: 1.2. Then the machine
    is seen at 45 µs for a few minutes, and the same confirmation is still the same."""
    monkeypatch.setattr(
        confirm,
        "record_from_fresh_process",
        lambda source, conditions, *_: dataclasses.replace(
            record(conditions=conditions), date=utc_now()
        ),
    )
    cache = LatencyCache(tmp_path / "latency.sqlite")
    target = ready_target("onnxruntime-cpu")
    here = dataclasses.replace(
        CONDITIONS, device=target.device(), power=target.power_state(), settings=target.settings
    )

    def watch(reference_us: float) -> None:
        for number in range(20):
            network = f"{reference_us}-{number}"
            seen = dataclasses.replace(here, network=network)
            cache.put(record(reference_us=reference_us, conditions=seen))

    def confirmed() -> Confirmation:
        meter = LatencyMeter(target, cache=cache)
        return meter.confirm_in_fresh_process(relu(), processes=1)

    watch(36.0)
    first = confirmed()
    assert first.slowdown == pytest.approx(1.2)
    assert network_from(relu()).hash == first.records[0].conditions.network
    watch(45.0)
    assert confirmed() == first
    assert LatencyMeter(target).confirm_in_fresh_process(relu(), processes=1).slowdown == 1.0


@pytest.mark.parametrize(
    ("today_ms", "worst_ms", "told", "bound_ms", "measured"),
    [
        (1.19, 1.19, "", 1.2, [1.19]),  # it holds, and is not asked again
        (1.19, 1.25, "", 1.25, [1.19]),  # it holds by its median; its own bound counts
        (1.19, 1.25, "disturbed", 1.2, [1.19]),  # that is the disturbance's
        (1.21, 1.21, "", 1.21, [1.21, 1.21, 1.21]),  # the check and two more processes
        (1.21, 1.21, "crowded_out", 1.2, [1.21, 1.21]),  # tells nothing; it is asked again
    ],
)
def test_a_confirmation_of_another_day_is_taken_only_if_a_new_process_confirms_its_bound(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    today_ms: float,
    worst_ms: float,
    told: str,
    bound_ms: float,
    measured: list[float],
) -> None:
    """Three processes once took 1.0 ms and promised 1.2."""
    cache = LatencyCache(tmp_path / "latency.sqlite")
    target = ready_target("onnxruntime-cpu")
    done: list[float] = []

    def measuring(date: str, value_ms: float, **numbers: Any) -> None:
        def measure(source: object, conditions: Conditions, *_: object) -> LatencyRecord:
            done.append(value_ms)
            made = record(value_ms=value_ms, conditions=conditions, **numbers)
            return dataclasses.replace(made, date=date)

        monkeypatch.setattr(confirm, "record_from_fresh_process", measure)

    measuring("2026-01-01T00:00:00+00:00", 1.0, worst_round_ms=1.2)
    LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu())
    done.clear()
    doubts: dict[str, Any] = {"disturbed": ("load",), "crowded_out": True}
    doubt = {told: doubts[told]} if told else {}
    measuring(utc_now(), today_ms, worst_round_ms=worst_ms, **doubt)
    meter = LatencyMeter(target, cache=cache)
    first_ms = 1.2 if told else worst_ms
    assert meter.confirm_in_fresh_process(relu(), processes=1).upper_ms == first_ms
    assert meter.confirm_in_fresh_process(relu()).upper_ms == bound_ms
    assert done == measured


def test_a_disturbed_process_of_another_day_gives_way_to_one_of_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three processes the second was disturbed, and would have refused a budget for good."""
    cache = LatencyCache(tmp_path / "latency.sqlite")
    target = ready_target("onnxruntime-cpu")

    def measure(source: object, conditions: Conditions, *_: object) -> LatencyRecord:
        disturbed = conditions.process == 2
        made = record(conditions=conditions, worst_round_ms=1.4 if disturbed else 1.1)
        timing = dataclasses.replace(made.timing, disturbed=("load",) * disturbed)
        return dataclasses.replace(made, timing=timing)

    monkeypatch.setattr(confirm, "record_from_fresh_process", measure)
    assert LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu()).upper_ms == 1.4
    again = LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu())
    assert again.upper_ms == 1.1
    assert not again.disturbed


def test_a_confirmation_of_the_last_minutes_is_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    target = ready_target("onnxruntime-cpu")
    monkeypatch.setattr(
        confirm,
        "record_from_fresh_process",
        lambda source, conditions, *_: dataclasses.replace(
            record(conditions=conditions), date=utc_now()
        ),
    )
    LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu())
    meter = LatencyMeter(target, cache=cache)
    meter.confirm_in_fresh_process(relu())
    assert (meter.num_measured, meter.num_from_cache) == (0, 3)


def test_behind_a_process_in_a_crowd_others_do_not_wait_for_it_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience: list[bool] = []

    def measure(
        source: object, conditions: Conditions, protocol: str, pace: object, patient: bool
    ) -> LatencyRecord:
        patience.append(patient)
        return record(conditions=conditions, crowded_out=len(patience) == 2)

    monkeypatch.setattr(confirm, "record_from_fresh_process", measure)
    LatencyMeter(ready_target("onnxruntime-cpu")).confirm_in_fresh_process(relu(), processes=4)
    assert patience == [True, True, False, False]


def test_a_process_in_a_crowd_that_the_next_one_tells_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.5 ms in a crowd, as stored by an earlier search as well, and 1 ms without it."""
    calm: list[bool] = []
    crowded = {"value_ms": 1.5, "best_arithmetic_us": 90.0, "known_kappa": 2.25}
    own = {"value_ms": 1.0, "best_arithmetic_us": 60.0, "known_kappa": 1.5}

    def measure(source: object, conditions: Conditions, *_: object) -> LatencyRecord:
        now = own if calm else crowded
        calm.append(True)
        made = record(conditions=conditions, best_reference_us=40.0, **now)
        return dataclasses.replace(made, date=utc_now())

    monkeypatch.setattr(confirm, "record_from_fresh_process", measure)
    target = ready_target("onnxruntime-cpu")
    cache = LatencyCache(tmp_path / "latency.sqlite")
    assert LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu()).value_ms == 1.0
    assert len(calm) == 4
    assert [each.value_ms for each in cache.records()] == [1.0, 1.0, 1.0]
    calm.clear()
    cache = LatencyCache(tmp_path / "another.sqlite")
    first = LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu(), processes=1)
    assert first.value_ms == 1.5
    meter = LatencyMeter(target, cache=cache)
    meter.pace = Pace(60.0, 40.0)
    assert meter.confirm_in_fresh_process(relu()).value_ms == 1.0
    assert meter.num_measured == 3


def test_a_confirmation_does_not_mind_where_the_user_stands_nor_what_libraries_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "statistics.py").write_text("print('mine')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONEDNN_VERBOSE", "1")
    meter = LatencyMeter(ready_target("onnxruntime-cpu"))
    assert meter.confirm_in_fresh_process(relu(), processes=1, protocol="quick").value_ms > 0


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks /proc for processes")
def test_a_confirmation_ends_when_whoever_asked_is_killed() -> None:
    program = (
        "from test_slowdown import relu\n"
        "from fbn_deploy.latency.meter import LatencyMeter\n"
        "from fbn_deploy.targets import ready_target\n"
        "LatencyMeter(ready_target('onnxruntime-cpu')).confirm_in_fresh_process(relu())\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent)
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    try:
        while not (found := children.read_text().split()):
            assert asking.poll() is None
            time.sleep(0.05)
    finally:
        asking.kill()
        asking.wait()
    deadline = time.monotonic() + 60
    while _is_running(found[0]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(found[0])


def _is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def relu() -> bytes:
    """The smallest network."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def test_the_cache_knows_the_best_pace_of_a_device(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    assert cache.best_pace(CONDITIONS.device) is None
    for number, (a, rho) in enumerate(((90.0, 41.0), (60.0, 50.0), (59.0, 66.0), (None, None))):
        seen = dataclasses.replace(CONDITIONS, network=str(number))
        cache.put(record(conditions=seen, best_arithmetic_us=a, best_reference_us=rho))
    assert cache.best_pace(CONDITIONS.device) == Pace(60.0, 50.0), "Of one moment."
    assert cache.best_pace("another device") is None


def test_the_speeds_of_other_ones_of_unequal_cores_are_passed_over(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    little = {**CONDITIONS.settings, "core_class": "cpu_capacity 446"}
    slow = dataclasses.replace(CONDITIONS, settings=little)
    cache.put(record(reference_us=55.0, conditions=slow))
    cache.put(record(reference_us=30.0))
    assert cache.references_us(CONDITIONS) == [30.0]
    assert cache.references_us(slow) == [55.0]


def test_reference_times_of_other_work_are_passed_over(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    cache.put(record(reference_us=30.0, arithmetic="other work"))
    assert cache.references_us(CONDITIONS) == []


def test_reference_times_of_a_crowd_are_no_slow_clock(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    crowded = dataclasses.replace(CONDITIONS, network="crowded")
    cache.put(record(reference_us=36.0, crowded_out=True, conditions=crowded))
    cache.put(record(reference_us=30.0))
    assert cache.references_us(CONDITIONS) == [30.0]


def test_the_pace_of_other_work_is_passed_over(tmp_path: Path) -> None:
    """Another numpy multiplies faster: beside its time every round would look crowded."""
    cache = LatencyCache(tmp_path / "latency.sqlite")
    cache.put(record(best_arithmetic_us=20.0, best_reference_us=41.0, arithmetic="other work"))
    assert cache.best_pace(CONDITIONS.device) is None
    seen = dataclasses.replace(CONDITIONS, network="another")
    cache.put(record(conditions=seen, best_arithmetic_us=60.0, best_reference_us=41.0))
    assert cache.best_pace(CONDITIONS.device) == Pace(60.0, 41.0)


def test_what_is_measured_without_a_cache_knows_the_pace_of_the_shared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path))
    assert known_pace(CONDITIONS.device) is None
    assert list(tmp_path.iterdir()) == []
    LatencyCache().put(record(best_arithmetic_us=60.0, best_reference_us=41.0))
    assert known_pace(CONDITIONS.device) == Pace(60.0, 41.0)
    default_cache_path().write_bytes(b"no database")
    assert known_pace(CONDITIONS.device) is None


def test_a_profile_is_told_the_pace_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core that is crowded throughout looks like a slow one to whoever does not know better."""
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path))
    target = ready_target("onnxruntime-cpu")
    here = dataclasses.replace(CONDITIONS, device=target.device())
    LatencyCache().put(record(conditions=here, best_arithmetic_us=1e-3, best_reference_us=1e3))
    profile = profile_network(relu(), target, protocol="quick")
    assert profile.record.timing.crowded == 1.0
    assert profile.record.disturbed


def test_a_device_with_a_clock_of_its_own_is_not_stretched_by_the_processors_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        confirm,
        "record_from_fresh_process",
        lambda source, conditions, *_: record(conditions=conditions, best_arithmetic_us=None),
    )
    cache = LatencyCache(tmp_path / "latency.sqlite")
    target = ready_target("onnxruntime-cpu")
    here = dataclasses.replace(
        CONDITIONS, device=target.device(), power=target.power_state(), settings=target.settings
    )
    for number in range(20):
        seen = dataclasses.replace(here, network=str(number))
        cache.put(record(reference_us=36.0, conditions=seen))
    confirmation = LatencyMeter(target, cache=cache).confirm_in_fresh_process(relu(), processes=1)
    assert confirmation.slowdown == 1.0
