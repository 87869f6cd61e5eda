"""Files in other precisions: what each kept of the accuracy, and whether it is faster."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.report.amounts import milliseconds, powered, speedup
from fbn_deploy.report.exported import Precision
from fbn_deploy.report.markup import Child, Markup, escaped
from fbn_deploy.report.pieces import Bar, bars, doubtful, folded, heading, not_done, note
from fbn_deploy.report.run import Run
from fbn_deploy.report.sections.verification import checks_table
from fbn_deploy.report.stages import missing

TITLE = "Precision"
SHOWN = 12  # layers of the sensitivity analysis


def section(run: Run) -> Markup:
    if not run.precisions:
        undone = missing(run)
        return not_done(undone.get("precision") or undone["export"])
    beside = [each for each in run.precisions if each is not run.shipped]
    checks = [(each.model, check) for each in beside for check in each.checks]
    doubts = [(each.model, run.doubt(each)) for each in run.precisions]
    parts: list[Child] = [doubtful(name, doubt) for name, doubt in doubts if doubt]
    parts += [checks_table(checks)] if beside else []
    parts += _speeds(run)
    for each in run.precisions:
        parts += _story(each)
    return escaped(parts)


def _speeds(run: Run) -> Iterator[Child]:
    targets = dict.fromkeys(speed.target for each in run.precisions for speed in each.speeds)
    for target in targets:
        yield heading(f"Latency on {target}")
        rows = []
        for each in run.precisions:
            for speed in each.speeds:
                if speed.target == target:
                    times = f"{speedup(speed.factor)} fp32 beside it"
                    if speed.disturbed:
                        times = f"{times}; disturbed: {'; '.join(speed.disturbed)}"
                    rows.append(Bar(each.label, speed.latency_ms,
                                    milliseconds(speed.latency_ms), "winner", times))  # fmt: skip
                    rows.append(Bar(f"fp32 beside {each.label}", speed.fp32_latency_ms,
                                    milliseconds(speed.fp32_latency_ms), "faint"))  # fmt: skip
        yield bars(rows)
    if targets:
        yield note("Batch 1, one thread, each measured right after its fp32.")


def _story(each: Precision) -> Iterator[Child]:
    said = []
    if each.max_drop is not None:
        said.append(f"a drop of at most {each.max_drop:g} points was allowed")
    if each.calibration:
        method, images = (each.calibration.get(name, "?") for name in ("method", "images"))
        said.append(f"calibrated by {method} on {images} images")
    if each.activations:
        said.append(f"activations in {each.activations}")
    if each.kept_fp32:
        said.append(f"left in fp32: {', '.join(each.kept_fp32)}")
    if said:
        yield note(f"{each.model}: {'; '.join(said)}.")
    if each.sensitivity:
        worst = sorted(each.sensitivity.items(), key=lambda pair: -pair[1])
        rows = [Bar(name, error, powered(error)) for name, error in worst[:SHOWN]]
        yield folded(
            f"Layers that {each.name} costs most ({len(rows)} of {len(worst)})",
            note("Relative squared error of the outputs with one layer alone in that precision."),
            bars(rows),
        )
