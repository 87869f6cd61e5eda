"""A run directory that cannot be written: one message, exit code 2, and nothing in it changes."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SETTINGS = [
    "--space", "nasbench201", "-o", "channels=4", "-o", "cells=1", "--resolution", "16",
    "--epochs", "0.5",
]  # fmt: skip
SEARCH = [
    "search", "--flops-budget", "2M", "--candidates", "6", "--finalists", "0", "--probe-size", "16",
    "--probe-batches", "2",
]  # fmt: skip
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


def permissions_bind() -> None:
    """Between fork and exec: permissions bind root too. Others may not drop this, and need not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=permissions_bind,
    )


def fbn(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "fbn_deploy", *arguments)


def content(folder: Path) -> dict[str, bytes]:
    """Everything in ``folder``, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def read_only_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trained supernet in a directory that cannot be written."""
    path = tmp_path_factory.mktemp("readonly") / "run"
    trained = fbn("train", *SETTINGS, "--run", str(path))
    assert trained.returncode == 0, trained.stderr
    for file in path.iterdir():
        file.chmod(0o444)
    path.chmod(0o555)
    if run("-c", f"open({str(path / 'probe')!r}, 'w')").returncode == 0:
        pytest.skip("Permissions do not bind on this file system.")
    yield path
    path.chmod(0o755)


def refused(done: subprocess.CompletedProcess[str], path: Path) -> None:
    assert done.returncode == 2, done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("fbn: ")]
    assert len(message) == 1, done.stderr
    assert "Cannot write" in message[0]
    assert str(path) in message[0]
    assert "--run" in message[0]
    assert "Traceback" not in done.stderr


def test_a_run_that_cannot_be_written_is_refused_and_left_alone(read_only_run: Path) -> None:
    before = content(read_only_run)
    assert "supernet.safetensors" in before
    refused(fbn(*SEARCH, "--run", str(read_only_run)), read_only_run)
    assert content(read_only_run) == before


def test_a_new_run_in_a_directory_that_cannot_be_written_is_refused(read_only_run: Path) -> None:
    before = content(read_only_run)
    inside = read_only_run / "inside"
    refused(fbn(*SEARCH, *SETTINGS, "--run", str(inside)), inside)
    assert content(read_only_run) == before
    assert not inside.exists()


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_run_on_or_below_a_file_is_refused_and_the_file_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    refused(fbn(*SEARCH, *SETTINGS, "--run", str(tmp_path / name)), tmp_path / name)
    assert content(tmp_path) == {"file": b"mine"}


def test_root_could_have_written_otherwise() -> None:
    """Why ``permissions_bind`` is there; on Linux as root, and only there."""
    if sys.platform != "linux" or os.getuid():
        pytest.skip("Permissions bind who is not root.")
    status = run("-c", "print(open('/proc/self/status').read())").stdout
    (bounding,) = (line for line in status.splitlines() if line.startswith("CapBnd"))
    assert not int(bounding.split()[1], 16) >> _CAP_DAC_OVERRIDE & 1
