"""Retraining: exact resume, what is kept, teachers, and what wrong input is told."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.utils import ModelEmaV3
from torch import nn
from torchvision.ops import StochasticDepth

from fbn_deploy import loop
from fbn_deploy.checkpoint import save_tensors, training_state
from fbn_deploy.data import ImageData, load_data
from fbn_deploy.errors import FBNError
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.course import Course
from fbn_deploy.retrain.objective import objective
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.teacher import teacher
from fbn_deploy.retrain.training import RetrainSettings, Trained, retrain

CPU = torch.device("cpu")
EVERYTHING = {"ema": 0.9, "accumulate": 2, "mixup": 0.4, "cutmix": 1.0, "cutout": 0.5,
              "drop_path": 0.3, "auxiliary": 0.4, "clip_norm": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(resolution=8, seed=0)


class Small(nn.Module):
    """A residual convolution, a classifier, and an auxiliary one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
        self.drop_path = StochasticDepth(0.0, "row")
        self.classifier = nn.Linear(8, 10)
        self.auxiliary: nn.Module | None = None

    def add_auxiliary(self) -> None:
        self.auxiliary = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.conv(x)
        features = (x + self.drop_path(self.branch(x))).mean((2, 3))
        logits = self.classifier(features)
        if self.training and self.auxiliary is not None:
            return logits, self.auxiliary(features)
        return logits


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


