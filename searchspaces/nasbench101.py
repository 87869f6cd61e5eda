"""NAS-Bench-101 (Ying et al. 2019): one cell, a DAG of at most 7 vertices and 9 edges, 3 ops.

Skeleton: a 3×3 stem with C = 128 channels; three stacks of 3 equal cells with C, 2C and 4C
channels; 2×2 max-pooling between the stacks; global average pooling, classifier. In a cell, an
interior vertex applies its op to the sum of what its edges bring; an edge from the cell's input
is a projection (1×1 convolution, BatchNorm, ReLU). The output is the concatenation of its
interior vertices, plus the projected input where that edge exists.

Widths depend on the topology: the k interior vertices that feed the output share its C channels
(the first C mod k of them get one more), any other vertex is as wide as the widest that it
feeds, and what is too wide by one for its reader is cut. No weights can be shared across widths,
so there are two networks. The *supernet* of ``network`` has vertices of full width whose sum is
the output; it ranks. ``subnet`` is the benchmark's exact network; it is counted, measured,
trained and exported.

A vertex that is not on a path from the input to the output has no edges in an architecture; its
op means nothing.
"""

from __future__ import annotations

import hashlib
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import combinations

import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ConvBN, Zero

OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")  # in the benchmark's order
INPUT, OUTPUT = 0, 6
PROXY = {"channels": 32}
INTERIOR = range(1, 6)
EDGES = tuple(combinations(range(7), 2))  # row-major upper triangle
MAX_EDGES = 9
STACKS, CELLS = 3, 3
EXAMPLE = "1001010101 conv3x3-bn-relu,maxpool3x3,conv1x1-bn-relu"

Edge = tuple[int, int]


def network(num_classes: int, resolution: int = 32, channels: int = 128) -> nn.Module:
    """The supernet: the skeleton with open cells, ``channels`` C in the first stack."""
    return _skeleton(num_classes, channels, OpenCell)


def subnet(
    architecture: Architecture, num_classes: int, resolution: int = 32, channels: int = 128
) -> nn.Module:
    """The benchmark's network of ``architecture``. Raises ``FBNError`` for an invalid one."""
    if not is_valid(architecture):
        raise FBNError(
            f"{text(architecture)} is no NAS-Bench-101 cell: its output must depend on its input, "
            f"by at most {MAX_EDGES} edges, all of them on a path from input to output."
        )
    edges, ops = _edges(architecture), _ops(architecture)
    return _skeleton(num_classes, channels, lambda c, width: ExactCell(c, width, edges, ops))


def _skeleton(num_classes: int, channels: int, cell: Callable[[int, int], nn.Module]) -> nn.Module:
    """``cell`` makes a cell from its numbers of input and output channels."""
    if channels < len(INTERIOR):
        raise FBNError(f"nasbench101 takes at least {len(INTERIOR)} channels; asked: {channels}.")
    layers: dict[str, nn.Module] = {"stem": ConvBN(3, channels, 3, act=True, activation=nn.ReLU)}
    width = channels
    for stack in range(STACKS):
        if stack:
            layers[f"downsample{stack}"] = nn.MaxPool2d(2, 2)
        out_width = channels * 2**stack
        for number in range(CELLS):
            layers[f"stack{stack}_cell{number}"] = cell(width, out_width)
            width = out_width
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(width, num_classes)
    return nn.Sequential(OrderedDict(layers))


