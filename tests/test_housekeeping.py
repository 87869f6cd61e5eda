"""``fbn latency``: shown by conditions, pruned by what is asked, carried and checked."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_latency_cache import CONDITIONS, record

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.housekeeping import (
    Wanted,
    chosen,
    groups,
    groups_table,
    read_records,
    write_records,
)
from fbn_deploy.latency.protocol import QUICK
from fbn_deploy.latency.record import LatencyRecord, conditions_of
from fbn_deploy.targets import ready_target


def made(
    network: str = "0", date: str = "2026-01-01T00:00:00+00:00", **changed: object
) -> LatencyRecord:
    conditions = dataclasses.replace(CONDITIONS, network=network, **changed)
    return dataclasses.replace(record(conditions), date=date)


def test_records_are_grouped_by_their_conditions() -> None:
    records = [made("a"), made("b", process=1), made("c", threads=2)]
    found = groups(records)
    assert [group.records for group in found] == [2, 1]
    assert [group.conditions.threads for group in found] == [1, 2]
    assert "network" not in found[0].as_json()["conditions"]


def test_the_table_counts_records_and_names_the_target(tmp_path: Path) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(groups_table(tmp_path / "latency.sqlite", groups([made("a"), made("b")])))
    text = console.export_text()
    assert "2 records under 1 sets of conditions" in text
    assert "onnxruntime-cpu" in text


def test_what_is_pruned_matches_everything_that_was_asked() -> None:
    old, new = made("a"), made("b", date="2999-01-01T00:00:00+00:00")
    other = made("c", target="openvino-cpu")
    assert chosen([old, new, other], Wanted(older_than_days=7)) == [old, other]
    assert chosen([old, new, other], Wanted("openvino-cpu", older_than_days=7)) == [other]
    assert chosen([old, new, other], Wanted(disturbed=True)) == []
    assert chosen([old, new, other], Wanted(everything=True)) == [old, new, other]


def test_records_of_this_machine_are_kept_when_others_are_pruned() -> None:
    target = ready_target("onnxruntime-cpu")
    here = made(
        "a",
        device=target.device(),
        versions=target.versions(),
        settings=target.settings,
        power=target.power_state(),
    )
    assert chosen([here, made("b")], Wanted(other_conditions=True)) == [made("b")]


def test_records_of_more_threads_than_cores_are_of_this_machine_too() -> None:
    target = ready_target("onnxruntime-cpu")
    conditions = conditions_of(
        target,
        network="a",
        inputs={},
        batch=1,
        threads=10_000,
        precision="fp32",
        protocol=QUICK,
        settings=target.settings,
    )
    assert "cores" in conditions.settings
    assert chosen([record(conditions)], Wanted(other_conditions=True)) == []


def test_nothing_is_pruned_unless_it_is_named() -> None:
    with pytest.raises(FBNError, match=r"--older-than DAYS, .*or --all"):
        chosen([made()], Wanted())


def test_exported_records_come_back_and_those_that_are_there_stay(tmp_path: Path) -> None:
    path, cache = tmp_path / "records.json", LatencyCache(tmp_path / "latency.sqlite")
    first = made("a")
    cache.put(first)
    assert write_records(path, [record(first.conditions, value_ms=9.0), made("b")]) == 2
    assert cache.add(read_records(path)) == 1
    assert cache.get(first.conditions) == first
    assert len(cache.records()) == 2


@pytest.mark.parametrize("content", ["{}", "[]", '{"kind": "fbn latency records"}', "no JSON"])
def test_what_holds_no_records_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(FBNError, match=r"r\.json"):
        read_records(tmp_path / "r.json")


def test_altered_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_records(path, [made()])
    path.write_text(path.read_text().replace('"value_ms": 1.0', '"value_ms": 0.5'))
    with pytest.raises(FBNError, match="altered after it was exported"):
        read_records(path)


def test_the_command_shows_exports_prunes_and_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path / "cache"))
    LatencyCache().put(made())

    def fbn(*arguments: str) -> dict[str, object]:
        command = [sys.executable, "-m", "fbn_deploy", "latency", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    file = str(tmp_path / "records.json")
    assert fbn("export", file)["records"] == 1
    assert fbn("prune", "--all")["removed"] == 1
    assert fbn("import", file)["added"] == 1
    assert fbn("show")["groups"][0]["records"] == 1  # type: ignore[index]
