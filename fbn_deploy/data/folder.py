"""Images in folders named after their class, as torchvision's ImageFolder reads them.

``DIR/train/<class>/*.jpg`` with ``DIR/val`` and/or ``DIR/test`` beside it, or class folders right
in ``DIR``. Files that are no images and names that begin with a dot are ignored; folders inside a
class folder are a mistake, because then ``DIR`` is usually one level too high.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fbn_deploy.data.reader import ImageFiles
from fbn_deploy.data.source import Rows, Source, mistakes_error, some
from fbn_deploy.errors import FBNError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_UNREAD = -1  # size of a file that cannot be looked at: its reader counts it as unreadable
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class _Folder:
    files: list[tuple[str, int]]  # images: name and size in bytes, by name
    folders: list[str]


@dataclass(frozen=True)
class _Part:
    prefix: str  # of its class folders under the data set's directory: "" or "train/"
    classes: dict[str, _Folder]


def has_images(directory: Path) -> bool:
    """Whether a class folder in ``directory``, or in a part of it, holds an image."""
    return any(
        not name.startswith(".") and name.lower().endswith(SUFFIXES)
        for root in (directory, *(directory / part for part in PARTS))
        for folder in _folders(root)
        for name in os.listdir(folder)
    )


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [each for each in root.iterdir() if each.is_dir() and not each.name.startswith(".")]


def read_folder(directory: Path) -> Source:
    """The images under ``directory``; raises one ``FBNError`` with all its mistakes."""
    if not directory.is_dir():
        raise FBNError(f"{directory} is a file. Give a folder with one folder per class in it.")
    parts = _parts(directory)
    if not any(part.classes for part in parts.values()):
        raise FBNError(
            f"{directory} holds no class folders. Put the images of each class into a folder "
            f"named after it: {directory / 'daisy' / '1.jpg'}."
        )
    mistakes = [*_class_mistakes(parts), *_image_mistakes(directory, parts)]
    if mistakes:
        raise mistakes_error(f"the images in {directory}", mistakes)
    return _source(directory, parts)


def _parts(directory: Path) -> dict[str, _Part]:
    """Its parts by name. A folder ``train`` with images right in it is a class (of vehicles)."""
    names = [name for name in _listing(directory).folders if name in PARTS]
    if not any(_listing(directory / name).folders for name in names):
        return {"train": _part(directory, "")}
    if "train" not in names:
        raise FBNError(
            f"{directory} has {names[0]}/ but no train/ with class folders to learn from."
        )
    parts: dict[str, _Part] = {}
    for name in names:
        if (part := PARTS[name]) in parts:
            raise FBNError(f"{directory} has both {parts[part].prefix} and {name}/; keep one.")
        parts[part] = _part(directory, f"{name}/")
    return parts


def _part(directory: Path, prefix: str) -> _Part:
    root = directory / prefix
    return _Part(prefix, {name: _listing(root / name) for name in _listing(root).folders})


def _listing(path: Path) -> _Folder:
    files, folders = [], []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif entry.name.lower().endswith(SUFFIXES):
                    files.append((entry.name, _size(entry)))
    except OSError as error:
        raise FBNError(
            f"Cannot read {error.filename or path}: {error.strerror or error}."
        ) from error
    return _Folder(sorted(files), sorted(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link to nothing
        return _UNREAD


def _class_mistakes(parts: Mapping[str, _Part]) -> list[str]:
    """Classes that are not in every part, or too few of them."""
    everywhere = {name for part in parts.values() for name in part.classes}
    mistakes = [
        f"{part.prefix} has no class {some(missing)}, but another part has"
        for part in parts.values()
        if (missing := everywhere - set(part.classes))
    ]
    if len(everywhere) == 1:
        mistakes.append(f"it has one class only, {some(everywhere)}; a classifier needs two")
    return mistakes


def _image_mistakes(directory: Path, parts: Mapping[str, _Part]) -> list[str]:
    """Class folders with folders in them, or without an image."""
    folders = {
        part.prefix + name: folder
        for part in parts.values()
        for name, folder in part.classes.items()
    }
    nested = [name for name, folder in folders.items() if folder.folders]
    empty = [name for name, folder in folders.items() if not folder.folders and not folder.files]
    mistakes = []
    if nested:
        mistakes.append(
            f"class folder {some(nested)} holds folders; images belong right into a class's "
            f"folder. Or did you mean --data {directory / nested[0]}"
        )
    if empty:
        mistakes.append(f"class folder {some(empty)} has no image ({', '.join(SUFFIXES)})")
    return mistakes


def _source(directory: Path, parts: Mapping[str, _Part]) -> Source:
    names: list[str] = []
    labels: list[int] = []
    rows: dict[str, Rows] = {}
    digest = hashlib.sha256()
    for part_name, part in parts.items():
        start = len(names)
        for label, (class_name, folder) in enumerate(part.classes.items()):
            for file, size in folder.files:
                name = f"{part.prefix}{class_name}/{file}"
                names.append(name)
                labels.append(label)
                digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        rows[part_name] = np.arange(start, len(names))
    return Source(
        name=directory.resolve().name,
        classes=tuple(parts["train"].classes),
        reader=ImageFiles(directory, names),
        labels=np.array(labels, dtype=np.int64),
        parts=rows,
        mirrored=True,
        fingerprint=digest.hexdigest(),
        files=names,
    )
