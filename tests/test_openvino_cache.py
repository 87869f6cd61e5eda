"""Compiled OpenVINO models: kept for files, never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from test_targets import images, small_network

from fbn_deploy.targets import _openvino_cache, ready_target

pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_network())
    return path


def answer(model: Path | bytes, precision: str = "fp32") -> np.ndarray:
    target = ready_target("openvino-cpu")
    with target.open(model, batch=1, threads=1, precision=precision) as session:
        return session.run({"x": images()})["y"]


def blobs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*")) if folder.exists() else []


def test_a_file_is_compiled_once_for_its_settings_and_answers_the_same(
    folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(model)
    assert len(blobs(folder)) == 1
    monkeypatch.setattr(_openvino_cache, "keep", lambda *arguments: pytest.fail("compiled again"))
    assert np.array_equal(answer(model), expected)
    monkeypatch.undo()
    monkeypatch.setenv("FBN_CACHE_DIR", str(folder.parent))
    answer(model, precision="bf16")
    model.write_bytes(small_network(value=0.2))
    assert not np.array_equal(answer(model), expected)
    assert len(blobs(folder)) == 3


def test_other_weights_beside_a_model_are_another_model(folder: Path, tmp_path: Path) -> None:
    answers = []
    for value in (0.1, 0.2):
        model = onnx.ModelProto.FromString(small_network(value=value))
        (tmp_path / "w.bin").unlink(missing_ok=True)
        onnx.save(
            model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin",
            size_threshold=0,
        )  # fmt: skip
        answers.append(answer(tmp_path / "m.onnx"))
    assert not np.array_equal(*answers)


def test_candidates_of_a_search_leave_no_blobs(folder: Path) -> None:
    answer(small_network())
    assert blobs(folder) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_blob_is_compiled_anew(
    folder: Path, model: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(model)
    (blob,) = blobs(folder)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 255
    blob.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    assert np.array_equal(answer(model), expected)
    assert len(blobs(folder)) == 1
    monkeypatch.setattr(_openvino_cache, "keep", lambda *arguments: pytest.fail("compiled again"))
    assert np.array_equal(answer(model), expected)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path / "file"))
    assert answer(model).shape == (1, 4)
