"""Pieces of the page that several sections use: tables, bars, what is not done yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.stages import Stage


def text(*children: Child) -> Markup:
    """A paragraph."""
    return tag("p", *children)


def note(*children: Child) -> Markup:
    """A paragraph in small print."""
    return tag("p", *children, class_="note")


def code(said: str) -> Markup:
    return tag("code", said)


def notation(architecture: str) -> Markup:
    """An architecture's text, with places where a line may end."""
    parts = re.split(r"(?<=[,+])", architecture)
    return tag("code", [[part, tag("wbr")] for part in parts], class_="architecture")


def command(said: str) -> Markup:
    """A command on lines of its own."""
    return tag("pre", tag("code", said))


def heading(said: str) -> Markup:
    """A heading within a section."""
    return tag("h3", said)


def table(
    columns: Sequence[Child],
    rows: Sequence[Sequence[Child]],
    *,
    numbers: Sequence[int] = (),
    marked: int | None = None,
) -> Markup:
    """A table whose columns ``numbers`` are aligned to the right; the row ``marked`` stands out."""

    def kind(column: int) -> str | None:
        return "number" if column in numbers else None

    head = [tag("th", name, class_=kind(n), scope="col") for n, name in enumerate(columns)]
    body = [
        tag(
            "tr",
            [tag("td", cell, class_=kind(n)) for n, cell in enumerate(row)],
            class_="marked" if number == marked else None,
        )
        for number, row in enumerate(rows)
    ]
    whole = tag("table", tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", whole, class_="scroll")


def pairs(rows: Sequence[tuple[Child, Child]]) -> Markup:
    """Names and what they are, one below the other."""
    return tag("dl", [(tag("dt", name), tag("dd", value)) for name, value in rows])


@dataclass(frozen=True)
class Bar:
    """A row of ``bars``; ``kind`` is a class: ``plain``, ``faint`` or ``winner``."""

    label: Child
    value: float
    said: str
    kind: str = "plain"
    detail: str = ""


def bars(rows: Sequence[Bar]) -> Markup:
    """Values of one unit as bars that begin at zero."""
    most = max((row.value for row in rows), default=0.0) or 1.0
    drawn = [
        tag(
            "tr",
            tag("td", row.label, tag("span", row.detail, class_="detail") if row.detail else None),
            tag(
                "td",
                tag("div", class_=f"bar {row.kind}", style=f"width:{100 * row.value / most:.2f}%"),
                class_="track",
            ),
            tag("td", row.said, class_="number"),
        )
        for row in rows
    ]
    return tag("table", tag("tbody", drawn), class_="bars")


def folded(summary: str, *children: Child, printed: bool = True) -> Markup:
    """What is shown when it is asked for, and in print unless it is too long for that."""
    unprinted = None if printed else "unprinted"
    return tag("details", tag("summary", summary), children, class_=unprinted)


def badge(said: str, state: str) -> Markup:
    """A word or two in the colour of a state of ``verdict.py``."""
    return tag("span", said, class_=f"badge {state}")


def absent(*children: Child) -> Markup:
    """What stands where something is missing."""
    return tag("p", children, class_="absent")


def doubtful(name: str, doubt: str) -> Markup:
    """That what follows does not hold of the file ``name``."""
    return absent(badge("does not hold", "look"), " ", code(name), f": {doubt}.")


def not_done(stage: Stage) -> Markup:
    """That a stage left nothing yet, and the command that does it."""
    return absent(badge("Not done yet", "open"), f" It gives {stage.gives}: ", code(stage.command))


def listed(values: Mapping[str, str]) -> str:
    """``onnxruntime 1.31.1, numpy 2.3``."""
    return ", ".join(f"{name} {value}" for name, value in values.items())
