"""A chart of one quantity over epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.svg import WIDTH, around, circle, drawing, horizontal_axis, horizontal_grid


def curve(
    points: Sequence[tuple[float, float]],
    *,
    title: str,
    is_share: bool = False,
    marked: float | None = None,
) -> Markup:
    """(epoch, value) as a line, shares between 0 and 1 in percent; the point at ``marked`` stands
    out."""
    if is_share:
        points = [(a, 100 * b) for a, b in points]
    most, unit, digits = (100.0, " %", 2) if is_share else (math.inf, "", 3)
    left, right, top, bottom = 52.0, WIDTH - 12, 12.0, 230.0
    x = around([a for a, _ in points], left, right, 0.02)
    y = around([b for _, b in points], bottom, top, 0.08)
    names = {tick: f"{tick:.10g}{unit}" for tick in y.ticks(5) if tick <= most}
    drawn: list[Child] = [horizontal_grid(y, left, right, names)]
    path = "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)
    drawn.append(tag("path", d=f"M{path}", class_="line"))
    small = 4 if len(points) < 60 else 2
    for a, b in points:
        kind, radius = ("winner", 6) if a == marked else ("point", small)
        drawn.append(circle(x(a), y(b), radius, kind, f"epoch {a:g}: {b:.{digits}f}{unit}"))
    drawn.append(horizontal_axis(x, bottom, "epoch"))
    return drawing(bottom + 44, title, drawn)
