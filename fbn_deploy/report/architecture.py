"""What an architecture's decisions are of: stages of layers, or cells of nodes and edges.

Spaces name their decisions as their literature does, and these names say what they are:

    stage2.1 = mb3_k3           layer 1 of stage 2; layer0, layer1, … are one stage
    2<-0 = nor_conv_3x3         an op on the edge from node 0 to node 2
    0->2 = on, op2 = maxpool    an edge that is there, and the op of node 2
    normal.4a = sep_conv~1      an op on the edge from node 1 to node 4 of the cell ``normal``

Everything else is a stage by itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fbn_deploy.latency.profile import Layer

_INTO = re.compile(r"(?:(.+)[./ ])?(\w+)<-(\w+)")
_FROM = re.compile(r"(?:(.+)[./ ])?(\w+)->(\w+)")
_NODE_OP = re.compile(r"(?:(.+)[./ ])?op(\w+)")
_SLOT = re.compile(r"(?:(.+)\.)?(\d+)[a-z]")
_ON_INPUT = re.compile(r"(.+)~(\d+)")
_LAYER = re.compile(r"(.+?)[._-]?(\d+)")
_NOTHING = frozenset({"none", "zero", "off"})
_PASSING = frozenset({"identity", "skip", "skip_connect", "on"})


@dataclass(frozen=True)
class Edge:
    """The op ``option`` on the way from node ``start`` to node ``end``."""

    start: str
    end: str
    option: str
    decision: str


@dataclass(frozen=True)
class Cell:
    """Nodes in their order, what they do (where that is a decision), and edges."""

    name: str
    nodes: tuple[str, ...]
    ops: Mapping[str, str]
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Stage:
    """Layers one behind the other: (decision, option)."""

    name: str
    layers: tuple[tuple[str, str], ...]


def kind_of(option: str) -> str:
    """``nothing``, ``passing`` (the input as it is) or ``op``."""
    if option in _NOTHING:
        return "nothing"
    return "passing" if option in _PASSING else "op"


def laid_out(choices: Mapping[str, str], order: Iterable[str] = ()) -> list[Cell | Stage]:
    """The cells and stages of an architecture, its decisions in ``order`` where that names them."""
    ranked = {name: number for number, name in enumerate(order)}
    names = sorted(choices, key=lambda name: (ranked.get(name, len(ranked)), natural(name)))
    edges: dict[str, list[Edge]] = {}
    rest: list[str] = []
    for name in names:
        if found := _edge(name, choices[name]):
            edges.setdefault(found[0], []).append(found[1])
        else:
            rest.append(name)
    ops: dict[str, dict[str, str]] = {}
    layers: dict[str, list[tuple[str, str]]] = {}
    for name in rest:
        node = _NODE_OP.fullmatch(name)
        if node and (node[1] or "") in edges:
            ops.setdefault(node[1] or "", {})[node[2]] = choices[name]
        else:
            layer = _LAYER.fullmatch(name)
            layers.setdefault(layer[1] if layer else name, []).append((name, choices[name]))
    cells = [_cell(name, ops.get(name, {}), found) for name, found in edges.items()]
    return [*cells, *(Stage(name, tuple(found)) for name, found in layers.items())]


def _edge(decision: str, option: str) -> tuple[str, Edge] | None:
    """(cell, edge), where the decision is one."""
    if into := _INTO.fullmatch(decision):
        return into[1] or "", Edge(into[3], into[2], option, decision)
    if way := _FROM.fullmatch(decision):
        return way[1] or "", Edge(way[2], way[3], option, decision)
    slot, read = _SLOT.fullmatch(decision), _ON_INPUT.fullmatch(option)
    if slot and read:
        return slot[1] or "", Edge(read[2], slot[2], read[1], decision)
    return None


def _cell(name: str, ops: Mapping[str, str], edges: Sequence[Edge]) -> Cell:
    """With the nodes that an edge reaches; an edge that is off is left out."""
    drawn = tuple(edge for edge in edges if edge.option != "off")
    nodes = {node for edge in drawn for node in (edge.start, edge.end)}
    return Cell(name, tuple(sorted(nodes, key=natural)), ops, drawn)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``stage2`` before ``stage10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def shares(layers: Iterable[Layer], choices: Mapping[str, str]) -> dict[str, float]:
    """Decision → its part of the layers' time, as far as layers' names say whose they are.

    A layer is named by the path of its module, ``stage1_0.mb6_k3.depthwise.conv/Conv``; it is of
    the decision whose name (with underscores for dots, or only its last part) stands before the
    option in it. Where two decisions could be meant, it is counted for neither.
    """
    found: dict[str, float] = {}
    for layer in layers:
        for name in (layer.name, *layer.nodes):
            if owner := _owner(name.partition("/")[0].split("."), choices):
                found[owner] = found.get(owner, 0.0) + layer.share
                break
    return found


def _owner(path: Sequence[str], choices: Mapping[str, str]) -> str | None:
    steps = set(itertools.pairwise(path))
    exact = [d for d, option in choices.items() if (d.replace(".", "_"), option) in steps]
    if len(exact) == 1:
        return exact[0]
    loose = [d for d, option in choices.items() if (d.rpartition(".")[2], option) in steps]
    return loose[0] if len(loose) == 1 and not exact else None
