"""Images in tar shards, as WebDataset writes them, for sets of more files than a disk likes.

``DIR/train-000000.tar``, ``DIR/cifar_val-00.tar`` or ``DIR/train/*.tar``: a word of the folder's
or the file's name is the part. Where no shard says one, all are training data; where only some do,
they are refused, so that no test image trains unseen. A sample is the files that share a name up to
the first dot: ``0001.jpg`` and ``0001.cls``, a class number or name, or ``0001.json`` with a
``label``; ``DIR/classes.txt`` names the classes by line where they are numbers.

The shards are read once through for the places of their files. Every image is then read from its
place, so that batches, splits and resuming are those of a folder: WebDataset's own reader streams
through a shuffle buffer, whose order a killed run does not find again. Shards therefore have to
lie on disks, not behind a stream.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fbn_deploy.data.folder import PARTS, SUFFIXES
from fbn_deploy.data.reader import Pixels, decoded, looked_at, upright
from fbn_deploy.data.source import Source, mistakes_error, some
from fbn_deploy.errors import FBNError

_BLOCK = 512  # tar pads every file to blocks of this many bytes
_WORDS = {**PARTS, "training": "train", "testing": "test"}


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image are: ``name`` in ``shard``, from ``start``."""

    shard: Path
    name: str
    start: int
    size: int


@dataclass(frozen=True)
class ShardImages:
    """Reads images out of tar files."""

    places: Sequence[Place]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, row: int, resolution: int) -> Pixels:
        return decoded(self._bytes(row), self._path(row), resolution)

    def check(self, row: int) -> None:
        looked_at(self._bytes(row), self._path(row))

    def original(self, row: int) -> Image.Image:
        return upright(self._bytes(row), self._path(row))

    def _path(self, row: int) -> Path:
        return self.places[row].shard / self.places[row].name

    def _bytes(self, row: int) -> io.BytesIO:
        place = self.places[row]
        with place.shard.open("rb") as file:
            file.seek(place.start)
            return io.BytesIO(file.read(place.size))


def has_shards(directory: Path) -> bool:
    """Whether ``directory``, or a part's folder in it, holds tar files."""
    return directory.is_dir() and bool(_shards(directory))


def read_shards(directory: Path) -> Source:
    """The samples of all shards in ``directory``; one ``FBNError`` with all that is wrong."""
    shards = _shards(directory) if directory.is_dir() else []
    if not shards:
        raise FBNError(
            f"{directory} holds no tar shards. They are named train-000000.tar and so on, and "
            "val-000000.tar where there is a validation set."
        )
    of_shards, mistakes = _parts(directory, shards)
    if mistakes:
        raise mistakes_error(f"the shards in {directory}", mistakes)
    places: list[Place] = []
    answers: list[str] = []
    parts: dict[str, list[int]] = {}
    for part, shard in zip(of_shards, shards, strict=True):
        found, wrong = _samples(shard)
        mistakes += wrong
        parts.setdefault(part, []).extend(range(len(places), len(places) + len(found)))
        for place, answer in found:
            places.append(place)
            answers.append(answer)
    if "train" not in parts:
        mistakes.append("no shard is named train-….tar")
    if mistakes:
        raise mistakes_error(f"the shards in {directory}", mistakes)
    classes = _classes(directory, answers)
    numbers = {answer: k for k, answer in enumerate(classes.answers)}
    labels = np.array([numbers[answer] for answer in answers], dtype=np.int64)
    for part, rows in parts.items():
        if missing := set(range(len(classes.names))) - set(labels[rows].tolist()):
            lacking = some(classes.names[k] for k in missing)
            mistakes.append(f"{part} has no image of class {lacking}, but there is such a class")
    if len(classes.names) == 1:
        mistakes.append("they have one class only; a classifier needs two")
    if mistakes:
        raise mistakes_error(f"the shards in {directory}", mistakes)
    digest = hashlib.sha256()
    files = [f"{place.shard.relative_to(directory)}/{place.name}" for place in places]
    for file, place, answer in zip(files, places, answers, strict=True):
        line = f"{file}\0{place.size}\0{answer}\n"
        digest.update(line.encode("utf-8", "surrogatepass"))  # names may be in another encoding
    return Source(
        name=directory.resolve().name,
        classes=classes.names,
        reader=ShardImages(places),
        labels=labels,
        parts={part: np.array(rows) for part, rows in parts.items()},
        mirrored=True,
        fingerprint=digest.hexdigest(),
        files=files,
    )


