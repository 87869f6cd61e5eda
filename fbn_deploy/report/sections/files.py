"""The files of a run: what is handed over, and what is known of it."""

from __future__ import annotations

from fbn_deploy.report.amounts import percent, plural, size
from fbn_deploy.report.markup import Child, Markup, escaped
from fbn_deploy.report.pieces import code, folded, note, table
from fbn_deploy.report.run import Run

HANDED_OVER = (".onnx", ".engine", ".engine.json")


def files(run: Run) -> Markup:
    """The files that are handed over, with the beginning of their hashes; the others folded."""
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
    others = [file for file in run.files if not file.name.endswith(HANDED_OVER)]
    listed = table(
        ["file", "size"], [[code(file.name), size(file.bytes)] for file in others], numbers=(1,)
    )
    return escaped(
        [
            table(["file", "size", "SHA-256 begins", "state"], rows, numbers=(1,))
            if rows
            else note("There is no file to hand over yet."),
            folded(f"{plural(len(others), 'other file')} of the run", listed, printed=False),
        ]
    )


def _standing(run: Run, name: str) -> str:
    """What is known of a file that is handed over."""
    if run.export and name == "model.onnx":
        passed = all(check.passed for check in run.export.checks)
        other = f"; {run.model} ships" if name != run.model else ""
        return f"{'verified' if passed else 'verification failed'}{other}"
    for precision in run.precisions:
        if precision.model == name:
            worst = min((check.accuracy_exported for check in precision.checks), default=None)
            ships = "ships: " if name == run.model else ""
            return f"{ships}verified in {precision.name}, {percent(worst)} top-1"
    for engine in run.engines:
        if engine.name == name:
            return "verified on its device" if engine.check else "built, never run"
        if f"{engine.name}.json" == name:
            return "the engine's story"
    return "not verified"
