"""Every latency with its story: the conditions it holds under, and what disturbed it."""

from __future__ import annotations

from collections.abc import Callable

from fbn_deploy.latency.slowdown import slowdown_of
from fbn_deploy.report.amounts import NONE, digits, percent
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.measured import Record
from fbn_deploy.report.pieces import heading, listed, not_done, note, pairs, table
from fbn_deploy.report.run import Run
from fbn_deploy.report.stages import missing

TITLE = "Latency records"


def section(run: Run) -> Markup:
    records = run.records()
    if not records:
        undone = missing(run)
        stage = undone.get("profile") or undone.get("search")
        return not_done(stage) if stage else note("No latency was measured for this run.")
    shown = {name: [show(record) for _, record in records] for name, show in _CONDITIONS}
    shared = [(name, each[0]) for name, each in shown.items() if len(set(each)) == 1]
    differing = [[name, *each] for name, each in shown.items() if len(set(each)) > 1]
    rows: list[list[Child]] = [
        [name, *(show(record) for _, record in records)] for name, show in _NUMBERS
    ]
    columns = ["", *(name for name, _ in records)]
    return escaped(
        [
            tag("div", table(columns, [*rows, *differing]), class_="records"),
            note(
                "Slow day: by how much the machine was faster then than when it is slow; a budget "
                "is held against the median times that. Waited: time without a core. Preempted: "
                "runs with an involuntary context switch. Crowded: rounds during which somebody "
                "else computed on the core; left out of the median where enough others remain. "
                "Confirmations are made by fresh processes."
            ),
            heading("Conditions of all of them" if len(records) > 1 else "Conditions"),
            pairs(shared),
        ]
    )


def _disturbed(record: Record) -> Child:
    if not record.disturbed:
        return "no"
    return tag("span", "; ".join(record.timing.disturbed), class_="warned")


def _input(record: Record) -> str:
    shapes = record.conditions.inputs.items()
    return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in shapes)


_NUMBERS: tuple[tuple[str, Callable[[Record], Child]], ...] = (
    ("median, ms", lambda r: tag("b", digits(r.timing.value_ms))),
    ("95 % interval", lambda r: f"{digits(r.timing.low_ms)} to {digits(r.timing.high_ms)}"),
    ("worst round", lambda r: digits(r.timing.worst_round_ms)),
    ("shortest run", lambda r: digits(r.timing.min_ms)),
    ("p90", lambda r: digits(r.timing.p90_ms)),
    ("p99", lambda r: digits(r.timing.p99_ms)),
    ("runs, rounds", lambda r: f"{r.timing.n:,}, {r.timing.rounds:,}"),
    ("spread of rounds", lambda r: percent(r.timing.spread, 1)),
    ("slow day", lambda r: f"× {slowdown_of(r):.3f}"),
    ("waited", lambda r: percent(r.timing.waited, 1)),
    ("preempted", lambda r: percent(r.timing.preempted, 1)),
    ("crowded", lambda r: percent(r.timing.crowded, 0)),
    ("load", lambda r: f"{r.timing.load:.2f}"),
    ("date", lambda r: r.date.replace("T", " ").replace("+00:00", " UTC")),
    ("disturbed", _disturbed),
)
_CONDITIONS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("target", lambda r: r.conditions.target),
    ("device", lambda r: r.conditions.device),
    ("runtime", lambda r: listed(r.conditions.versions)),
    ("precision", lambda r: r.conditions.precision),
    ("batch", lambda r: str(r.conditions.batch)),
    ("input", _input),
    ("threads", lambda r: str(r.conditions.threads)),
    ("cores", lambda r: ", ".join(map(str, r.cores)) if r.cores else NONE),
    ("clock, MHz", lambda r: f"{r.clock_mhz:,.0f}" if r.clock_mhz else NONE),
    ("power", lambda r: r.conditions.power or "not told by the system"),
    ("settings", lambda r: listed(r.conditions.settings)),
    ("protocol", lambda r: r.conditions.protocol),
    ("graph", lambda r: r.conditions.network[:12]),
)
