"""A chart of quantities on one axis: for each a dot, what is around it, and the budget across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fbn_deploy.report.amounts import digits, plain
from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.quantity import Quantity
from fbn_deploy.report.svg import (
    WIDTH,
    Scale,
    around,
    circle,
    drawing,
    horizontal_axis,
    limit_line,
    line,
)

REACH = 1.3  # an outer end beyond this multiple of all else is drawn as an arrow


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
    reach = REACH * max(known)
    known += [end for row in rows if row.outer for end in row.outer if not row.cut or end <= reach]
    x = around(known, 8, WIDTH - 8)
    pitch, top = 50, 32 if limit is not None else 4
    bottom = top + pitch * len(rows)
    drawn: list[Child] = []
    if limit is not None:
        drawn += limit_line(x(limit), top - 8, bottom, f"budget {plain(limit)} {quantity.unit}")
    for number, row in enumerate(rows):
        drawn.append(_span(row, x, top + pitch * number, quantity.unit))
    drawn.append(horizontal_axis(x, bottom, quantity.axis))
    return drawing(bottom + 44, title, drawn)


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
        parts.append(line(x(row.outer[0]), y, end, y, "thin"))
        if beyond:
            parts.append(tag("path", d=f"M{end - 7:.1f} {y - 5}L{end} {y}l-7 5", class_="thin"))
        else:
            parts.append(line(end, y - 4, end, y + 4, "thin"))
        parts.append(line(x(row.outer[0]), y - 4, x(row.outer[0]), y + 4, "thin"))
    if row.inner:
        low, high = x(row.inner[0]), x(row.inner[1])
        parts.append(
            tag("rect", x=low, y=y - 4, width=max(high - low, 1.0), height=8, rx=2, class_="thick")
        )
    if row.bound is not None:
        at = x(row.bound)
        parts.append(tag("path", d=f"M{at - 5:.1f} {y - 8}H{at:.1f}V{y + 8}h-5", class_="bound"))
    said = f"{row.label}: {digits(row.dot)} {unit}"
    parts.append(circle(x(row.dot), y, 5, "dot hollow" if row.hollow else "dot", said))
    return tag("g", parts)
