"""A table of blocks: what was disturbed while it was measured."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
from test_slowdown import record

from fbn_deploy.errors import FBNError
from fbn_deploy.latency import meter as meters
from fbn_deploy.latency.blocktable import measured_table
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.inventory import Graph, Inventory
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.network import Network
from fbn_deploy.latency.timing import Timing
from fbn_deploy.progress import Silent
from fbn_deploy.targets import ready_target

GRAPHS = {name: Graph(name, {"x": (1, 4)}) for name in ("calm", "first", "always")}
INVENTORY = Inventory(space={}, num_classes=2, batch=1, blocks={}, probes=(), graphs=GRAPHS)


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
    assert "1 of 3 stayed disturbed" in second.cost_text()


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
