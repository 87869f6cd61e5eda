"""One measurement in a process of its own, for a promise that has to hold in any process.

The process reads a line of JSON from stdin, and a model in memory behind it; it answers with the
record on stdout and ends. It also ends when stdin does, because whoever asked was killed: left
over, it would compute on the core on which the next one measures. A process that finds itself
under other conditions than it was told (another runtime, another device) says so instead of
measuring something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from fbn_deploy import processes
from fbn_deploy.errors import FBNError
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.record import Conditions, LatencyRecord

_TIMEOUT_S = 600.0


def record_from_fresh_process(
    source: bytes | Path,
    conditions: Conditions,
    protocol: str,
    pace: Pace | None = None,
    patient: bool = True,
) -> LatencyRecord:
    """The record that a new process measures under ``conditions``, by the protocol of that name;
    ``pace`` is the best that is known of the device, ``patient`` whether a crowd is waited for.

    Raises ``FBNError`` with the process's own message when it cannot.
    """
    content = source if isinstance(source, bytes) else b""
    task = {
        "path": None if isinstance(source, bytes) else str(source),
        "bytes": len(content),
        "conditions": conditions.as_json(),
        "protocol": protocol,
        "pace": None if pace is None else dataclasses.astuple(pace),
        "patient": patient,
    }
    code, answer, said = _answered(json.dumps(task).encode() + b"\n" + content)
    if code:
        lines = said.strip().splitlines() or [f"exit code {code}"]
        raise FBNError(f"The latency could not be confirmed in a fresh process: {lines[-1]}")
    record = LatencyRecord.from_json(json.loads(answer))
    if record.conditions != conditions:
        raise FBNError(
            "The latency could not be confirmed: a fresh process runs under other conditions. "
            f"Here {conditions.as_json()}, there {record.conditions.as_json()}."
        )
    return record


def _answered(task: bytes) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the process; its stdin stays open until it ends."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            processes.command(__name__),
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=said,
            env=processes.environment(),
        )
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it says why on stderr
                process.stdin.write(task)
                process.stdin.flush()
            code = process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise FBNError(
                f"The confirmation of the latency did not end within {_TIMEOUT_S:.0f} s."
            ) from None
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        texts = []
        for file in (answer, said):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return code, texts[0], texts[1]


def main(arguments: list[str]) -> int:
    """Measures and answers; exit code 2 and one line on stderr for what a person has to mend."""
    from fbn_deploy.latency.meter import LatencyMeter
    from fbn_deploy.targets import ready_target

    answers = processes.answers()
    task = json.loads(sys.stdin.buffer.readline())
    content = sys.stdin.buffer.read(task["bytes"])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    conditions = Conditions.from_json(task["conditions"])
    try:
        meter = LatencyMeter(
            ready_target(conditions.target),
            batch=conditions.batch,
            threads=conditions.threads,
            precision=conditions.precision,
            pace=Pace(*task["pace"]) if task["pace"] else None,
            patient=task["patient"],
        )
        record = meter.measure(Path(task["path"]) if task["path"] else content, task["protocol"])
    except FBNError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    here = dataclasses.replace(record.conditions, process=conditions.process)
    answers.write(json.dumps(dataclasses.replace(record, conditions=here).as_json()).encode())
    answers.flush()
    return 0


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
