"""The files of a run: what is handed over, and what is known of it."""

from __future__ import annotations

from fbn_deploy.report.amounts import NONE, percent, plural, size
from fbn_deploy.report.exported import Export, Precision
from fbn_deploy.report.markup import Child, Markup, escaped
from fbn_deploy.report.pieces import code, folded, note, pairs, table
from fbn_deploy.report.run import Run

HANDED_OVER = (".onnx", ".engine", ".engine.json")


def files(run: Run) -> Markup:
    """The files that are handed over, with the beginning of their hashes, and those of them that
    are not here any more; how they are fed, and the others, folded."""
    rows: list[list[Child]] = [
        [
            code(file.name),
            size(file.bytes),
            code(file.sha256[:12]),
            _standing(run, file.name),
        ]
        for file in run.files
        if file.name.endswith(HANDED_OVER)
    ]
    written = [told.model for told in run.told] + [engine.name for engine in run.engines]
    rows += [
        [code(name), NONE, NONE, _standing(run, name)]
        for name in dict.fromkeys(written)
        if run.file(name) is None
    ]
    others = [file for file in run.files if not file.name.endswith(HANDED_OVER)]
    listed = table(
        ["file", "size"], [[code(file.name), size(file.bytes)] for file in others], numbers=(1,)
    )
    return escaped(
        [
            table(["file", "size", "SHA-256 begins", "state"], rows, numbers=(1,))
            if rows
            else note("There is no file to hand over yet."),
            _feeding(run),
            folded(f"{plural(len(others), 'other file')} of the run", listed, printed=False),
        ]
    )


def _feeding(run: Run) -> Child:
    """The same for all of them, so what the first says that says it."""
    told = next((each.input for each in run.told if each.input), None)
    if told is None:
        return None
    rows: list[tuple[Child, Child]] = [*told.items()]
    if run.space:
        rows.append(("logits", ", ".join(run.space.classes)))
    return folded(
        "How to feed it",
        pairs(rows),
        note("ONNX files hold this in their metadata, to the last digit; README shows its use."),
    )


def _standing(run: Run, name: str) -> str:
    """What is known of a file that is handed over."""
    for told in run.told:
        if told.model == name:
            return _verified(run, told)
    for engine in run.engines:
        if engine.name == name:
            doubt = run.damage(engine) or run.other_source(engine)
            return doubt or ("verified on its device" if engine.check else "built, never run")
        if f"{engine.name}.json" == name:
            return "the engine's story"
    return "not verified"


def _verified(run: Run, told: Export | Precision) -> str:
    doubt = run.doubt(told)
    if isinstance(told, Precision):
        worst = min((check.accuracy_exported for check in told.checks), default=None)
        ships = "ships: " if told.model == run.model else ""
        return f"{ships}{doubt or f'verified in {told.name}, {percent(worst)} top-1'}"
    passed = all(check.passed for check in told.checks)
    other = f"; {run.model} ships" if told.model != run.model else ""
    return f"{doubt or ('verified' if passed else 'verification failed')}{other}"
