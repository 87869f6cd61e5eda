"""How well latencies are predicted from blocks, on networks that the fit did not see.

    python benchmarks/latency.py [--out benchmarks/results/latency.json] [--quick]
                                 [--spaces nasbench201 …] [--bundles DIR]

For each space (``mobilenet`` at 32 and at 160 pixels, ``nasbench201``) and each ready CPU target:
the blocks and 60 whole networks are measured and a predictor fitted, as ``fbn search`` does it,
and 60 other networks, half of them drawn uniformly, half with a leaning (``latency/probes.py``);
they are measured in turns with the first, since the speed of a shared machine drifts by several
percent within minutes, which no predictor can know.
Networks during which somebody else computed on the core to the end (``crowding.py``) do not judge,
and are fitted only where next to all are such; how many judge is stated.
A latency is one of a moment: of what else the machine did meanwhile (``latency/moment.py``).
``predictor`` is what a search knows, the latency of a typical moment; ``at its moment`` is the same
fit, told the moment in which the network was measured: how well networks are told apart.
Stated for the unseen: mean absolute percentage error, Spearman, the share within ±10 %, how many
lie in the 90 % interval and how wide it is; beside them, fitted on the same 60 networks, a line in
multiply-adds, and the plain sum of blocks times the one factor that fits best; and what building
the table took. ``measured again`` is how far the same networks are off, measured once more in the
same way by another process, within a minute: the noise of two measurements, of which a perfect
prediction would meet one (1/√2 of it, where both are equally noisy).

Every measurement goes through the cache (``FBN_CACHE_DIR``), so a run that was killed goes on.
Begin with an empty one: what a search left there was not measured in turns.
How our timing agrees with OpenVINO's benchmark_app is in ``benchmarks/timing.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fbn_deploy.files import write_json
from fbn_deploy.latency.blocktable import LatencyTable, measured_table
from fbn_deploy.latency.bundle import Bundle, read_bundle
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.inventory import Inventory, Probe, probe_name
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.moment import moment_of
from fbn_deploy.latency.network import Network
from fbn_deploy.latency.predictor import spearman
from fbn_deploy.latency.protocol import QUICK
from fbn_deploy.latency.record import LatencyRecord, utc_now
from fbn_deploy.pipeline.bundle import bundle
from fbn_deploy.progress import reporter
from fbn_deploy.supernet.definition import definition
from fbn_deploy.targets import Target, targets

SPACES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "mobilenet 32": ("mobilenet", 32, {}),
    "mobilenet 160": ("mobilenet", 160, {}),
    "nasbench201": ("nasbench201", 32, {}),
}
Measured = tuple[Probe, LatencyRecord]  # a whole network
FITTED, UNSEEN = 60, 60
TURNS = 12
FEW = {"nasbench201": ("nasbench201", 32, {"cells": 1})}, 24, 12


@dataclass(frozen=True)
class Figures:
    """Errors as fractions, over the unseen networks."""

    mape: float
    spearman: float
    within_10: float

    @classmethod
    def of(cls, predicted: np.ndarray, measured: np.ndarray) -> Figures:
        errors = np.abs(predicted / measured - 1.0)
        within = float(np.mean(errors <= 0.1))
        return cls(float(errors.mean()), spearman(predicted, measured), within)


def judged(
    fit: LatencyTable, unseen: LatencyTable, again: Mapping[str, LatencyRecord]
) -> dict[str, Any]:
    """The predictor fitted on one table against the networks of the other, of which ``again`` has
    a second record by network."""
    predictor = fit.predictor()
    known, judges = fit.fitted(), alone(unseen)
    known_ms, measured = latencies_of(known), latencies_of(judges)
    predictions = [predictor(probe.composition) for probe, _ in judges]
    then = [predictor(probe.composition, moment_of(record)) for probe, record in judges]
    sums = np.array([predictor.sum_ms(probe.composition) for probe, _ in known])
    unseen_sums = np.array([predictor.sum_ms(probe.composition) for probe, _ in judges])
    inside = [
        p.low_ms <= value <= p.high_ms for p, value in zip(predictions, measured, strict=True)
    ]
    disturbed = [record.disturbed for record in (*fit.records.values(), *unseen.records.values())]
    value_ms = np.array([prediction.value_ms for prediction in predictions])
    half_ms = np.array([prediction.high_ms - prediction.value_ms for prediction in predictions])
    pairs = [(record, again[record.conditions.network]) for _, record in judges]
    first, second = np.array(
        [(a.value_ms, b.value_ms) for a, b in pairs if not b.timing.crowded_out]
        or [(a.value_ms, b.value_ms) for a, b in pairs]
    ).T
    methods = {
        "predictor": Figures.of(value_ms, measured),
        "predictor at its moment": Figures.of(np.array([p.value_ms for p in then]), measured),
        "line in multiply-adds": Figures.of(
            line(flops_of(known), known_ms)(flops_of(judges)), measured
        ),
        "sum of blocks": Figures.of(unseen_sums, measured),
        "sum × one factor": Figures.of(unseen_sums * np.median(known_ms / sums), measured),
        "measured again": Figures.of(second, first),
    }
    return {
        "range_ms": [float(measured.min()), float(np.median(measured)), float(measured.max())],
        "blocks": len(fit.inventory.blocks),
        "fitted": len(known),
        "unseen": len(measured),
        "again": len(second),
        "methods": {name: dataclasses.asdict(figures) for name, figures in methods.items()},
        "coverage": float(np.mean(inside)),
        "interval": float(np.median(half_ms / value_ms)),
        "left_out": dataclasses.asdict(predictor.quality),
        "table_measurements": fit.measurements,
        "table_seconds": fit.seconds,
        "disturbed": float(np.mean(disturbed)),
        "conditions": next(iter(fit.records.values())).conditions.as_json(),
    }


def alone(table: LatencyTable) -> list[Measured]:
    """The table's whole networks that had the core to themselves; all, where none had."""
    names = [name for name in table.inventory.graphs if name not in table.inventory.blocks]
    records = [table.records[name] for name in names]
    pairs = list(zip(table.inventory.probes, records, strict=True))
    return [pair for pair in pairs if not pair[1].timing.crowded_out] or pairs


