"""The verdict, the figures that matter, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.report.amounts import (
    NONE,
    SPACE,
    count,
    digits,
    milliseconds,
    percent,
    plain,
    plural,
    points,
    relative,
    size,
)
from fbn_deploy.report.confidence import interval
from fbn_deploy.report.markup import Child, Markup, tag
from fbn_deploy.report.measured import Record
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
    yield _accuracy_tile(run)
    best = search.best
    params = f"{count(best.params)} parameters"
    limits = [b.text for b in search.budgets if b.kind != "latency"]
    yield _tile(
        "multiply-adds",
        count(best.flops),
        "; ".join([params, *(f"budget {limit}" for limit in limits)]),
    )
    yield _model_tile(run)


def _latency_tile(search: Search, budget: Budget) -> Markup:
    target = budget.target or ""
    if confirmed := search.confirmed.get(target):
        limit = f"budget {plain(budget.limit)}{SPACE}ms"
        return _tile(
            f"confirmed on {target}{search.in_precision}",
            milliseconds(confirmed.value_ms),
            f"at most {digits(confirmed.upper_ms)}, {limit}"
            + (", disturbed" if confirmed.disturbed else ""),
        )
    return _tile(
        f"predicted for {target}{search.in_precision}",
        milliseconds(search.best.cost(budget)),
        f"not confirmed; budget {plain(budget.limit)}{SPACE}ms",
    )


def _accuracy_tile(run: Run) -> Markup:
    """Of the file that ships, where it has another one than the trained network."""
    found = run.training
    if found is None:
        return _tile("top-1 accuracy", NONE, "not trained yet")
    name, accuracy, images, trained = "top-1 accuracy", found.accuracy, found.images, ""
    if worst := run.least_accurate:
        name, accuracy, images = f"{name} in {run.precision}", worst.accuracy_exported, worst.images
        trained = f"; trained {percent(found.accuracy)}"
    low, high = interval(accuracy, images)
    said = f"{100 * low:.1f} to {percent(high, 1)} by {images:,} test images{trained}"
    return _tile(name, percent(accuracy), said)


def _model_tile(run: Run) -> Markup:
    model = run.file(run.model)
    told = next((each for each in run.told if each.model == run.model), None)
    doubt = run.doubt(told) if told else ""
    if model is None or run.shipped is None:
        return _tile(run.model, NONE, doubt or "not exported yet")
    checks = run.shipped.checks
    if doubt:
        said = doubt
    elif not all(check.passed for check in checks):
        said = "verification failed"
    elif worst := run.least_accurate:
        said = f"verified, {points(worst.change)} points of accuracy"
    else:
        error = max((check.max_relative_error for check in checks), default=0.0)
        said = f"verified, largest error {relative(error)}"
    return _tile(model.name, size(model.bytes), said)


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
        rows = list(_known(run, search, budget)) if budget.target else []
        if not rows:
            continue
        place = f"on {budget.target}{search.in_precision}"
        title = f"Latency of the network {place}"
        yield tag(
            "figure",
            spans(rows, quantity_of(search, budget), limit=budget.limit, title=title),
            tag(
                "figcaption",
                f"Latency {place}. Dot: median; bar: its 95 % interval; line: shortest run to p90; "
                "bracket: what the budget is held against (the worst round of any process, or its "
                "median on a slow day).",
            ),
        )


def _known(run: Run, search: Search, budget: Budget) -> Iterator[Span]:
    """What was predicted, what was confirmed in each process, and what the shipped file takes."""
    target = budget.target or ""
    known = search.best.latencies.get(target)
    if known and known.predicted is not None:
        note = "interval of the prediction"
        yield Span("predicted", note, known.predicted, inner=known.interval, hollow=True)
    if confirmed := search.confirmed.get(target):
        for number, record in enumerate(confirmed.records, 1):
            yield _span(f"confirmation, process {number}", record)
        yield Span(
            f"confirmed{search.in_precision}",
            f"at most {milliseconds(confirmed.upper_ms)}; {confirmed.n:,} runs in "
            f"{plural(len(confirmed.records), 'process', 'processes')}",
            confirmed.value_ms,
            bound=confirmed.upper_ms,
        )
    if run.profile and search.budget_for(run.profile.record) == budget:
        yield _span(f"{run.model}, trained and exported", run.profile.record)


def _span(label: str, record: Record) -> Span:
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
