"""A bench on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

ACCURACY = "#.4g"  # tables hold percents or shares

NOTE = (
    "τ: Kendall, with its 95 % bootstrap interval; ρ: Spearman; top: τ among the best 10 %; "
    "|FLOPs: τ with FLOPs held constant; first 10: best accuracy among the ten ranked first; "
    "pick: accuracy of the first; s: seconds a candidate (median). A dash is undefined or not "
    "measured."
)
REGRET_NOTE = "Accuracy of the best-ranked that fits, and in brackets what the best adds to it."


def result_table(content: Mapping[str, Any], path: object) -> RenderableType:
    """The indicators of a ``bench.json`` by τ, then what each would cost under the budgets."""
    from rich.console import Group

    results = sorted(content["results"], key=lambda each: -(each["kendall"] or 0.0))
    parts: list[RenderableType] = [
        f"{content['samples']} trained architectures of {content['space']}, the best reached "
        f"{content['best_accuracy']:g}",
        "",
        _ranking(results),
        "",
        NOTE,
        *(
            f"{each['indicator']}: {each['not_finite']} architectures have a value that is not "
            "finite; by that they rank last."
            for each in results
            if each["not_finite"]
        ),
    ]
    if content["regret"]:
        names = [each["indicator"] for each in results]
        parts += ["", _regret(content["regret"], names), "", REGRET_NOTE]
    return Group(*parts, "", f"Written to {path}")


def _ranking(results: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("τ", "", "ρ", "top", "|FLOPs", "first 10", "pick", "s")
    for each in results:
        low_high = "[{:.2f} {:.2f}]".format(*each["interval"]) if each["interval"] else "–"
        table.add_row(
            each["indicator"],
            _number(each["kendall"], ".3f"),
            low_high.replace("[", "\\["),
            *(
                _number(each[key], ".2f")
                for key in ("spearman", "kendall_top10", "partial_kendall_given_flops")
            ),
            _number(each["best_in_top10"], ACCURACY),
            _number(each["accuracy_of_pick"], ACCURACY),
            _number(each["seconds_per_candidate"], ".3g"),
        )
    return table


def _regret(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """Rows: indicators; columns: budgets; each cell the pick's accuracy and what it lacks."""
    limits_ms = list(dict.fromkeys(entry["budget_ms"] for entry in entries))
    cells = {(entry["indicator"], entry["budget_ms"]): entry for entry in entries}
    table = _table(*(f"≤ {limit:g} ms" for limit in limits_ms))
    for name in names:
        row = []
        for limit in limits_ms:
            entry = cells[name, limit]
            fits = entry["regret"] is not None
            row.append(
                f"{entry['accuracy']:{ACCURACY}} ({entry['regret']:#.3g})" if fits else "none fits"
            )
        table.add_row(name, *row)
    best = (cells[names[0], limit] for limit in limits_ms)
    table.add_row(
        "best that fits", *(_number(entry["best"], ACCURACY) for entry in best), style="bold"
    )
    return table


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, padding=(0, 1), collapse_padding=True, header_style="bold"
    )
    table.add_column("indicator", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form).replace("-", "−")
