"""What ``load_data`` makes of a spec: digits, image folders, CIFAR; and of what is wrong."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fbn_deploy.data import ImageData, cifar, load_data
from fbn_deploy.data.reader import ImageFiles
from fbn_deploy.errors import FBNError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def load(spec: str | Path | None, *, resolution: int = 8, **options: Any) -> ImageData:
    return load_data(str(spec) if spec else None, resolution=resolution, seed=0, **options)


def write_images(folder: Path, count: int, colour: tuple[int, int, int] = RED) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (12, 10), colour).save(folder / f"{k}.png")


def refusal(spec: str | Path, **options: Any) -> str:
    with pytest.raises(FBNError) as caught:
        load(spec, **options)
    return str(caught.value)


def read(path: Path, resolution: int = 4) -> np.ndarray:
    return ImageFiles(path.parent, [path.name]).read(0, resolution)


# The embedded default


def test_digits_are_the_default_and_are_never_mirrored() -> None:
    data = load(None, resolution=32)
    assert data.name == "digits"
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    assert not data.flip
    assert data.train.batch([0, 1]).shape == (2, 3, 32, 32)
    assert data.describe().startswith("digits: 10 classes at 32×32, 1,151 train + 287 validation")


def test_splits_share_no_image_and_each_holds_every_class() -> None:
    data = load(None)
    rows = [set(split.rows.tolist()) for split in (data.train, data.validation, data.test)]
    assert set.union(*rows) == set(range(1797))
    assert sum(map(len, rows)) == 1797
    for split in (data.train, data.validation, data.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert counts.max() <= 1.2 * counts.min()
    assert set(data.full_train.rows.tolist()) == rows[0] | rows[1]


def test_seed_chooses_the_validation_images_and_leaves_the_test_images_alone() -> None:
    first, again, other = (load_data(None, resolution=8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.validation.rows, again.validation.rows)
    assert not torch.equal(first.validation.rows, other.validation.rows)
    assert torch.equal(first.test.rows, other.test.rows)


def test_normalized_training_images_have_mean_0_and_deviation_1() -> None:
    data = load(None, resolution=16)
    normalized = data.normalize(data.train.batch(range(len(data.train))))
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalized.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_normalize_is_pixel_minus_mean_over_deviation() -> None:
    data = replace(load(None), mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5))
    pixels = torch.tensor([51, 204, 153], dtype=torch.uint8).view(1, 3, 1, 1)  # 0.2, 0.8, 0.6
    expected = torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(data.normalize(pixels), expected, atol=1e-6, rtol=0)


# Image folders


def test_val_is_the_test_when_there_is_no_other_and_validation_comes_out_of_train(
    tmp_path: Path,
) -> None:
    for name, colour in (("blue", BLUE), ("red", RED)):
        write_images(tmp_path / "train" / name, 10, colour)
        write_images(tmp_path / "val" / name, 3, colour)
    data = load(tmp_path)
    assert data.classes == ("blue", "red")
    assert (len(data.train), len(data.validation), len(data.test)) == (16, 4, 6)
    assert data.test.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.batch([0, 5])[:, :, 0, 0].tolist() == [list(BLUE), list(RED)]
    assert data.flip


def test_val_guides_the_search_when_there_is_a_test_too(tmp_path: Path) -> None:
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        for name in ("a", "b"):
            write_images(tmp_path / part / name, count)
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 6, 4)
    assert len(data.full_train) == 16


def test_one_folder_of_class_folders_is_split(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 25)
    write_images(tmp_path / "b", 25)
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 8, 10)
    assert len(load(tmp_path, validation_fraction=0.5).validation) == 20


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    for name in ("bus", "train", "tram"):
        write_images(tmp_path / name, 3)
    assert load(tmp_path).classes == ("bus", "train", "tram")


def test_files_that_are_no_images_and_hidden_names_are_ignored(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, 3)
        (tmp_path / name / "notes.txt").write_text("x")
        (tmp_path / name / "._0.png").write_text("x")
    write_images(tmp_path / ".cache", 1)
    data = load(tmp_path)
    assert len(data.full_train) + len(data.test) == 6


@pytest.mark.parametrize(
    ("root", "archive"), [("", "all.tar"), ("", "a/all.tar"), ("train", "train.tar")]
)
def test_an_archive_beside_class_folders_is_no_shard(
    tmp_path: Path, root: str, archive: str
) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / root / name, 5)
    with tarfile.open(tmp_path / archive, "w") as tar:
        tar.add(tmp_path / root / "a" / "0.png", "0.png")
    assert load(tmp_path).classes == ("a", "b")
    assert "has images without a class" in refusal(f"wds:{tmp_path}")


def test_images_beside_shards_that_make_no_set_lead_to_the_shards(tmp_path: Path) -> None:
    write_images(tmp_path / "preview", 1)
    (tmp_path / "train-000000.tar").write_bytes(b"")
    message = refusal(tmp_path)
    assert "one class only, preview" in message
    assert message.endswith(f"If its tar files are meant, pass --data wds:{tmp_path}.")


def test_fingerprint_is_of_the_content_not_of_the_place_or_resolution(tmp_path: Path) -> None:
    for root in ("one", "two"):
        write_images(tmp_path / root / "a", 3)
        write_images(tmp_path / root / "b", 3, BLUE)
    one, two = load(tmp_path / "one"), load(tmp_path / "two", resolution=4)
    assert one.fingerprint == two.fingerprint
    write_images(tmp_path / "two" / "a", 4)
    assert load(tmp_path / "two").fingerprint != one.fingerprint


def test_images_that_do_not_fit_into_memory_are_the_same_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(5):
            noise = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{k}.jpg")
    stored, decoded = load(tmp_path), load(tmp_path, memory_limit_bytes=0)
    indices = torch.tensor([3, 0, 1])
    assert torch.equal(stored.train.batch(indices), decoded.train.batch(indices))
    assert stored.mean == decoded.mean


def test_progress_counts_up_to_all_images() -> None:
    seen: list[tuple[int, int]] = []
    load(None, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1797, 1797)


# Decoding


def test_the_largest_centred_square_is_kept(tmp_path: Path) -> None:
    image = Image.new("RGB", (12, 4), RED)
    image.paste(BLUE, (4, 0, 8, 4))
    image.save(tmp_path / "wide.png")
    assert np.array_equal(read(tmp_path / "wide.png"), np.full((4, 4, 3), BLUE))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), 255 << 8, dtype=np.uint16)).save(path)
    else:
        Image.new("RGB", (4, 4), "white").convert(mode).save(path)
    assert np.array_equal(read(path), np.full((4, 4, 3), 255))


def test_transparency_shows_white_not_the_colour_beneath(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (*RED, 0)).save(tmp_path / "clear.png")
    assert np.array_equal(read(tmp_path / "clear.png"), np.full((4, 4, 3), 255))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4), RED)
    image.paste(BLUE, (0, 0, 4, 2))  # blue above, and stored as "turn by 180 degrees"
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=exif)
    assert read(tmp_path / "turned.png")[:, 0].tolist() == [list(c) for c in (RED, RED, BLUE, BLUE)]


# CIFAR


def write_cifar10(folder: Path, per_file: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*cifar.LAYOUTS["cifar10"].train, *cifar.LAYOUTS["cifar10"].test):
        records = np.zeros((per_file, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(per_file) % 2
        records[:, 1:1025] = 200  # the red plane comes first
        (folder / file).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n\n")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a web server on this machine that hands out the files in ``folder``."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_cifar10_is_read_from_its_binary_version(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    data = load(f"cifar10:{tmp_path}", resolution=32)
    assert data.classes == ("airplane", "automobile")
    assert (len(data.full_train), len(data.test)) == (100, 20)
    assert data.test.labels[:3].tolist() == [0, 1, 0]
    assert data.test.batch([0])[0, :, 31, 0].tolist() == [200, 0, 0]


def test_cifar100_uses_the_fine_label(tmp_path: Path) -> None:
    for file in ("train.bin", "test.bin"):
        records = np.zeros((20, 3074), dtype=np.uint8)
        records[:, 1] = np.arange(20) % 2
        (tmp_path / file).write_bytes(records.tobytes())
    (tmp_path / "fine_label_names.txt").write_text("apple\nbear\n")
    data = load(f"cifar100:{tmp_path}")
    assert data.classes == ("apple", "bear")
    assert data.test.labels[:2].tolist() == [0, 1]


def test_download_fetches_the_binary_version_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "made" / "cifar-10-batches-bin")
    archive = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-10-batches-bin", "cifar-10-batches-bin")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    with serving(tmp_path) as address:
        layout = replace(cifar.LAYOUTS["cifar10"], url=f"{address}/{archive.name}", md5=md5)
        monkeypatch.setitem(cifar.LAYOUTS, "cifar10", layout)
        assert len(load(f"cifar10:{tmp_path / 'new'}", download=True).test) == 20
    assert len(load(f"cifar10:{tmp_path / 'new'}", download=True).test) == 20


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = replace(cifar.LAYOUTS["cifar10"], url=(tmp_path / "none.tar.gz").as_uri())
    monkeypatch.setitem(cifar.LAYOUTS, "cifar10", layout)
    assert "Fetch it by other means" in refusal(f"cifar10:{tmp_path}", download=True)


def test_the_pickled_version_of_cifar_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    message = refusal(f"cifar10:{tmp_path}")
    assert "loading a pickle runs the code in it" in message
    assert "--download" in message


def test_damaged_cifar_files_are_all_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(bytes(20 * 3073 - 1))
    (tmp_path / "test_batch.bin").write_bytes(bytes([7]) + bytes(3072))
    message = refusal(f"cifar10:{tmp_path}")
    assert "data_batch_3.bin has 61459 bytes, no multiple of 3073" in message
    assert "test_batch.bin has label 7, batches.meta.txt 2 classes" in message


def test_a_missing_cifar_file_is_named(tmp_path: Path) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").unlink()
    assert "it lacks data_batch_2.bin. Pass --download" in refusal(f"cifar10:{tmp_path}")


# What is wrong


@pytest.mark.parametrize("spec", ["no/such/folder", "imagenet:somewhere", "digit"])
def test_an_unknown_spec_lists_the_forms(spec: str) -> None:
    message = refusal(spec)
    assert f"--data {spec}: there is no such folder" in message
    assert "digits, cifar10:DIR, cifar100:DIR" in message


@pytest.mark.parametrize("spec", ["cifar10", "cifar10:"])
def test_cifar_needs_a_folder(spec: str) -> None:
    assert "write --data cifar10:DIR" in refusal(spec)


def test_an_empty_folder_and_one_without_class_folders_are_refused(tmp_path: Path) -> None:
    assert "holds no class folders" in refusal(tmp_path)
    write_images(tmp_path, 3)
    assert "holds no class folders" in refusal(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    assert "is a file" in refusal(tmp_path / "images.zip")


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_images(tmp_path / "only", 9)
    assert "one class only, only; a classifier needs two" in refusal(tmp_path)


def test_all_mistakes_of_a_tree_are_said_at_once(tmp_path: Path) -> None:
    for folder in ("train/a", "train/b", "val/a", "val/c"):
        write_images(tmp_path / folder, 3)
    (tmp_path / "train" / "empty").mkdir()
    message = refusal(tmp_path)
    assert "train/ has no class c" in message
    assert "val/ has no class b, empty" in message
    assert "class folder train/empty has no image" in message


def test_a_folder_one_level_too_high_is_recognised(tmp_path: Path) -> None:
    write_images(tmp_path / "flowers" / "train" / "rose", 1)
    assert f"Or did you mean --data {tmp_path / 'flowers'}" in refusal(tmp_path)


def test_a_val_without_a_train_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "val" / "a", 1)
    assert "no train/" in refusal(tmp_path)


def test_two_names_for_one_part_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val", "valid"):
        write_images(tmp_path / part / "a", 1)
    assert "has both val/ and valid/" in refusal(tmp_path)


def test_a_class_with_too_few_images_to_hold_some_out_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "many", 9)
    write_images(tmp_path / "scarce", 2)
    assert "scarce (2): each class needs 3" in refusal(tmp_path)


def test_damaged_images_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, 9)
    for k in range(7):
        (tmp_path / "a" / f"{k}.png").write_bytes(b"no image")
    whole = (tmp_path / "b" / "1.png").read_bytes()
    (tmp_path / "b" / "1.png").write_bytes(whole[: len(whole) // 2])
    message = refusal(tmp_path)
    assert message.startswith("8 of 18 images cannot be read")
    assert str(tmp_path / "a" / "0.png") in message
    assert "and 3 more" in message


def test_damage_is_found_at_the_start_also_when_images_do_not_fit_into_memory(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        write_images(tmp_path / name, 9)
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    assert "1 of 18 images cannot be read" in refusal(tmp_path, memory_limit_bytes=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_validation_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    assert "between 0 and 1" in refusal("digits", validation_fraction=fraction)


def test_a_resolution_below_one_pixel_is_refused() -> None:
    assert "Resolution 0" in refusal("digits", resolution=0)
