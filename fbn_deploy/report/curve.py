"""A chart of one share over whole numbers: accuracy over epochs."""

from __future__ import annotations

from collections.abc import Sequence

from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.svg import WIDTH, around, drawing, horizontal_axis, label, line


def curve(points: Sequence[tuple[float, float]], *, marked: float | None, title: str) -> Markup:
    """Shares between 0 and 1 over whole numbers, as a line; the point at ``marked`` stands out."""
    left, right, top, bottom = 52.0, WIDTH - 12, 12.0, 230.0
    x = around([a for a, _ in points], left, right, 0.02)
    y = around([100 * b for _, b in points], bottom, top, 0.08)
    drawn: list[Child] = [
        (line(left, y(tick), right, y(tick), "grid"),
         label(left - 8, y(tick) + 4, f"{tick:g} %", "tick", "end"))
        for tick in y.ticks(5)
        if tick <= 100
    ]  # fmt: skip
    path = "L".join(f"{x(a):.1f} {y(100 * b):.1f}" for a, b in points)
    drawn.append(tag("path", d=f"M{path}", class_="line"))
    for a, b in points:
        kind = "winner" if a == marked else "point"
        said = tag("title", f"epoch {a:g}: {100 * b:.2f} %")
        small = 4 if len(points) < 60 else 2
        radius = 6 if a == marked else small
        drawn.append(tag("circle", said, cx=x(a), cy=y(100 * b), r=radius, class_=kind))
    drawn.append(horizontal_axis(x, bottom, "epoch"))
    return drawing(bottom + 44, title, drawn)
