"""The DARTS cells (Liu et al. 2019): a normal and a reduction cell of 4 nodes with 2 inputs each.

A cell reads the outputs s0, s1 of the two cells before it (states 0 and 1), brought to its width
by a 1×1 convolution. Node j of states 2 to 5 is the sum of two ops on two different earlier
states; the output is the concatenation of the nodes. All normal cells are equal, and so are all
reduction cells, which stand at a third and two thirds of the depth, halve the resolution (ops on
states 0 and 1 have stride 2) and double the width C.

Skeletons: ``cifar`` is a 3×3 stem to 3C channels and 20 cells, C = 36; ``imagenet`` two stems that
reduce eightfold and 14 cells, C = 48. Behind every edge that is not a plain identity stands a
``StochasticDepth`` for retraining, of probability 0 until it is set.

The decisions of a node are its two genotype entries, e.g. ``normal.4a = sep_conv_3x3~1``. The input
of ``a`` comes before that of ``b``: sorted so, a genotype is written in one way only. ``none`` is a
choice like the others, as the paper's text has it; its code never keeps it.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import torch
from torch import nn
from torchvision.ops import StochasticDepth

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ReLUConvBN, Zero

OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
PROXY = {"cells": 5, "channels": 16}
CELLS = ("normal", "reduce")
NODES = (2, 3, 4, 5)
SLOTS = ("a", "b")
SKELETONS = {"cifar": (36, 20, 4), "imagenet": (48, 14, 32)}  # C, cells, reduction of the image
EXAMPLE = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), … 8 pairs of op and input], "
    "normal_concat=range(2, 6), reduce=[…], reduce_concat=range(2, 6))"
)

Entry = tuple[str, int]  # op and input


def network(
    num_classes: int,
    resolution: int = 32,
    skeleton: str = "cifar",
    channels: int = 0,
    cells: int = 0,
) -> nn.Module:
    """The skeleton with open cells; ``channels`` and ``cells`` of 0 stand for the paper's."""
    if skeleton not in SKELETONS:
        raise unknown("skeleton of the search space 'darts' called", skeleton, SKELETONS)
    paper_channels, paper_cells, reduction = SKELETONS[skeleton]
    channels, cells = channels or paper_channels, cells or paper_cells
    fits = channels > 0 and channels % 2 == 0 and cells >= 3
    if not fits or resolution < reduction or resolution % reduction:
        raise FBNError(
            f"darts with the {skeleton} skeleton takes an even number of channels, 3 cells or "
            f"more, and a resolution that {reduction} divides; asked: {channels} channels, "
            f"{cells} cells, resolution {resolution}."
        )
    return Network(num_classes, resolution // reduction, skeleton, channels, cells)


class Network(nn.Module):
    """Stems, cells, classifier, and for retraining an auxiliary classifier.

    ``size`` is the number of pixels a side of the last feature map.
    """

    def __init__(
        self, num_classes: int, size: int, skeleton: str, channels: int, cells: int
    ) -> None:
        super().__init__()
        self.stem0, self.stem1, before_last, last = _stems(skeleton, channels)
        self.cells = nn.ModuleList()
        reductions = (cells // 3, 2 * cells // 3)
        has_reduced = skeleton == "imagenet"  # s0 is larger than s1
        for number in range(cells):
            reduces = number in reductions
            channels *= 1 + reduces
            self.cells.append(Cell(before_last, last, channels, reduces, has_reduced))
            before_last, last, has_reduced = last, len(NODES) * channels, reduces
            if number == reductions[-1]:
                self.auxiliary_features = (last, size)
        self.auxiliary_cell = reductions[-1]
        self.auxiliary: nn.Module | None = None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, num_classes)

    def add_auxiliary(self) -> None:
        """Attaches an auxiliary classifier behind the second reduction, with fresh weights.

        In training mode the network then returns ``(logits, auxiliary logits)``. Set
        ``auxiliary`` to None to take it off.
        """
        weight = self.classifier.weight
        head = AuxiliaryHead(*self.auxiliary_features, self.classifier.out_features)
        self.auxiliary = head.to(weight.device, weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        s0 = self.stem0(x)
        s1 = self.stem1(s0)
        features = s1
        for number, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if number == self.auxiliary_cell:
                features = s1
        logits: torch.Tensor = self.classifier(self.flatten(self.pool(s1)))
        if self.training and self.auxiliary is not None:
            return logits, self.auxiliary(features)
        return logits


class Cell(nn.Module):
    """One cell. ``has_reduced``: the cell before it was a reduction, so s0 is twice as large."""

    def __init__(
        self, before_last: int, last: int, channels: int, reduces: bool, has_reduced: bool
    ) -> None:
        super().__init__()
        self.reduces = reduces
        self.preprocess0 = (
            FactorizedReduce(before_last, channels)
            if has_reduced
            else ReLUConvBN(before_last, channels, 1)
        )
        self.preprocess1 = ReLUConvBN(last, channels, 1)
        self.edges = nn.ModuleDict()
        for node in NODES:
            for slot in SLOTS:
                name = f"{CELLS[reduces]}.{node}{slot}"
                self.edges[f"{node}{slot}"] = Choice(
                    name,
                    {
                        f"{op}~{i}": OnState(i, _op(op, channels, 2 if reduces and i < 2 else 1))
                        for i in _inputs(node, slot)
                        for op in OPS
                    },
                )
        self.drop_path = StochasticDepth(0.0, "row")

    def forward(self, s0: torch.Tensor, s1: torch.Tensor) -> torch.Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in NODES:
            a, b = (self._edge(f"{node}{slot}", states) for slot in SLOTS)
            states.append(a + b)
        return torch.cat(states[2:], 1)

    def _edge(self, key: str, states: Sequence[torch.Tensor]) -> torch.Tensor:
        edge = self.edges[key]
        y: torch.Tensor = edge(*states)
        op, i = _entry(str(edge.chosen))
        if op == "skip_connect" and not (self.reduces and i < 2):
            return y  # DARTS never drops a plain identity
        dropped: torch.Tensor = self.drop_path(y)
        return dropped


class OnState(nn.Module):
    """An op on state ``index`` of all states of a cell."""

    def __init__(self, index: int, op: nn.Module) -> None:
        super().__init__()
        self.index, self.op = index, op

    def forward(self, *states: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.op(states[self.index])
        return y


class FactorizedReduce(nn.Module):
    """ReLU, two 1×1 convolutions of stride 2 on the even and the odd pixels side by side, BN."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.even = nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(x)
        y: torch.Tensor = self.bn(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], 1))
        return y


class DepthwiseBlock(nn.Sequential):
    """ReLU → depthwise k×k → 1×1 → BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int = 1) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.depthwise = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            dilation * (kernel // 2),
            dilation,
            groups=channels,
            bias=False,
        )
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)


class AuxiliaryHead(nn.Sequential):
    """The paper's auxiliary classifier for features of ``size`` × ``size`` pixels.

    Windows of 5 pixels average to 2×2 (stride 3 of CIFAR's 8 pixels, 2 of ImageNet's 7).
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        self.act0 = nn.ReLU()
        self.pool = nn.AvgPool2d(5, size - 5) if size > 5 else nn.AdaptiveAvgPool2d(2)
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.act2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(768, num_classes)


def is_valid(architecture: Architecture) -> bool:
    """Whether every node has two different inputs, in order, and both cells read a state."""
    cells = [_nodes(architecture, cell) for cell in CELLS]
    ordered = all(a[1] < b[1] for nodes in cells for a, b in nodes.values())
    return ordered and all(_live(nodes) & set(NODES) for nodes in cells)


def canonical(architecture: Architecture) -> str:
    """One text for genotypes that differ in the order of their nodes.

    Reordered nodes permute the channels of a cell's output, which the 1×1 convolutions behind it
    undo. ``none`` has no input; an op on a node that reads nothing is a ``none`` as well.
    """
    return " ".join(_canonical_cell(_nodes(architecture, cell)) for cell in CELLS)


def _canonical_cell(nodes: dict[int, tuple[Entry, Entry]]) -> str:
    live = _live(nodes)
    texts = []
    for order in permutations(NODES):
        number = {0: 0, 1: 1} | dict(zip(order, NODES, strict=True))
        found = []
        for node in order:
            terms = (
                f"{op}~{number[i]}" if op != "none" and i in live else "none"
                for op, i in nodes[node]
            )
            found.append("+".join(sorted(terms)))
        texts.append("|".join(found))
    return min(texts)


def pruned(architecture: Architecture) -> dict[str, str]:
    """The genotype with ``none`` in the place of every op on a node that reads nothing.

    The network computes the same; ops there would count in its costs and in what is read of it.
    """
    found = {}
    for cell in CELLS:
        nodes = _nodes(architecture, cell)
        live = _live(nodes)
        for node, entries in nodes.items():
            for slot, (op, i) in zip(SLOTS, entries, strict=True):
                found[f"{cell}.{node}{slot}"] = f"{op if i in live else 'none'}~{i}"
    return found


def text(architecture: Architecture) -> str:
    """The genotype as DARTS writes it, the two inputs of a node in ascending order."""
    parts = []
    for cell in CELLS:
        entries = [entry for pair in _nodes(architecture, cell).values() for entry in pair]
        parts.append(f"{cell}={entries}, {cell}_concat=range(2, 6)")
    return f"Genotype({', '.join(parts)})"


def parse(genotype: str) -> dict[str, str]:
    """Decisions out of a genotype; its entries may be a flat list or one pair a node, as tuples
    or lists, and its concatenations a range or a list."""
    try:
        call = ast.parse(genotype.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("it is no Genotype(…)")
        fields = {str(keyword.arg): keyword.value for keyword in call.keywords}
        found: dict[str, str] = {}
        for cell in CELLS:
            if sorted(_indices(fields[f"{cell}_concat"])) != list(NODES):
                raise ValueError(f"{cell}_concat is not 2, 3, 4, 5")
            found |= _decisions(cell, ast.literal_eval(fields[cell]))
    except KeyError as error:
        raise _unreadable(genotype, f"it has no field {error}") from None
    except (SyntaxError, TypeError, ValueError) as error:
        raise _unreadable(genotype, str(error)) from None
    return found


def _decisions(cell: str, entries: Any) -> dict[str, str]:
    """Raises ``TypeError`` or ``ValueError`` for entries that are no cell."""
    if len(entries) == len(NODES):
        entries = [entry for pair in entries for entry in pair]
    if len(entries) != len(NODES) * len(SLOTS):
        raise ValueError(f"{cell} has {len(entries)} entries where 8 belong")
    found = {}
    for number, node in enumerate(NODES):
        pair = [_read(cell, node, entry) for entry in entries[2 * number : 2 * number + 2]]
        pair.sort(key=lambda entry: entry[1])
        if pair[0][1] == pair[1][1]:
            raise ValueError(f"node {node} of {cell} reads input {pair[0][1]} twice")
        for slot, (op, i) in zip(SLOTS, pair, strict=True):
            found[f"{cell}.{node}{slot}"] = f"{op}~{i}"
    return found


def _read(cell: str, node: int, entry: object) -> Entry:
    match entry:
        case (str(op), int(i)):
            if op not in OPS:
                raise ValueError(f"there is no op {op!r}, only {', '.join(OPS)}")
            if i not in range(node):
                raise ValueError(f"node {node} of {cell} cannot read input {i}")
            return op, i
    raise ValueError(f"{entry!r} is no pair of an op and an input")


def _indices(node: ast.expr) -> Sequence[int]:
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "range":
        return range(*(ast.literal_eval(argument) for argument in node.args))
    return list(ast.literal_eval(node))


def _unreadable(genotype: str, reason: str) -> FBNError:
    shown = genotype if len(genotype) < 80 else f"{genotype[:77]}…"
    return FBNError(f"Cannot read the DARTS genotype {shown!r}: {reason}. Write {EXAMPLE}.")


def _nodes(architecture: Architecture, cell: str) -> dict[int, tuple[Entry, Entry]]:
    options = dict(architecture)
    return {
        node: (_entry(options[f"{cell}.{node}a"]), _entry(options[f"{cell}.{node}b"]))
        for node in NODES
    }


def _live(nodes: dict[int, tuple[Entry, Entry]]) -> set[int]:
    """The states that depend on what the cell reads."""
    live = {0, 1}
    for node, entries in nodes.items():
        if any(op != "none" and i in live for op, i in entries):
            live.add(node)
    return live


def _entry(option: str) -> Entry:
    op, _, i = option.partition("~")
    return op, int(i)


def _inputs(node: int, slot: str) -> range:
    """The states that the entry may read: those that leave one for the other entry."""
    return range(node - 1) if slot == "a" else range(1, node)


def _stems(skeleton: str, channels: int) -> tuple[nn.Module, nn.Module, int, int]:
    """The two stems and the number of channels that each gives."""
    if skeleton == "cifar":
        width = 3 * channels
        conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width)), nn.Identity(), width, width
    half = channels // 2
    stem0 = nn.Sequential(
        nn.Conv2d(3, half, 3, 2, 1, bias=False),
        nn.BatchNorm2d(half),
        ReLUConvBN(half, channels, 3, stride=2),
    )
    return stem0, ReLUConvBN(channels, channels, 3, stride=2), channels, channels


def _op(op: str, channels: int, stride: int) -> nn.Module:
    kernel = int(op[-1]) if op[-1].isdigit() else 0
    match op.partition("_")[0]:
        case "none":
            return Zero(stride)
        case "max":
            return nn.MaxPool2d(kernel, stride, kernel // 2)
        case "avg":
            return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
        case "skip":
            return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
        case "sep":
            return nn.Sequential(
                DepthwiseBlock(channels, kernel, stride), DepthwiseBlock(channels, kernel, 1)
            )
        case _:
            return DepthwiseBlock(channels, kernel, stride, dilation=2)