def latencies_of(networks: Sequence[Measured]) -> np.ndarray:
    """In milliseconds."""
    return np.array([record.value_ms for _, record in networks])


def flops_of(networks: Sequence[Measured]) -> np.ndarray:
    """Multiply-adds."""
    return np.array([float(probe.flops) for probe, _ in networks])


def line(flops: np.ndarray, measured: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """latency = a + b · multiply-adds with the smallest relative squared error."""
    rows = np.column_stack([np.ones_like(flops), flops]) / measured[:, None]
    (a, b), *_ = np.linalg.lstsq(rows, np.ones_like(measured), rcond=None)
    return lambda values: a + b * values


def halves(inventory: Inventory, fitted: int) -> tuple[Inventory, Inventory]:
    """The blocks with the first networks, and the other networks alone."""
    probes, graphs = inventory.probes, inventory.graphs
    first = [probe_name(number) for number in range(fitted)]
    rest = [probe_name(number) for number in range(fitted, len(probes))]
    return (
        dataclasses.replace(
            inventory,
            probes=probes[:fitted],
            graphs={name: graphs[name] for name in [*inventory.blocks, *first]},
        ),
        dataclasses.replace(
            inventory, probes=probes[fitted:], graphs={name: graphs[name] for name in rest}
        ),
    )


def measured_in_turns(
    read: Bundle, parts: tuple[Inventory, Inventory], target: Target
) -> tuple[LatencyTable, LatencyTable, dict[str, LatencyRecord]]:
    """A table of each part, measured slice by slice in turns: what a machine's speed does over
    minutes belongs to neither side. And of the second part's networks another record each, by
    their hashes."""
    meter = LatencyMeter(target, batch=read.inventory.batch, cache=LatencyCache())
    slices: list[list[LatencyTable]] = [[], []]
    again: dict[str, LatencyRecord] = {}
    for turn in range(TURNS):
        for part, measured in zip(parts, slices, strict=True):
            graphs = dict(list(part.graphs.items())[turn::TURNS])
            some = dataclasses.replace(part, graphs=graphs)
            measured.append(measured_table(some, read.network, meter, reporter()))
        for name, graph in list(parts[1].graphs.items())[turn::TURNS]:
            again[graph.hash] = _elsewhere(meter, read.network(name))
    # Once more over the whole: what an earlier turn took for calm, a later one may tell to be of a
    # crowd.
    for part, tables in zip(parts, slices, strict=True):
        tables.append(measured_table(part, read.network, meter, reporter()))
    for name, graph in parts[1].graphs.items():
        if again[graph.hash].was_crowded(meter.pace):
            again[graph.hash] = _elsewhere(meter, read.network(name))
    fit, unseen = (
        dataclasses.replace(
            tables[-1],
            measurements=sum(table.measurements for table in tables),
            seconds=sum(table.seconds for table in tables),
        )
        for tables in slices
    )
    return fit, unseen, again


def _elsewhere(meter: LatencyMeter, network: Network) -> LatencyRecord:
    """What another process measures, once more where that was disturbed, as in this process."""
    quick = partial(
        meter.confirm_in_fresh_process, network, processes=1, protocol=QUICK.name, renewed=False
    )
    (record,) = quick().records
    if not meter.doubts(record):
        return record
    (other,) = quick(fresh=True).records
    return other if record.gives_way_to(other, meter.pace) else record


def shown(results: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("space, target, method")
    for name in ("MAPE", "Spearman", "within ±10 %", "in interval", "interval ±", "table"):
        table.add_column(name, justify="right")
    for name, found in results.items():
        for method, figures in found["methods"].items():
            ours = method == "predictor"
            table.add_row(
                f"{name}, {method}",
                f"{figures['mape']:.1%}",
                f"{figures['spearman']:.3f}",
                f"{figures['within_10']:.0%}",
                f"{found['coverage']:.0%}" if ours else "",
                f"{found['interval']:.1%}" if ours else "",
                f"{found['table_seconds']:.0f} s" if ours else "",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one small space, a minute or two")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, help="some of the spaces only")
    parser.add_argument("--bundles", type=Path, help="directory that keeps the bundles")
    asked = parser.parse_args()
    spaces, fitted, unseen = FEW if asked.quick else (SPACES, FITTED, UNSEEN)
    if asked.spaces:
        spaces = {name: SPACES[name] for name in asked.spaces}
    ready = [each for each in targets() if each.name.endswith("-cpu") and not each.missing()]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.bundles or Path(temporary)
        for name, (space, resolution, options) in spaces.items():
            path = folder / f"{name.replace(' ', '_')}.fbn"
            if not path.exists():
                chosen = definition(space, resolution, options)
                bundle(chosen, 10, 1, path, reporter(), probes=fitted + unseen)
            read = read_bundle(path)
            parts = halves(read.inventory, fitted)
            for target in ready:
                results[f"{name}, {target.name}"] = judged(*measured_in_turns(read, parts, target))
    Console(width=120).print(shown(results))
    if asked.out:
        write_json(asked.out, {"date": utc_now(), "results": results})
    print(json.dumps({name: found["methods"]["predictor"] for name, found in results.items()}))


if __name__ == "__main__":
    main()
