"""What a network consists of, as far as its latency goes: blocks, and the seams between ops.

Blocks are measured alone, but a runtime fuses across their borders: a sum into the convolution that
feeds it, a ReLU into what comes before; it computes once what two blocks ask of the same tensor,
and where a tensor goes from one layout to another it is rewritten. All of that depends on which op
hands a tensor to which, and moves as many bytes as the tensor has. So a network's seams are, for
each pair of such ops, the bytes that pass from one to the other; and for each op the bytes of
results that an earlier node has computed already.

In a chain of layers seams say no more than the blocks do, and a space of such is fitted without
them (``pipeline/parts.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fbn_deploy.latency.blocks import BYTES, Cut, elements, live_values, repeated

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Composition:
    """Of one network."""

    blocks: Mapping[str, int]
    """Block key → how often the network has it."""
    seams: Mapping[str, float] = field(default_factory=dict)
    """``Conv>Add`` → what passes from one to the other, ``Relu again`` → what is computed again,
    in 10⁶ bytes."""


def blocks_of(cuts: Iterable[Cut]) -> dict[str, int]:
    """Block key → how often it stands among ``cuts``."""
    return dict(Counter(cut.block.key for cut in cuts))


def seams_of(deployed: ir.Model) -> dict[str, float]:
    """The seams of a network's graph, which has shapes."""
    live = live_values(deployed)
    nodes = [node for node in deployed.graph if not live.isdisjoint(node.outputs)]
    again, same = repeated(nodes)
    producers = {id(value): node for node in nodes for value in node.outputs}
    written: Counter[str] = Counter()
    for node in nodes:
        if id(node) in again:
            written[f"{_op(node)} again"] += sum(map(elements, node.outputs))
            continue
        for value in node.inputs:
            producer = producers.get(same.get(id(value), id(value)))
            if value is not None and producer is not None:
                written[f"{_op(producer)}>{_op(node)}"] += elements(value)
    return {name: count * BYTES / 1e6 for name, count in sorted(written.items())}


def _op(node: ir.Node) -> str:
    group = node.attributes.get("group")
    grouped = node.op_type == "Conv" and group is not None and group.as_int() > 1
    return "GroupedConv" if grouped else node.op_type
