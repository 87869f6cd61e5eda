"""Every row of public tables against the spaces here: parameters, multiply-adds, isomorphism.

    python benchmarks/spaces.py --table nasbench201=T.csv.gz --table nasbench_macro=T.csv.gz \\
        --table nasbench101=T.csv.gz --table darts=T.csv.gz [--built 20] [--out FILE]

Each row's text is parsed into an architecture. What is compared, and by which convention:

* Parameters. The tables count PyTorch's parameters of the bare network: two for each channel of a
  BatchNorm. The project's costs are those of the folded network, where one bias a channel is
  left. So the tables' figure is the folded count plus the channels of all BatchNorms. Both are
  sums over the chosen ops; for ``--built`` sampled rows the network is built whole and its
  parameters are counted one by one.
* Multiply-adds. fvcore counts one FLOP for each input of the global pooling, the tables none;
  NAS-Bench-201 adds the classifier's biases. BatchNorms, activations and additions count nothing
  anywhere.
* Isomorphism. Rows that the table calls the same network must share our canonical form. Where
  ours merges more than the table, the number is shown: NAS-Bench-201's ``iso_rep`` keeps cells
  apart that compute the same (skips not contracted, edges that read or feed nothing).

A table's column is rounded to some significant digits; a difference beyond half a unit of the
last one is a mismatch. NAS-Bench-101's and DARTS' public tables have no counts: each network is
built, and for NAS-Bench-101 the pruned graph of each row must be the one that its raw graph is
pruned to.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.bench.csvfile import read_csv
from fbn_deploy.errors import unknown
from fbn_deploy.files import write_json
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import choices
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet, materialize

Row = Mapping[str, str | None]
CLASSES = 10  # CIFAR-10


@dataclass(frozen=True)
class Layout:
    """Where a table keeps what. ``digits``: significant digits of its counts, None if exact;
    ``extra_flops``: what its multiply-adds have beyond convolutions and the classifier."""

    text: Callable[[Row], str]
    same: Callable[[Row], str]
    params: str | None = None
    flops: str | None = None
    unit: float = 1
    digits: int | None = None
    extra_flops: int = 0


LAYOUTS = {
    "nasbench201": Layout(
        text=lambda row: str(row["arch_str"]),
        same=lambda row: str(row["iso_rep"]),
        params="params_M",
        flops="flops_M",
        unit=1e6,
        digits=7,
        extra_flops=CLASSES,  # the classifier's biases
    ),
    "nasbench_macro": Layout(
        text=lambda row: str(row["arch"]),
        same=lambda row: str(row["canonical"]),
        params="params",
        flops="flops",
    ),
    "nasbench101": Layout(
        text=lambda row: f"{row['adj_upper']} {row['ops']}",
        same=lambda row: f"{row['raw_adj_upper21']} {row['raw_ops5']}",
    ),
    "darts": Layout(text=lambda row: str(row["genotype"]), same=lambda row: str(row["genotype"])),
}


class Counter:
    """Counts of architectures as the tables make them."""

    def __init__(self, supernet: Supernet) -> None:
        self.supernet, self.costs = supernet, cost_table(supernet)
        network = supernet.network
        self.pooled = _pooling_inputs(network, supernet.definition.example())
        self._channels: dict[tuple[str, str], int] = defaultdict(int)
        for choice in choices(network).values():
            for option, op in choice.candidates.items():
                self._channels[choice.decision.name, option] += _norm_channels(op)
        every = sum(self._channels.values())
        self._fixed_channels = _norm_channels(network) - every

    def params(self, architecture: Architecture) -> int:
        """The folded network's parameters, and the one more that each BatchNorm channel has."""
        chosen = sum(self._channels[choice] for choice in architecture.choices)
        return self.costs.params(architecture) + self._fixed_channels + chosen

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds of convolutions and the classifier."""
        return self.costs.flops(architecture) - self.pooled

    def built_params(self, architecture: Architecture) -> int:
        """The parameters of the network, built whole, one by one."""
        found = built(self.supernet, architecture)
        return sum(parameter.numel() for parameter in found.parameters())


def built(supernet: Supernet, architecture: Architecture) -> nn.Module:
    """The bare network of ``architecture``."""
    if supernet.definition.builds_subnets:
        return supernet.definition.subnet(architecture, supernet.num_classes, seed=0)
    return materialize(supernet.network, architecture, fair=False)


def _norm_channels(module: nn.Module) -> int:
    return sum(m.num_features for m in module.modules() if isinstance(m, _BatchNorm))


@torch.no_grad()
def _pooling_inputs(network: nn.Module, example: torch.Tensor) -> int:
    """The number of values that the global pooling reads for one image."""
    seen: list[int] = []
    pools = [m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    hooks = [
        m.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].numel()))
        for m in pools
    ]
    network.eval()(example)
    for hook in hooks:
        hook.remove()
    return sum(seen)


def differs(count: int, text: str, layout: Layout) -> bool:
    """Whether ``count`` is not what the table says, within the rounding of the table."""
    said = float(text) * layout.unit
    if layout.digits is None:
        return count != said
    last = 10.0 ** (len(str(int(said))) - layout.digits)  # one unit of the last digit
    return abs(count - said) > max(last / 2, 0.5) * (1 + 1e-9)


def compare(space: str, path: Path, built_rows: int) -> dict[str, Any]:
    """The numbers of rows and mismatches of one table."""
    if space not in LAYOUTS:
        raise unknown("table layout", space, LAYOUTS)
    layout, table = LAYOUTS[space], read_csv(path)
    own = definition(space)
    # Without added BatchNorms. A space that builds its subnets needs no full-size supernet for it.
    small = replace(own, options={**own.options, "channels": 8}) if own.builds_subnets else own
    supernet = replace(build_supernet(small, CLASSES, bn="conv-only"), definition=own)
    rows = [(row, supernet.space.parse(layout.text(row))) for row in table.rows]
    result: dict[str, Any] = {
        "rows": len(rows),
        "sha256": table.sha256,
        "invalid": sum(not supernet.space.is_valid(a) for _, a in rows),
        "text_not_restored": sum(
            supernet.space.parse(supernet.space.text(a)) != a for _, a in rows
        ),
    }
    if layout.params and layout.flops:
        counter = Counter(supernet)
        result["params_mismatches"] = sum(
            differs(counter.params(a), str(row[layout.params]), layout) for row, a in rows
        )
        result["flops_mismatches"] = sum(
            differs(counter.flops(a) + layout.extra_flops, str(row[layout.flops]), layout)
            for row, a in rows
        )
        sample = random.Random(0).sample(rows, min(built_rows, len(rows)))
        result["built"] = len(sample)
        result["built_mismatches"] = sum(
            counter.built_params(a) != counter.params(a) for _, a in sample
        )
        result["pooling_flops_not_in_table"] = counter.pooled
        result["extra_flops_in_table"] = layout.extra_flops
    else:
        counts = [sum(p.numel() for p in built(supernet, a).parameters()) for _, a in rows]
        result["built"], result["params_range"] = len(counts), [min(counts), max(counts)]
    return result | isomorphism(rows, supernet, layout)


def isomorphism(
    rows: list[tuple[Row, Architecture]], supernet: Supernet, layout: Layout
) -> dict[str, int]:
    """Classes of the table and of our canonical form, and how many of the table's ours splits."""
    space = supernet.space
    ours: dict[str, set[str]] = defaultdict(set)
    theirs: dict[str, set[str]] = defaultdict(set)
    for row, architecture in rows:
        same = layout.same(row)
        if layout.params is None:  # not a class but another text of the same network
            same = space.canonical(space.parse(same))
        ours[space.canonical(architecture)].add(same)
        theirs[same].add(space.canonical(architecture))
    return {
        "classes": len(ours),
        "table_classes": len(theirs),
        "table_classes_split": sum(len(found) > 1 for found in theirs.values()),
        "table_classes_merged": sum(len(found) > 1 for found in ours.values()),
    }


def printed(results: Mapping[str, Mapping[str, Any]], console: Console) -> None:
    columns = {
        "rows": "rows",
        "invalid": "invalid",
        "params_mismatches": "params ≠",
        "flops_mismatches": "multiply-adds ≠",
        "built": "built",
        "built_mismatches": "built ≠",
        "classes": "classes",
        "table_classes": "table's",
        "table_classes_split": "split",
        "table_classes_merged": "merged",
    }
    table = Table(box=None)
    for heading in ("space", *columns.values()):
        table.add_column(heading)
    for space, result in results.items():
        table.add_row(space, *(str(result.get(key, "—")) for key in columns))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="append", required=True, metavar="SPACE=FILE")
    parser.add_argument("--built", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/spaces.json")
    arguments = parser.parse_args()
    results = {}
    for spec in arguments.table:
        space, _, path = spec.partition("=")
        results[space] = compare(space, Path(path), arguments.built)
    write_json(arguments.out, {"schema": 1, "tables": results})
    printed(results, Console(width=130))


if __name__ == "__main__":
    main()
