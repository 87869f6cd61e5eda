"""What the budget meant: sampled networks against it, and how latencies were found."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.report.amounts import count, percent, plural
from fbn_deploy.report.markup import Child, Markup, escaped
from fbn_deploy.report.pieces import listed, not_done, note, text
from fbn_deploy.report.quantity import quantity_of
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import Predictor, Range, Search, Survey
from fbn_deploy.report.spans import Span, spans
from fbn_deploy.report.stages import missing

TITLE = "What the budget meant"


def section(run: Run) -> Markup:
    search = run.search
    if search is None:
        return not_done(missing(run)["search"])
    return escaped([*_surveyed(search), *_predicted(search)])


def _surveyed(search: Search) -> Iterator[Child]:
    survey = search.survey
    if survey is None or not survey.count:
        yield note("This search was made before surveys were written down.")
        return
    for each in survey.ranges:
        yield _range(search, each, survey)
    if len(survey.ranges) > 1:
        yield text(
            f"{survey.fitting} of {survey.count} sampled networks "
            f"({percent(survey.fitting / survey.count, 0)}) meet all of these budgets."
        )
    for cost, factor in survey.stretch.items():
        if factor > 1:
            yield note(
                f"Measured with care, a surveyed network took {factor:.3f} times its quick "
                f"measurement or prediction ({cost.replace(':', ' on ')}); candidates were held to "
                "that much below the budget."
            )


def _range(search: Search, each: Range, survey: Survey) -> Child:
    budget = each.budget
    limit = f"{budget.text}{search.in_precision if budget.kind == 'latency' else ''}"
    least, most = budget.superlatives
    share = each.meeting / survey.count
    verdict = ""
    if each.meeting == survey.count:
        verdict = " Every one meets it: the budget does not bind."
    elif each.meeting == 0:
        verdict = " None meets it: what was chosen is rarer than one in the sample."
    sentence = text(
        f"{each.meeting} of {survey.count} sampled networks ({percent(share, 0)}) meet "
        f"{limit}.{verdict}"
    )
    if each.least is None or each.median is None:
        return [sentence, note("Their costs are not known here.")]
    quantity = quantity_of(search, budget)
    scale = quantity.scale
    top = each.median if each.most is None else each.most
    amount = budget.amount_of
    said = "not known" if each.most is None else amount(each.most)
    row = Span(
        label=f"{survey.count} sampled networks",
        note=f"{least} {amount(each.least)} · median {amount(each.median)} · {most} {said}",
        dot=each.median / scale,
        outer=(each.least / scale, top / scale),
        open_ended=each.most is None,
    )
    title = f"Cost of sampled networks against {limit}"
    return [sentence, spans([row], quantity, limit=budget.limit / scale, title=title)]


def _predicted(search: Search) -> Iterator[Child]:
    for target, predictor in search.predictors.items():
        yield text(f"Latencies of candidates on {target}{search.in_precision}: {_how(predictor)}")
        if predictor.unknown:
            elsewhere = search.meets_budget is None
            yield note(
                f"{plural(predictor.unknown, 'network')} could not be predicted, since the table "
                f"lacks blocks of them; they {'meet no budget' if elsewhere else 'were measured'}."
            )
    if search.meets_budget is None:
        yield text(
            "The target is elsewhere: the chosen network is predicted, and nothing confirmed it."
        )


def _how(predictor: Predictor) -> str:
    if predictor.kind != "table":
        return "every network was measured whole."
    quality = predictor.quality
    found = (
        f"predicted from {count(predictor.blocks)} measured blocks, corrected by "
        f"{count(predictor.probes)} whole networks"
    )
    if {"mape", "worst", "width", "coverage", "spearman"} <= quality.keys():
        found += (
            f". On networks left out, the error was {percent(quality['mape'], 1)} in the mean and "
            f"{percent(quality['worst'], 1)} at most (Spearman {quality['spearman']:.3f}); "
            f"intervals of ±{percent(quality['width'], 1)} covered "
            f"{percent(quality['coverage'], 0)}"
        )
    device = ", ".join(filter(None, [predictor.device, listed(predictor.versions)]))
    return f"{found}. {f'Measured on {device}.' if device else ''}".strip()
