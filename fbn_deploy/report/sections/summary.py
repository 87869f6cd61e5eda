"""The verdict, the figures that matter, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.report.amounts import (
    SPACE,
    count,
    digits,
    milliseconds,
    percent,
    plain,
    plural,
    relative,
    size,
)
from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.pieces import notation
from fbn_deploy.report.quantity import quantity_of
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import Search
from fbn_deploy.report.sections.files import files
from fbn_deploy.report.spans import Span, spans
from fbn_deploy.report.verdict import BAD, GOOD, LOOK, NOTE, OPEN, Finding, Verdict
from fbn_deploy.search.budgets import Budget

SIGNS = {GOOD: "✓", LOOK: "!", BAD: "✕", OPEN: "○", NOTE: "·"}
WORDS = {GOOD: "good", LOOK: "look", BAD: "against", OPEN: "not done", NOTE: "note"}


def section(run: Run, verdict: Verdict) -> Markup:
    """What stands at the top of the page; its heading is the verdict itself."""
    parts: list[Child] = [
        tag(
            "div",
            tag("span", SIGNS[verdict.state], class_="sign"),
            tag("h2", verdict.headline),
            class_=f"verdict {verdict.state}",
        )
    ]
    if run.search:
        parts.append(tag("p", notation(run.search.text), class_="chosen"))
        parts.append(tag("div", list(_tiles(run, run.search)), class_="tiles"))
        parts += _latencies(run, run.search)
    parts += [_findings(verdict), files(run)]
    return tag("section", parts, id="verdict")


def _tiles(run: Run, search: Search) -> Iterator[Markup]:
    for budget in search.budgets:
        if budget.target:
            yield _latency_tile(search, budget)
    if run.training:
        low, high = run.training.interval
        yield _tile(
            "top-1 accuracy",
            percent(run.training.accuracy),
            f"{100 * low:.1f} to {percent(high, 1)} by {run.training.images:,} test images",
        )
    else:
        yield _tile("top-1 accuracy", "–", "not trained yet")
    best = search.best
    params = f"{count(best.params)} parameters"
    limits = [b.text for b in search.budgets if b.kind != "latency"]
    yield _tile(
        "multiply-adds",
        count(best.flops),
        "; ".join([params, *(f"budget {limit}" for limit in limits)]),
    )
    model = run.file("model.onnx")
    if run.export and model:
        passed = all(check.passed for check in run.export.checks)
        error = max((check.max_relative_error for check in run.export.checks), default=0.0)
        yield _tile(
            model.name,
            size(model.bytes),
            f"verified, largest error {relative(error)}" if passed else "verification failed",
        )
    else:
        yield _tile("model.onnx", "–", "not exported yet")


def _latency_tile(search: Search, budget: Budget) -> Markup:
    target = budget.target or ""
    if confirmed := search.confirmed.get(target):
        limit = f"budget {plain(budget.limit)}{SPACE}ms"
        return _tile(
            f"confirmed on {target}",
            milliseconds(confirmed.value_ms),
            f"at most {digits(confirmed.upper_ms)}, {limit}"
            + (", disturbed" if confirmed.disturbed else ""),
        )
    return _tile(
        f"predicted for {target}",
        milliseconds(search.best.cost(budget)),
        f"not confirmed; budget {plain(budget.limit)}{SPACE}ms",
    )


def _tile(name: str, value: str, said: str) -> Markup:
    return tag(
        "div",
        tag("span", name, class_="tile-name"),
        tag("b", value),
        tag("span", said, class_="detail"),
        class_="tile",
    )


def _latencies(run: Run, search: Search) -> Iterator[Child]:
    """For each budgeted target: all that is known of the network's latency, on one axis."""
    for budget in search.budgets:
        target = budget.target
        if target is None:
            continue
        rows: list[Span] = []
        known = search.best.latencies.get(target)
        if known and known.predicted is not None:
            rows.append(
                Span("predicted", "interval of the prediction", known.predicted,
                         inner=known.interval, hollow=True)
            )  # fmt: skip
        confirmed = search.confirmed.get(target)
        if confirmed:
            rows += [
                _span(f"confirmation, process {number}", record)
                for number, record in enumerate(confirmed.records, 1)
            ]
            rows.append(
                Span(
                    "confirmed",
                    f"at most {milliseconds(confirmed.upper_ms)}; {confirmed.n:,} runs in "
                    f"{plural(len(confirmed.records), 'process', 'processes')}",
                    confirmed.value_ms,
                    bound=confirmed.upper_ms,
                )
            )
        if run.profile and search.budget_for(run.profile.record) == budget:
            rows.append(_span("model.onnx, trained and exported", run.profile.record))
        if rows:
            yield tag(
                "figure",
                spans(
                    rows,
                    quantity_of(budget),
                    limit=budget.limit,
                    title=f"Latency of the network on {target}",
                ),
                tag(
                    "figcaption",
                    f"Latency on {target}. Dot: median; bar: its 95 % interval; line: shortest run "
                    "to p90; bracket: what the budget is held against (the worst round of any "
                    "process, or its median on a slow day).",
                ),
            )


def _span(label: str, record: LatencyRecord) -> Span:
    timing = record.timing
    return Span(
        label,
        f"{milliseconds(timing.value_ms)}, p90 {digits(timing.p90_ms)}, {timing.n:,} runs"
        + (", disturbed" if timing.disturbed else ""),
        timing.value_ms,
        outer=(timing.min_ms, max(timing.p90_ms, timing.value_ms)),
        inner=(timing.low_ms, timing.high_ms),
        cut=True,
    )


def _findings(verdict: Verdict) -> Markup:
    return tag("ul", [_finding(each) for each in verdict.findings], class_="findings")


def _finding(each: Finding) -> Markup:
    sign = tag("span", SIGNS[each.state], class_="sign", title=WORDS[each.state])
    return tag("li", sign, tag("b", each.about), tag("span", each.text), class_=each.state)
