"""Pictures of a bench, from its ``bench.json`` alone; each as SVG and PNG. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from fbn_deploy.files import replacing

COLUMNS = 3


def draw(content: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes ``scores`` and, where seconds were measured, ``seconds``; the paths written."""
    figures = {"scores": _scores(content), "seconds": _seconds(content)}
    written = []
    for name, figure in figures.items():
        for kind in ("svg", "png") if figure is not None else ():
            path = directory / f"{name}.{kind}"
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            # Ids from a fixed salt and no date: the same bench, the same bytes.
            with replacing(path) as temporary, rc_context({"svg.hashsalt": "fbn"}):
                assert figure is not None
                figure.savefig(temporary, format=kind, metadata=metadata, dpi=150)
            written.append(path)
    return written


def _scores(content: Mapping[str, Any]) -> Figure:
    """A panel for each indicator: its value against trained accuracy; of a composite, whose parts
    have no common unit, the rank."""
    results, architectures = content["results"], content["architectures"]
    columns = min(COLUMNS, len(results))
    lines = math.ceil(len(results) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    accuracies = [each["accuracy"] for each in architectures]
    for panel, result in zip(panels, results, strict=False):
        name = result["indicator"]
        is_composite = name not in architectures[0]["values"]
        found = [each["ranks" if is_composite else "values"][name] for each in architectures]
        shown = [math.nan if value is None else value for value in found]  # None: not finite
        panel.scatter(shown, accuracies, s=6, alpha=0.6)
        panel.set_title(f"{name}, τ {_text(result['kendall'])}", fontsize=9)
        if is_composite:
            panel.invert_xaxis()
            panel.set_xlabel("rank (the best is on the right)", fontsize=8)
    for panel in panels[len(results) :]:
        panel.set_visible(False)
    figure.supxlabel("value", fontsize=9)
    figure.supylabel(content["table"]["accuracy_column"], fontsize=9)
    return figure


def _seconds(content: Mapping[str, Any]) -> Figure | None:
    """Seconds a candidate against τ with its interval, a mark for each timed indicator."""
    timed = [
        each
        for each in content["results"]
        if each["seconds_per_candidate"] and each["kendall"] is not None
    ]
    if not timed:
        return None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    for each in timed:
        x, y = each["seconds_per_candidate"], each["kendall"]
        low, high = each["interval"] or (y, y)
        below, above = max(y - low, 0.0), max(high - y, 0.0)  # a bar has no negative length
        panel.errorbar([x], [y], [[below], [above]], fmt="o", markersize=4, capsize=2)
        panel.annotate(
            each["indicator"], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.margins(x=0.25)
    panel.set_xlabel("seconds a candidate (median)")
    panel.set_ylabel("Kendall τ, 95 % bootstrap interval")
    return figure


def _text(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
