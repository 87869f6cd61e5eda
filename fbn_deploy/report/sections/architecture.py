"""The chosen network, choice by choice, and which of them take the time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fbn_deploy.report.amounts import percent
from fbn_deploy.report.architecture import Cell, Stage, kind_of, laid_out, shares
from fbn_deploy.report.graph import Edge, graph
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.pieces import folded, heading, not_done, note, table
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import Search
from fbn_deploy.report.stages import missing

TITLE = "Architecture"
BEST = 10  # candidates that are asked whether they chose the same


def section(run: Run) -> Markup:
    search = run.search
    if search is None:
        return not_done(missing(run)["search"])
    choices = search.best.choices
    order = run.space.decisions if run.space else {}
    layers = run.profile.layers if run.profile else ()
    found = shares(layers, choices)
    drawn: list[Child] = []
    for part in laid_out(choices, order):
        if isinstance(part, Cell):
            drawn += _cell(part, found)
        else:
            drawn.append(_stage(part, found))
    drawn += _story(run, found)
    drawn.append(_decisions(search, choices, order, found))
    return escaped(drawn)


def _stage(stage: Stage, found: Mapping[str, float]) -> Markup:
    most = max(found.values(), default=0.0)
    boxes = [
        tag(
            "li",
            tag("b", option),
            tag("span", percent(found[decision], 1) if decision in found else ""),
            class_=f"layer {kind_of(option)}",
            style=f"--heat:{100 * found.get(decision, 0.0) / most:.0f}%" if most else None,
            title=decision,
        )
        for decision, option in stage.layers
    ]
    return tag("div", tag("span", stage.name), tag("ol", boxes), class_="stage")


def _cell(cell: Cell, found: Mapping[str, float]) -> Iterator[Child]:
    if cell.name:
        yield heading(f"Cell {cell.name}")
    place = {name: number for number, name in enumerate(cell.nodes)}
    edges = [
        Edge(
            place[edge.start],
            place[edge.end],
            _label(edge.option, found.get(edge.decision)),
            kind_of(edge.option),
            f"{edge.decision}: {edge.option}",
        )
        for edge in cell.edges
        if place[edge.start] < place[edge.end]
    ]
    nodes = [(name, cell.ops.get(name, "")) for name in cell.nodes]
    yield graph(nodes, edges, title=f"Cell {cell.name}".strip())
    yield note("Edges lead from left to right; dashed: nothing passes; thin: the input as it is.")


def _label(option: str, share: float | None) -> str:
    """What stands on an edge: its op, unless that is only its being there, and its time."""
    name = "" if option == "on" else option
    return name if share is None else f"{name}  {percent(share, 1)}".strip()


def _story(run: Run, found: Mapping[str, float]) -> Iterator[Child]:
    if run.profile is None:
        yield note("How much of the time each choice takes is not known without a profile.")
        yield not_done(missing(run)["profile"])
    elif found:
        rest = max(0.0, 1 - sum(found.values()))
        yield note(
            "Percentages are parts of the layers' time in the profile; ",
            f"{percent(rest, 1)} went to layers that are no choice, or are not told apart by name: "
            "stem, head, changes of memory layout.",
        )
    else:
        yield note("The profile's layers do not say by name which choice they are of.")


def _decisions(
    search: Search,
    choices: Mapping[str, str],
    order: Mapping[str, tuple[str, ...]],
    found: Mapping[str, float],
) -> Markup:
    best = search.candidates[:BEST]
    names = [name for name in order if name in choices] or list(choices)
    rows: list[list[Child]] = [
        [
            tag("code", name),
            [
                tag("span", option, class_="option taken" if option == choices[name] else "option")
                for option in order.get(name, (choices[name],))
            ],
            percent(found.get(name), 1),
            f"{sum(c.choices.get(name) == choices[name] for c in best)} of {len(best)}",
        ]
        for name in names
    ]
    columns = ["decision", "options", "time", f"same in the best {len(best)}"]
    return folded(
        f"All {len(choices)} decisions and what else could be chosen",
        table(columns, rows, numbers=(2, 3)),
    )
