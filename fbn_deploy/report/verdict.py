"""Whether to ship: each thing that speaks for it or against it, and what they come to.

A finding is ``good``; ``look`` at it before shipping; ``bad``: it speaks against shipping;
``open``: that stage is not done; or a ``note`` that decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fbn_deploy.report.amounts import (
    SPACE,
    digits,
    milliseconds,
    percent,
    plural,
    points,
    relative,
    speedup,
)
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import Search
from fbn_deploy.report.stages import device_command, missing, profile_command
from fbn_deploy.search.budgets import Budget

GOOD, LOOK, BAD, OPEN, NOTE = "good", "look", "bad", "open", "note"
HEADLINES = {
    BAD: "Do not ship this as it is",
    OPEN: "Not finished",
    LOOK: "Look before you ship",
    GOOD: "Ready to ship",
}


@dataclass(frozen=True)
class Finding:
    """``text`` says what was found about ``about``, in one sentence."""

    state: str
    about: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """The findings, the worst of their states, and what they come to in one line."""

    state: str
    headline: str
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "headline": self.headline,
            "findings": [
                {**asdict(each), "text": each.text.replace(SPACE, " ")} for each in self.findings
            ],
        }


def judged(run: Run) -> Verdict:
    """The verdict on ``run``. Whether its accuracy is enough, only people know."""
    findings = tuple(_findings(run))
    states = {finding.state for finding in findings}
    state = next(state for state in HEADLINES if state in states)
    if state == GOOD and run.training:
        worst = run.least_accurate
        accuracy = percent(worst.accuracy_exported if worst else run.training.accuracy)
        enough = f"if {accuracy.replace(SPACE, ' ')} top-1 is enough"
        return Verdict(state, f"{HEADLINES[state]} {enough}", findings)
    abouts = [finding.about for finding in findings if finding.state == state]
    return Verdict(state, f"{HEADLINES[state]}: {', '.join(dict.fromkeys(abouts))}", findings)


def _findings(run: Run) -> Iterator[Finding]:
    undone = missing(run)
    if run.search is None:
        yield Finding(OPEN, "search", f"No network was chosen yet: {undone['search'].command}")
        return
    for budget in run.search.budgets:
        yield _budget(run, run.search, budget)
    yield from _accuracy(run)
    yield from _verification(run)
    yield from _latency(run, run.search)
    yield from _precisions(run)
    yield from _engines(run)


def _budget(run: Run, search: Search, budget: Budget) -> Finding:
    if budget.kind == "latency":
        return _latency_budget(run, search, budget)
    about = {"flops": "FLOPs budget", "params": "parameter budget"}[budget.kind]
    cost = search.best.cost(budget)
    if cost is None:
        return Finding(LOOK, about, f"The cost under {budget.text} is not written down.")
    state = GOOD if budget.is_met_by(cost) else BAD
    text = f"{budget.amount_of(cost)}, counted; the budget is {_limit(budget)}."
    return Finding(state, about, text)


def _latency_budget(run: Run, search: Search, budget: Budget) -> Finding:
    """What is promised is the upper bound of the confirmation, or what the file's profile says on a
    device where nothing could be confirmed."""
    about = f"latency budget on {budget.target}{search.in_precision}"
    confirmed = search.confirmed.get(budget.target or "")
    if confirmed is None:
        return _measured_there(run, search, budget, about) or Finding(
            LOOK, about, _unconfirmed(run, search, budget)
        )
    text = (
        f"Confirmed {milliseconds(confirmed.value_ms)}{search.in_precision}, at most "
        f"{milliseconds(confirmed.upper_ms)}; the budget is {_limit(budget)}. {confirmed.n:,} runs "
        f"in {plural(len(confirmed.records), 'process', 'processes')}."
    )
    if confirmed.upper_ms > budget.limit:
        return Finding(BAD, about, text)
    if confirmed.disturbed:
        return Finding(LOOK, about, f"{text} The machine was disturbed meanwhile.")
    return Finding(GOOD, about, text)


def _measured_there(run: Run, search: Search, budget: Budget, about: str) -> Finding | None:
    """What the file's profile says where it is of the budget's own device, on which nothing could
    be confirmed before the file was there."""
    known = search.best.latencies.get(budget.target or "")
    record = run.profile.record if run.profile else None
    if record is None or search.budget_for(record) != budget or (known and known.measured):
        return None
    text = (
        f"{run.model} takes {milliseconds(record.value_ms)} on {record.conditions.device}, by its "
        f"profile; the budget is {_limit(budget)}."
    )
    if record.disturbed:
        return Finding(LOOK, about, f"{text} The device was disturbed meanwhile.")
    if budget.is_met_by(record.value_ms) and not budget.is_met_by(record.timing.high_ms):
        return Finding(LOOK, about, f"{text} The 95 % interval of its median is not all below it.")
    return Finding(GOOD if budget.is_met_by(record.value_ms) else BAD, about, text)


def _unconfirmed(run: Run, search: Search, budget: Budget) -> str:
    known = search.best.latencies.get(budget.target or "")
    cost = milliseconds(search.best.cost(budget))
    if known and known.measured is not None:
        return (
            f"Measured quickly{search.in_precision}, {cost}, and not confirmed; the budget is "
            f"{_limit(budget)}. Search again to confirm it."
        )
    low, high = (known.interval if known else None) or (None, None)
    return (
        f"Predicted {cost}{search.in_precision} ({milliseconds(low)} to {milliseconds(high)}), and "
        f"not measured there; the budget is {_limit(budget)}. Run "
        f"{device_command(run, budget.target or '')} on the device, and put that file into "
        f"{run.path}."
    )


def _limit(budget: Budget) -> str:
    return budget.amount_of(budget.limit)


def _accuracy(run: Run) -> Iterator[Finding]:
    found = run.training
    if found is None:
        yield Finding(OPEN, "accuracy", f"Not trained yet: {missing(run)['retrain'].command}")
        return
    accuracy, lower = found.accuracy, ""
    if worst := run.least_accurate:
        accuracy = min(accuracy, worst.accuracy_exported)
        lower = f", {percent(worst.accuracy_exported)} in {run.precision}"
    text = (
        f"{percent(found.accuracy)} top-1 on {found.images:,} test images{lower}; always naming "
        f"the most frequent class reaches {percent(found.trivial)}."
    )
    yield Finding(GOOD if accuracy > found.trivial else BAD, "accuracy", text)
    if run.search and found.choices and found.choices != run.search.best.choices:
        yield Finding(
            BAD, "trained network", "subnet.safetensors holds another network than was chosen."
        )


def _verification(run: Run) -> Iterator[Finding]:
    """Of the file that ships; of others, only what is wrong decides anything."""
    if run.shipped is None:
        yield Finding(OPEN, "verification", f"Not exported yet: {missing(run)['export'].command}")
    for told in run.told:
        if doubt := run.doubt(told):
            yield Finding(LOOK, told.model, _export_again(doubt))
    for export in run.verified:
        if run.doubt(export):
            continue
        good, bad = (GOOD, BAD) if export is run.shipped else (NOTE, LOOK)
        for check in export.checks:
            yield Finding(
                good if check.passed else bad,
                f"{export.model} on {check.target}",
                f"Agrees with the trained network on {percent(check.top1_agreement)} of "
                f"{check.images:,} images, largest relative error "
                f"{relative(check.max_relative_error)}.",
            )


def _export_again(doubt: str) -> str:
    return f"{doubt[0].upper()}{doubt[1:]}; export it again."


def _latency(run: Run, search: Search) -> Iterator[Finding]:
    """The shipped file's own latency: the budget was confirmed on its graph, before training."""
    about = "latency of the file"
    if run.shipped is None:
        return
    if run.profiles_another(run.model):
        yield Finding(
            LOOK,
            about,
            f"The profile is of another {run.model} than lies here; {profile_command(run)} "
            "measures this one.",
        )
        return
    if run.profile is None:
        yield Finding(OPEN, about, f"Not measured yet: {missing(run)['profile'].command}")
        return
    record = run.profile.record
    timing, conditions = record.timing, record.conditions
    text = (
        f"{run.model} takes {milliseconds(timing.value_ms)} on {conditions.target} (95 % interval "
        f"{digits(timing.low_ms)} to {milliseconds(timing.high_ms)}, {timing.n:,} runs)"
    )
    budget = search.budget_for(record)
    disturbed = f", disturbed: {'; '.join(timing.disturbed)}" if timing.disturbed else ""
    if budget is None:
        yield Finding(
            NOTE,
            about,
            f"{text}{disturbed}; no budget was set for these conditions (device, threads, batch).",
        )
    elif timing.value_ms > budget.limit:
        yield Finding(
            LOOK if disturbed else BAD,
            about,
            f"{text}{disturbed}: over the budget of {_limit(budget)}."
            + (f" {profile_command(run)} measures it again." if disturbed else ""),
        )
    elif disturbed:
        yield Finding(GOOD, about, f"{text}{disturbed}; within the budget all the same.")
    else:
        yield Finding(GOOD, about, f"{text}, undisturbed.")


def _precisions(run: Run) -> Iterator[Finding]:
    for each in run.precisions:
        worst = min(each.checks, key=lambda check: check.change, default=None)
        if worst is None or run.doubt(each):
            continue
        faster = [f"{speedup(speed.factor)} fp32 on {speed.target}" for speed in each.speeds]
        text = f"{points(worst.change)} points of accuracy"
        yield Finding(
            BAD if not worst.passed else NOTE,
            each.model,
            f"{', '.join([text, *faster])}.",
        )


def _engines(run: Run) -> Iterator[Finding]:
    for engine in run.engines:
        built = f"{engine.target} {engine.version}".strip()
        if damage := run.damage(engine):
            yield Finding(BAD, engine.name, _export_again(damage))
        elif other := run.other_source(engine):
            yield Finding(LOOK, engine.name, _export_again(other))
        elif engine.check is None:
            yield Finding(LOOK, engine.name, f"Built with {built}, and never run.")
        else:
            yield Finding(
                GOOD if engine.check.passed else BAD,
                engine.name,
                f"Built with {built}; agrees with the trained network on "
                f"{percent(engine.check.top1_agreement)} of {engine.check.images:,} images.",
            )