def trained(data: ImageData, folder: Path, **changes: Any) -> tuple[nn.Module, Trained]:
    chosen = recipe("quick", {"epochs": 0.5, "batch_size": 64, **changes})
    network = small()
    found = retrain(
        network, data, RetrainSettings(chosen), checkpoint=folder / "partial.safetensors",
        best=folder / "best.safetensors", about={"of": "test"}, reporter=Silent(),
    )  # fmt: skip
    return network, found


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize(
    "changes",
    [EVERYTHING, {"optimizer": "adamw", "learning_rate": 0.001}, {"optimizer": "rmsproptf"},
     {"optimizer": "adan", "learning_rate": 0.01}, {"optimizer": "lamb", "learning_rate": 0.01},
     {"precision": "bf16", "keep": "best", "epochs": 1.2, "ema": 0.9}],
)  # fmt: skip
def test_a_training_that_broke_off_ends_bit_by_bit_like_an_unbroken_one(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole, of_whole = trained(digits, tmp_path / "whole", **changes)
    monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
    after = Course.after
    for broken_at in (1, 3, 8):

        def breaks(course: Course, step: int, loss: torch.Tensor, at: int = broken_at) -> None:
            if step == at:
                raise KeyboardInterrupt
            after(course, step, loss)

        monkeypatch.setattr(Course, "after", breaks)
        with pytest.raises(KeyboardInterrupt):
            trained(digits, tmp_path / "broken", **changes)
    monkeypatch.setattr(Course, "after", after)
    torch.manual_seed(123)  # whatever state the process is in
    resumed, of_resumed = trained(digits, tmp_path / "broken", **changes)
    assert same_weights(whole, resumed)
    assert of_resumed.losses == of_whole.losses


KILLED = """
import sys, pathlib
sys.path.insert(0, sys.argv[1])
from fbn_deploy import loop
from tests.test_retrain import EVERYTHING, load_data, trained
loop.SAVE_EVERY_S = 0.02
network, _ = trained(load_data(resolution=8, seed=0), pathlib.Path(sys.argv[2]), **EVERYTHING,
                     epochs=4)
from safetensors.torch import save_file
save_file(network.state_dict(), sys.argv[2] + "/done")
"""


def test_a_killed_process_goes_on_bit_by_bit(digits: ImageData, tmp_path: Path) -> None:
    whole, _ = trained(digits, tmp_path / "whole", **EVERYTHING, epochs=4)
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", KILLED, root, str(tmp_path)]
    process = subprocess.Popen(command, cwd=root)
    checkpoint = tmp_path / "partial.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "done").exists(), "It was done before it was killed."
    resumed, _ = trained(digits, tmp_path, **EVERYTHING, epochs=4)
    assert same_weights(whole, resumed)


def test_the_losses_of_an_epoch_are_averaged(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    after = Course.after

    def noted(course: Course, step: int, loss: torch.Tensor) -> None:
        seen.append(float(loss))
        after(course, step, loss)

    monkeypatch.setattr(Course, "after", noted)
    _, found = trained(digits, tmp_path, epochs=1.5)
    full = round(len(seen) / 1.5)
    assert found.losses == (
        (1, pytest.approx(sum(seen[:full]) / full)),
        (2, pytest.approx(sum(seen[full:]) / (len(seen) - full))),
    )


def test_what_only_training_needs_is_gone_afterwards(digits: ImageData, tmp_path: Path) -> None:
    network, _ = trained(digits, tmp_path, **EVERYTHING)
    assert network.state_dict().keys() == small().state_dict().keys()
    assert network.get_submodule("drop_path").p == 0


def test_random_states_are_given_back(digits: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trained(digits, tmp_path, **EVERYTHING)
    assert torch.equal(torch.rand(1), expected)


def test_the_best_epoch_is_kept_and_patience_ends_the_training(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies = iter([0.3, 0.5, 0.4, 0.5])
    seen: list[nn.Module] = []

    def measured(network: nn.Module, *_: Any, **__: Any) -> float:
        copy = Small()
        copy.load_state_dict(network.state_dict())
        seen.append(copy)
        return next(accuracies)

    monkeypatch.setattr("fbn_deploy.retrain.training.accuracy", measured)
    network, found = trained(digits, tmp_path, keep="best", patience=2, epochs=9)
    assert found.epochs == ((1, 0.3), (2, 0.5), (3, 0.4), (4, 0.5))
    assert found.best_epoch == 2
    assert same_weights(network, seen[1])


def trained_over(
    found: dict[str, Any], data: ImageData, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[nn.Module, Trained]:
    """Epochs of 0.3, 0.5 and 0.4; then somebody writes a file of ``found`` over the best one's."""
    accuracies = iter([0.3, 0.5, 0.4])
    result = Course.result

    def written_over(course: Course) -> dict[str, torch.Tensor]:
        save_tensors(folder / "best.safetensors", small().state_dict(), found)
        return result(course)

    monkeypatch.setattr(Course, "result", written_over)
    monkeypatch.setattr("fbn_deploy.retrain.training.accuracy", lambda *_, **__: next(accuracies))
    return trained(data, folder, keep="best", epochs=3)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"of": "test", "epoch": 1, "validation": 0.3}, "another training wrote there"),
        ({"of": "another", "epoch": 2, "validation": 0.5}, "of: another there, test asked"),
        ({}, "other settings"),
    ],
)
def test_best_weights_that_another_training_wrote_are_refused(
    found: dict[str, Any], message: str, digits: ImageData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(FBNError, match=message):
        trained_over(found, digits, tmp_path, monkeypatch)


def test_an_epoch_that_a_killed_process_left_and_that_was_better_is_the_best(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third, which came out as 0.6 before the kill and as 0.4 when it was done again."""
    left = {"of": "test", "epoch": 3, "validation": 0.6}
    network, found = trained_over(left, digits, tmp_path, monkeypatch)
    assert same_weights(network, small())
    assert (found.best_epoch, found.epochs) == (3, ((1, 0.3), (2, 0.5), (3, 0.6)))


def test_averaged_weights_are_timms_average(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the weights after every step; the decay is still warming up in the first three."""
    by_hand = ModelEmaV3(small(), decay=0.6, use_warmup=True)
    after, steps = Course.after, []

    def averaged_by_hand(course: Course, step: int, loss: torch.Tensor) -> None:
        by_hand.update(course._network, step=step)
        steps.append(step)
        after(course, step, loss)

    monkeypatch.setattr(Course, "after", averaged_by_hand)
    averaged, _ = trained(digits, tmp_path, ema=0.6)
    assert len(steps) > 6
    assert same_weights(averaged, by_hand.module)


def test_accumulated_parts_step_as_the_whole_batch_does(digits: ImageData, tmp_path: Path) -> None:
    """Without BatchNorm, whose statistics are those of a part."""

    def after_one_step(accumulate: int) -> torch.Tensor:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
        nn.init.zeros_(network[1].weight)
        nn.init.zeros_(network[1].bias)
        changes = {"epochs": 1e-6, "batch_size": 64, "optimizer": "sgd", "accumulate": accumulate}
        retrain(
            network, digits, RetrainSettings(recipe("quick", changes)), about={},
            checkpoint=tmp_path / f"partial{accumulate}", best=tmp_path / "best", reporter=Silent(),
        )  # fmt: skip
        return network[1].weight.detach()

    whole = after_one_step(1)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(after_one_step(2), whole, rtol=1e-4, atol=1e-6)


def test_a_checkpoint_of_another_space_is_refused(digits: ImageData, tmp_path: Path) -> None:
    save_tensors(tmp_path / "partial.safetensors", small().state_dict(), {"of": "other"})
    with pytest.raises(FBNError, match="belongs to a run with other settings"):
        trained(digits, tmp_path)
    save_tensors(tmp_path / "partial.safetensors", {"w": torch.zeros(1)}, {"of": "test"})
    with pytest.raises(FBNError, match="holds the weights of another network"):
        trained(digits, tmp_path)


# Teachers


def exported(file: Path, classes: int = 10, batch: Any = torch.export.Dim.DYNAMIC) -> Path:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval()
    program = torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, file)
    return file


def test_an_exported_teacher_pulls_the_subnet_towards_its_answers(
    digits: ImageData, tmp_path: Path
) -> None:
    master = teacher(str(exported(tmp_path / "t.pt2")), digits, CPU)
    images = digits.normalize(digits.train.batch(range(64)))
    chosen = recipe("quick", {"distill_weight": 1.0, "distill_temperature": 2.0})
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = objective(student, images, digits.train.labels[:64], chosen, master)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_a_timm_teacher_sees_images_as_it_was_trained_on_them(
    digits: ImageData, tmp_path: Path
) -> None:
    import timm

    network = timm.create_model("resnet10t", num_classes=10)
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    master = teacher(f"timm:resnet10t:{tmp_path / 't.safetensors'}", digits, CPU)
    seen: list[torch.Tensor] = []
    master.network = nn.Identity()
    master.network.register_forward_hook(lambda module, given, _: seen.append(given[0]))
    raw = digits.train.batch([3])
    master(digits.normalize(raw))
    mean, std = (torch.tensor(network.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    assert torch.allclose(seen[0], (raw / 255 - mean) / std, atol=1e-5)


def test_teachers_that_do_not_fit_are_refused_with_one_message(
    digits: ImageData, tmp_path: Path
) -> None:
    import timm

    weights = tmp_path / "five.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=5).state_dict(), weights)
    cut = exported(tmp_path / "cut.pt2")
    cut.write_bytes(cut.read_bytes()[:2000])
    for spec, said in (
        (str(exported(tmp_path / "five.pt2", classes=5)), "trained on the same classes"),
        (f"timm:resnet10t:{weights}", "trained on the same classes"),
        (f"timm:resnet10:{weights}", "Did you mean 'resnet10t'"),
        (f"timm:resnet10t:{tmp_path / 'no'}", "There is no file"),
        ("timm:resnet10t", "names no weights"),
        (str(cut), "is damaged or no archive"),
        ("teacher.pth", "--teacher is"),
    ):
        with pytest.raises(FBNError, match=said):
            teacher(spec, digits, CPU)


def test_a_teacher_file_with_a_pickle_in_it_is_not_opened(
    digits: ImageData, tmp_path: Path
) -> None:
    good, evil = exported(tmp_path / "good.pt2"), tmp_path / "evil.pt2"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(evil, "w") as written:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true')
            written.writestr(name, content)
    with pytest.raises(FBNError, match="could run code"):
        teacher(str(evil), digits, CPU)


def test_example_inputs_of_a_teacher_are_never_read(digits: ImageData, tmp_path: Path) -> None:
    """torch.export.load would unpickle them, whatever they are."""
    good, marked = exported(tmp_path / "good.pt2"), tmp_path / "marked.pt2"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(marked, "w") as written:
        for name in source.namelist():
            inputs = "/data/sample_inputs/" in name
            written.writestr(name, b"cos\nabort\n(tR." if inputs else source.read(name))
    assert teacher(str(marked), digits, CPU) is not None


def test_a_teacher_of_one_input_size_keeps_the_images_at_it(tmp_path: Path) -> None:
    data = load_data(resolution=96, seed=0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 10)).eval()
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(flat, (torch.zeros(2, 3, 96, 96),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "t.pt2")
    reporter = Saying()
    chosen = recipe("quick", {"epochs": 0.1, "grow_from": 0.5})
    retrain(
        small(), data, RetrainSettings(chosen, teacher=str(tmp_path / "t.pt2")),
        checkpoint=tmp_path / "partial", best=tmp_path / "best", about={}, reporter=reporter,
    )  # fmt: skip
    assert any("This teacher takes images of one size only" in text for text in reporter.said)


def test_an_optimizer_whose_state_no_checkpoint_holds_is_refused() -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    optimizer.state[network.weight]["factors"] = [torch.ones(2)]
    with pytest.raises(FBNError, match="SGD keeps a list for each weight"):
        training_state(network, optimizer)


@pytest.mark.parametrize("name", ["fusedadam", "bnbadam", "adahessian"])
def test_an_optimizer_that_does_not_work_here_is_refused_before_any_step(
    digits: ImageData, tmp_path: Path, name: str
) -> None:
    if name != "adahessian" and torch.cuda.is_available():
        pytest.skip("they may work on a GPU")
    with pytest.raises(FBNError, match=f"{name!r} does not work here"):
        trained(digits, tmp_path, optimizer=name)
    assert not list(tmp_path.iterdir())


def test_an_optimizer_whose_state_no_checkpoint_holds_is_refused_before_any_step(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    class Listing(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            steps.append(1)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["kept"] = []

    monkeypatch.setattr(
        "timm.optim.create_optimizer_v2", lambda network, **_: Listing(network.parameters(), 0.1)
    )
    with pytest.raises(FBNError, match="Listing keeps a list for each weight"):
        trained(digits, tmp_path)
    assert len(steps) == 1, "It was tried, and no more."


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixup": 0.2}, "45 images a process are an odd number"),
        ({"accumulate": 2}, "45 images a process cannot pass in 2 equal parts"),
    ],
)
def test_a_split_smaller_than_a_batch_is_told_by_its_own_number(
    digits: ImageData, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    few = replace(digits, train=digits.train.only(torch.arange(45)))
    with pytest.raises(FBNError, match=said):
        trained(few, tmp_path, keep="best", **changes)


class Saying(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("flat", [False, True])
def test_a_training_on_growing_images_sees_them_and_says_where_it_cannot(
    flat: bool, tmp_path: Path
) -> None:
    data = load_data(resolution=96, seed=0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 96 * 96, 10)) if flat else small()
    sizes: list[int] = []
    network.register_forward_pre_hook(
        lambda module, given: (
            sizes.append(given[0].shape[-1]) if module is network and module.training else None
        )
    )
    reporter = Saying()
    retrain(
        network, data, RetrainSettings(recipe("quick", {"epochs": 0.5, "grow_from": 0.5})),
        checkpoint=tmp_path / "partial", best=tmp_path / "best", about={}, reporter=reporter,
    )  # fmt: skip
    assert sorted(set(sizes)) == ([96] if flat else [64, 80, 96])
    assert sizes == sorted(sizes)
    assert any("one size only" in text for text in reporter.said) == flat
