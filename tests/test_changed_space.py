"""A space file that was edited, or came with another release, strands no run that is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fbn_deploy.checkpoint import save_tensors
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.latency.counting import Counting
from fbn_deploy.pipeline import search as stage
from fbn_deploy.pipeline.context import Context, Given, open_run
from fbn_deploy.pipeline.export import export_subnet
from fbn_deploy.pipeline.latency_sources import refuse_other_blocks
from fbn_deploy.pipeline.parts import parts_of
from fbn_deploy.pipeline.retrain import load_subnet, retrained_subnet
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.pipeline.train import loaded_supernet, trained_supernet
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings
from fbn_deploy.search.budgets import flops_budget
from fbn_deploy.supernet.choice import decisions_of_choices
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet

if TYPE_CHECKING:
    from fbn_deploy.latency.counting import Deployed

SPACE = """
from torch import nn
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.choice import Choice

def conv(size, stride=1):
    return nn.Sequential(
        nn.Conv2d(4, 4, size, stride, size // 2, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    )

def network(num_classes, resolution=8, depth=3):
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    layers = [Choice(f"layer{n}", {"k1": conv(1), "k3": conv(3)}) for n in range(depth)]
    return nn.Sequential(
        stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )
"""
SEARCH = SearchSettings((flops_budget("1M"),), candidates=4, probe_batches=2, probe_size=8)
RETRAIN = RetrainSettings(recipe("quick", {"epochs": 0.05}))


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``mine.py`` and the finished ``run`` of it, and a copy beside it."""
    folder = tmp_path_factory.mktemp("before") / "folder"
    folder.mkdir()
    (folder / "mine.py").write_text(SPACE)
    context = open_run(folder / "run", Given(space=str(folder / "mine.py")), Silent())
    stage.search(context, SEARCH.resolved())
    retrained_subnet(context, RETRAIN)
    shutil.copytree(folder, folder.with_name("copy"))
    return folder


@pytest.fixture
def finished(before: Path) -> Path:
    """The folder as it was, to be changed."""
    shutil.rmtree(before)
    shutil.copytree(before.with_name("copy"), before)
    return before


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "mine.py"
    assert old in SPACE
    file.write_text(SPACE.replace(old, new))


def opened(folder: Path, *, heard: Heard | None = None, **given: object) -> Context:
    return open_run(folder / "run", Given(**given), heard or Silent())  # type: ignore[arg-type]


def test_a_finished_run_goes_on_after_a_comment_with_one_warning(finished: Path) -> None:
    identity = json.loads((finished / "run" / "space.json").read_text())
    edit(finished, "def conv", "# my layers\ndef conv")
    heard = Heard()
    context = opened(finished, heard=heard)
    assert stage.search(context, SEARCH.resolved())["best"]
    network, _ = load_subnet(context)
    assert export_subnet(context, network, [])["batchnorms"]["after"] == 0
    warnings = [said for said in heard.said if "changed since the run began" in said]
    assert len(warnings) == 1
    assert str(finished / "mine.py") in warnings[0]
    assert json.loads((finished / "run" / "space.json").read_text()) == identity


def test_a_finished_run_is_retrained_after_an_option_was_added(finished: Path) -> None:
    edit(finished, "depth=3):", "depth=3, activation='relu'):")
    (finished / "run" / "subnet.safetensors").unlink()
    retrained_subnet(opened(finished), RETRAIN)
    retrained_subnet(opened(finished), RETRAIN)
    with pytest.raises(FBNError, match="activation: None there, tanh asked"):
        opened(finished, options={"activation": "tanh"})


def test_nothing_is_trained_or_scored_beside_what_another_file_gave(finished: Path) -> None:
    edit(finished, "nn.ReLU()", "nn.ReLU6()")
    context = opened(finished)
    with pytest.raises(FBNError, match=r"mine.py changed since .*run began.* Restore the file"):
        trained_supernet(context)
    context.run.search.unlink()
    with pytest.raises(FBNError, match="begin another run"):
        stage.search(context, SEARCH.resolved())


def test_other_choices_are_named(finished: Path) -> None:
    edit(finished, '"k3": conv(3)', '"k5": conv(5)')
    stored = (finished / "run" / "space.json").read_bytes()
    with pytest.raises(FBNError, match=r"3 of its 3 choices are others, the first is layer0 \(\["):
        opened(finished)
    assert (finished / "run" / "space.json").read_bytes() == stored


def test_layers_of_other_shapes_are_told_by_the_weights(finished: Path) -> None:
    edit(finished, '"k1": conv(1), "k3": conv(3)', '"k1": conv(5), "k3": conv(7)')
    with pytest.raises(FBNError, match="weights of another network"):
        load_subnet(opened(finished))


def test_a_supernet_of_a_file_that_was_edited_since_is_read(finished: Path) -> None:
    edit(finished, "def conv", "# my layers\ndef conv")
    heard = Heard()
    context = open_run(finished / "other", Given(space=str(finished / "mine.py")), heard)
    loaded_supernet(context, finished / "run" / "supernet.safetensors")
    assert "changed since" in heard.said[-1]
    save_tensors(finished / "deeper", {}, {**context.identity, "space": {"options": {"depth": 2}}})
    with pytest.raises(FBNError, match="space options depth: 2 there, 3 asked"):
        loaded_supernet(context, finished / "deeper")


def folded(supernet: Supernet) -> Deployed:
    graph = candidate_graphs(supernet, 1)
    return lambda architecture: fold_affine(graph(architecture))[0]


def test_a_device_table_goes_with_a_file_whose_networks_have_the_same_blocks(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SPACE)
    supernet = build_supernet(definition(str(file)), 10)
    inventory = parts_of(supernet, folded(supernet), 1, Silent()).inventory
    table = LatencyTable(inventory, {}, 0, 0.0)

    def check() -> None:
        supernet = build_supernet(definition(str(file)), 10)
        about = supernet.definition.as_json()
        assert about["sha256"] != table.inventory.space["sha256"]
        assert table.inventory.mismatch(about, 10, 1, "fp32", "fair") is None
        counting = Counting(decisions_of_choices(supernet.network), folded(supernet))
        refuse_other_blocks("table.json", table, supernet.space, counting)

    edit(tmp_path, "def conv", "# my layers\ndef conv")
    check()
    for old, new in (("nn.ReLU()", "nn.ReLU6()"), ('"k1": conv(1)', '"k5": conv(5)')):
        edit(tmp_path, old, new)
        with pytest.raises(FBNError, match="Make the bundle anew with fbn bundle"):
            check()
