"""``split.json``: made once, and all that it says of the images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from test_data_scale import damaged, folder, shards

from fbn_deploy.data import HeldOut, ImageData, load_data
from fbn_deploy.files import read_json, write_json
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.progress import Reporter, Silent
from fbn_deploy.rundir import RunDir


def test_a_run_keeps_the_split_it_began_with(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", 12)
    given = Given(space="nasbench201", resolution=8, data=str(root))
    first = open_run(tmp_path / "run", given, Silent()).data.held_out
    stored = json.loads((tmp_path / "run" / "split.json").read_text())
    assert HeldOut.from_json(stored) == first
    other = {**stored, "train": stored["train"][1:], "test": [*stored["test"], stored["train"][0]]}
    (tmp_path / "run" / "split.json").write_text(json.dumps(other))
    again = open_run(tmp_path / "run", given, Silent()).data.held_out
    assert again == HeldOut.from_json(other) != first


def begun(run: Path, data: Path, reporter: Reporter | None = None) -> ImageData:
    given = Given(space="nasbench201", resolution=8, data=str(data))
    return open_run(run, given, reporter or Silent()).data


def zeroed(path: Path) -> None:
    """An unreadable image of the same size: as far as names and sizes tell, the same images."""
    path.write_bytes(bytes(path.stat().st_size))


def test_mean_and_std_stay_those_of_the_beginning_when_a_training_image_becomes_unreadable(
    tmp_path: Path,
) -> None:
    root, run = folder(tmp_path / "images", 60), RunDir(tmp_path / "run")
    first = begun(run.path, root)
    stored = read_json(run.split)
    assert (stored["mean"], stored["std"]) == (list(first.mean), list(first.std))
    zeroed(root / first.files[int(first.train.rows[0])])
    then = begun(run.path, root)
    assert len(then.train) == len(first.train) - 1
    assert load_data(str(root), resolution=8, seed=0).mean != first.mean
    assert (then.mean, then.std) == (first.mean, first.std)
    assert read_json(run.split) == {**stored, "unreadable": list(then.damaged)}


def test_a_split_of_an_earlier_version_is_completed_by_what_was_computed_then(
    tmp_path: Path,
) -> None:
    root, run = folder(tmp_path / "images", 12), RunDir(tmp_path / "run")
    first = begun(run.path, root)
    stored = read_json(run.split)
    older = ("schema", "fingerprint", "train", "validation", "test")
    write_json(run.split, {name: stored[name] for name in older})
    then = begun(run.path, root)
    assert (then.mean, then.std) == (first.mean, first.std)
    assert read_json(run.split) == stored


def test_a_split_names_the_files_that_are_held_out(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", 12)
    data = begun(tmp_path / "of-files", root)
    files = read_json(tmp_path / "of-files" / "split.json")["files"]
    for part, split in (("validation", data.validation), ("test", data.test)):
        there = np.stack([np.asarray(Image.open(root / file).resize((8, 8), Image.Resampling.BOX))
                          for file in files[part]])  # fmt: skip
        found = split.batch(range(len(split))).permute(0, 2, 3, 1).numpy()
        assert np.abs(there.astype(int) - found).mean() < 20, "Other random pixels are 60 away."
    begun(tmp_path / "of-shards", shards(tmp_path / "shards"))
    files = read_json(tmp_path / "of-shards" / "split.json")["files"]
    assert files["test"] == [f"val-000000.tar/v{k}.png" for k in range(4)]
    assert {name.partition("/")[0] for name in files["validation"]} <= {
        "train-000000.tar", "train-000001.tar"
    }  # fmt: skip


@dataclass
class Heard(Silent):
    said: list[str] = field(default_factory=list)

    def say(self, message: str) -> None:
        self.said.append(message)


def test_images_that_cannot_be_read_all_stand_in_the_split_and_the_first_are_said(
    tmp_path: Path,
) -> None:
    names = [f"{name}/{k:03}.png" for name in "ab" for k in (7, 100, 299)]
    root, heard = damaged(folder(tmp_path / "images", 300), *names), Heard()
    data = begun(tmp_path / "run", root, heard)
    split = tmp_path / "run" / "split.json"
    assert read_json(split)["unreadable"] == list(data.damaged)
    assert [name in text for name, text in zip(names, data.damaged, strict=True)] == 6 * [True]
    assert [text for text in heard.said if "cannot be read:" in text] == [
        f"Left out, it cannot be read: {text}" for text in data.damaged[:5]
    ]
    assert heard.said[-1] == f"… and 1 more; {split} names them all."


def test_every_class_is_held_out_in_its_proportion(tmp_path: Path) -> None:
    root = folder(tmp_path, 20)
    data = load_data(str(root), resolution=8, seed=0, validation_fraction=0.25)
    assert data.validation.labels.bincount().tolist() == [4, 4]  # a quarter of 16
    assert data.test.labels.bincount().tolist() == [4, 4]
