"""The verdict, what it rests on, the figures that matter, and the files."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.report import svg
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
from fbn_deploy.report.pieces import code, folded, notation, note, table
from fbn_deploy.report.quantity import quantity_of
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import Search
from fbn_deploy.report.verdict import BAD, GOOD, LOOK, NOTE, OPEN, Finding, Verdict
from fbn_deploy.search.budgets import Budget

SIGNS = {GOOD: "✓", LOOK: "!", BAD: "✕", OPEN: "○", NOTE: "·"}
WORDS = {GOOD: "good", LOOK: "look", BAD: "against", OPEN: "not done", NOTE: "note"}
HANDED_OVER = (".onnx", ".engine", ".engine.json")


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
    parts += [_findings(verdict), *_files(run)]
    return tag("section", parts, id="verdict")


def _tiles(run: Run, search: Search) -> Iterator[Markup]:
    for budget in search.budgets:
        if budget.target:
            yield _latency_tile(search, budget)
    if run.training:
        trivial = percent(run.training.trivial)
        yield _tile(
            "top-1 accuracy",
            percent(run.training.accuracy),
            f"{run.training.images:,} test images; trivial {trivial}",
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
        rows: list[svg.Span] = []
        known = search.best.latencies.get(target)
        if known and known.predicted is not None:
            rows.append(
                svg.Span("predicted", "interval of the prediction", known.predicted,
                         inner=known.interval, hollow=True)
            )  # fmt: skip
        confirmed = search.confirmed.get(target)
        if confirmed:
            rows += [
                _span(f"confirmation, process {number}", record)
                for number, record in enumerate(confirmed.records, 1)
            ]
            rows.append(
                svg.Span(
                    "confirmed",
                    f"at most {milliseconds(confirmed.upper_ms)}; {confirmed.n:,} runs in "
                    f"{plural(len(confirmed.records), 'process', 'processes')}",
                    confirmed.value_ms,
                    bound=confirmed.upper_ms,
                )
            )
        if run.profile and run.profile.record.conditions.target == target:
            rows.append(_span("model.onnx, trained and exported", run.profile.record))
        if rows:
            yield tag(
                "figure",
                svg.spans(
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


def _span(label: str, record: LatencyRecord) -> svg.Span:
    timing = record.timing
    return svg.Span(
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


def _files(run: Run) -> Iterator[Child]:
    rows: list[list[Child]] = [
        [
            code(file.name),
            size(file.bytes),
            tag("code", file.sha256[:12]),
            _standing(run, file.name),
        ]
        for file in run.files
        if file.name.endswith(HANDED_OVER)
    ]
    if rows:
        yield table(["file", "size", "SHA-256 begins", "state"], rows, numbers=(1,))
    others = [file for file in run.files if not file.name.endswith(HANDED_OVER)]
    listed = table(
        ["file", "size"], [[code(file.name), size(file.bytes)] for file in others], numbers=(1,)
    )
    yield folded(f"{plural(len(others), 'other file')} of the run", listed, printed=False)
    if not rows:
        yield note("There is no file to hand over yet.")


def _standing(run: Run, name: str) -> str:
    """What is known of a file that is handed over."""
    if name == "model.onnx":
        if run.export is None:
            return "not verified"
        return "verified" if all(c.passed for c in run.export.checks) else "verification failed"
    for precision in run.precisions:
        if precision.model == name:
            worst = min((check.accuracy_exported for check in precision.checks), default=None)
            return f"verified in {precision.name}, {percent(worst)} top-1"
    for engine in run.engines:
        if engine.name == name:
            return "verified on its device" if engine.check else "built, never run"
        if f"{engine.name}.json" == name:
            return "the engine's story"
    return "not verified"
