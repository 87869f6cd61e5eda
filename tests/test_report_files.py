"""What the report reads: files of every age, damaged ones refused with one message."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_page import changed, page
from report_runs import (
    built,
    hashed,
    quantized,
    whole,
    whole_in,
    write,
)

from fbn_deploy.errors import FBNError
from fbn_deploy.report.page import write_report
from fbn_deploy.rundir import RunDir

PLACES = ("search.json", "verify.json", "profile.json", "run.json", "space.json",
          "verify.int8.json", "profile.int8.json", "model.tensorrt.engine.json")  # fmt: skip
VALUES = (None, "x", -1, 0, [], {}, True, 1e40, [1], ["a"], {"a": 1}, {"a": {}}, "<b>")


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FBNError, match="no run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_all_files_that_cannot_be_read_are_named_at_once_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    run = whole(tmp_path)
    (run / "verify.json").write_text("{")
    changed(run / "profile.json", "schema", to=7)
    changed(run / "search.json", "best", "costs", "flops", to="many")
    before = write_before(run)
    with pytest.raises(FBNError) as raised:
        write_report(run)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    assert (
        "search.json is not what fbn_deploy writes: best.costs.flops should be a number"
        in (lines[0])
    )
    assert "verify.json" in lines[1]
    assert "not JSON" in lines[1]
    assert "profile.json has the schema 7; this version of fbn_deploy reads 1" in lines[2]
    assert (run / "report.html").read_text() == before
    assert not list(run.glob(".*.tmp"))


def write_before(run: Path) -> str:
    (run / "report.html").write_text("an earlier report")
    return "an earlier report"


def test_a_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = whole(tmp_path)
    before = write_before(run)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FBNError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_text() == before
    assert not list(run.glob(".*.tmp"))


def test_a_report_that_cannot_be_written_does_not_undo_a_deployment(tmp_path: Path) -> None:
    from fbn_deploy.pipeline.deploy import reported

    said: list[str] = []
    run = RunDir(whole(tmp_path))
    assert reported(run, said.append) == run.report
    assert said == []
    (tmp_path / "model.other.engine.json").write_text("{}")
    assert reported(run, said.append) is None
    assert said == [
        f"No report was written: {tmp_path / 'model.other.engine.json'} has the schema None; this "
        "version of fbn_deploy reads 1. Make the file again, or use the version that it is of."
    ]


def test_damaged_weights_are_one_message(tmp_path: Path) -> None:
    run = whole(tmp_path)
    (run / "subnet.safetensors").write_bytes(b"\x00" * 4)
    with pytest.raises(FBNError, match=r"subnet\.safetensors is damaged"):
        write_report(run)


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    run = whole(tmp_path)
    content = json.loads((run / "search.json").read_text())
    for key in ("survey", "tally", "pareto", "latency", "settings", "timing", "data", "space"):
        del content[key]
    for each in (*content["candidates"], content["best"]):
        del each["costs"]["latency_ms_by_target"]
    for key in ("text", "meets_budget"):
        del content["best"][key]
    confirmed = content["best"]["confirmed"]["onnxruntime-cpu"]
    del confirmed["upper_ms"], confirmed["slowdown"]
    for each in confirmed["records"]:
        for key in ("best_arithmetic_us", "best_reference_us", "known_kappa", "crowded",
                    "crowded_out", "cores", "slow_reference_us", "arithmetic"):  # fmt: skip
            del each[key]
        del each["conditions"]["process"]
    write(run / "search.json", **content)
    (run / "space.json").unlink()
    text = page(run).text
    assert "stage1.0=mb3_k3,stage1.1=identity" in text
    assert "Confirmed 1.500 ms, at most 1.500 ms" in text


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_stands_in_a_file_is_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole_run = data.draw(st.sampled_from((whole, whole_in)))
    made = quantized(whole_run(tmp_path_factory.mktemp("run")), settings={"equalize": True})
    run = hashed(built(made))
    path = run / data.draw(st.sampled_from([name for name in PLACES if (run / name).exists()]))
    content = json.loads(path.read_text())
    place = data.draw(st.sampled_from(sorted(places(content), key=str)))
    path.write_text(json.dumps(replaced(content, place, data.draw(st.sampled_from(VALUES)))))
    try:
        page(run)
        refused = ""
    except FBNError as error:
        refused = str(error)
    assert (run / "report.html").exists() == (not refused)
    assert not refused or path.name in refused


def places(content: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value but the outermost."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def replaced(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """``content`` with ``value`` at ``place``."""
    found = copy.deepcopy(content)
    part = found
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return found
