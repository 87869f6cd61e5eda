"""From blocks in a file to a search against a device: the device has no PyTorch."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from test_targets import small_network

from fbn_deploy.commands.measure import _search_command
from fbn_deploy.errors import FBNError
from fbn_deploy.files import sha256_of
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.latency.bundle import read_bundle
from fbn_deploy.latency.crowding import best_pace
from fbn_deploy.latency.inventory import Inventory, digest
from fbn_deploy.latency.profile import NetworkProfile
from fbn_deploy.pipeline.bundle import bundle
from fbn_deploy.pipeline.latency import table_for
from fbn_deploy.progress import Silent
from fbn_deploy.supernet.definition import SpaceDefinition, definition
from fbn_deploy.targets import refuse_form

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"channels": 4, "cells": 1}
SPACE = ["--space", "nasbench201", "-o", "channels=4", "-o", "cells=1", "--resolution", "16"]
# Timing that takes milliseconds: this is about files and environments, not about care.
FBN = """
import dataclasses
from fbn_deploy.latency import protocol
protocol.PROTOCOLS["quick"] = dataclasses.replace(
    protocol.QUICK, warmup_s=0.001, round_s=0.001, limit_s=0.01
)
protocol.PROTOCOLS["confirm"] = protocol.PROTOCOLS["quick"]
from fbn_deploy.cli import main
main()
"""


def small_space() -> SpaceDefinition:
    return definition("nasbench201", 16, OPTIONS)


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "blocks.fbn"
    bundle(small_space(), 10, 1, path, Silent(), probes=12)
    return path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Runs ``fbn`` in an environment of its own that holds what ``fbn-deploy[device]`` brings."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    names = _closure(_required("device"))
    for name in names:
        for entry in _top_entries(name):
            link = site / entry.name
            if not link.exists():
                link.symlink_to(entry)
    cache = str(folder / "cache")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [folder / "venv" / "bin" / "python", "-c", FBN, *arguments],
            cwd=folder,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FBN_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def table_path(bundle_path: Path, device: Callable[..., Any]) -> Path:
    path = bundle_path.with_name("table.json")
    done = device("measure", str(bundle_path), "--target", "onnxruntime-cpu", "--out", str(path))
    assert done.returncode == 0, done.stderr
    assert "12 whole networks" in done.stdout
    path.with_suffix(".advice").write_text(done.stdout)
    return path


def _required(extra: str) -> list[str]:
    """The packages that pyproject.toml says a plain install and ``extra`` bring, here."""
    text = (ROOT / "pyproject.toml").read_text()
    plain = re.search(r"^dependencies = \[(.*?)^\]", text, re.M | re.S)
    added = re.search(rf"^{extra} = \[(.*?)^\]", text, re.M | re.S)
    assert plain is not None
    assert added is not None
    found = re.findall(r'^  "([A-Za-z0-9_-]+)', plain[1] + added[1], re.M)
    return [name for name in found if _installed(name)]


def _closure(names: list[str]) -> set[str]:
    """``names`` and what they require, extras apart."""
    found: set[str] = set()
    while names:
        name = names.pop()
        if name in found or not _installed(name):
            continue
        found.add(name)
        required = [line for line in metadata.requires(name) or [] if "extra ==" not in line]
        names += [re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0] for line in required]
    return found


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _top_entries(name: str) -> set[Path]:
    files = metadata.files(name) or []
    tops = {Path(str(file)).parts[0] for file in files} - {"..", "__pycache__"}
    return {Path(str(metadata.distribution(name).locate_file(top))) for top in tops}


def test_the_device_has_no_pytorch_and_says_so(device: Callable[..., Any]) -> None:
    done = device("search", "--flops-budget", "2M")
    assert done.returncode == 2
    assert 'pip install "fbn-deploy[search]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_without_pytorch_profiles_a_model(
    device: Callable[..., Any], tmp_path: Path
) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "profile.json"
    model.write_bytes(small_network(channels=256))
    done = device("profile", str(model), "--target", "onnxruntime-cpu", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "onnxruntime-cpu" in done.stdout
    profile = NetworkProfile.load(out)
    assert profile.record.value_ms > 0
    assert profile.onnx_sha256 == sha256_of(model)
    assert "stem.conv" in [layer.name for layer in profile.layers]
    for layer in profile.layers:
        assert layer.name[:10] in done.stdout


def test_a_bundle_is_small_checked_and_always_the_same(bundle_path: Path, tmp_path: Path) -> None:
    inventory = read_bundle(bundle_path).inventory
    assert len(inventory.probes) == 12
    assert inventory.blocks.keys() | {f"probe-{n:03}" for n in range(12)} == inventory.graphs.keys()
    assert bundle_path.stat().st_size < 1e6
    again = tmp_path / "again.fbn"
    bundle(small_space(), 10, 1, again, Silent(), probes=12)
    assert again.read_bytes() == bundle_path.read_bytes()


def test_no_two_layers_of_a_bundled_network_are_equal(bundle_path: Path) -> None:
    """A runtime would compute both at once where they read the same tensor."""
    network = read_bundle(bundle_path).network("probe-000").source
    assert isinstance(network, bytes)
    weights = [
        tensor.raw_data
        for tensor in onnx.load_from_string(network).graph.initializer
        if len(tensor.dims) == 4
    ]
    assert len(set(weights)) == len(weights) > 5


def test_a_table_measured_without_pytorch_predicts(table_path: Path, bundle_path: Path) -> None:
    table = LatencyTable.load(table_path)
    assert table.inventory == read_bundle(bundle_path).inventory
    assert table.target == "onnxruntime-cpu"
    assert table.records.keys() == table.inventory.graphs.keys()
    assert 40 < table.measurements <= 2 * len(table.records)
    predictor, probe = table.predictor(), table.inventory.probes[0]
    prediction = predictor(probe.composition)
    assert prediction.low_ms < prediction.value_ms < prediction.high_ms
    assert (
        table_for(table_path, (small_space().as_json(), 10, 1, "fp32", "fair"), threads=1) == table
    )


def test_a_space_of_few_networks_is_not_bundled(tmp_path: Path) -> None:
    (tmp_path / "few.py").write_text(
        "from torch import nn\n"
        "from fbn_deploy.supernet.choice import Choice\n\n"
        "def network(num_classes, resolution):\n"
        "    ops = {f'k{k}': nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3, 5)}\n"
        "    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)]\n"
        "    return nn.Sequential(Choice('op', ops), *head)\n"
    )
    space, out = definition(str(tmp_path / "few.py"), 8), tmp_path / "few.fbn"
    with pytest.raises(FBNError, match=r"has 3 networks that differ; .* needs 10"):
        bundle(space, 10, 1, out, Silent())
    assert not out.exists()


def test_a_bundle_in_int8_is_measured_in_int8_and_searched_against_for_int8_only(
    device: Callable[..., Any], tmp_path: Path
) -> None:
    path, out = tmp_path / "int8.fbn", tmp_path / "int8.json"
    bundle(small_space(), 10, 1, path, Silent(), probes=12, precision="int8",
           target="onnxruntime-cpu")  # fmt: skip
    network = read_bundle(path).network("probe-000").source
    assert isinstance(network, bytes)
    names = {tensor.name for tensor in onnx.load_from_string(network).graph.initializer}
    assert "uint8_zero_point" in names
    done = device("measure", str(path), "--target", "onnxruntime-cpu", "--out", str(out))
    assert done.returncode == 0, done.stderr
    table = LatencyTable.load(out)
    assert {record.conditions.precision for record in table.records.values()} == {"int8"}
    space = small_space().as_json()
    assert table_for(out, (space, 10, 1, "int8", "fair"), threads=1) == table
    with pytest.raises(FBNError, match="precision int8 there, fp32 asked"):
        table_for(out, (space, 10, 1, "fp32", "fair"), threads=1)
    older = {key: part for key, part in table.inventory.as_json().items() if key != "precision"}
    assert Inventory.from_json(older).precision == "fp32"


def test_a_bundle_in_a_precision_that_the_device_does_not_run_is_refused(
    device: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "bf16.fbn"
    bundle(small_space(), 10, 1, path, Silent(), probes=12, precision="bf16")
    done = device("measure", str(path), "--target", "onnxruntime-cpu", "--out", "table.json")
    assert done.returncode == 2
    assert "'onnxruntime-cpu' does not run bf16" in done.stderr
    with pytest.raises(FBNError, match="'onnxruntime-cpu' does not run bf16"):
        bundle(small_space(), 10, 1, path, Silent(), precision="bf16", target="onnxruntime-cpu")
    with pytest.raises(FBNError, match="No precision 'int4'"):
        bundle(small_space(), 10, 1, path, Silent(), precision="int4")


def test_int8_of_another_kind_than_the_target_deploys_is_refused() -> None:
    with pytest.raises(FBNError, match=r"as int8; for 'onnxruntime-cpu' they are .* as uint8"):
        refuse_form("onnxruntime-cpu", "int8", unsigned=False)
    with pytest.raises(FBNError, match=r"as uint8; for 'tensorrt' they are deployed as int8"):
        refuse_form("tensorrt", "int8", unsigned=True)
    refuse_form("openvino-cpu", "int8", unsigned=True)  # either will do
    refuse_form("onnxruntime-cpu", "int8", unsigned=True)
    refuse_form("onnxruntime-cpu", "fp16", unsigned=False)


def test_a_second_measurement_repeats_only_what_was_disturbed(
    table_path: Path, bundle_path: Path, device: Callable[..., Any], tmp_path: Path
) -> None:
    again = tmp_path / "again.json"
    done = device("measure", str(bundle_path), "--target", "onnxruntime-cpu", "--out", str(again))
    assert done.returncode == 0, done.stderr
    first, second = LatencyTable.load(table_path).records, LatencyTable.load(again).records
    best = best_pace(each.timing.pace for each in second.values())
    calm = [n for n, each in first.items() if not (each.disturbed or each.was_crowded(best))]
    assert [second[name] for name in calm] == [first[name] for name in calm]
    assert f"{LatencyTable.load(again).measurements} measurements now" in done.stdout
    assert LatencyTable.load(again).measurements <= len(first) - len(calm)


def test_a_search_against_a_table_promises_nothing_that_was_not_measured(
    table_path: Path, tmp_path: Path
) -> None:
    """The search is the one that ``fbn measure`` advised."""
    advice = table_path.with_suffix(".advice").read_text()
    (advised,) = re.findall(r"on images of 10 classes: fbn (search .*) --data DIR", advice)
    table = LatencyTable.load(table_path)
    slowest_ms = max(
        each.value_ms for name, each in table.records.items() if name.startswith("probe")
    )
    done = subprocess.run(
        [sys.executable, "-m", "fbn_deploy", *shlex.split(advised), "--epochs", "0.1",
         "--candidates", "6", "--finalists", "0", "--probe-size", "8", "--probe-batches", "2",
         "--latency-budget", f"{10 * slowest_ms:.3f}ms", "--run", str(tmp_path / "run")],
        cwd=table_path.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "FBN_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "It was not measured there" in done.stdout
    found = json.loads((tmp_path / "run" / "search.json").read_text())
    best = found["best"]
    assert best["meets_budget"] is None
    assert best["confirmed"] == {}
    latency = best["costs"]["latency_ms"]
    assert latency["measured"] is None
    assert latency["interval"][0] < latency["predicted"] < latency["interval"][1]
    about = found["latency"]["onnxruntime-cpu"]
    assert about["predictor"] == "table"
    assert (about["measurements"], about["seconds"]) == (table.measurements, table.seconds)
    said = done.stdout + done.stderr
    assert f"Latency table: {table.cost_text(now=False)}." in said
    assert table.predictor().quality.text() in said
    assert not (tmp_path / "cache").exists()


def test_the_advised_search_has_every_option_of_the_bundle_that_can_be_typed() -> None:
    options = {"width": 0.123456789, "squeeze": False, "widths": [8, 16], "none": None, "no": []}
    space = {"name": "./my space.py", "resolution": 160, "options": options}
    inventory = SimpleNamespace(space=space, bn="conv-only", precision="int8", batch=2)
    table: Any = SimpleNamespace(inventory=inventory, threads=4)
    assert shlex.split(_search_command(table, Path("there/table.json"))) == [
        "fbn", "search", "--space", "./my space.py", "--resolution", "160",
        "-o", "width=0.123456789", "-o", "squeeze=false", "-o", "widths=8, 16",
        "--bn", "conv-only", "--precision", "int8", "--batch", "2", "--threads", "4",
        "--latency-table", "table.json", "--data", "DIR", "--latency-budget", "10ms",
    ]  # fmt: skip


def test_a_table_of_another_space_is_refused_with_the_difference(table_path: Path) -> None:
    other = definition("nasbench201", 16, {**OPTIONS, "channels": 8})
    with pytest.raises(FBNError, match=r"other networks \(options .*'channels': 4"):
        table_for(table_path, (other.as_json(), 10, 1, "fp32", "fair"), threads=1)
    with pytest.raises(FBNError, match="classes 10 there, 7 asked"):
        table_for(table_path, (small_space().as_json(), 7, 1, "fp32", "fair"), threads=1)
    with pytest.raises(FBNError, match="Pass --threads 1"):
        table_for(table_path, (small_space().as_json(), 10, 1, "fp32", "fair"), threads=2)


def _altered(value: Any) -> None:
    value["records"]["probe-003"]["value_ms"] *= 0.9


def _incomplete(value: Any) -> None:
    del value["records"]["probe-003"]
    _hashed(value)


def _mixed(value: Any) -> None:
    value["records"]["probe-003"]["conditions"]["threads"] = 2
    _hashed(value)


def _foreign(value: Any) -> None:
    value["records"]["probe-003"] = value["records"]["probe-004"]
    _hashed(value)


def _hashed(value: Any) -> None:
    value.pop("sha256")
    value["sha256"] = digest(value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_altered, "altered after it was measured"),
        (_incomplete, r"1 of \d+ graphs were not measured"),
        (_mixed, "under different conditions"),
        (_foreign, "probe-003 is of another graph"),
    ],
)
def test_a_table_that_was_tampered_with_is_refused(
    table_path: Path, tmp_path: Path, change: Callable[[Any], None], said: str
) -> None:
    value = json.loads(table_path.read_text())
    change(value)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FBNError, match=said):
        LatencyTable.load(path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"kind": "fbn latency table"}', "nothing"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(FBNError, match=r"table\.json"):
        LatencyTable.load(tmp_path / "table.json")


def _copied(source: Path, path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def _contents(path: Path) -> list[range]:
    """Where the compressed graphs and the manifest lie, each without its last byte, in which a few
    bits say nothing."""
    whole, found = path.read_bytes(), []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            at = entry.header_offset
            start = (
                at
                + 30
                + sum(int.from_bytes(whole[at + k : at + k + 2], "little") for k in (26, 28))
            )
            found.append(range(start, start + entry.compress_size - 1))
    return found


def test_a_bundle_with_one_damaged_byte_is_refused_or_reads_as_it_was(
    bundle_path: Path, tmp_path: Path
) -> None:
    """Refused wherever a graph or the manifest is damaged. A date or a compression hint says
    nothing about them; then it reads as it was."""
    whole, path = bundle_path.read_bytes(), tmp_path / "b.fbn"
    contents, known = _contents(bundle_path), read_bundle(bundle_path).inventory
    rng = random.Random(0)
    within = [rng.choice(part) for part in [*rng.sample(contents, 30), contents[-1]]]
    for at in [*within, *(rng.randrange(len(whole)) for _ in range(30))]:
        damaged = bytearray(whole)
        damaged[at] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        if any(at in part for part in contents):
            with pytest.raises(FBNError):
                read_bundle(path)
        else:
            with contextlib.suppress(FBNError):
                assert read_bundle(path).inventory == known


def test_a_bundle_with_another_graph_one_too_few_or_another_manifest_is_refused(
    bundle_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.fbn"
    _copied(bundle_path, path, lambda name, c: c + b"\0" if name.endswith("e-003.onnx") else c)
    with pytest.raises(FBNError, match="the graph probe-003 does not have its hash"):
        read_bundle(path)
    _copied(bundle_path, path, lambda name, c: None if name.endswith("e-003.onnx") else c)
    with pytest.raises(FBNError, match=r"incomplete: missing graphs/probe-003\.onnx"):
        read_bundle(path)
    _copied(bundle_path, path, lambda name, c: c.replace(b'"batch": 1', b'"batch": 2'))
    with pytest.raises(FBNError, match="manifest does not have the hash"):
        read_bundle(path)
    path.write_bytes(bundle_path.read_bytes()[:5000])
    with pytest.raises(FBNError, match="no bundle, or it was damaged"):
        read_bundle(path)
    with pytest.raises(FBNError, match="There is no bundle"):
        read_bundle(tmp_path / "none.fbn")


def test_a_space_that_builds_its_networks_has_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(FBNError, match="no blocks to bundle"):
        bundle(definition("nasbench101"), 10, 1, tmp_path / "b.fbn", Silent())
