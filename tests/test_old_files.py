"""Files of earlier versions load as they did (``tests/assets/formats`` says how they were made)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fbn_deploy.data import HeldOut
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.files import read_json
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.latency.bundle import read_bundle
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.profile import NetworkProfile
from fbn_deploy.pipeline.answers import _lines
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.pipeline.search import chosen_architecture
from fbn_deploy.pipeline.stored_search import stored_search
from fbn_deploy.progress import Silent
from fbn_deploy.report.page import write_report
from fbn_deploy.rundir import RunDir
from fbn_deploy.search.budgets import Budget

FORMATS = Path(__file__).parent / "assets" / "formats"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    shutil.copytree(FORMATS / "run", tmp_path / "run")
    return RunDir(tmp_path / "run")


def test_an_old_run_is_read(run: RunDir) -> None:
    configuration = run.configuration()
    assert configuration["space"]["name"] == "nasbench201"
    assert configuration["data"]["spec"] == "digits"
    split = HeldOut.from_json(read_json(run.split))
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1151, 287, 359]
    assert split.normalization is None


def test_an_old_run_is_opened_with_the_space_as_it_is_now(run: RunDir) -> None:
    context = open_run(run.path, Given(), Silent(), create=False)
    chosen = chosen_architecture(context)
    assert context.supernet().space.text(chosen) == stored_search(run)["best"]["text"]


def test_an_old_search_is_found_done_with_its_scores(run: RunDir) -> None:
    found = stored_search(run)
    budgets = [Budget.from_json(budget) for budget in found["budgets"]]
    assert [budget.text for budget in budgets] == ["1000 ms on onnxruntime-cpu"]
    assert found["best"]["meets_budget"] is True
    assert len(found["candidates"]) == 6
    key = json.loads(run.scores.read_text().partition("\n")[0])["key"]
    scores = {line["of"]: line["scores"] for line in _lines(run.scores, key)}
    assert len(scores) == 6
    assert all("expressivity-rank" in values for values in scores.values())


def test_old_profiles_ranges_and_verifications_are_read_and_reported(run: RunDir) -> None:
    profile = NetworkProfile.load(run.profile)
    assert profile.record.conditions.target == "onnxruntime-cpu"
    assert profile.layers
    ranges = Ranges.load(run.ranges("mse"))
    assert ranges.count == 32
    assert run.precisions() == ["int8"]
    text = write_report(run.path)[0].read_text()
    assert stored_search(run)["best"]["text"].partition("+")[0] in text
    assert f"{profile.record.value_ms:.3f}" in text


def test_an_old_table_predicts_for_the_old_bundle() -> None:
    table, bundle = LatencyTable.load(FORMATS / "table.json"), read_bundle(FORMATS / "blocks.fbn")
    assert table.inventory == bundle.inventory
    assert len(table.inventory.probes) == 10
    prediction = table.predictor()(table.inventory.probes[0].composition)
    assert 0 < prediction.low_ms < prediction.value_ms < prediction.high_ms
    assert bundle.network("probe-000").hash == table.records["probe-000"].conditions.network


def test_an_old_cache_gives_its_records(tmp_path: Path) -> None:
    shutil.copy(FORMATS / "latency.sqlite", tmp_path)
    cache = LatencyCache(tmp_path / "latency.sqlite")
    table = LatencyTable.load(FORMATS / "table.json")
    for number in range(5):
        record = table.records[f"probe-{number:03}"]
        assert cache.get(record.conditions) == record
    assert len(cache.records("onnxruntime-cpu")) == 5