@dataclass(frozen=True)
class _Classes:
    answers: tuple[str, ...]  # what shards say, by label
    names: tuple[str, ...]


def _classes(directory: Path, answers: Sequence[str]) -> _Classes:
    distinct = set(answers)
    listed = directory / "classes.txt"
    numbers = all(answer.isdecimal() for answer in distinct)
    if not listed.is_file():
        found = tuple(sorted(distinct, key=int) if numbers else sorted(distinct))
        return _Classes(found, found)
    try:
        lines = listed.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise FBNError(f"{listed} is no text in UTF-8 ({error}); save it as such.") from error
    names = tuple(name.strip() for name in lines if name.strip())
    known = tuple(str(k) for k in range(len(names))) if numbers else names
    if unknown := distinct - set(known):
        raise FBNError(f"{listed} has {len(names)} lines, but shards name class {some(unknown)}.")
    return _Classes(known, names)


def _shards(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.tar"), *directory.glob("*/*.tar")])


def _parts(directory: Path, shards: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The part of every shard, and what is wrong with their names."""
    said = {shard: _said(directory, shard) for shard in shards}
    if not any(said.values()):
        return ["train"] * len(shards), []
    mistakes = [
        f"the name of {shard.relative_to(directory)} says both {' and '.join(parts)}"
        for shard, parts in said.items()
        if len(parts) > 1
    ]
    if silent := [str(shard.relative_to(directory)) for shard, parts in said.items() if not parts]:
        mistakes.append(
            f"{len(silent)} of {len(shards)} shards say no part (train, val or test) in their "
            f"names, but others do; rename them or move them away: {some(silent)}"
        )
    return [part for parts in said.values() for part in parts], mistakes


def _said(directory: Path, shard: Path) -> list[str]:
    """The parts that the name of its folder says, else those that its own says."""
    for name in (*shard.relative_to(directory).parts[:-1], shard.stem):
        words = re.split(r"[\W\d_]+", name.lower())
        if parts := sorted({_WORDS[word] for word in words if word in _WORDS}):
            return parts
    return []


def _samples(shard: Path) -> tuple[list[tuple[Place, str]], list[str]]:
    """(image, class) of every sample in ``shard``, and what is wrong with it."""
    images: dict[str, Place] = {}
    answers: dict[str, str] = {}
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                key, suffix = f"{folder}/{stem}", suffix.lower()
                if not member.isfile() or end > shard.stat().st_size:
                    continue
                if f".{suffix}" in SUFFIXES:
                    images[key] = Place(shard, member.name, member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    content = tar.extractfile(member)
                    assert content is not None, member.name
                    text = content.read().decode("utf-8", "surrogateescape").strip()
                    answers[key] = text if suffix == "cls" else _label(text)
    except (tarfile.TarError, OSError, ValueError) as error:
        return [], [f"{shard} is cut short or no tar file ({error})"]
    if shard.stat().st_size < end + 2 * _BLOCK:  # two empty blocks end every tar file
        return [], [f"{shard} is cut short: it ends at byte {shard.stat().st_size:,}"]
    alone = [place.name for key, place in images.items() if key not in answers]
    if alone:
        return [], [f"{shard} has images without a class (.cls or .json): {some(alone)}"]
    if not images:
        return [], [f"{shard} has no images ({', '.join(SUFFIXES)})"]
    return [(place, answers[key]) for key, place in images.items()], []


def _label(text: str) -> str:
    content = json.loads(text)
    label = content.get("label", content.get("cls")) if isinstance(content, dict) else content
    if not isinstance(label, int | str):
        raise ValueError(f"no label in {text[:80]}")
    return str(label)