class OpenCell(nn.Module):
    """A cell of the supernet: all vertices as wide as the output, which is a sum.

    ReLUs stand behind the choices, so that every candidate op ends in its BatchNorm; behind a
    max-pooling, whose input is not negative, a ReLU changes nothing. The decision of edge i → j is
    named ``i->j`` in every cell alike, that of the op of vertex j ``op<j>``.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.edges = nn.ModuleDict()
        for i, j in EDGES:
            on = nn.Identity() if i else ConvBN(in_channels, channels, 1)
            self.edges[f"{i}->{j}"] = Choice(
                f"{i}->{j}", {"on": on, "off": Zero(channels=channels)}
            )
        self.ops = nn.ModuleDict(
            {f"op{j}": Choice(f"op{j}", _candidates(channels)) for j in INTERIOR}
        )
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        live = _live({edge for edge in EDGES if _is_on(self.edges[f"{edge[0]}->{edge[1]}"])})
        values = [x]
        for j in INTERIOR:
            if j in live:
                values.append(self.act(self.ops[f"op{j}"](self._sum(values, j))))
            else:
                # One black pixel: it costs nothing and leaves variances of zero, by which
                # indicators know that a BatchNorm takes no part.
                pixels = [torch.zeros_like(value[:, :, :1, :1]) for value in values]
                self.act(self.ops[f"op{j}"](self._sum(pixels, j)))
                shape = (len(x), self.channels, *x.shape[2:])
                values.append(x.new_zeros(()).expand(shape))
        return self._sum(values, OUTPUT)

    def _sum(self, values: Sequence[torch.Tensor], j: int) -> torch.Tensor:
        terms = [self.edges[f"{i}->{j}"](value) for i, value in enumerate(values)]
        total: torch.Tensor = reduce(operator.add, [self.act(terms[INPUT]), *terms[1:]])
        return total


class ExactCell(nn.Module):
    """The benchmark's cell; every edge lies on a path from input to output."""

    def __init__(
        self, in_channels: int, channels: int, edges: set[Edge], ops: Mapping[int, str]
    ) -> None:
        super().__init__()
        self.edges = edges
        self.widths = vertex_widths(edges, channels)
        readers = [j for i, j in sorted(edges) if i == INPUT]
        self.projections = nn.ModuleDict(
            {f"{INPUT}->{j}": _conv(in_channels, self.widths[j], 1) for j in readers}
        )
        self.ops = nn.ModuleDict()
        for j, width in self.widths.items():
            if j != OUTPUT:
                # An op's input is cut to its own width, so its convolution is square.
                self.ops[f"op{j}"] = _exact_op(ops[j], width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[int, torch.Tensor] = {}
        for j, width in self.widths.items():
            read = [values[i] for i in values if (i, j) in self.edges]
            if j == OUTPUT:
                terms = [torch.cat(read, 1) if len(read) > 1 else read[0]] if read else []
            else:
                terms = [v if v.shape[1] == width else v[:, :width] for v in read]
            if (INPUT, j) in self.edges:
                terms.append(self.projections[f"{INPUT}->{j}"](x))
            total = reduce(operator.add, terms)
            values[j] = total if j == OUTPUT else self.ops[f"op{j}"](total)
        return values[OUTPUT]


def vertex_widths(edges: set[Edge], channels: int) -> dict[int, int]:
    """Vertex → its number of channels, for the live interior vertices and the output."""
    live = sorted(_live(edges) - {INPUT, OUTPUT})
    feeding = [v for v in live if (v, OUTPUT) in edges]
    widths = {OUTPUT: channels}
    for number, v in enumerate(feeding):
        widths[v] = channels // len(feeding) + (number < channels % len(feeding))
    for v in reversed(live):
        if v not in widths:
            widths[v] = max(widths[j] for j in live if (v, j) in edges)
    return {v: widths[v] for v in sorted(widths)}


def is_valid(architecture: Architecture) -> bool:
    """Whether the output depends on the input, by at most 9 edges that all lie on a path from
    input to output."""
    edges = _edges(architecture)
    return 0 < len(edges) <= MAX_EDGES and edges == _pruned(edges)


def canonical(architecture: Architecture) -> str:
    """The benchmark's own key: one MD5 for isomorphic cells, empty where nothing reaches the
    output. Vertices start as (out-degree, in-degree, op) and take in their neighbours' hashes."""
    edges = _pruned(_edges(architecture))
    if not edges:
        return ""
    ops = {INPUT: -1, OUTPUT: -2} | {v: OPS.index(op) for v, op in _ops(architecture).items()}
    live = sorted(_live(edges))
    into = {v: [i for i in live if (i, v) in edges] for v in live}
    out = {v: [j for j in live if (v, j) in edges] for v in live}
    hashes = {v: _md5(str((len(out[v]), len(into[v]), ops[v]))) for v in live}
    for _ in live:
        hashes = {
            v: _md5(
                "".join(sorted(hashes[i] for i in into[v]))
                + "|"
                + "".join(sorted(hashes[j] for j in out[v]))
                + "|"
                + hashes[v]
            )
            for v in live
        }
    return _md5(str(sorted(hashes.values())))


def text(architecture: Architecture) -> str:
    """The upper triangle of the 7×7 adjacency matrix, row-major, and the ops of vertices 1 to 5:
    ``100100010101001100010 conv3x3-bn-relu,maxpool3x3,…``."""
    edges = _edges(architecture)
    bits = "".join("01"[edge in edges] for edge in EDGES)
    return f"{bits} {','.join(_ops(architecture).values())}"


def parse(cell: str) -> dict[str, str]:
    """Decisions out of an upper triangle of n × n bits, row-major, and n − 2 ops, n ≤ 7.

    Ops are separated by commas or spaces; ``input`` and ``output`` around them may be there. Edges
    that lie on no path from input to output are left out, as the benchmark does.
    """
    bits, *ops = cell.replace(",", " ").split() or [""]
    if ops[:1] == ["input"] and ops[-1] == "output":
        ops = ops[1:-1]
    n = len(ops) + 2
    if n > 7 or set(ops) - set(OPS) or set(bits) - set("01") or len(bits) != n * (n - 1) // 2:
        raise FBNError(
            f"Cannot read the NAS-Bench-101 cell {cell!r}; write the upper triangle of its "
            f"adjacency matrix and its ops, such as {EXAMPLE!r}. Ops: {', '.join(OPS)}."
        )
    vertices = (*range(n - 1), OUTPUT)
    pairs = zip(combinations(vertices, 2), bits, strict=True)
    edges = _pruned({edge for edge, bit in pairs if bit == "1"})
    found = {f"{i}->{j}": "on" if (i, j) in edges else "off" for i, j in EDGES}
    return found | {f"op{j}": ops[j - 1] if j <= len(ops) else OPS[0] for j in INTERIOR}


def _edges(architecture: Architecture) -> set[Edge]:
    options = dict(architecture)
    return {(i, j) for i, j in EDGES if options[f"{i}->{j}"] == "on"}


def _ops(architecture: Architecture) -> dict[int, str]:
    return {j: architecture[f"op{j}"] for j in INTERIOR}


def _live(edges: set[Edge]) -> set[int]:
    """The vertices on a path from input to output, those two included."""
    reached, reaching = {INPUT}, {OUTPUT}
    for v in range(1, 7):
        if any((i, v) in edges for i in reached):
            reached.add(v)
    for v in reversed(range(6)):
        if any((v, j) in edges for j in reaching):
            reaching.add(v)
    return (reached & reaching) | {INPUT, OUTPUT}


def _pruned(edges: set[Edge]) -> set[Edge]:
    """The edges on a path from input to output; none where there is no path."""
    live = _live(edges)
    return {(i, j) for i, j in edges if i in live and j in live}


def _is_on(edge: nn.Module) -> bool:
    """False where the path selected now has no such edge; an open or replaced choice is on."""
    return not isinstance(edge, Choice) or edge.is_open or edge.chosen == "on"


def _md5(content: str) -> str:
    return hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()


def _conv(in_channels: int, out_channels: int, kernel: int) -> nn.Module:
    return ConvBN(in_channels, out_channels, kernel, act=True, activation=nn.ReLU)


def _candidates(channels: int) -> dict[str, nn.Module]:
    return {
        "conv3x3-bn-relu": ConvBN(channels, channels, 3),
        "conv1x1-bn-relu": ConvBN(channels, channels, 1),
        "maxpool3x3": nn.MaxPool2d(3, 1, 1),
    }


def _exact_op(op: str, channels: int) -> nn.Module:
    if op == "maxpool3x3":
        return nn.MaxPool2d(3, 1, 1)
    return _conv(channels, channels, 3 if op == "conv3x3-bn-relu" else 1)
