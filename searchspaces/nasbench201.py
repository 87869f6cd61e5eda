"""NAS-Bench-201 (Dong and Yang 2020): one cell of 6 edges with 5 ops each, 15,625 cells.

Skeleton: a 3×3 stem with C = 16 channels; three stages of N = 5 equal cells with C, 2C and 4C
channels; a residual reduction block between the stages; BatchNorm, ReLU, pooling, classifier.
Node j of a cell is the sum over i < j of op(node i).
"""

from __future__ import annotations

import operator
import re
from collections import OrderedDict
from functools import reduce

import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice
from fbn_deploy.supernet.ops import ReLUConvBN, Zero

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))  # (node, its input)
PROXY = {"cells": 1, "channels": 32}
TRIAL = {"cells": 1}
EXAMPLE = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"


def network(
    num_classes: int, resolution: int = 32, channels: int = 16, cells: int = 5
) -> nn.Module:
    """The skeleton with open cells: ``channels`` C in the first stage, ``cells`` N a stage."""
    layers: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )
    }
    width = channels
    for stage in range(3):
        if stage:
            layers[f"reduce{stage}"] = Reduction(width, 2 * width)
            width *= 2
        for cell in range(cells):
            layers[f"stage{stage}_cell{cell}"] = Cell(width)
    layers["last"] = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(width, num_classes)
    return nn.Sequential(OrderedDict(layers))


class Cell(nn.Module):
    """Four nodes; the decision of edge i → j is named ``j<-i`` in every cell alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict(
            {f"{j}<-{i}": Choice(f"{j}<-{i}", _candidates(channels)) for j, i in EDGES}
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for j in (1, 2, 3):
            terms = [self.edges[f"{j}<-{i}"](nodes[i]) for i in range(j)]
            nodes.append(reduce(operator.add, terms))
        return nodes[-1]


class Reduction(nn.Module):
    """The residual block of stride 2 between two stages."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReLUConvBN(in_channels, out_channels, 3, stride=2),
            ReLUConvBN(out_channels, out_channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, 2), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.shortcut(x) + self.body(x)
        return output


def is_valid(architecture: Architecture) -> bool:
    """Whether the cell's output depends on its input."""
    return canonical(architecture) != ""


def canonical(architecture: Architecture) -> str:
    """One text for isomorphic cells: each node as the sorted sum of its terms.

    ``none`` and what only reads it vanish; ``skip_connect`` stands for the terms that it reads.
    """
    terms: dict[int, list[str]] = {0: ["0"]}
    for j in (1, 2, 3):
        terms[j] = []
        for i in range(j):
            op = architecture[f"{j}<-{i}"]
            if op == "none" or not terms[i]:
                continue
            if op == "skip_connect":
                terms[j] += terms[i]
            else:
                terms[j].append(f"{op}({'+'.join(terms[i])})")
        terms[j].sort()
    return "+".join(terms[3])


def pruned(architecture: Architecture) -> dict[str, str]:
    """The cell with ``none`` on every edge through which nothing of its input gets to its output.

    The network computes the same; ops there would count in its costs and in what is read of it.
    """
    edges = {(j, i): architecture[f"{j}<-{i}"] for j, i in EDGES}
    reached, used = {0}, {3}
    for j, i in EDGES:  # rising j
        if edges[j, i] != "none" and i in reached:
            reached.add(j)
    for j, i in reversed(EDGES):
        if edges[j, i] != "none" and j in used:
            used.add(i)
    return {
        f"{j}<-{i}": op if i in reached and j in used else "none" for (j, i), op in edges.items()
    }


def text(architecture: Architecture) -> str:
    """The arch string as NAS-Bench-201 writes it: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
    nodes = ("|".join(f"{architecture[f'{j}<-{i}']}~{i}" for i in range(j)) for j in (1, 2, 3))
    return "+".join(f"|{node}|" for node in nodes)


def parse(arch_str: str) -> dict[str, str]:
    """Edge → op out of a NAS-Bench-201 arch string."""
    nodes = arch_str.strip().split("+")
    edges = [re.findall(r"([^|~]+)~(\d)", node) for node in nodes]
    found = {f"{j}<-{i}": op for j, node in enumerate(edges, 1) for op, i in node}
    if len(found) != len(EDGES):
        raise FBNError(f"Cannot read the NAS-Bench-201 architecture {arch_str!r}; write {EXAMPLE}")
    return found


def _candidates(channels: int) -> dict[str, nn.Module]:
    return {
        "none": Zero(),
        "skip_connect": nn.Identity(),
        "nor_conv_1x1": ReLUConvBN(channels, channels, 1),
        "nor_conv_3x3": ReLUConvBN(channels, channels, 3),
        "avg_pool_3x3": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    }
