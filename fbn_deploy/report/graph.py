"""A drawing of a cell: its nodes in a row, its edges as arcs over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.svg import CHARACTER, WIDTH, drawing, label


@dataclass(frozen=True)
class Edge:
    """An arrow of ``graph`` between two of its nodes, by position, with what it does."""

    start: int
    end: int
    label: str
    kind: str
    said: str


def graph(nodes: Sequence[tuple[str, str]], edges: Sequence[Edge], *, title: str) -> Markup:
    """Nodes (name, what they do) in a row, and arcs over them: the longer the way, the higher."""
    widest = max([len(text) for _, text in nodes] + [4]) * CHARACTER
    margin = max(60.0, widest / 2)
    pitch = (WIDTH - 2 * margin) / max(1, len(nodes) - 1)
    longest = max((edge.end - edge.start for edge in edges), default=1)
    rise = 34 if longest > 3 else 46
    base = 30.0 + rise * longest
    lines: list[Child] = []
    labels: list[Child] = []
    for edge in sorted(edges, key=lambda each: each.start - each.end):
        a, b = margin + pitch * edge.start, margin + pitch * edge.end
        peak = base - rise * (edge.end - edge.start) + (rise if edge.end - edge.start == 1 else 0)
        lift = base - (base - peak) * 4 / 3  # a cubic curve reaches ¾ of its handles' height
        bend = min(pitch * 0.6, (b - a) / 2)
        handles = f"{a + bend:.1f} {lift:.1f} {b - bend:.1f} {lift:.1f}"
        d = f"M{a:.1f} {base:.1f}C{handles} {b:.1f} {base:.1f}"
        lines.append(tag("path", tag("title", edge.said), d=d, class_=f"edge {edge.kind}"))
        labels.append(label((a + b) / 2, peak - 8, edge.label, f"label halo {edge.kind}", "middle"))
    for number, (name, text) in enumerate(nodes):
        at = margin + pitch * number
        labels.append(tag("circle", cx=at, cy=base, r=13, class_="node"))
        labels.append(label(at, base + 4, name, "label", "middle"))
        labels.append(label(at, base + 30, text, "tick", "middle"))
    height = base + (40 if any(text for _, text in nodes) else 22)
    return drawing(height, title, [*lines, *labels])
