"""What has to be measured to predict the latencies of a space: its blocks, and whole networks.

An inventory is made where PyTorch is (``pipeline/parts.py``) and measured where the device is
(``blocktable.py``); between the two it travels in a bundle. It knows no graph, only their hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.blocks import Block
from fbn_deploy.latency.composition import Composition

SCHEMA = 2
_READ = (1, SCHEMA)  # 1 has no seams


@dataclass(frozen=True)
class Probe:
    """A whole network: what was chosen, in the space's own notation, and what it consists of."""

    text: str
    flops: int
    composition: Composition

    def as_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "flops": self.flops,
            "counts": dict(self.composition.blocks),
            "seams": dict(self.composition.seams),
        }

    @classmethod
    def from_json(cls, value: Any) -> Probe:
        composition = Composition(value["counts"], value.get("seams", {}))
        return cls(value["text"], value["flops"], composition)


@dataclass(frozen=True)
class Graph:
    """What a latency is cached under: the hash of a graph's structure, its inputs' shapes."""

    hash: str
    inputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Inventory:
    """The blocks and probes of one space at one batch; ``graphs`` has each of them by its name,
    which is a block's key or ``probe-007``."""

    space: Mapping[str, Any]
    """What identifies the space: name, resolution, options, hash of its file."""
    num_classes: int
    batch: int
    blocks: Mapping[str, Block]
    probes: tuple[Probe, ...]
    graphs: Mapping[str, Graph]
    precision: str = "fp32"
    unsigned: bool = False
    """Whether int8 activations are uint8."""
    bn: str = "fair"
    """Which ops of the supernet have BatchNorms: ``fair`` or ``conv-only``."""

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "space": dict(self.space),
            "num_classes": self.num_classes,
            "batch": self.batch,
            "precision": self.precision,
            "unsigned": self.unsigned,
            "bn": self.bn,
            "blocks": [block.as_json() for _, block in sorted(self.blocks.items())],
            "probes": [probe.as_json() for probe in self.probes],
            "graphs": {
                name: {"hash": g.hash, "inputs": {k: list(v) for k, v in g.inputs.items()}}
                for name, g in sorted(self.graphs.items())
            },
        }

    @classmethod
    def from_json(cls, value: Any) -> Inventory:
        """The inverse of ``as_json``. Raises ``FBNError`` for anything else."""
        try:
            if value["schema"] not in _READ:
                raise FBNError(
                    f"An inventory has the schema {value['schema']}; this version of fbn_deploy "
                    f"reads {' and '.join(map(str, _READ))}."
                )
            blocks = [Block.from_json(block) for block in value["blocks"]]
            return cls(
                space=value["space"],
                num_classes=value["num_classes"],
                batch=value["batch"],
                blocks={block.key: block for block in blocks},
                probes=tuple(map(Probe.from_json, value["probes"])),
                graphs={
                    name: Graph(g["hash"], {k: tuple(v) for k, v in g["inputs"].items()})
                    for name, g in value["graphs"].items()
                },
                precision=value.get("precision", "fp32"),  # older ones are
                unsigned=value.get("unsigned", False),
                bn=value.get("bn", "fair"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FBNError(f"This is no inventory of blocks: {error!r} in its JSON.") from error

    def mismatch(
        self, space: Mapping[str, Any], num_classes: int, batch: int, precision: str, bn: str
    ) -> str | None:
        """How this differs from what is asked for, in words; None when it is the same. The hash of
        the space's file does not count: a comment changes it, and blocks tell what else did."""
        asked = {
            **space,
            "classes": num_classes,
            "batch": batch,
            "precision": precision,
            "bn": bn,
        }
        here = {
            **self.space,
            "classes": self.num_classes,
            "batch": self.batch,
            "precision": self.precision,
            "bn": self.bn,
        }
        differing = [
            f"{key} {here.get(key)} there, {asked.get(key)} asked"
            for key in sorted((asked.keys() | here.keys()) - {"sha256"})
            if here.get(key) != asked.get(key)
        ]
        return "; ".join(differing) or None


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, the same however it was formatted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def probe_name(number: int) -> str:
    """The name of the graph of that probe."""
    return f"probe-{number:03}"
