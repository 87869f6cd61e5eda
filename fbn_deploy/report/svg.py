"""Small charts as inline SVG. Colours and sizes of text are classes of ``style.css``.

All are 900 units wide; positions are in these units, values in the unit that the axis names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fbn_deploy.report.amounts import digits, plain
from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.quantity import Quantity

WIDTH = 900.0
_CHARACTER = 6.2  # mean width of one at the size of a label
_REACH = 1.3  # an outer end beyond this multiple of all else is drawn as an arrow
_FAR = 1.0  # as is a budget that is further from the points than this multiple of their range


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


@dataclass(frozen=True)
class Span:
    """A row of ``spans``: from the outermost to the innermost, what is known of one quantity."""

    label: str
    note: str
    dot: float
    outer: tuple[float, float] | None = None
    inner: tuple[float, float] | None = None
    bound: float | None = None
    """An upper bound, drawn as a bracket."""
    open_ended: bool = False
    """Whether ``outer`` goes on to the right without a known end."""
    cut: bool = False
    """Whether ``outer`` may end in an arrow where it goes far beyond everything else."""
    hollow: bool = False
    """Whether the dot is a prediction."""


def spans(rows: Sequence[Span], quantity: Quantity, *, limit: float | None, title: str) -> Markup:
    """A row for each quantity on one axis, with the budget as a line across."""
    known = [row.dot for row in rows] + ([limit] if limit is not None else [])
    known += [end for row in rows if row.inner for end in row.inner]
    known += [row.bound for row in rows if row.bound is not None]
    reach = _REACH * max(known)
    known += [end for row in rows if row.outer for end in row.outer if not row.cut or end <= reach]
    x = around(known, 8, WIDTH - 8)
    pitch, top = 50, 26 if limit is not None else 4
    bottom = top + pitch * len(rows)
    drawn: list[Child] = []
    if limit is not None:
        drawn += _limit_line(x(limit), top - 8, bottom, f"budget {plain(limit)} {quantity.unit}")
    for number, row in enumerate(rows):
        drawn.append(_span(row, x, top + pitch * number, quantity.unit))
    drawn.append(_horizontal_axis(x, bottom, quantity.axis))
    return _svg(bottom + 44, title, drawn)


def _span(row: Span, x: Scale, top: float, unit: str) -> Markup:
    y = top + 32
    parts: list[Child] = [
        tag(
            "text",
            row.label,
            tag("tspan", row.note, class_="soft", dx=14),
            class_="label halo",
            x=8,
            y=top + 16,
        ),
    ]
    if row.outer:
        beyond = row.open_ended or row.outer[1] > x.high
        end = x.end if beyond else x(row.outer[1])
        parts.append(_line(x(row.outer[0]), y, end, y, "thin"))
        if beyond:
            parts.append(tag("path", d=f"M{end - 7:.1f} {y - 5}L{end} {y}l-7 5", class_="thin"))
        else:
            parts.append(_line(end, y - 4, end, y + 4, "thin"))
        parts.append(_line(x(row.outer[0]), y - 4, x(row.outer[0]), y + 4, "thin"))
    if row.inner:
        low, high = x(row.inner[0]), x(row.inner[1])
        parts.append(
            tag("rect", x=low, y=y - 4, width=max(high - low, 1.0), height=8, rx=2, class_="thick")
        )
    if row.bound is not None:
        at = x(row.bound)
        parts.append(tag("path", d=f"M{at - 5:.1f} {y - 8}H{at:.1f}V{y + 8}h-5", class_="bound"))
    said = f"{row.label}: {digits(row.dot)} {unit}"
    kind = "dot hollow" if row.hollow else "dot"
    parts.append(tag("circle", tag("title", said), cx=x(row.dot), cy=y, r=5, class_=kind))
    return tag("g", parts)


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
    far = limit is not None and limit > max(xs) + _FAR * (max(xs) - min(xs))
    xs += [limit] if limit is not None and not far else []
    x = around(xs, left, right, 0.04)
    y = around([point.y for point in points], top, bottom, 0.05)
    drawn: list[Child] = [
        (_line(left, y(tick), right, y(tick), "grid"), _text(left - 8, y(tick) + 4,
         digits(tick, 3).removesuffix(".00").removesuffix(".0"), "tick", "end"))
        for tick in y.ticks(5)
    ]  # fmt: skip
    drawn.append(tag("text", vertical, class_="tick", x=8, y=12))
    if limit is not None and far:
        said = f"budget {plain(limit)} {quantity.unit} →"
        drawn.append(_text(right, top - 13, said, "label limit-label", "end"))
    elif limit is not None:
        drawn += _limit_line(x(limit), top - 8, bottom, f"budget {plain(limit)} {quantity.unit}")
    if len(front) > 1:
        steps = [f"M{x(front[0][0]):.1f} {y(front[0][1]):.1f}"]
        steps += [f"H{x(a):.1f}V{y(b):.1f}" for a, b in front[1:]]
        drawn.append(tag("path", d="".join(steps), class_="front"))
    for point in sorted(points, key=lambda each: each.kind == "winner"):
        if point.interval:
            low, high = point.interval
            drawn.append(_line(x(low), y(point.y), x(high), y(point.y), "whisker"))
        radius = 7 if point.kind == "winner" else 4
        drawn.append(
            tag(
                "circle",
                tag("title", point.said),
                cx=x(point.x),
                cy=y(point.y),
                r=radius,
                class_=point.kind,
            )
        )
        if point.kind == "winner":
            at = min(max(x(point.x), left + 24), right - 24)
            drawn.append(_text(at, y(point.y) - 13, "chosen", "label winner-label halo", "middle"))
    drawn.append(_horizontal_axis(x, bottom, quantity.axis))
    return _svg(bottom + 44, title, drawn)


def curve(points: Sequence[tuple[float, float]], *, marked: float | None, title: str) -> Markup:
    """Shares between 0 and 1 over whole numbers, as a line; the point at ``marked`` stands out."""
    left, right, top, bottom = 52.0, WIDTH - 12, 12.0, 230.0
    x = around([a for a, _ in points], left, right, 0.02)
    y = around([100 * b for _, b in points], bottom, top, 0.08)
    drawn: list[Child] = [
        (_line(left, y(tick), right, y(tick), "grid"),
         _text(left - 8, y(tick) + 4, f"{tick:g} %", "tick", "end"))
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
    drawn.append(_horizontal_axis(x, bottom, "epoch"))
    return _svg(bottom + 44, title, drawn)


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
    widest = max([len(text) for _, text in nodes] + [4]) * _CHARACTER
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
        labels.append(_text((a + b) / 2, peak - 8, edge.label, f"label halo {edge.kind}", "middle"))
    for number, (name, text) in enumerate(nodes):
        at = margin + pitch * number
        labels.append(tag("circle", cx=at, cy=base, r=13, class_="node"))
        labels.append(_text(at, base + 4, name, "label", "middle"))
        labels.append(_text(at, base + 30, text, "tick", "middle"))
    height = base + (40 if any(text for _, text in nodes) else 22)
    return _svg(height, title, [*lines, *labels])


def _horizontal_axis(x: Scale, y: float, name: str) -> Markup:
    ticks = x.ticks()
    places = max((len(f"{tick:.10g}".partition(".")[2]) for tick in ticks), default=0)
    marks: list[Child] = [_line(x.start, y, x.end, y, "axis")]
    for tick in ticks:
        at = x(tick)
        marks.append(_line(at, y, at, y + 5, "axis"))
        marks.append(_text(at, y + 19, f"{tick:.{places}f}", "tick", "middle"))
    marks.append(_text((x.start + x.end) / 2, y + 37, name, "tick", "middle"))
    return tag("g", marks)


def _limit_line(at: float, top: float, bottom: float, text: str) -> list[Markup]:
    half = _CHARACTER * len(text) / 2
    middle = min(max(at, half + 4), WIDTH - half - 4)
    return [
        _line(at, top, at, bottom, "limit"),
        _text(middle, top - 5, text, "label limit-label", "middle"),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Markup:
    return tag("text", text, x=x, y=y, class_=kind, text_anchor=anchor) if text else Markup()


def _svg(height: float, title: str, drawn: Sequence[Child]) -> Markup:
    drawing = tag(
        "svg",
        tag("title", title),
        drawn,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=title,
    )
    return tag("div", drawing, class_="scroll")
