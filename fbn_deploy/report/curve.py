"""A chart of one share over whole numbers: accuracy over epochs."""

from __future__ import annotations

from collections.abc import Sequence

from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.svg import WIDTH, around, circle, drawing, horizontal_axis, horizontal_grid


def curve(points: Sequence[tuple[float, float]], *, marked: float | None, title: str) -> Markup:
    """Shares between 0 and 1 over whole numbers, as a line; the point at ``marked`` stands out."""
    left, right, top, bottom = 52.0, WIDTH - 12, 12.0, 230.0
    x = around([a for a, _ in points], left, right, 0.02)
    y = around([100 * b for _, b in points], bottom, top, 0.08)
    names = {tick: f"{tick:g} %" for tick in y.ticks(5) if tick <= 100}
    drawn: list[Child] = [horizontal_grid(y, left, right, names)]
    path = "L".join(f"{x(a):.1f} {y(100 * b):.1f}" for a, b in points)
    drawn.append(tag("path", d=f"M{path}", class_="line"))
    small = 4 if len(points) < 60 else 2
    for a, b in points:
        kind, radius = ("winner", 6) if a == marked else ("point", small)
        drawn.append(circle(x(a), y(100 * b), radius, kind, f"epoch {a:g}: {100 * b:.2f} %"))
    drawn.append(horizontal_axis(x, bottom, "epoch"))
    return drawing(bottom + 44, title, drawn)
