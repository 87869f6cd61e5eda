"""One measurement in a process of its own, for a promise that has to hold in any process:
``python -m fbn_deploy.latency.confirm MODEL CONDITIONS PROTOCOL PACE PATIENT``; the record goes to
stdout.

``CONDITIONS`` is a JSON file of what the parent expects; a process that finds itself under other
conditions (another runtime, another device) says so instead of measuring something else.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.record import Conditions, LatencyRecord

_TIMEOUT_S = 600.0
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]


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
    with tempfile.TemporaryDirectory(prefix="fbn-confirm-") as folder:
        model, wanted = Path(folder) / "model.onnx", Path(folder) / "conditions.json"
        if isinstance(source, bytes):
            model.write_bytes(source)
        else:
            model = source
        wanted.write_text(json.dumps(conditions.as_json()))
        command = [sys.executable, "-m", __name__, str(model), str(wanted), protocol]
        command.append(json.dumps(None if pace is None else dataclasses.astuple(pace)))
        command.append(json.dumps(patient))
        paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        try:
            answer = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FBNError(
                f"The confirmation of the latency did not end within {_TIMEOUT_S:.0f} s."
            ) from None
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        raise FBNError(f"The latency could not be confirmed in a fresh process: {lines[-1]}")
    record = LatencyRecord.from_json(json.loads(answer.stdout))
    if record.conditions != conditions:
        raise FBNError(
            "The latency could not be confirmed: a fresh process runs under other conditions. "
            f"Here {conditions.as_json()}, there {record.conditions.as_json()}."
        )
    return record


def main(arguments: list[str]) -> int:
    """Measures and prints; exit code 2 and one line on stderr for what a person has to mend."""
    from fbn_deploy.latency.meter import LatencyMeter
    from fbn_deploy.targets import ready_target

    path, wanted, protocol, pace, patient = arguments
    # What the parent had in memory stays out of the runtimes' caches of files.
    handed_over = Path(path).parent == Path(wanted).parent
    model = Path(path).read_bytes() if handed_over else Path(path)
    conditions = Conditions.from_json(json.loads(Path(wanted).read_text()))
    try:
        meter = LatencyMeter(
            ready_target(conditions.target),
            batch=conditions.batch,
            threads=conditions.threads,
            precision=conditions.precision,
            pace=Pace(*known) if (known := json.loads(pace)) else None,
            patient=json.loads(patient),
        )
        record = meter.measure(model, protocol)
    except FBNError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    here = dataclasses.replace(record.conditions, process=conditions.process)
    print(json.dumps(dataclasses.replace(record, conditions=here).as_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
