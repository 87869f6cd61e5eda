"""Folding a file: whatever is in it, the caller's process survives and gets an answer.

Parsers, the ONNX checker and runtimes are native code, and a damaged file can crash them, fill
the memory or keep them busy for ever. So all of it happens in a process of its own
(``worker``) with a time and a memory limit; what it wrote is moved to its place only when it
has ended well.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fbn_deploy import processes
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding.report import FoldReport
from fbn_deploy.files import refuse_to_overwrite, replacing, write_json

TIME_LIMIT_S = 600.0
"""Folding and checking the largest networks of the zoo takes about 20 s."""


def fold_file(
    source: Path,
    destination: Path,
    report: Path | None = None,
    equalize: bool = False,
    *,
    check: bool = True,
    gauge_limit: float | None = None,
    as_convolution: bool = True,
    time_limit_s: float = TIME_LIMIT_S,
) -> FoldReport:
    """Folds the ONNX model in ``source`` into ``destination``; see ``fold_affine``.

    ``source`` is never touched, not even when it is ``destination``'s name for the same file:
    that is refused. ``report`` names a JSON file to write. ``check`` runs both models in ONNX
    Runtime on random inputs; the largest relative error is in the report. Weights that
    ``source`` keeps in external files are put into ``destination`` (or beside it, above 2 GB).

    Raises ``FBNError`` when the file cannot be read, fails the ONNX checker, crashes the
    libraries that read it or takes longer than ``time_limit_s``, or when ``check`` finds that the
    result computes something else (``check.MAX_ERROR``); then nothing is written.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_file():
        raise FBNError(f"There is no file {source} to fold.")
    refuse_to_overwrite(source, destination, report)
    with tempfile.TemporaryDirectory(prefix="fbn-fold-") as folder:
        answer = _work(
            {
                "source": str(source.resolve()),
                "destination": str(Path(folder) / destination.name),
                "equalize": equalize,
                "check": check,
                "gauge_limit": gauge_limit,
                "as_convolution": as_convolution,
            },
            source,
            time_limit_s,
        )
        for written in sorted(
            Path(folder).iterdir(), key=lambda path: path.name == destination.name
        ):
            with replacing(destination.with_name(written.name)) as temporary:
                temporary.write_bytes(written.read_bytes())
    result = FoldReport.from_json(answer)
    if report is not None:
        write_json(Path(report), result.as_json())
    return result


def _work(task: dict[str, Any], source: Path, time_limit_s: float) -> Any:
    """The worker's answer; ``FBNError`` when it gives none."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    try:
        ended = subprocess.run(
            processes.command("fbn_deploy.export.folding.worker"),
            input=json.dumps(task).encode(),
            capture_output=True,
            timeout=time_limit_s,
            env=processes.environment(OMP_NUM_THREADS=threads),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FBNError(
            f"{source} was not folded within {time_limit_s:g} s. It is damaged or very large."
        ) from None
    try:
        answer = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise FBNError(
            f"{source} cannot be read: the ONNX libraries crashed on it "
            f"(exit code {ended.returncode}). It is damaged or no ONNX model."
        ) from None
    if "error" in answer:
        raise FBNError(f"{source} {answer['error']}")
    return answer
