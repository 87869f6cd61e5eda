"""The process in which a file is folded: one JSON task on stdin, one JSON answer on stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def work(task: dict[str, Any]) -> dict[str, Any]:
    """Folds ``task["source"]`` into ``task["destination"]``; a report, or ``{"error": …}``."""
    import onnx
    import onnx_ir as ir

    from fbn_deploy.errors import FBNError
    from fbn_deploy.export.folding.check import CannotCheck, relative_error
    from fbn_deploy.export.folding.fold import fold_affine

    source, destination = Path(task["source"]), Path(task["destination"])
    try:
        onnx.checker.check_model(str(source))
    except Exception as error:
        return {"error": f"is no valid ONNX model: {_first_line(error)}"}
    try:
        model = ir.load(source)
        folded, report = fold_affine(
            model,
            equalize=task["equalize"],
            gauge_limit=task["gauge_limit"],
            as_convolution=task["as_convolution"],
        )
        _save(folded, destination)
    except (FBNError, Exception) as error:
        return {"error": f"cannot be folded: {_first_line(error)}"}
    try:
        onnx.checker.check_model(str(destination))
    except Exception as error:
        return {
            "error": f"cannot be folded, the result would be no valid model: {_first_line(error)}"
        }
    if task["check"]:
        try:
            error_found = relative_error(str(source), str(destination))
            report = dataclasses.replace(
                report,
                max_error=error_found if error_found < float("inf") else None,
                check="ONNX Runtime, one random input"
                if error_found < float("inf")
                else "ONNX Runtime: the outputs are not finite or differ in shape",
            )
        except CannotCheck as reason:
            report = dataclasses.replace(report, check=str(reason))
    return report.as_json()


def _save(model: Any, destination: Path) -> None:
    """One file; the weights beside it where they do not fit into one."""
    import onnx_ir as ir

    size = sum(tensor.const_value.nbytes for tensor in model.graph.initializers.values())
    beside = f"{destination.name}.data" if size > PROTOBUF_LIMIT * 0.9 else None
    ir.save(model, destination, external_data=beside)


def main(arguments: list[str]) -> int:
    """Reads the task, answers. Whatever libraries print goes to stderr."""
    _limit_memory()
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.stdin.read())
    try:
        answer = work(task)
    except MemoryError:
        answer = {"error": "needs more memory than this machine has"}
    answer_to.write(json.dumps(answer) + "\n")
    answer_to.flush()
    return 0
