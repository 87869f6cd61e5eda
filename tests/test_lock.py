"""One process at a time writes into a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import TINY, fbn

from fbn_deploy.commands import _shared
from fbn_deploy.distributed import Job
from fbn_deploy.errors import FBNError
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.progress import Silent
from fbn_deploy.rundir import RunDir

CLAIMS = """
import os, sys, time
from pathlib import Path
from fbn_deploy.rundir import RunDir
RunDir(Path(sys.argv[1])).claim()
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


def test_a_run_is_free_when_its_process_was_killed_though_a_child_lives_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIMS, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        with pytest.raises(FBNError, match=rf"Another command writes .*process {process.pid} on "):
            RunDir(tmp_path).claim()
        process.kill()
        process.wait()
        RunDir(tmp_path).claim()
        RunDir(tmp_path).claim()  # its own
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_a_command_refuses_a_run_that_another_one_writes_and_reading_goes_on(
    tmp_path: Path,
) -> None:
    run = open_run(tmp_path, Given(space="nasbench201", resolution=16), Silent()).run
    run.claim()
    for command in (("retrain", str(tmp_path)), ("train", "--run", str(tmp_path))):
        done = fbn(*command)
        assert done.returncode == 2
        assert done.stderr.startswith(f"fbn: Another command writes in {tmp_path} (process ")
    assert fbn("report", str(tmp_path)).returncode == 0
    assert "has no model.onnx yet" in fbn("profile", str(tmp_path)).stderr


def test_a_command_refuses_to_begin_a_run_that_another_one_is_beginning(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.claim()
    done = fbn("train", *TINY, "--epochs", "0", "--run", str(run.path))
    assert done.returncode == 2
    assert "Another command writes" in done.stderr
    assert not run.run.exists()


def test_of_a_job_the_first_process_claims_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path)
    run.run.write_text("{}")
    claimed: list[Path] = []
    monkeypatch.setattr(RunDir, "claim", lambda self: claimed.append(self.path))
    for rank in range(2):
        _shared._claim_begun(tmp_path, Job(rank, 2))
    assert claimed == [tmp_path]
