"""CIFAR-10 and CIFAR-100 from their *binary* version (https://www.cs.toronto.edu/~kriz/cifar.html).

torchvision's own reader takes the Python version, whose files are pickles: loading one runs
whatever code is in it, and this project loads no pickle. The binary version holds the same images
as records ``label bytes, 3072 pixel bytes`` (red, green, blue planes of 32×32, row by row);
CIFAR-100 has two label bytes, coarse and fine, and the fine one counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fbn_deploy.data.reader import ImageArrays
from fbn_deploy.data.source import Source, mistakes_error
from fbn_deploy.errors import FBNError

_PIXEL_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class _Layout:
    url: str
    md5: str  # as published beside the archive
    folder: str
    python_folder: str  # of the version that holds pickles
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int


LAYOUTS = {
    "cifar10": _Layout(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        python_folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": _Layout(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        python_folder="cifar-100-python",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,
    ),
}


def read_cifar(name: str, directory: Path, *, download: bool) -> Source:
    """``cifar10`` or ``cifar100`` from ``directory`` (or the folder of the archive in it), which
    ``download`` fills first when the files are not there."""
    layout = LAYOUTS[name]
    folder = _find(layout, directory)
    if folder is None and download:
        _download(layout, directory)
        folder = _find(layout, directory)
    if folder is None:
        raise _missing(name, layout, directory)

    classes, records = _contents(name, layout, folder)
    rows = np.concatenate([records[file] for file in (*layout.train, *layout.test)])
    num_train = sum(len(records[file]) for file in layout.train)
    planes = rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32)
    return Source(
        name=name,
        classes=classes,
        reader=ImageArrays(np.ascontiguousarray(planes.transpose(0, 2, 3, 1))),
        labels=rows[:, layout.label_bytes - 1].astype(np.int64),
        parts={"train": np.arange(num_train), "test": np.arange(num_train, len(rows))},
        mirrored=True,
        fingerprint=hashlib.sha256(rows.data).hexdigest(),
    )


def _contents(
    name: str, layout: _Layout, folder: Path
) -> tuple[tuple[str, ...], dict[str, NDArray[np.uint8]]]:
    """The class names, and each file's records as rows of bytes; ``FBNError`` for damage."""
    size = layout.label_bytes + _PIXEL_BYTES
    records: dict[str, NDArray[np.uint8]] = {}
    mistakes: list[str] = []
    try:
        classes = tuple((folder / layout.names).read_text(encoding="ascii").split())
        for file in (*layout.train, *layout.test):
            raw = np.frombuffer((folder / file).read_bytes(), dtype=np.uint8)
            if len(raw) == 0 or len(raw) % size:
                mistakes.append(f"{file} has {len(raw)} bytes, no multiple of {size}")
                continue
            records[file] = raw.reshape(-1, size)
            if (label := records[file][:, layout.label_bytes - 1].max()) >= len(classes):
                mistakes.append(f"{file} has label {label}, {layout.names} {len(classes)} classes")
    except (OSError, UnicodeDecodeError) as error:
        mistakes.append(str(error))
    if mistakes:
        raise mistakes_error(f"the {name} files in {folder}; fetch them again", mistakes)
    return classes, records


def _find(layout: _Layout, directory: Path) -> Path | None:
    needed = (*layout.train, *layout.test, layout.names)
    for folder in (directory, directory / layout.folder):
        if all((folder / file).is_file() for file in needed):
            return folder
    return None


def _download(layout: _Layout, directory: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the command's answer
            download_and_extract_archive(layout.url, str(directory), md5=layout.md5)
    except (OSError, RuntimeError) as error:  # RuntimeError: the checksum does not match
        raise FBNError(
            f"Cannot download {layout.url} to {directory}: {error}. "
            "Fetch it by other means, unpack it there, and start again without --download."
        ) from error


def _missing(name: str, layout: _Layout, directory: Path) -> FBNError:
    if (directory / "train").is_dir():
        return FBNError(f"{directory} is an image folder, not {name}: pass --data {directory}.")
    python = [directory / layout.python_folder, directory / "batches.meta", directory / "meta"]
    unpacked = directory / layout.folder
    folder = unpacked if unpacked.is_dir() else directory
    files = (*layout.train, *layout.test, layout.names)
    if not directory.is_dir():
        found = "there is no such folder"
    elif any(path.exists() for path in python):
        found = "it holds the Python version, pickles, and loading a pickle runs the code in it"
    else:
        found = f"it lacks {', '.join(file for file in files if not (folder / file).is_file())}"
    return FBNError(
        f"No binary version of {name} in {folder}: {found}. "
        f"Pass --download, or unpack {layout.url} in {directory}."
    )
