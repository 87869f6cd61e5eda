"""A chart of candidates: cost against rank, the front between them, the budget across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fbn_deploy.report.amounts import digits, plain
from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.quantity import Quantity
from fbn_deploy.report.svg import (
    WIDTH,
    around,
    circle,
    drawing,
    horizontal_axis,
    horizontal_grid,
    label,
    limit_line,
    line,
)

FAR = 1.0  # a budget further from the points than this multiple of their range is an arrow


@dataclass(frozen=True)
class Point:
    """A point of ``scatter``; ``interval`` is drawn as a whisker along x."""

    x: float
    y: float
    said: str
    kind: str = "point"
    interval: tuple[float, float] | None = None


def scatter(
    points: Sequence[Point],
    front: Sequence[tuple[float, float]],
    quantity: Quantity,
    *,
    vertical: str,
    limit: float | None,
    title: str,
) -> Markup:
    """Cost (x) against rank (y, the best at the top), the front as a line of steps."""
    left, right, top, bottom = 46.0, WIDTH - 12, 40.0, 340.0
    xs = [point.x for point in points]
    xs += [end for point in points if point.interval for end in point.interval]
    far = limit is not None and limit > max(xs) + FAR * (max(xs) - min(xs))
    xs += [limit] if limit is not None and not far else []
    x = around(xs, left, right, 0.04)
    y = around([point.y for point in points], top, bottom, 0.05)
    names = {t: digits(t, 3).removesuffix(".00").removesuffix(".0") for t in y.ticks(5)}
    drawn: list[Child] = [horizontal_grid(y, left, right, names)]
    drawn.append(label(8, 12, vertical, "tick"))
    if limit is not None:
        said = f"budget {plain(limit)} {quantity.unit}"
        if far:
            drawn.append(label(right, 14, f"{said} →", "label limit-label", "end"))
        else:
            drawn += limit_line(x(limit), top - 8, bottom, said)
    if len(front) > 1:
        steps = [f"M{x(front[0][0]):.1f} {y(front[0][1]):.1f}"]
        steps += [f"H{x(a):.1f}V{y(b):.1f}" for a, b in front[1:]]
        drawn.append(tag("path", d="".join(steps), class_="front"))
    for point in sorted(points, key=lambda each: each.kind == "winner"):
        if point.interval:
            low, high = point.interval
            drawn.append(line(x(low), y(point.y), x(high), y(point.y), "whisker"))
        radius = 7 if point.kind == "winner" else 4
        drawn.append(circle(x(point.x), y(point.y), radius, point.kind, point.said))
        if point.kind == "winner":
            at = min(max(x(point.x), left + 24), right - 24)
            drawn.append(label(at, y(point.y) - 13, "chosen", "label winner-label halo", "middle"))
    drawn.append(horizontal_axis(x, bottom, quantity.axis))
    return drawing(bottom + 44, title, drawn)
