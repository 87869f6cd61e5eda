"""A table of measured blocks and probes of one space on one target: the predictor's data.

``measured_table`` fills it, one graph after the other, through a meter and its cache: killed and
started again it goes on where it was. A table may be written to a file and read elsewhere; what
was altered, comes from another space or lacks something is refused with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy import files
from fbn_deploy.errors import FBNError
from fbn_deploy.latency.inventory import Inventory, Probe, digest, probe_name
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.moment import moment_of
from fbn_deploy.latency.network import Network
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.progress import Reporter

if TYPE_CHECKING:
    from fbn_deploy.latency.predictor import Predictor

SCHEMA = 1
KIND = "fbn latency table"
_VAIN = 4  # measurements disturbed again, one after the other: the disturbance goes on
# What is left of the time of a block that was measured in a crowd: from all of it to a step beyond
# what a network leaves there (it takes 1.6 times as long, ``crowding.py``).
_LESS = (1.0, 1 / 1.2, 1 / 1.4, 1 / 1.6, 1 / 1.8)


@dataclass(frozen=True)
class LatencyTable:
    """``records``: graph name (block key or ``probe-007``) → its latency, all of one target."""

    inventory: Inventory
    records: Mapping[str, LatencyRecord]
    measurements: int
    """How many were made for this table, repeated ones included."""
    seconds: float
    """What those took, the opening of models included."""

    @property
    def target(self) -> str:
        return next(iter(self.records.values())).conditions.target

    @property
    def threads(self) -> int:
        return next(iter(self.records.values())).conditions.threads

    def predictor(self) -> Predictor:
        """The predictor fitted on this table, and on the moments (``moment.py``) of whole networks
        that all had the core to themselves.

        Blocks that somebody else crowded to the end take longer than alone. Where the whole
        networks had the core to themselves such blocks count less, by the one of a few factors with
        the smallest error over networks left out. (On a shared Xeon, 17 of 68 blocks of
        ``mobilenet`` at 160 pixels: 3.2 instead of 4.3 % off on networks that the fit did not see.)
        """
        from fbn_deploy.latency.predictor import Predictor

        blocks, networks = self.inventory.blocks, self.fitted()
        crowded = {key for key in blocks if self.records[key].timing.crowded_out}
        alone = not any(record.timing.crowded_out for _, record in networks)
        predictors = [
            Predictor(
                blocks,
                {
                    key: self.records[key].value_ms * (less if key in crowded else 1.0)
                    for key in blocks
                },
                [(probe.composition, record.value_ms) for probe, record in networks],
                [moment_of(record) for _, record in networks] if alone else (),
            )
            for less in (_LESS if crowded and alone else (1.0,))
        ]
        return min(predictors, key=lambda each: each.mape)

    def fitted(self) -> list[tuple[Probe, LatencyRecord]]:
        """The whole networks that say how blocks add up: those that had the core to themselves;
        all, where these are too few to fit anything on.

        One law does not hold for both. (``nasbench201`` on OpenVINO in a crowd: fitted on 29 of 60
        networks, 5.8 % off on unseen ones; on all 60, of which 31 were in the crowd, 33 %.)
        """
        from fbn_deploy.latency.predictor import MIN_PROBES

        probes = self.inventory.probes
        pairs = [(each, self.records[probe_name(n)]) for n, each in enumerate(probes)]
        alone = [pair for pair in pairs if not pair[1].timing.crowded_out]
        return alone if len(alone) >= MIN_PROBES else pairs

    def cost_text(self, *, now: bool = True) -> str:
        """What it holds, how many measurements were made for it, ``now`` or when its file was
        written, and what they took."""
        disturbed = sum(record.disturbed for record in self.records.values())
        stayed = (
            f"; {disturbed} of {len(self.records)} stayed disturbed, and "
            f"{'the same command' if now else 'fbn measure'} on a quieter machine measures them "
            "again"
        )
        return (
            f"{len(self.inventory.blocks)} blocks and {len(self.inventory.probes)} whole networks "
            f"on {self.target}: {self.measurements} measurements {'now ' if now else ''}in "
            f"{self.seconds:.0f} s" + (stayed if disturbed else "")
        )

    def as_json(self) -> dict[str, Any]:
        content = {
            "kind": KIND,
            "schema": SCHEMA,
            "inventory": self.inventory.as_json(),
            "records": {name: each.as_json() for name, each in sorted(self.records.items())},
            "measurements": self.measurements,
            "seconds": round(self.seconds, 3),
        }
        return {**content, "sha256": digest(content)}

    def save(self, path: Path) -> None:
        """Writes the table, whole or not at all."""
        files.write_json(path, self.as_json())

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """What ``save`` wrote. Raises ``FBNError`` when it is anything else, was altered, or
        lacks a block."""
        value = files.read_json(path)
        if not isinstance(value, dict) or value.get("kind") != KIND:
            raise FBNError(f"{path} is no latency table; fbn measure writes one.")
        if value.get("schema") != SCHEMA:
            raise FBNError(
                f"{path} has the schema {value.get('schema')}; this version of fbn_deploy reads "
                f"{SCHEMA}. Measure the bundle again with the same version."
            )
        content = {key: part for key, part in value.items() if key != "sha256"}
        if digest(content) != value.get("sha256"):
            raise FBNError(
                f"{path} was altered after it was measured (its hash does not match). "
                "Measure the bundle again, or copy the file again."
            )
        table = cls(
            inventory=Inventory.from_json(value["inventory"]),
            records={
                name: LatencyRecord.from_json(each) for name, each in value["records"].items()
            },
            measurements=value["measurements"],
            seconds=value["seconds"],
        )
        if wrong := table._wrong():
            raise FBNError(f"{path} is no complete latency table: {wrong}. Measure it again.")
        return table

    def _wrong(self) -> str | None:
        wanted = self.inventory.graphs
        if missing := [name for name in wanted if name not in self.records]:
            return f"{len(missing)} of {len(wanted)} graphs were not measured ({missing[0]}, …)"
        if not self.records:
            return "it is empty"
        for name, record in self.records.items():
            if name not in wanted or wanted[name].hash != record.conditions.network:
                return f"the record {name} is of another graph"
        if len({_shared_conditions(record) for record in self.records.values()}) > 1:
            return "its records were made under different conditions"
        return None


def _shared_conditions(record: LatencyRecord) -> str:
    """The conditions apart from the graph, as text."""
    here = record.conditions
    return json.dumps({**here.as_json(), "network": "", "inputs": {}}, sort_keys=True)


def measured_table(
    inventory: Inventory,
    network_of: Callable[[str], Network],
    meter: LatencyMeter,
    reporter: Reporter,
) -> LatencyTable:
    """Measures every graph of ``inventory`` under the meter's conditions, or finds it in its
    cache. ``network_of`` gives a graph by its name, and is asked only for those that are
    measured. What was disturbed, now or when it was stored, is measured once more at the end, when
    the disturbance may be over, unless it is found to go on; and what was made in a crowd that
    could be told only later, from a calmer core.

    Raises ``FBNError`` when the meter has another batch, or when the device's conditions (its
    power state) changed meanwhile.
    """
    if meter.batch != inventory.batch:
        raise FBNError(
            f"These blocks have a fixed batch of {inventory.batch}; asked: {meter.batch}."
        )
    records: dict[str, LatencyRecord] = {}
    measured, seconds = meter.num_measured, meter.seconds
    graphs = inventory.graphs
    title = f"Measuring blocks on {meter.target.name}"
    with reporter.task(title, len(graphs), "graphs") as task:
        for number, (name, graph) in enumerate(graphs.items(), 1):
            known = meter.known(graph.hash, graph.inputs)
            records[name] = known or meter.measure(network_of(name))
            block = inventory.blocks.get(name)
            task.update(number, block.name if block else name)
    if any(map(meter.doubts, records.values())):
        _settle(records, network_of, meter, reporter)
        # The same graph may have several names, of which one was measured again.
        records = {
            name: meter.known(graph.hash, graph.inputs) or records[name]
            for name, graph in graphs.items()
        }
    if len({_shared_conditions(record) for record in records.values()}) > 1:
        raise FBNError(
            f"The conditions of {meter.target.name} (its power state, say) changed while blocks "
            "were measured. Run the same command again: it measures what is missing under those "
            "that hold then."
        )
    made = meter.num_measured - measured
    return LatencyTable(inventory, records, made, meter.seconds - seconds)


def _settle(
    records: dict[str, LatencyRecord],
    network_of: Callable[[str], Network],
    meter: LatencyMeter,
    reporter: Reporter,
) -> None:
    """Measures what is doubtful in ``records`` again, once, be it so only by what that shows.

    Where disturbances go on, those that say so are left; a crowd that is not told by its record is
    told by the next one, so that a crowd that stays costs each graph one measurement.
    """
    title = f"Measuring blocks on {meter.target.name} again that were disturbed"
    tried: set[str] = set()
    vain = 0
    while names := [n for n, each in records.items() if n not in tried and meter.doubts(each)]:
        tried.update(names)
        with reporter.task(title, len(names), "graphs") as task:
            for number, name in enumerate(names, 1):
                if vain < _VAIN or records[name].was_crowded(meter.pace):
                    records[name] = meter.settled(network_of(name), records[name])
                    vain = vain + 1 if meter.doubts(records[name]) else 0
                task.update(number, name)
