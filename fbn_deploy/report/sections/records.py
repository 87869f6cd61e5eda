"""Every latency with its story: the conditions it holds under, and what disturbed it."""

from __future__ import annotations

from collections.abc import Callable

from fbn_deploy.latency.slowdown import slowdown_of
from fbn_deploy.report.amounts import NONE, digits, percent
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.measured import Record
from fbn_deploy.report.pieces import folded, not_done, note, pairs, table
from fbn_deploy.report.run import Run
from fbn_deploy.report.stages import missing

TITLE = "Latency records"

_NUMBERS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("median, ms", lambda r: digits(r.timing.value_ms)),
    ("95 % interval", lambda r: f"{digits(r.timing.low_ms)} to {digits(r.timing.high_ms)}"),
    ("worst round", lambda r: digits(r.timing.worst_round_ms)),
    ("min", lambda r: digits(r.timing.min_ms)),
    ("p90", lambda r: digits(r.timing.p90_ms)),
    ("p99", lambda r: digits(r.timing.p99_ms)),
    ("runs", lambda r: f"{r.timing.n:,}"),
    ("rounds", lambda r: f"{r.timing.rounds:,}"),
    ("spread", lambda r: percent(r.timing.spread, 1)),
    ("slow day", lambda r: f"× {slowdown_of(r):.3f}"),
    ("waited", lambda r: percent(r.timing.waited, 1)),
    ("crowded", lambda r: percent(r.timing.crowded, 0)),
    ("load", lambda r: f"{r.timing.load:.2f}"),
)


def section(run: Run) -> Markup:
    records = run.records()
    if not records:
        undone = missing(run)
        stage = undone.get("profile") or undone.get("search")
        return not_done(stage) if stage else note("No latency was measured for this run.")
    columns = ["of", *(name for name, _ in _NUMBERS), "disturbed"]
    rows: list[list[Child]] = [
        [name, *(show(record) for _, show in _NUMBERS), _disturbed(record)]
        for name, record in records
    ]
    return escaped(
        [
            table(columns, rows, numbers=range(1, len(_NUMBERS) + 1)),
            note(
                "Slow day: the factor by which the machine was faster then than when it is slow. "
                "Waited: time without a core. Crowded: rounds during which somebody else computed "
                "on the core; they are left out of the median."
            ),
            [folded(f"Conditions: {name}", _conditions(record)) for name, record in records],
        ]
    )


def _disturbed(record: Record) -> Child:
    if not record.disturbed:
        return "no"
    return tag("span", "; ".join(record.timing.disturbed), class_="warned")


def _conditions(record: Record) -> Markup:
    found = record.conditions
    inputs = ", ".join(f"{n} {'×'.join(map(str, shape))}" for n, shape in found.inputs.items())
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    settings = ", ".join(f"{name} {value}" for name, value in found.settings.items())
    rows: list[tuple[Child, Child]] = [
        ("target", found.target),
        ("device", found.device),
        ("runtime", versions),
        ("precision", found.precision),
        ("batch", str(found.batch)),
        ("input", inputs),
        ("threads", str(found.threads)),
        ("cores", ", ".join(map(str, record.cores)) if record.cores else NONE),
        ("clock", f"{record.clock_mhz:,.0f} MHz" if record.clock_mhz else NONE),
        ("power", found.power or NONE),
        ("settings", settings),
        ("protocol", found.protocol),
        ("process", "a fresh one" if found.process else "the one that asked"),
        ("date", record.date),
        ("graph", tag("code", found.network)),
    ]
    return pairs(rows)
