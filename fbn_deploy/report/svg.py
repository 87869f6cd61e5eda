"""What charts as inline SVG are made of: scales, axes, lines, labels.

All charts are 900 units wide; positions are in these units. Colours and sizes of text are classes
of ``style.css``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fbn_deploy.report.markup import Child, Markup, tag

WIDTH = 900.0
CHARACTER = 6.2  # mean width of one at the size of a label
LARGEST_CHARACTER = 10.3  # the same on a small screen, where labels are larger


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on positions from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of ``value``; what lies outside is put at the end of the axis."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, share))

    def ticks(self, count: int = 6) -> list[float]:
        """Round values: 1, 2 or 5 times a power of ten apart, about ``count`` of them."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


def around(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale that holds ``values`` with a margin; never below zero where none of them is."""
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Scale(max(0.0, low - room) if low >= 0 else low - room, high + room, start, end)


def horizontal_axis(x: Scale, y: float, name: str) -> Markup:
    ticks = x.ticks()
    places = max((len(f"{tick:.10g}".partition(".")[2]) for tick in ticks), default=0)
    marks: list[Child] = [line(x.start, y, x.end, y, "axis")]
    for tick in ticks:
        at = x(tick)
        marks.append(line(at, y, at, y + 5, "axis"))
        marks.append(label(at, y + 19, f"{tick:.{places}f}", "tick", "middle"))
    marks.append(label((x.start + x.end) / 2, y + 37, name, "tick", "middle"))
    return tag("g", marks)


def horizontal_grid(y: Scale, left: float, right: float, names: Mapping[float, str]) -> Markup:
    """A line across and a name for each of the ticks ``names`` of ``y``."""
    lines = [
        (
            line(left, y(tick), right, y(tick), "grid"),
            label(left - 8, y(tick) + 4, name, "tick", "end"),
        )
        for tick, name in names.items()
    ]
    return tag("g", lines)


def circle(x: float, y: float, radius: float, kind: str, said: str) -> Markup:
    """A point that says ``said`` where it is pointed at."""
    return tag("circle", tag("title", said), cx=x, cy=y, r=radius, class_=kind)


def limit_line(at: float, top: float, bottom: float, text: str) -> list[Markup]:
    half = LARGEST_CHARACTER * len(text) / 2
    middle = min(max(at, half + 4), WIDTH - half - 4)
    return [
        line(at, top, at, bottom, "limit"),
        label(middle, top - 5, text, "label limit-label", "middle"),
    ]


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def label(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Markup:
    return tag("text", text, x=x, y=y, class_=kind, text_anchor=anchor) if text else Markup()


def drawing(height: float, title: str, drawn: Sequence[Child]) -> Markup:
    drawing = tag(
        "svg",
        tag("title", title),
        drawn,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=title,
    )
    return tag("div", drawing, class_="scroll")
