"""The cache: conditions are never mixed, what was reported as stored is there, errors are said."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.cache import LatencyCache, default_cache_path
from fbn_deploy.latency.meter import Confirmation, LatencyMeter
from fbn_deploy.latency.network import network_from
from fbn_deploy.latency.record import Conditions, LatencyRecord
from fbn_deploy.latency.timing import Timing
from fbn_deploy.targets import ready_target

ROOT = Path(__file__).resolve().parents[1]
CONDITIONS = Conditions(
    target="onnxruntime-cpu",
    device="a CPU",
    precision="fp32",
    batch=1,
    threads=1,
    network="0" * 64,
    inputs={"x": (1, 3, 32, 32)},
    versions={"onnxruntime": "1.2.3"},
    settings={"spinning": "off"},
    power="governor=performance",
    protocol="quick(1)",
)
OTHER = {
    "target": "openvino-cpu",
    "device": "another CPU",
    "precision": "int8",
    "batch": 2,
    "threads": 2,
    "network": "1" * 64,
    "inputs": {"x": (1, 3, 64, 64)},
    "versions": {"onnxruntime": "1.2.4"},
    "settings": {"spinning": "on"},
    "power": "governor=powersave",
    "protocol": "quick(2)",
    "process": 1,
}


def record(
    conditions: Conditions = CONDITIONS, value_ms: float = 1.0, **timing: object
) -> LatencyRecord:
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(Timing)), value_ms)
    numbers |= {
        "n": 10,
        "rounds": 5,
        "crowded": 0.0,
        "crowded_out": False,
        "disturbed": (),
    } | timing
    return LatencyRecord(conditions, Timing(**numbers), "2026-01-01T00:00:00+00:00", 2600.0)


@pytest.fixture
def cache(tmp_path: Path) -> LatencyCache:
    return LatencyCache(tmp_path / "sub" / "latency.sqlite")


def test_a_record_comes_back_as_it_was_stored(cache: LatencyCache) -> None:
    stored = record(value_ms=1.2345678901234567, disturbed=("foreign load",))
    assert cache.get(CONDITIONS) is None
    assert cache.put(stored) == stored
    assert LatencyCache(cache.path).get(CONDITIONS) == stored
    assert cache.records() == cache.records("onnxruntime-cpu") == [stored]
    assert cache.records("openvino-cpu") == []


def test_every_condition_is_in_the_test_below() -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Conditions)}


@pytest.mark.parametrize("name", OTHER)
def test_a_record_made_under_another_condition_is_not_used(cache: LatencyCache, name: str) -> None:
    cache.put(record())
    assert cache.get(dataclasses.replace(CONDITIONS, **{name: OTHER[name]})) is None


def test_the_first_record_stays(cache: LatencyCache) -> None:
    first = record(value_ms=1.0)
    cache.put(first)
    assert cache.put(record(value_ms=2.0)) == first
    assert cache.get(CONDITIONS) == first


def test_a_disturbed_record_gives_way_to_a_quiet_one_and_not_back(cache: LatencyCache) -> None:
    disturbed, quiet = record(value_ms=2.0, disturbed=("load",)), record(value_ms=1.0)
    assert cache.put(disturbed) == disturbed
    assert cache.put(quiet) == quiet
    assert cache.put(disturbed) == quiet


def test_removed_records_are_gone_and_counted(cache: LatencyCache) -> None:
    cache.put(record())
    other = record(dataclasses.replace(CONDITIONS, threads=2))
    assert cache.remove([record(), other]) == 1
    assert cache.records() == []


WRITER = """
import dataclasses, itertools, json, sys
from pathlib import Path
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.record import LatencyRecord
path, number, text = sys.argv[1:]
cache, model = LatencyCache(Path(path)), LatencyRecord.from_json(json.loads(text))
for i in itertools.count():
    conditions = dataclasses.replace(model.conditions, network=f"{number}-{i}")
    timing = dataclasses.replace(model.timing, value_ms=float(i))
    cache.put(dataclasses.replace(model, conditions=conditions, timing=timing))
    print(conditions.network, flush=True)
"""


# Stores 50 records of its own value under keys that all have, one every 20 ms from a time that it
# is told, and reports which value stands there.
CONTENDER = """
import dataclasses, json, sys, time
from pathlib import Path
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.record import LatencyRecord
path, number, text = sys.argv[1:]
cache, model = LatencyCache(Path(path)), LatencyRecord.from_json(json.loads(text))
timing = dataclasses.replace(model.timing, value_ms=float(number))
print("ready", flush=True)
begin_s = float(sys.stdin.readline())
for i in range(50):
    time.sleep(max(0.0, begin_s + 0.02 * i - time.monotonic()))
    conditions = dataclasses.replace(model.conditions, network=str(i))
    stored = cache.put(dataclasses.replace(model, conditions=conditions, timing=timing))
    print(stored.value_ms)
