"""A table of blocks: what was disturbed while it was measured."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_predictor import BLOCKS, TIMES, measured, true_ms
from test_slowdown import record
from test_timing_crowds import CrowdedMachine

from fbn_deploy.errors import FBNError
from fbn_deploy.latency import meter as meters
from fbn_deploy.latency.blocktable import LatencyTable, measured_table
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.composition import Composition
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.inventory import Graph, Inventory, Probe, probe_name
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.network import Network
from fbn_deploy.latency.timing import Timing, time_runs
from fbn_deploy.progress import Silent
from fbn_deploy.targets import ready_target

GRAPHS = {name: Graph(name, {"x": (1, 4)}) for name in ("calm", "first", "always")}
INVENTORY = Inventory(space={}, num_classes=2, batch=1, blocks={}, probes=(), graphs=GRAPHS)
EIGHT = dataclasses.replace(
    INVENTORY, graphs={name: Graph(name, {"x": (1, 4)}) for name in "abcdefgh"}
)


@pytest.fixture
def meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatencyMeter:
    """Finds ``first`` disturbed the first time and ``always`` every time; a millisecond more each
    time."""
    cache = LatencyCache(tmp_path / "latency.sqlite")
    seen: list[str] = []

    def measured(self: LatencyMeter, network: Network, conditions: Any, protocol: Any) -> Any:
        seen.append(network.hash)
        count = seen.count(network.hash)
        disturbed = network.hash == "always" or (network.hash == "first" and count == 1)
        made = record(value_ms=float(count), conditions=conditions)
        why = ("noise",) if disturbed else ()
        timing: Timing = dataclasses.replace(made.timing, disturbed=why)
        self.num_measured += 1
        return dataclasses.replace(made, timing=timing)

    monkeypatch.setattr(meters.LatencyMeter, "_measured", measured)
    return LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)


def network_of(name: str) -> Network:
    return Network(b"", name, {"x": (1, 4)})


def test_what_was_disturbed_is_measured_once_more(meter: LatencyMeter) -> None:
    table = measured_table(INVENTORY, network_of, meter, Silent())
    values = {name: each.value_ms for name, each in table.records.items()}
    assert values == {"calm": 1.0, "first": 2.0, "always": 1.0}
    assert table.measurements == 5
    assert [table.records[name].disturbed for name in GRAPHS] == [False, False, True]


def test_a_second_table_takes_from_the_cache_what_was_not_disturbed(meter: LatencyMeter) -> None:
    first = measured_table(INVENTORY, network_of, meter, Silent())
    second = measured_table(INVENTORY, network_of, meter, Silent())
    assert second.records == first.records
    assert second.measurements == 1, "Only 'always' is tried again."
    assert "1 measurements now in" in second.cost_text()
    assert "1 of 3 stayed disturbed, and the same command" in second.cost_text()
    assert "1 measurements in" in second.cost_text(now=False)
    assert "1 of 3 stayed disturbed, and fbn measure" in second.cost_text(now=False)


def test_what_a_killed_table_left_disturbed_is_measured_again(meter: LatencyMeter) -> None:
    assert meter.measure(network_of("first")).disturbed
    table = measured_table(INVENTORY, network_of, meter, Silent())
    assert not table.records["first"].disturbed


def test_conditions_that_change_meanwhile_are_refused(
    meter: LatencyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = itertools.chain(["powersave"] * 2, itertools.repeat("performance"))
    monkeypatch.setattr(type(meter.target), "power_state", lambda self: next(states))
    with pytest.raises(FBNError, match="changed while blocks were measured"):
        measured_table(INVENTORY, network_of, meter, Silent())


def test_a_graph_with_two_names_has_one_record(meter: LatencyMeter) -> None:
    graphs = {"one": Graph("first", {"x": (1, 4)}), "other": Graph("first", {"x": (1, 4)})}
    inventory = dataclasses.replace(INVENTORY, graphs=graphs)
    table = measured_table(inventory, lambda name: network_of("first"), meter, Silent())
    assert table.records["one"] == table.records["other"]
    assert not table.records["other"].disturbed


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[CrowdedMachine], Any]:
    """Meters of one cache for which every graph takes 1 ms on the given machine, 1.5 in a crowd."""
    cache = LatencyCache(tmp_path / "latency.sqlite")

    def meter_on(machine: CrowdedMachine) -> LatencyMeter:
        def measured(self: LatencyMeter, network: Network, conditions: Any, protocol: Any) -> Any:
            timing = time_runs(machine.enqueue, protocol, machine, pace=self.pace)
            self._count(time.perf_counter(), timing)
            return dataclasses.replace(record(conditions=conditions), timing=timing)

        monkeypatch.setattr(meters.LatencyMeter, "_measured", measured)
        return LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)

    return meter_on


def values_ms(table: LatencyTable) -> list[float]:
    return [round(each.value_ms, 3) for each in table.records.values()]


def test_what_was_measured_in_a_crowd_is_measured_again_once_a_calmer_core_is_known(
    timed: Callable[[CrowdedMachine], LatencyMeter],
) -> None:
    """Each takes a third of a second; the crowd ends with the third graph."""
    machine = CrowdedMachine(lambda now_s: now_s < 1.0)
    table = measured_table(EIGHT, network_of, timed(machine), Silent())
    assert values_ms(table) == [1.0] * 8
    assert 8 < table.measurements <= 12
    second = measured_table(EIGHT, network_of, timed(machine), Silent())
    assert (second.measurements, second.records) == (0, table.records)


def test_a_crowd_that_ends_after_the_last_graph_is_told_by_those_that_were_disturbed(
    timed: Callable[[CrowdedMachine], LatencyMeter],
) -> None:
    """Only the first graph says that it was disturbed: tasks waited for a core."""
    machine = CrowdedMachine(lambda now_s: now_s < 3.0)
    meter = timed(machine)
    machine.pressed = True
    meter.measure(network_of("a"))
    machine.pressed = False
    for name in "bcdefgh":
        meter.measure(network_of(name))
    machine.time_s = 3.0
    table = measured_table(EIGHT, network_of, meter, Silent())
    assert values_ms(table) == [1.0] * 8
    assert table.measurements == 8


def test_a_crowd_that_goes_on_is_told_by_every_record_after_one_more_measurement(
    timed: Callable[[CrowdedMachine], LatencyMeter],
) -> None:
    """Between the seventh graph and the last one it is calm."""
    calm: list[bool] = []
    machine = CrowdedMachine(lambda now_s: not calm)
    meter = timed(machine)
    for name in "abcdefg":
        meter.measure(network_of(name))
    calm.append(True)
    meter.measure(network_of("h"))
    calm.clear()
    table = measured_table(EIGHT, network_of, meter, Silent())
    assert [each.disturbed for each in table.records.values()] == [True] * 7 + [False]
    assert "7 of 8 stayed disturbed" in table.cost_text()
    assert measured_table(EIGHT, network_of, timed(machine), Silent()).measurements == 4
    machine.crowded = lambda now_s: False
    assert values_ms(measured_table(EIGHT, network_of, timed(machine), Silent())) == [1.0] * 8


def test_a_cached_latency_of_a_crowd_is_not_taken_once_a_calmer_core_is_known(
    timed: Callable[[CrowdedMachine], LatencyMeter],
) -> None:
    machine = CrowdedMachine(lambda now_s: now_s < 0.5)
    assert timed(machine).measure(network_of("a")).value_ms == pytest.approx(1.5)
    machine.time_s = 0.5
    timed(machine).measure(network_of("b"))
    for times in (1, 0):
        meter = timed(machine)
        assert meter.measure(network_of("a")).value_ms == pytest.approx(1.0)
        assert meter.num_measured == times


@pytest.mark.parametrize(
    ("networks", "crowded", "fitted"),
    [(40, 19, 21), (40, 30, 10), (40, 31, 40), (12, 2, 10), (12, 3, 12)],
)
def test_networks_in_a_crowd_do_not_say_how_blocks_add_up(
    networks: int, crowded: int, fitted: int
) -> None:
    """As long as ten had the core to themselves."""
    inventory = dataclasses.replace(
        INVENTORY, probes=tuple(Probe(str(n), 1, Composition({})) for n in range(networks))
    )
    records = {
        probe_name(n): record(value_ms=1.0 + n, crowded_out=n < crowded) for n in range(networks)
    }
    table = LatencyTable(inventory, records, networks, 1.0)
    used = [float(probe.text) for probe, _ in table.fitted()]
    assert used == list(range(networks))[-fitted:]
    assert [each.value_ms for _, each in table.fitted()] == [1.0 + n for n in used]


QUIET = {"reference_us": 7.7, "memory_us": 270.0}


def table_of(blocks_in_a_crowd: int, networks_in_a_crowd: int) -> LatencyTable:
    """40 networks of ``test_predictor.py``; a crowd makes everything take 1.6 times as long."""
    networks = measured(40, noise=0.002)
    probes = tuple(Probe(str(n), 1, counts) for n, (counts, _) in enumerate(networks))
    times = TIMES | {probe_name(n): value for n, (_, value) in enumerate(networks)}
    crowded = {*sorted(BLOCKS)[:blocks_in_a_crowd], *map(probe_name, range(networks_in_a_crowd))}
    records = {
        name: record(value_ms=value * 1.6, crowded_out=True, **QUIET | {"crowded": 0.9})
        if name in crowded
        else record(value_ms=value, crowded_out=False, **QUIET)
        for name, value in times.items()
    }
    inventory = dataclasses.replace(INVENTORY, blocks=BLOCKS, probes=probes)
    return LatencyTable(inventory, records, len(records), 1.0)


def worst_error(table: LatencyTable, times: float = 1.0) -> float:
    predictor = table.predictor()
    unseen = [counts for counts, _ in measured(60, noise=0.0, seed=1)]
    return max(abs(predictor(each).value_ms / (times * true_ms(each)) - 1.0) for each in unseen)


def test_blocks_in_a_crowd_count_what_they_take_without_one() -> None:
    assert worst_error(table_of(0, 0)) < 0.02
    for networks_in_a_crowd in (0, 12, 25):
        table = table_of(4, networks_in_a_crowd)
        assert worst_error(table) < 0.02
        assert table.predictor().sum_ms(Composition(dict.fromkeys(BLOCKS, 1))) == pytest.approx(
            sum(TIMES.values()), rel=0.05
        )


def test_where_everything_is_in_a_crowd_blocks_count_as_they_were_measured() -> None:
    table = table_of(len(BLOCKS), 40)
    assert worst_error(table, times=1.6) < 0.02
    assert table.predictor().sum_ms(Composition(dict.fromkeys(BLOCKS, 1))) == pytest.approx(
        1.6 * sum(TIMES.values())
    )


def test_who_used_the_memory_while_networks_were_measured_is_not_taken_for_theirs() -> None:
    table = table_of(0, 0)
    records, rng = dict(table.records), np.random.default_rng(0)
    for number in range(40):
        made = records[probe_name(number)]
        slow = float(rng.choice([1.0, 1.0, 1.2]))
        timing = dataclasses.replace(
            made.timing, value_ms=made.value_ms * slow, memory_us=270.0 * slow
        )
        records[probe_name(number)] = dataclasses.replace(made, timing=timing)
    assert worst_error(dataclasses.replace(table, records=records)) < 0.02


def test_a_measurement_that_knew_the_calmer_core_is_not_called_one_of_a_crowd() -> None:
    """Its own best moment may be crowded: what it was judged by counts."""
    best = Pace(60.0, 40.0)
    mixed = record(best_arithmetic_us=70.0, best_reference_us=40.0, known_kappa=1.5)
    assert not mixed.was_crowded(best)
    crowded = record(best_arithmetic_us=90.0, best_reference_us=40.0, known_kappa=2.25)
    assert crowded.was_crowded(best)
    assert not crowded.was_crowded(None)
    assert not dataclasses.replace(crowded, arithmetic="other work").was_crowded(best)
