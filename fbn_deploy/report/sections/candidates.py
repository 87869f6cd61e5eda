"""The candidates: cost against rank, the best of them, and how they were drawn."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.report.amounts import NONE, count, digits, large, percent, plural
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.pieces import Bar, badge, bars, folded, heading, not_done, note, table, text
from fbn_deploy.report.quantity import quantity_of
from fbn_deploy.report.run import Run
from fbn_deploy.report.scatter import Point, scatter
from fbn_deploy.report.searched import Candidate, Choices, Search
from fbn_deploy.report.stages import missing
from fbn_deploy.search.budgets import Budget

TITLE = "Candidates"
SHOWN = 10


def section(run: Run) -> Markup:
    search = run.search
    if search is None:
        return not_done(missing(run)["search"])
    return escaped([*_chosen(search), *_charts(search), *_best(search), *_drawn(run, search)])


def _chosen(search: Search) -> Iterator[Child]:
    scored = plural(len(search.candidates), "candidate")
    indicator = search.settings.get("indicator", "an indicator")
    yield text(
        f"{scored} within the budget were scored and ranked by ",
        tag("code", str(indicator)),
        f"{f' in a smaller skeleton ({search.scored_in})' if search.scored_in else ''}; lower "
        "ranks are better.",
    )
    position = search.position
    if position:
        yield text(
            f"The chosen one stands at place {position + 1}: the {plural(position, 'candidate')} "
            f"before it broke {'a' if len(search.budgets) > 1 else 'the'} budget when the whole "
            "network was measured."
            if search.confirmed
            else f"The chosen one stands at place {position + 1}."
        )
    elif position == 0:
        yield text("The chosen one is the best of them.")


def _charts(search: Search) -> Iterator[Child]:
    for budget in search.budgets:
        lacking = sum(each.cost(budget) is None for each in search.candidates)
        if lacking == len(search.candidates):
            yield note(f"No candidate's cost under {budget.text} is written down.")
            continue
        yield heading(f"Rank against {_name(search, budget)}")
        yield _chart(search, budget)
        reach = " The bar through the chosen one reaches to what its confirmation was at most."
        yield note(
            "The line joins the candidates that nothing beats in both."
            f"{reach if budget.target in search.confirmed else ''}"
        )
        if lacking:
            yield note(f"Not drawn, since their cost is not known: {plural(lacking, 'candidate')}.")


def _chart(search: Search, budget: Budget) -> Markup:
    quantity = quantity_of(search, budget)
    scale = quantity.scale
    front = set(search.front.get(budget.cost, ()))
    points = []
    for number, candidate in enumerate(search.candidates):
        cost = candidate.cost(budget)
        if cost is None:
            continue
        chosen = number == search.position
        interval = _interval(search, cost, budget) if chosen else None
        kind = "winner" if chosen else "on-front" if number in front else "point"
        points.append(
            Point(
                cost / scale,
                candidate.rank,
                f"place {number + 1}, rank {digits(candidate.rank)}, "
                f"{digits(cost / scale)} {quantity.unit}",
                kind,
                interval,
            )
        )
    steps = sorted(
        (cost / scale, search.candidates[n].rank)
        for n in front
        if (cost := search.candidates[n].cost(budget)) is not None
    )
    return scatter(
        points,
        steps,
        quantity,
        vertical="rank (best at the top)",
        limit=budget.limit / scale,
        title=f"Rank of candidates against {_name(search, budget)}; the line is the Pareto front",
    )


def _interval(search: Search, cost: float, budget: Budget) -> tuple[float, float] | None:
    """What is known of the chosen one's latency: up to the bound of its confirmation, else as it
    was predicted."""
    if budget.kind != "latency":
        return None
    target = budget.target or ""
    if confirmed := search.confirmed.get(target):
        return min(cost, confirmed.value_ms), confirmed.upper_ms
    latency = search.best.latencies.get(target)
    return latency.interval if latency else None


def _name(search: Search, budget: Budget) -> str:
    noun = quantity_of(search, budget).noun
    return f"{noun} on {budget.target}" if budget.target else noun


def _best(search: Search) -> Iterator[Child]:
    shown = list(range(min(SHOWN, len(search.candidates))))
    if search.position is not None and search.position not in shown:
        shown.append(search.position)
    if not shown:
        return
    candidates = [search.candidates[number] for number in shown]
    indicators = list(dict.fromkeys(name for c in candidates for name in c.indicators))
    targets = list(dict.fromkeys(name for c in candidates for name in c.latencies))
    columns = ["place", "rank", *indicators, *(f"{t}{search.in_precision}, ms" for t in targets),
               "multiply-adds", "parameters", "differs in"]  # fmt: skip
    rows = [
        [
            str(number + 1),
            digits(candidate.rank),
            *(digits(candidate.indicators.get(name)) for name in indicators),
            *(_latency(candidate, target) for target in targets),
            count(candidate.flops),
            count(candidate.params),
            _differences(candidate.choices, search.best.choices),
        ]
        for number, candidate in zip(shown, candidates, strict=True)
    ]
    marked = shown.index(search.position) if search.position is not None else None
    yield heading(f"The best {len(shown)} of {len(search.candidates)}")
    yield table(columns, rows, numbers=range(len(columns)), marked=marked)
    if any(known.predicted for c in candidates for known in c.latencies.values()):
        yield note("Latency: measured whole, and below it what was predicted and its interval.")
    listed: list[list[Child]] = [
        [str(number + 1), _choices(candidate.choices, search.best.choices)]
        for number, candidate in zip(shown, candidates, strict=True)
    ]
    yield folded(
        "Their architectures, and where they differ from the chosen one",
        table(["place", "choices"], listed, numbers=(0,)),
    )


def _latency(candidate: Candidate, target: str) -> Child:
    known = candidate.latencies.get(target)
    if known is None:
        return NONE
    measured = tag("div", digits(known.measured))
    if known.predicted is None:
        return measured
    low, high = known.interval or (None, None)
    interval = f" ({digits(low)} to {digits(high)})" if known.interval else ""
    return [measured, tag("div", digits(known.predicted), interval, class_="detail")]


def _differences(choices: Choices, chosen: Choices) -> Child:
    if choices == chosen:
        return badge("chosen", "good")
    changed = sum(chosen.get(decision) != option for decision, option in choices.items())
    return f"{changed} of {plural(len(choices), 'choice')}"


def _choices(choices: Choices, chosen: Choices) -> Child:
    """Every choice; those that the chosen one makes otherwise stand out."""
    return [
        [tag("code", f"{d}={option}", class_="other" if chosen.get(d) != option else None), " "]
        for d, option in choices.items()
    ]


def _drawn(run: Run, search: Search) -> Iterator[Child]:
    tally = search.tally
    if tally is None:
        return
    yield heading("How they were drawn")
    whole = ""
    if run.space and run.space.size:
        whole = f" The space has {large(run.space.size)} architectures."
    yield text(f"{tally.ending} {tally.drawn:,} were drawn.{whole}".strip())
    rows = [
        Bar("within the budget", tally.fitting, _part(tally.fitting, tally.drawn), "winner"),
        *(
            Bar(f"over the budget of {cost.replace(':', ' on ')}", n, _part(n, tally.drawn))
            for cost, n in tally.over_budget.items()
        ),
        Bar("drawn before", tally.duplicates, _part(tally.duplicates, tally.drawn), "faint"),
    ]
    yield bars([row for row in rows if row.value])


def _part(number: float, whole: int) -> str:
    return f"{number:,.0f} ({percent(number / whole, 0)})" if whole else f"{number:,.0f}"