"""


def writer_command(path: Path, number: int, before: str = "", program: str = WRITER) -> list[str]:
    """A process that stores record after record and reports each one when it is stored."""
    model = json.dumps(record().as_json())
    return [sys.executable, "-c", before + program, str(path), str(number), model]


def test_eight_writers_killed_at_random_lose_nothing_that_was_reported(tmp_path: Path) -> None:
    path = tmp_path / "latency.sqlite"
    reports = [tmp_path / f"{number}.txt" for number in range(8)]
    with contextlib.ExitStack() as opened:
        writers = [
            subprocess.Popen(
                writer_command(path, number),
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=opened.enter_context(report.open("w")),
                stderr=subprocess.PIPE,
                text=True,
            )
            for number, report in enumerate(reports)
        ]
    deadline_s = time.monotonic() + 60
    while any(report.stat().st_size == 0 for report in reports) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    rng = random.Random(0)
    for writer in writers:
        threading.Timer(rng.uniform(0.1, 1.0), writer.kill).start()
    assert [writer.communicate(timeout=60)[1] for writer in writers] == [""] * 8
    assert all(writer.returncode == -signal.SIGKILL for writer in writers)
    reported = [
        {line for line in report.read_text().splitlines(keepends=True) if line.endswith("\n")}
        for report in reports
    ]
    stored = {
        f"{found.conditions.network}\n": found.value_ms for found in LatencyCache(path).records()
    }
    assert all(reported)
    assert set().union(*reported) <= set(stored)
    assert all(value == float(name.split("-")[1]) for name, value in stored.items())


def test_the_first_record_stays_where_processes_store_the_same_key_at_once(tmp_path: Path) -> None:
    path = tmp_path / "latency.sqlite"
    writers = [
        subprocess.Popen(
            writer_command(path, number, program=CONTENDER),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    begin_s = time.monotonic() + 0.1
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(f"{begin_s}\n")
        writer.stdin.flush()
    outputs = [writer.communicate(timeout=60) for writer in writers]
    assert [error for _, error in outputs] == [""] * 4
    answers = [output.split() for output, _ in outputs]
    found = LatencyCache(path).records()
    stored = {int(each.conditions.network): str(each.value_ms) for each in found}
    assert len(found) == len(stored) == 50
    assert answers == [[stored[i] for i in range(50)]] * 4, "All were told of the same record."


def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "latency.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(FBNError, match=r"is damaged .* delete it"):
        LatencyCache(path)
    assert path.read_bytes() == b"this is no database" * 1000


def test_a_damaged_page_is_refused(cache: LatencyCache) -> None:
    for threads in range(1, 60):
        cache.put(record(dataclasses.replace(CONDITIONS, threads=threads)))
    content = bytearray(cache.path.read_bytes())
    content[4096:] = random.Random(0).randbytes(len(content) - 4096)
    cache.path.write_bytes(content)
    with pytest.raises(FBNError, match="latency cache"):
        LatencyCache(cache.path).records()


def test_a_place_that_cannot_be_written_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FBNError, match="Set FBN_CACHE_DIR"):
        LatencyCache(tmp_path / "file" / "latency.sqlite")


def test_a_full_disk_is_said_and_keeps_what_was_stored(tmp_path: Path) -> None:
    """The kernel refuses files over 64 KiB to the writer, as a full disk would."""
    path = tmp_path / "latency.sqlite"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536));"
    answer = subprocess.run(
        writer_command(path, 0, before=limit),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "FBNError: Cannot use the latency cache" in answer.stderr
    stored = {found.conditions.network for found in LatencyCache(path).records()}
    assert answer.stdout.split()
    assert set(answer.stdout.split()) <= stored


def test_a_newer_format_is_refused(cache: LatencyCache) -> None:
    import sqlite3

    with sqlite3.connect(cache.path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FBNError, match="format 99"):
        LatencyCache(cache.path)


def test_the_default_place_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FBN_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_path() == tmp_path / "xdg" / "fbn_deploy" / "latency.sqlite"
    monkeypatch.setenv("FBN_CACHE_DIR", str(tmp_path / "mine"))
    assert default_cache_path() == tmp_path / "mine" / "latency.sqlite"


def test_what_is_no_record_or_a_newer_one_is_refused() -> None:
    with pytest.raises(FBNError, match="schema 99"):
        LatencyRecord.from_json(record().as_json() | {"schema": 99})
    for broken in ({}, {"schema": 1}, None, "text"):
        with pytest.raises(FBNError, match="no latency record"):
            LatencyRecord.from_json(broken)


def relu_network(values: list[float], names: str = "xwy", size: int = 4) -> bytes:
    """x + w → Relu, with the names of input, weight and output to choose."""
    x, w, y = names
    graph = helper.make_graph(
        [helper.make_node("Add", [x, w], ["sum"]), helper.make_node("Relu", ["sum"], [y])],
        "g",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, size])],
        [helper.make_tensor(w, TensorProto.FLOAT, [1, len(values)], values)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def test_the_network_hash_sees_structure_and_not_weights_or_names() -> None:
    same = network_from(relu_network([1, 2, 3, 4])).hash
    assert network_from(relu_network([5, 6, 7, 8])).hash == same
    assert network_from(relu_network([1, 2, 3, 4], names="abc")).hash == same
    assert network_from(relu_network([1, 2, 3, 4, 5], size=5)).hash != same
    assert network_from(relu_network([1])).hash != same


def reshape_network(target: list[int], batch: str = "N") -> bytes:
    """(N, 4, 4) reshaped: the target is a constant, and steers the shape of what follows."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "target"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("target", TensorProto.INT64, [3], target)],
    )
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def test_the_network_hash_sees_constants_that_steer_shapes() -> None:
    same = network_from(reshape_network([0, 2, 8])).hash
    assert network_from(reshape_network([0, 8, 2])).hash != same
    assert network_from(reshape_network([0, 2, 8], batch="batch")).hash == same
    assert network_from(reshape_network([0, 2, 8])).input_shapes(7) == {"x": (7, 4, 4)}


