"""Data at scale: tar shards, damaged images, and worker processes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_pipeline import fbn

from fbn_deploy.cores import own_cores
from fbn_deploy.data import ImageData, images, load_data, train_batches, workers
from fbn_deploy.data.workers import batches_ahead
from fbn_deploy.distributed import Job
from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import _workers
from fbn_deploy.retrain.transform import timm_transform
from fbn_deploy.rundir import RunDir


def png(seed: int, side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def folder(root: Path, count: int, classes: str = "ab") -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(count):
            (root / name / f"{k:03}.png").write_bytes(png(1000 * ord(name) + k))
    return root


def shard(path: Path, samples: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def sample(key: str, label: object, seed: int) -> dict[str, bytes]:
    return {f"{key}.png": png(seed), f"{key}.cls": str(label).encode()}


def shards(root: Path, count: int = 6) -> Path:
    """Two shards of train, one of val; classes 0 and 1 by turns."""
    for number in range(2):
        samples = [sample(f"{number}{k}", k % 2, 10 * number + k) for k in range(count)]
        shard(root / f"train-{number:06}.tar", {n: c for each in samples for n, c in each.items()})
    samples = [sample(f"v{k}", k % 2, 100 + k) for k in range(4)]
    shard(root / "val-000000.tar", {n: c for each in samples for n, c in each.items()})
    return root


def refusal(spec: Path | str, **given: Any) -> str:
    with pytest.raises(FBNError) as raised:
        load_data(str(spec), resolution=16, seed=0, **given)
    return str(raised.value)


# Shards


@pytest.mark.parametrize("memory_limit_bytes", [2**31, 0])
def test_an_image_in_a_shard_is_the_image_that_was_put_there(
    tmp_path: Path, memory_limit_bytes: int
) -> None:
    data = load_data(
        f"wds:{shards(tmp_path)}", resolution=24, seed=0, memory_limit_bytes=memory_limit_bytes
    )
    assert data.classes == ("0", "1")
    assert (len(data.full_train), len(data.test)) == (12, 4)
    expected = np.stack([np.asarray(Image.open(io.BytesIO(png(100 + k)))) for k in range(4)])
    found = data.test.batch(range(4)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, expected)
    assert data.test.labels.tolist() == [0, 1, 0, 1]


def test_a_folder_of_shards_needs_no_prefix_and_may_name_its_classes(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert load_data(str(tmp_path), resolution=16, seed=0).classes == ("cat", "dog")


def test_class_names_in_another_encoding_are_told_with_their_file(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "classes.txt").write_bytes("Kätzchen\nHund\n".encode("latin-1"))
    with pytest.raises(FBNError, match=r"classes\.txt is no text in UTF-8"):
        load_data(f"wds:{tmp_path}", resolution=24, seed=0)


def test_labels_may_be_names_or_json(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for k in range(8):
        samples[f"{k}.png"] = png(k)
        samples[f"{k}.json"] = json.dumps({"label": "xy"[k % 2]}).encode()
    shard(tmp_path / "train" / "0.tar", samples)
    assert load_data(str(tmp_path), resolution=16, seed=0).classes == ("x", "y")


def part(path: Path, first: int, count: int = 6) -> Path:
    """A shard of that many samples, classes 0 and 1 by turns."""
    samples = [sample(f"{first}_{k}", k % 2, first + k) for k in range(count)]
    return shard(path, {name: content for each in samples for name, content in each.items()})


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("imagenet1k-train-0000.tar", "imagenet1k-validation-00.tar"),
        ("cifar_train.00.tar", "cifar_test-00.tar"),
        ("Train2017.tar", "val2017.tar"),
        ("training-0.tar", "testing-0.tar"),
        ("flowers-train/0.tar", "flowers-valid/0.tar"),
        ("shards/train-0.tar", "shards/test-0.tar"),
    ],
)
def test_the_part_of_a_shard_is_any_word_of_its_name(tmp_path: Path, train: str, test: str) -> None:
    part(tmp_path / train, 0)
    part(tmp_path / test, 100)
    data = load_data(f"wds:{tmp_path}", resolution=24, seed=0)
    assert (len(data.full_train), len(data.test)) == (6, 6)
    assert np.array_equal(
        data.test.batch([0])[0].permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(png(100))))
    )


def test_shards_that_say_no_part_are_training_data_only_if_none_does(tmp_path: Path) -> None:
    part(tmp_path / "flowers-0.tar", 0)
    part(tmp_path / "flowers-1.tar", 100)
    data = load_data(f"wds:{tmp_path}", resolution=24, seed=0)
    assert (len(data.full_train), len(data.test)) == (10, 2), "A fifth of each class is held out."
    part(tmp_path / "flowers-val-0.tar", 200)
    message = refusal(f"wds:{tmp_path}")
    assert "2 of 3 shards say no part" in message
    assert "flowers-0.tar, flowers-1.tar" in message
    part(tmp_path / "train-test-0.tar", 300)
    assert "the name of train-test-0.tar says both test and train" in refusal(f"wds:{tmp_path}")


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_shard_cut_short_is_named(tmp_path: Path, kept: float) -> None:
    shards(tmp_path)
    path = tmp_path / "train-000001.tar"
    content = path.read_bytes()
    end = len(content.rstrip(b"\0"))
    path.write_bytes(content[: int(kept * end)])
    message = refusal(tmp_path)
    assert "train-000001.tar is cut short" in message
    assert "train-000000.tar" not in message


def test_shards_that_lack_something_say_what(tmp_path: Path) -> None:
    shards(tmp_path)
    shard(tmp_path / "val-000000.tar", sample("1", 0, 1))
    assert "val has no image of class 1" in refusal(tmp_path)
    shard(tmp_path / "val-000000.tar", {"1.png": png(1)})
    assert "images without a class (.cls or .json): 1.png" in refusal(tmp_path)
    shard(tmp_path / "val-000000.tar", {"1.txt": b""})
    assert "val-000000.tar has no images" in refusal(tmp_path)
    assert "holds no tar shards" in refusal(f"wds:{tmp_path / 'none'}")


# Damaged images


def damaged(root: Path, *names: str, keep: int = 0) -> Path:
    for name in names:
        path = root / name
        path.write_bytes(path.read_bytes()[:keep])
    return root


def test_one_damaged_image_in_a_hundred_is_left_out_and_counted(tmp_path: Path) -> None:
    root = damaged(folder(tmp_path, 50), "a/007.png")
    data = load_data(str(root), resolution=16, seed=0)
    assert len(data.damaged) == 1
    assert "a/007.png" in data.damaged[0]
    assert "1 left out that cannot be read" in data.describe()
    rows = torch.cat([split.rows for split in (data.train, data.validation, data.test)])
    assert sorted(rows.tolist()) == [row for row in range(100) if row != 7]


@pytest.mark.parametrize("target", ["gone.png", "007.png"])
def test_a_link_to_nothing_or_to_itself_is_one_unreadable_image(
    tmp_path: Path, target: str
) -> None:
    link = folder(tmp_path, 50) / "a" / "007.png"
    link.unlink()
    link.symlink_to(target)
    data = load_data(str(tmp_path), resolution=16, seed=0)
    assert len(data.damaged) == 1
    assert "a/007.png" in data.damaged[0]
    assert "1 of 100 images cannot be read" in refusal(tmp_path, strict=True)


def test_strict_refuses_it_and_more_than_one_in_a_hundred_is_refused_anyway(
    tmp_path: Path,
) -> None:
    root = damaged(folder(tmp_path, 50), "a/007.png")
    assert "1 of 100 images cannot be read" in refusal(root, strict=True)
    assert "2 of 100 images cannot be read" in refusal(damaged(root, "b/001.png"))


def test_damage_that_shows_late_is_replaced_by_the_next_image_of_the_class(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path, 50)
    data = load_data(str(root), resolution=24, seed=0, memory_limit_bytes=0)
    damaged(root, "a/007.png", "b/049.png", keep=200)
    images = data.train.images.batch(torch.tensor([6, 7, 8]))
    assert torch.equal(images[1], images[2])
    assert not torch.equal(images[0], images[1])
    assert "a/007.png" in capfd.readouterr().err
    with pytest.raises(FBNError, match="2 of 100 images cannot be read"):
        data.train.images.batch(torch.tensor([99]))


# Names in another encoding


CAFES = [os.fsdecode(name) for name in (b"caf\xe8", b"caf\xe9")]


def test_a_class_folder_in_another_encoding_begins_a_run_and_is_reported(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", 6)
    for name, other in zip("ab", CAFES, strict=True):
        (images / name).rename(images / other)
    space = ("--space", "nasbench201", "--resolution", "8", "-o", "channels=4", "-o", "cells=1")
    run = RunDir(tmp_path / os.fsdecode(b"ex\xe9cution"))
    done = fbn("train", *space, "--data", str(images), "--epochs", "0",
               "--run", str(run.path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_json(run.space)["classes"] == CAFES
    done = fbn("report", str(run.path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(run.path)
    assert "ex\ufffdcution" in run.report.read_text("utf-8")


def test_names_and_classes_in_a_shard_may_be_in_another_encoding(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for k in range(12):
        key = f"{CAFES[k % 2]}{k}"
        samples |= {f"{key}.png": png(k), f"{key}.cls": os.fsencode(CAFES[k % 2])}
    shard(tmp_path / "train-0.tar", samples)
    assert load_data(f"wds:{tmp_path}", resolution=16, seed=0).classes == tuple(CAFES)


# Workers


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = folder(tmp_path_factory.mktemp("many"), 20)
    return load_data(str(root), resolution=16, seed=0, memory_limit_bytes=0)


@pytest.mark.parametrize("timm", [False, True])
def test_batches_are_the_same_whoever_makes_them(many: ImageData, timm: bool) -> None:
    chosen = recipe("imagenet", {"auto_augment": "rand-m9-mstd0.5-inc1"})
    batches = train_batches(
        many, many.train, batch_size=8, seed=0,
        transform=timm_transform(chosen, many) if timm else None,
    )  # fmt: skip
    alone = list(batches.steps(1, 5))
    state = torch.get_rng_state()
    together = list(replace(batches, workers=2).steps(1, 5))
    assert torch.equal(torch.get_rng_state(), state)
    parts = [list(replace(batches, job=Job(rank, 2)).steps(1, 5)) for rank in range(2)]
    for k in range(4):
        for which in (0, 1):
            assert torch.equal(alone[k][which], together[k][which])
            part = torch.cat([parts[0][k][which], parts[1][k][which]])
            assert torch.equal(alone[k][which], part)
    assert not torch.equal(alone[0][0], alone[1][0])


def test_batches_that_wait_take_2_gib_of_shared_memory_or_are_one_a_worker() -> None:
    """32 images of 3 · 224² floats are 19 MB, 128 are 77 MB and 1,024 are 617 MB."""
    image = 3 * 224**2 * 4
    assert batches_ahead(2, 32 * image) == 4
    assert batches_ahead(8, 128 * image) == 3
    assert batches_ahead(16, 128 * image) == 1
    assert batches_ahead(16, 1024 * image) == 1


def test_batches_are_made_ahead_by_their_size(
    many: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(workers, "batches_ahead", lambda *each: asked.append(each) or 1)
    for job in (Job(), Job(0, 2)):
        batches = train_batches(many, many.train, batch_size=8, seed=0, job=job, workers=1)
        made, _ = next(iter(batches.steps(0, 1)))
        assert asked.pop() == (1, made.numel() * made.element_size())


def test_the_processes_of_torchrun_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fbn_deploy.cores.number_of_cores", lambda: 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert own_cores() == 16
    for processes, each in (("4", 4), ("5", 3), ("32", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert own_cores() == each
        assert _workers(None, wanted=True) == each
    assert _workers(7, wanted=True) == 7
    assert _workers(None, wanted=False) == 0


@pytest.mark.parametrize("worker", [True, False])
def test_a_worker_decodes_in_one_thread(
    many: ImageData, monkeypatch: pytest.MonkeyPatch, worker: bool
) -> None:
    threads: list[int] = []

    def pool(count: int, name: str) -> ThreadPoolExecutor:
        threads.append(count)
        return ThreadPoolExecutor(count, name)

    monkeypatch.setattr(images, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(images, "own_cores", lambda: 3)
    monkeypatch.setattr(images, "get_worker_info", lambda: "a worker" if worker else None)
    monkeypatch.setattr(many.train.images, "_pool", None)
    many.train.batch([0, 1])
    assert threads == [1 if worker else 3]


def test_timm_crops_the_original_and_not_the_square(many: ImageData) -> None:
    chosen = recipe("imagenet", {"crop_scale": 0.1, "color_jitter": 0.0})
    transform = timm_transform(chosen, many)
    assert transform is not None
    left = Image.new("RGB", (64, 16), "black")
    left.paste("white", (0, 0, 16, 16))  # outside of the centred square
    values = {float(transform(left).max()) for _ in range(40)}
    assert len(values) > 1, "No crop ever reached the white quarter."


def test_a_mistake_in_a_worker_keeps_its_words(tmp_path: Path) -> None:
    root = folder(tmp_path, 20)
    data = load_data(str(root), resolution=16, seed=0, memory_limit_bytes=0)
    damaged(root, *(f"a/{k:03}.png" for k in range(20)), keep=200)
    batches = train_batches(data, data.train, batch_size=8, seed=0, workers=1)
    with pytest.raises(FBNError, match=r"^\d+ of 40 images cannot be read"):
        list(batches.steps(0, 2))
