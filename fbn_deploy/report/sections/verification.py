"""The exported file against the trained network, and what folding did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fbn_deploy.report.amounts import percent, plural, points, relative
from fbn_deploy.report.exported import Check, Folding
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.pieces import badge, doubtful, folded, not_done, note, table, text
from fbn_deploy.report.run import Run
from fbn_deploy.report.stages import missing

TITLE = "Verification"


def section(run: Run) -> Markup:
    parts: list[Child] = [] if run.shipped else [not_done(missing(run)["export"])]
    for export in run.verified:
        if doubt := run.doubt(export):
            parts.append(doubtful(export.model, doubt))
        parts.append(
            text(
                tag("code", export.model),
                " was run on the test images, on every target below, and "
                "held against the trained network.",
            )
        )
        parts.append(checks_table([(export.model, check) for check in export.checks]))
    if run.export:
        before, after = run.export.batchnorms_before, run.export.batchnorms_after
        if before is not None and after is not None:
            parts.append(text(f"Folding left {after} of {plural(before, 'BatchNorm')}."))
        if run.folding:
            parts += _folding(run.folding)
    return escaped(parts)


def checks_table(rows: Sequence[tuple[str, Check]]) -> Markup:
    """A row for each (file, check)."""
    columns = ["file", "target", "images", "trained", "exported", "points", "agreement",
               "largest relative error", ""]  # fmt: skip
    cells: list[list[Child]] = [
        [
            tag("code", file),
            check.target,
            f"{check.images:,}",
            percent(check.accuracy_trained),
            percent(check.accuracy_exported),
            points(check.change),
            percent(check.top1_agreement),
            relative(check.max_relative_error),
            badge("passed", "good") if check.passed else badge("failed", "bad"),
        ]
        for file, check in rows
    ]
    return table(columns, cells, numbers=range(2, 8))


def _folding(found: Folding) -> Iterator[Child]:
    yield text(
        f"Nodes {found.nodes_before:,} → {found.nodes_after:,}; "
        f"{plural(found.absorbed, 'scale or shift', 'scales and shifts')} absorbed, "
        f"{found.stayed} stayed."
    )
    if found.max_error is not None:
        yield note(
            f"Folded and unfolded graph differ by {relative(found.max_error)} at most "
            f"({found.check})."
        )
    if found.reasons:
        rows: list[list[Child]] = [
            [f"{number:,}", reason] for reason, number in found.reasons.items()
        ]
        yield folded("Why something stayed", table(["times", "reason"], rows, numbers=(0,)))
    for warning in found.warnings:
        yield note(f"Warning: {warning}")