def test_the_network_hash_is_the_same_from_bytes_file_and_onnx_ir(tmp_path: Path) -> None:
    import onnx_ir

    content = relu_network([1, 2, 3, 4])
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    hashes = {network_from(model).hash for model in (content, path, onnx_ir.load(path))}
    assert len(hashes) == 1


def test_the_meter_measures_once_and_then_reads_the_cache(cache: LatencyCache) -> None:
    meter = LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)
    first = meter.measure(relu_network([1, 2, 3, 4]))
    assert (meter.num_measured, meter.num_from_cache) == (1, 0)
    assert meter.seconds > 0
    again = LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)
    assert again.measure(relu_network([5, 6, 7, 8])) == first
    assert (again.num_measured, again.num_from_cache) == (0, 1)


def test_the_meter_measures_again_when_asked_or_under_another_protocol(
    cache: LatencyCache,
) -> None:
    meter = LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)
    model = relu_network([1, 2, 3, 4])
    first = meter.measure(model)
    second = meter.measure(model, fresh=True)
    assert second != first
    assert meter.measure(model) in (first, second)  # the second only if the first was disturbed
    assert (meter.num_measured, meter.num_from_cache) == (2, 1)
    with pytest.raises(FBNError, match="No timing protocol 'slow'"):
        meter.measure(model, "slow")


def test_a_confirmation_takes_the_worst_of_its_processes() -> None:
    calm = record(value_ms=1.0)
    slow = record(value_ms=1.1, worst_round_ms=1.2, high_ms=1.15)
    confirmation = Confirmation((calm, slow))
    assert (confirmation.value_ms, confirmation.upper_ms) == (1.1, 1.2)
    assert confirmation.meets(1.2)
    assert not confirmation.meets(1.19)


def test_a_fresh_process_confirms_and_the_next_time_it_comes_from_the_cache(
    cache: LatencyCache,
) -> None:
    meter = LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)
    model = relu_network([1, 2, 3, 4])
    confirmation = meter.confirm_in_fresh_process(model, processes=1, protocol="quick")
    (measured,) = confirmation.records
    assert measured.conditions.process == 1
    assert measured.timing.rounds >= 3
    again = meter.confirm_in_fresh_process(model, processes=1, protocol="quick")
    assert again == confirmation
    assert (meter.num_measured, meter.num_from_cache) == (1, 1)


def test_a_confirmation_that_was_forgotten_is_measured_again(cache: LatencyCache) -> None:
    meter = LatencyMeter(ready_target("onnxruntime-cpu"), cache=cache)
    model = relu_network([1, 2, 3, 4])
    first = meter.confirm_in_fresh_process(model, processes=1, protocol="quick")
    meter.forget(first)
    assert cache.records() == []
    assert meter.confirm_in_fresh_process(model, processes=1, protocol="quick") != first


def test_a_fresh_process_that_fails_hands_its_message_back(cache: LatencyCache) -> None:
    meter = LatencyMeter(ready_target("onnxruntime-cpu"), batch=2, cache=cache)
    with pytest.raises(FBNError, match=r"fresh process: .*fixed batch of 1"):
        meter.confirm_in_fresh_process(relu_network([1, 2, 3, 4]), processes=1)


def test_what_was_replaced_meanwhile_is_not_removed(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    noisy = cache.put(record(value_ms=2.0, disturbed=("noise",)))
    calm = cache.put(record(value_ms=1.0))
    assert cache.remove([noisy]) == 0
    assert cache.get(calm.conditions) == calm
    assert cache.remove([calm]) == 1


def test_an_imported_record_takes_the_place_of_a_disturbed_one(tmp_path: Path) -> None:
    cache = LatencyCache(tmp_path / "latency.sqlite")
    cache.put(record(value_ms=2.0, disturbed=("noise",)))
    assert cache.add([record(value_ms=1.0), record(value_ms=3.0)]) == 1
    assert cache.get(record().conditions).value_ms == 1.0
