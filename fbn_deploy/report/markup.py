"""HTML that cannot be broken by what it shows: every text is escaped unless it is ``Markup``."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"meta", "wbr"})
# No HTML, or made to disguise text: controls, halves of UTF-16 pairs, changes of direction.
_UNSHOWN = dict.fromkeys(
    [*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F),
     *range(0x2066, 0x206A), *range(0xD800, 0xE000), 0xFFFE, 0xFFFF],
    "\N{REPLACEMENT CHARACTER}",
)  # fmt: skip


class Markup(str):
    """HTML as it is to be written. Only the functions of this file make it."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
Attribute: TypeAlias = "str | int | float | None"


def escaped(child: Child) -> Markup:
    """``child`` as HTML: text escaped, ``Markup`` as it is, None as nothing, several in a row."""
    if isinstance(child, Markup):
        return child
    if child is None:
        return Markup()
    if isinstance(child, str):
        return Markup(html.escape(child.translate(_UNSHOWN)))
    if isinstance(child, Iterable):
        return Markup("".join(escaped(each) for each in child))
    return Markup(str(child))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """``tag("td", text, class_="number")`` → ``<td class="number">…</td>``.

    A trailing underscore of an attribute's name is dropped, others become dashes; one of None is
    left out. Numbers are written with at most two decimals.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{escaped(children)}</{name}>")


def styles(css: str) -> Markup:
    """A style element; ``css`` is ours and holds no text of a run."""
    assert "</" not in css, "A stylesheet that ends its element."
    return Markup(f"<style>{css}</style>")


def document(*children: Child) -> str:
    """A whole page."""
    return f"<!doctype html>\n{tag('html', *children, lang='en')}\n"


def _attribute(value: str | int | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)
