"""``--data SPEC`` to images that are ready to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fbn_deploy.data.augment import Augmentation, default_augmentation
from fbn_deploy.data.cifar import LAYOUTS, read_cifar
from fbn_deploy.data.digits import read_digits
from fbn_deploy.data.folder import has_images, read_folder
from fbn_deploy.data.images import Progress, images_from, unreadable
from fbn_deploy.data.shards import has_shards, read_shards
from fbn_deploy.data.source import Source
from fbn_deploy.data.splits import HeldOut, Split, Triple, sample_indices, split_rows
from fbn_deploy.errors import FBNError

_MEMORY_LIMIT_BYTES = 2 * 1024**3
_DAMAGED_AT_MOST = 0.01  # share of the images that may be left out
_STATISTICS_IMAGES = 2_000  # enough for means within about 0.5 % of the range


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images of one resolution in three splits.

    ``train`` teaches the supernet, ``validation`` is what indicators and the search see, ``test``
    is for the final accuracy only. ``mean`` and ``std`` are per channel, pixels in [0, 1].
    ``flip`` says whether a mirror image keeps its label. ``fingerprint`` is the SHA-256 of the
    content (file names and sizes, or pixels), the same on every machine and at any resolution.
    """

    name: str
    classes: tuple[str, ...]
    resolution: int
    train: Split
    validation: Split
    test: Split
    mean: Triple
    std: Triple
    flip: bool
    augment: Augmentation
    fingerprint: str
    held_out: HeldOut
    """The split as it was made, also of images that became unreadable since."""
    files: Sequence[str] = ()
    """The file of each row (``Source``)."""
    damaged: tuple[str, ...] = ()
    """Images that cannot be read and are in no split: where they are and why."""

    @property
    def full_train(self) -> Split:
        """``train`` and ``validation`` together, for training the chosen network."""
        return Split(
            self.train.images,
            torch.cat([self.train.rows, self.validation.rows]),
            torch.cat([self.train.labels, self.validation.labels]),
        )

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 ``(B, 3, R, R)`` to float32, ``(pixel/255 - mean) / std``, channels-last."""
        count, channels, height, width = images.shape
        # Whole rows R, G, B, R, G, B, …: three times faster than a last dimension of 3.
        rows = images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        mean = torch.tensor(self.mean, device=images.device).repeat(width) * 255
        std = torch.tensor(self.std, device=images.device).repeat(width) * 255
        floats = rows.to(torch.float32).sub_(mean).div_(std)
        return floats.view(count, height, width, channels).permute(0, 3, 1, 2)

    def describe(self) -> str:
        """One line: ``digits: 10 classes at 32×32, 1,151 train + …``."""
        return (
            f"{self.name}: {len(self.classes)} classes at {self.resolution}×{self.resolution}, "
            f"{len(self.train):,} train + {len(self.validation):,} validation + "
            f"{len(self.test):,} test images"
            + (f"; {len(self.damaged)} left out that cannot be read" if self.damaged else "")
        )


def load_data(
    spec: str | None = None,
    *,
    resolution: int,
    seed: int,
    download: bool = False,
    validation_fraction: float = 0.2,
    memory_limit_bytes: int = _MEMORY_LIMIT_BYTES,
    progress: Progress | None = None,
    strict: bool = False,
    held_out: HeldOut | None = None,
) -> ImageData:
    """The images that ``spec`` names: ``digits`` (the default), ``cifar10:DIR``, ``cifar100:DIR``
    or a folder with class folders, or train/ and val/ or test/ with class folders, in it; or
    ``wds:DIR`` or a folder with tar shards and no class folders of images.

    ``seed`` (at least 0) chooses the validation images. Sets of at most ``memory_limit_bytes``
    decoded are decoded once, here, with ``progress(done, total)``. Images that cannot be read are
    left out and counted in ``damaged``, as long as they are at most one in a hundred and not
    ``strict``. ``held_out`` is the split that a run stored: of the same content, it is kept with
    its mean and standard deviation.
    Raises ``FBNError`` for what is wrong with the data.
    """
    if resolution < 1:
        raise FBNError(f"Resolution {resolution} is no image size; give at least 1 pixel.")
    if not 0 < validation_fraction < 1:
        raise FBNError(
            f"A validation fraction of {validation_fraction} leaves nothing to train or to "
            "validate on; give a number between 0 and 1."
        )
    source = _read(spec or "digits", download=download)
    count = len(source.reader)
    split_rows(source, validation_fraction, seed)  # what is wrong with it is said before decoding
    limit = 0 if strict else int(_DAMAGED_AT_MOST * count)
    images, damaged = images_from(
        source.reader,
        resolution,
        source.labels,
        memory_limit_bytes=memory_limit_bytes,
        limit=limit,
        progress=progress,
    )
    if len(damaged) > limit:
        raise unreadable(list(damaged.values()), count)
    rows = split_rows(source, validation_fraction, seed, list(damaged))
    if held_out is None or held_out.fingerprint != source.fingerprint:
        made = (tuple(part.tolist()) for part in rows.values())
        held_out = HeldOut(source.fingerprint, *made)
    splits = {
        name: Split(images, torch.from_numpy(part), torch.from_numpy(source.labels[part]))
        for name, part in held_out.rows(damaged).items()
    }
    mean, std = held_out.normalization or _channel_statistics(splits["train"])
    return ImageData(
        name=source.name,
        classes=source.classes,
        resolution=resolution,
        **splits,
        mean=mean,
        std=std,
        flip=source.mirrored,
        augment=default_augmentation(resolution, mirrored=source.mirrored),
        fingerprint=source.fingerprint,
        held_out=replace(held_out, normalization=(mean, std)),
        files=source.files,
        damaged=tuple(damaged.values()),
    )


def _read(spec: str, *, download: bool) -> Source:
    if spec == "digits":
        return read_digits()
    scheme, _, directory = spec.partition(":")
    if scheme in LAYOUTS and directory:
        return read_cifar(scheme, Path(directory).expanduser(), download=download)
    if scheme == "wds" and directory:
        return read_shards(Path(directory).expanduser())
    path = Path(spec).expanduser()
    if path.exists():
        return _read_place(path)
    if scheme in LAYOUTS:
        raise FBNError(f"--data {spec} names no folder: write --data {scheme}:DIR.")
    known = ", ".join(f"{name}:DIR" for name in (*LAYOUTS, "wds"))
    raise FBNError(
        f"--data {spec}: there is no such folder. Give a folder with one folder of images per "
        f"class, or train/ and val/ with such folders, or one of digits, {known}."
    )


def _read_place(path: Path) -> Source:
    """Images in folders, whatever archives lie beside them; else tar shards."""
    if not has_shards(path):
        return read_folder(path)
    if not has_images(path):
        return read_shards(path)
    try:
        return read_folder(path)
    except FBNError as error:
        raise FBNError(f"{error}\nIf its tar files are meant, pass --data wds:{path}.") from error


def _channel_statistics(train: Split) -> tuple[Triple, Triple]:
    """Mean and standard deviation of each channel over the training images, or over a balanced
    sample of them. Summed as integers: exact, so the same whatever the order or the machine."""
    counts = np.zeros((3, 256), dtype=np.int64)
    chosen = sample_indices(train.labels, _STATISTICS_IMAGES, seed=0)
    for indices in torch.split(chosen, 64):
        pixels = train.batch(indices).permute(1, 0, 2, 3).reshape(3, -1)
        for channel in range(3):
            counts[channel] += torch.bincount(pixels[channel], minlength=256).numpy()
    values = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ values / total
    std = np.sqrt(np.maximum(counts @ values**2 / total - mean**2, 0)).clip(1 / 255)
    return _triple(mean), _triple(std)


def _triple(values: NDArray[np.float64]) -> Triple:
    red, green, blue = values.tolist()
    return red, green, blue
