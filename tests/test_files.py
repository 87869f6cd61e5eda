"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, remove_leftovers, replacing, write_json


def test_an_error_while_writing_leaves_the_old_content_and_no_temporary_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def fill_the_disk() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise OSError(28, "No space left on device")

    with pytest.raises(FBNError, match="No space left"):
        fill_the_disk()
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_an_error_of_another_file_is_not_told_as_one_of_the_file_that_is_written(
    tmp_path: Path,
) -> None:
    def read(missing: OSError | None = None) -> None:
        with replacing(tmp_path / "value.json"):
            if missing is not None:
                raise missing
            (tmp_path / "weights.bin").read_bytes()

    with pytest.raises(FileNotFoundError, match=r"weights\.bin"):
        read()
    with pytest.raises(TimeoutError):
        read(TimeoutError(110, "Connection timed out"))
    with pytest.raises(OSError, match="image file is truncated"):
        read(OSError("image file is truncated"))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_temporary_file_is_told_as_one_of_the_file_that_is_written(
    tmp_path: Path,
) -> None:
    def lose_it() -> None:
        with replacing(tmp_path / "value.json") as temporary:
            temporary.unlink()
            temporary.read_bytes()

    with pytest.raises(FBNError, match=r"Cannot write .*value\.json"):
        lose_it()


def test_a_full_disk_that_safetensors_reports_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    from fbn_deploy.checkpoint import save_tensors

    def fill_the_disk(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fill_the_disk)
    with pytest.raises(FBNError, match="No space left"):
        save_tensors(tmp_path / "network.safetensors", {}, {})


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    killed = "import os, sys\nfrom pathlib import Path\nfrom fbn_deploy.files import replacing\n"
    killed += "with replacing(Path(sys.argv[1])) as t: t.write_text('half of'); os._exit(1)"
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "value.json")], check=False)
    old = tmp_path / ".value.json.of_another_version.tmp"
    old.write_text("half of")
    os.utime(old, (0, 0))
    write_json(tmp_path / "value.json", [1])
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "value.json") as temporary:
        temporary.write_text("[1]")
        (elsewhere := tmp_path / ".value.json.another_host-1.abc.tmp").write_text("half of")
        remove_leftovers(tmp_path)
    assert read_json(tmp_path / "value.json") == [1]
    assert elsewhere.exists()


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FBNError, match="Cannot write"):
        write_json(tmp_path / "file" / "value.json", 1)


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "value.json").write_text('{"a": ')
    with pytest.raises(FBNError, match=r"value\.json.*damaged"):
        read_json(tmp_path / "value.json")
