"""The process in which a file is folded: one JSON task on stdin, one JSON answer on stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy import processes

if TYPE_CHECKING:
    from fbn_deploy.export.folding.report import FoldReport

MEMORY_SHARE = 0.8
"""Of the machine's memory; beyond it the process gets a MemoryError, not the machine's killer."""

PROTOBUF_LIMIT = 1 << 31
"""A protobuf message holds less than 2 GB."""


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError, AttributeError):
        import resource

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit = int(total * MEMORY_SHARE)
        resource.setrlimit(
            resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Folds ``task["source"]`` into ``task["destination"]``; a report, or ``{"error": …}``."""
    import onnx
    import onnx_ir as ir

    from fbn_deploy.errors import FBNError
    from fbn_deploy.export.folding.check import first_line, limit_of
    from fbn_deploy.export.folding.fold import fold_affine

    source, destination = Path(task["source"]), Path(task["destination"])
    try:
        onnx.checker.check_model(str(source))
    except Exception as error:
        return {"error": f"is no valid ONNX model: {first_line(error)}"}
    try:
        model = ir.load(source)
        folded, report = fold_affine(
            model,
            equalize=task["equalize"],
            gauge_limit=task["gauge_limit"],
            as_convolution=task["as_convolution"],
        )
        _save(folded, source.parent, destination)
    except (FBNError, Exception) as error:
        return {"error": f"cannot be folded: {first_line(error)}"}
    try:
        onnx.checker.check_model(str(destination))
    except Exception as error:
        return {
            "error": f"cannot be folded, the result would be no valid model: {first_line(error)}"
        }
    if task["check"]:
        try:
            report = _checked(report, source, destination, limit_of(folded))
        except FBNError as error:
            return {"error": f"was not folded: {error}"}
    return report.as_json()


def _checked(report: FoldReport, source: Path, result: Path, limit: float) -> FoldReport:
    """``report`` with what the check found; ``FBNError`` where that is no rounding."""
    from fbn_deploy.errors import FBNError
    from fbn_deploy.export.folding.check import CannotCheck, refusal, relative_error

    try:
        error = relative_error(str(source), str(result))
    except CannotCheck as reason:
        return dataclasses.replace(report, check=str(reason))
    if error > limit:
        raise FBNError(refusal(error, limit))
    return dataclasses.replace(report, max_error=error, check="ONNX Runtime, one random input")


def _save(model: Any, folder: Path, destination: Path) -> None:
    """One file; the weights beside it where they do not fit into one.

    ``folder`` is where the weights lie that the model keeps in external files.
    """
    import onnx
    import onnx_ir as ir

    size = sum(tensor.const_value.nbytes for tensor in model.graph.initializers.values())
    if size > PROTOBUF_LIMIT * 0.9:
        ir.save(model, destination, external_data=f"{destination.name}.data")
        return
    proto = ir.to_proto(model)
    onnx.load_external_data_for_model(proto, str(folder))
    onnx.save_model(proto, destination)


def main(arguments: list[str]) -> int:
    """Reads the task, answers. Whatever libraries print goes to stderr."""
    _limit_memory()
    answers = processes.answers()
    task = json.loads(sys.stdin.read())
    try:
        answer = work(task)
    except MemoryError:
        answer = {"error": "needs more memory than this machine has"}
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
    return 0
