"""What was found out about a file is said of that file only: hashes are compared everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_page import READY, changed, page, verdict
from report_runs import (
    built,
    exported,
    hashed,
    profiled,
    quantized,
    trained,
    whole,
    whole_in,
)

from fbn_deploy.files import sha256_of

ENGINE = "model.tensorrt.engine"
OTHER = "another file than lies here was verified"
GONE = "the file that was verified is not here"


def full(run: Path) -> Path:
    """All of a run in fp32, an int8 file and an engine beside it, with every hash."""
    return hashed(built(profiled(quantized(whole(run)), 0.8, "int8"), verified=True))


def full_in_int8(run: Path) -> Path:
    """All of a run in int8, and a file in fp32 beside it, with every hash."""
    return hashed(profiled(exported(whole_in(run))))


def findings(run: Path, about: str) -> list[tuple[str, str]]:
    """State and text of what the verdict says about one file."""
    return [(each.state, each.text) for each in verdict(run).findings if each.about == about]


def files_table(run: Path) -> str:
    """The text of the table of files, behind the verdict."""
    return page(run).text.split("SHA-256 begins")[1].split(" of the run")[0]


def test_where_every_hash_is_right_nothing_is_doubted(tmp_path: Path) -> None:
    run = full(tmp_path / "fp32")
    assert verdict(run).headline == READY
    assert "does not hold" not in page(run).text
    assert verdict(full_in_int8(tmp_path / "int8")).state == "good"


@pytest.mark.parametrize(("replaced", "said"), [(True, OTHER), (False, GONE)])
@pytest.mark.parametrize(
    ("make", "model"), [(full, "model.int8.onnx"), (full_in_int8, "model.onnx")]
)
def test_a_file_beside_what_ships_is_looked_at_where_it_is_another_one_or_gone(
    tmp_path: Path, make: Callable[[Path], Path], model: str, replaced: bool, said: str
) -> None:
    run = make(tmp_path)
    (run / model).unlink()
    if replaced:
        (run / model).write_bytes(b"garbage")
    assert verdict(run).headline == f"Look before you ship: {model}"
    assert findings(run, model) == [("look", f"{said[0].upper()}{said[1:]}; export it again.")]
    assert findings(run, f"{model} on onnxruntime-cpu") == []
    assert said in files_table(run)
    assert f"{model}: {said}." in page(run).text


def test_a_shipped_file_that_is_another_one_is_called_verified_nowhere(tmp_path: Path) -> None:
    run = full(tmp_path)
    (run / "model.onnx").write_bytes(b"garbage")
    # The profile and the engine are of the file that was there.
    assert verdict(run).headline == (
        f"Look before you ship: model.onnx, latency of the file, {ENGINE}"
    )
    assert findings(run, "model.onnx on onnxruntime-cpu") == []
    text = page(run).text
    assert f"model.onnx7 B{OTHER}" in text  # the tile
    assert "verified, largest error" not in text
    assert "built from another model.onnx than lies here" in files_table(run)


def test_the_accuracy_of_another_int8_file_is_not_said_of_what_ships(tmp_path: Path) -> None:
    run = full_in_int8(tmp_path)
    assert "top-1 accuracy in int8" in page(run).text
    (run / "model.int8.onnx").write_bytes(b"garbage")
    text = page(run).text
    assert f"ships: {OTHER}" in text
    assert "top-1 accuracy in int8" not in text
    assert "89.00 % in int8" not in text


def test_a_shipped_file_that_is_gone_is_told_in_table_and_tile(tmp_path: Path) -> None:
    for run, model in (
        (full(tmp_path / "fp32"), "model.onnx"),
        (full_in_int8(tmp_path / "int8"), "model.int8.onnx"),
    ):
        (run / model).unlink()
        assert verdict(run).headline == "Not finished: verification"
        assert ("look", f"{GONE.capitalize()}; export it again.") in findings(run, model)
        assert f"{model}–{GONE}" in page(run).text
        assert GONE in files_table(run)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"en", "not whole: 2 bytes, and 6 were written"),
        (b"enginE", "damaged: its content is not what was written"),
        (None, "its story is here, and the engine is not"),
    ],
)
def test_an_engine_that_is_not_what_was_built_speaks_against_shipping(
    tmp_path: Path, content: bytes | None, said: str
) -> None:
    run = full(tmp_path)
    (run / ENGINE).unlink()
    if content is not None:
        (run / ENGINE).write_bytes(content)
    assert verdict(run).headline == f"Do not ship this as it is: {ENGINE}"
    assert findings(run, ENGINE) == [("bad", f"{said[0].upper()}{said[1:]}; export it again.")]
    assert said in files_table(run)
    assert "verified on its device" not in page(run).text


def test_a_profile_of_another_file_is_not_the_latency_of_what_ships(tmp_path: Path) -> None:
    run = full_in_int8(tmp_path)
    (run / "model.int8.onnx").write_bytes(b"exported and verified again")
    now = sha256_of(run / "model.int8.onnx")
    changed(run / "verify.int8.json", "onnx_sha256", to=now)
    assert verdict(run).headline == "Look before you ship: latency of the file"
    text = page(run).text
    again = f"fbn profile {run} --precision int8"
    assert f"The profile is of another model.int8.onnx than lies here; {again} measures" in text
    assert "model.int8.onnx takes" not in text
    assert "model.int8.onnx, trained and exported" not in text
    assert "model.int8.onnx: another file than lies here was profiled." in text
    assert "another model.int8.onnx" in text[text.rindex("Latency records") :]
    assert "is not known without a profile" in text


def test_a_profile_of_an_older_version_says_no_hash_and_is_not_doubted(tmp_path: Path) -> None:
    run = full(tmp_path)
    for name in ("profile.json", "profile.int8.json"):
        changed(run / name, "onnx_sha256", to=None)
    assert verdict(run).headline == READY


def test_a_file_of_another_training_is_seen_by_the_hash_of_its_network(tmp_path: Path) -> None:
    """Of the same accuracy, which is all that older versions wrote down."""
    run = full(tmp_path)
    trained(run, losses=((1, 2.0),))
    said = "another network than is trained now was verified"
    assert verdict(run).headline == f"Look before you ship: model.onnx, model.int8.onnx, {ENGINE}"
    assert files_table(run).count(said) == 2
    assert "built from another network than is trained now" in files_table(run)
    assert f"model.onnx5 B{said}" in page(run).text
    for name in ("verify.json", "verify.int8.json"):
        changed(run / name, "subnet_sha256", to=None)
    assert verdict(run).headline == READY


def test_the_same_network_is_not_doubted_for_another_accuracy(tmp_path: Path) -> None:
    run = hashed(trained(whole(tmp_path), accuracy=0.95))
    assert "another network" not in page(run).text
