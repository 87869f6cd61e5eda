"""A report taken apart."""

from __future__ import annotations

import json
import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from fbn_deploy import cli
from fbn_deploy.report.page import write_report
from fbn_deploy.report.verdict import Verdict

READY = "Ready to ship if 90.00 % top-1 is enough"  # what ``report_runs.whole`` makes


class Page(HTMLParser):
    """A page taken apart: its texts, and every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def page(run: Path) -> Page:
    path, _, _ = write_report(run)
    found = Page(path.read_text(encoding="utf-8"))
    assert not found.open, "An element that is not closed."
    return found


def verdict(run: Path) -> Verdict:
    return write_report(run)[2]


def commands(run: Path) -> list[str]:
    """The commands that do a run again, each of them read by the command that it names."""
    html = write_report(run)[0].read_text(encoding="utf-8")
    block = html.split("<pre><code>")[1].split("</code>")[0].replace("\\\n", "")
    known = get_command(cli._app())
    assert isinstance(known, TyperGroup)
    lines = unescape(block).splitlines()
    for line in lines:
        _, name, *words = shlex.split(line)
        known.commands[name].make_context(name, words)  # raises for an option that is none
    return [" ".join(line.split()) for line in lines]


def changed(path: Path, *keys: str | int, to: Any) -> None:
    """Replaces one value in a JSON file."""
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(content))
