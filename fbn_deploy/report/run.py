"""Everything that a run directory holds, read once and checked throughout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fbn_deploy.errors import FBNError
from fbn_deploy.files import sha256_of
from fbn_deploy.report.exported import (
    Check,
    Engine,
    Export,
    Folding,
    Precision,
    read_engine,
    read_export,
    read_folding,
    read_precision,
)
from fbn_deploy.report.fields import Fields
from fbn_deploy.report.measured import Profile, Record, read_profile
from fbn_deploy.report.searched import FP32, Search, read_search
from fbn_deploy.report.trained import Training, Unfinished, read_training, read_unfinished
from fbn_deploy.rundir import SCHEMA, RunDir

Read = TypeVar("Read")
# Images whose class two runs of one network may see differently, and as a share of all.
_SAME_IMAGES, _SAME_SHARE = 2, 0.005


@dataclass(frozen=True)
class Configuration:
    """What ``run.json`` says: what the run was told, and where it began."""

    space: str
    resolution: int | None
    options: Mapping[str, str]
    data: str
    fingerprint: str
    bn: str
    seed: int
    supernet: Mapping[str, str]
    versions: Mapping[str, str]
    device: str


@dataclass(frozen=True)
class Space:
    """The decisions of the space, and the classes of the images."""

    classes: tuple[str, ...]
    size: int | None
    decisions: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class File:
    """A file of the run. ``sha256`` of those that are handed over, else empty."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Run:
    """A run directory. What is None or empty was not done."""

    path: Path
    configuration: Configuration
    space: Space | None
    images: Mapping[str, int]
    """Split → number of its images."""
    unreadable: tuple[str, ...]
    """Images that are in no split: where they are and why."""
    search: Search | None
    training: Training | None
    subnet_sha256: str
    """Of the trained network's file."""
    unfinished: Unfinished | None
    folding: Folding | None
    export: Export | None
    precisions: tuple[Precision, ...]
    profiles: Mapping[str, Profile]
    """File → its profile."""
    engines: tuple[Engine, ...]
    files: tuple[File, ...]

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.path.resolve().name

    def file(self, name: str) -> File | None:
        return next((file for file in self.files if file.name == name), None)

    @property
    def precision(self) -> str:
        """That of the file that ships: that of the search."""
        return self.search.precision if self.search else FP32

    @property
    def model(self) -> str:
        """The file that ships."""
        return _model(self.path, self.precision)

    @property
    def shipped(self) -> Export | Precision | None:
        """How the file that ships was verified; None: that is not done, or it is not there."""
        told: Export | Precision | None = self.export
        if self.precision != FP32:
            found = (each for each in self.precisions if each.model == self.model)
            told = next(found, None)
        return told if self.file(self.model) else None

    @property
    def verified(self) -> list[Export | Precision]:
        """What ships and, where that is another file, ``model.onnx``; as far as they are there."""
        others = [] if self.precision == FP32 else [self.export]
        return [each for each in (self.shipped, *others) if each]

    @property
    def told(self) -> list[Export | Precision]:
        """All that was verified, also files that are not here any more."""
        return [each for each in (self.export, *self.precisions) if each]

    def doubt(self, told: Export | Precision) -> str:
        """Why ``told`` does not hold of what lies here; empty where nothing says so.

        A hash that an older version did not write down says nothing.
        """
        file = self.file(told.model)
        if file is None:
            return "the file that was verified is not here"
        if told.onnx_sha256 not in ("", file.sha256):
            return "another file than lies here was verified"
        if self._is_of_another_network(told):
            return "another network than is trained now was verified"
        return ""

    def damage(self, engine: Engine) -> str:
        """Why the file of ``engine`` is not the one that was built; empty where nothing says so."""
        file = self.file(engine.name)
        if file is None:
            return "its story is here, and the engine is not"
        if engine.bytes not in (None, file.bytes):
            return f"not whole: {file.bytes:,} bytes, and {engine.bytes:,} were written"
        if engine.sha256 not in ("", file.sha256):
            return "damaged: its content is not what was written"
        return ""

    def other_source(self, engine: Engine) -> str:
        """Why ``engine`` is not of the model that lies here; empty where nothing says so."""
        source = self.file(engine.model)
        if source and engine.onnx_sha256 not in ("", source.sha256):
            return f"built from another {engine.model} than lies here"
        told = [each for each in self.told if each.model == engine.model]
        if any(map(self._is_of_another_network, told)):
            return "built from another network than is trained now"
        return ""

    def _is_of_another_network(self, told: Export | Precision) -> bool:
        """By the hash of the trained network's file; without one, by the accuracy."""
        if self.training is None:
            return False
        if told.subnet_sha256:
            return told.subnet_sha256 != self.subnet_sha256
        accuracy = self.training.accuracy
        return any(
            abs(accuracy - check.accuracy_trained) * check.images
            > max(_SAME_IMAGES, _SAME_SHARE * check.images)
            for check in told.checks
        )

    @property
    def least_accurate(self) -> Check | None:
        """Where what ships is in another precision: its target with the lowest accuracy. In fp32
        it has that of the trained network; None also of a file that was not verified."""
        if self.shipped is None or self.precision == FP32 or self.doubt(self.shipped):
            return None
        return min(self.shipped.checks, key=lambda check: check.accuracy_exported, default=None)

    @property
    def profile(self) -> Profile | None:
        """Of the file that ships; None where it is of another one."""
        return None if self.profiles_another(self.model) else self.profiles.get(self.model)

    def profiles_another(self, name: str) -> bool:
        """Whether there is a profile of ``name`` that says the hash of another file."""
        profile, file = self.profiles.get(name), self.file(name)
        return bool(profile and file and profile.onnx_sha256 not in ("", file.sha256))

    def records(self) -> list[tuple[str, Record]]:
        """Every latency record with what it is of."""
        found: list[tuple[str, Record]] = []
        if self.search:
            for target, confirmation in self.search.confirmed.items():
                found += [
                    (f"confirmation on {target}, process {number}", record)
                    for number, record in enumerate(confirmation.records, 1)
                ]
        return found + [
            (f"another {name}" if self.profiles_another(name) else name, profile.record)
            for name, profile in self.profiles.items()
        ]


def read_run(path: Path) -> Run:
    """Raises one ``FBNError`` for everything in ``path`` that cannot be read."""
    run = RunDir(path)
    run.configuration()  # says what to do where this is no run directory
    mistakes: list[str] = []

    def read(file: Path, reader: Callable[[Path], Read]) -> Read | None:
        if not file.is_file():
            return None
        try:
            return reader(file)
        except FBNError as error:
            mistakes.append(str(error))
            return None

    def read_all(files: Iterable[Path], reader: Callable[[Path], Read]) -> tuple[Read, ...]:
        return tuple(found for file in files if (found := read(file, reader)) is not None)

    profiles = {run.model.name: run.profile} | {
        _model(path, name): run.precision_profile(name) for name in run.precisions()
    }
    configuration = read(run.run, _configuration)
    images, unreadable = read(run.split, _images) or ({}, ())
    found = Run(
        path=path,
        configuration=configuration or _NOTHING,
        space=read(run.space, _space),
        images=images,
        unreadable=unreadable,
        search=read(run.search, read_search),
        training=read(run.subnet, read_training),
        subnet_sha256=read(run.subnet, sha256_of) or "",
        unfinished=read(run.subnet_checkpoint, read_unfinished),
        folding=read(run.fold_report, read_folding),
        export=read(run.verify, read_export),
        precisions=read_all(map(run.precision_verify, run.precisions()), read_precision),
        profiles={
            name: profile
            for name, file in profiles.items()
            if (profile := read(file, read_profile)) is not None
        },
        engines=read_all(run.engine_stories(), read_engine),
        files=_files(run),
    )
    if mistakes:
        raise FBNError("\n".join(mistakes))
    return found


def _model(path: Path, precision: str) -> str:
    """The name of the run's file in ``precision``."""
    run = RunDir(path)
    return (run.model if precision == FP32 else run.precision_model(precision)).name


def _configuration(path: Path) -> Configuration:
    content = Fields.read(path, SCHEMA)
    told = content.part("configuration")
    space, data = told.part("space"), told.part("data")
    return Configuration(
        space=space.text("name"),
        resolution=space.count_or_none("resolution"),
        options=space.named_texts("options"),
        data=data.text("spec", ""),
        fingerprint=data.text("fingerprint", ""),
        bn=told.text("bn", ""),
        seed=told.count_or_none("seed") or 0,
        supernet=told.named_texts("supernet"),
        versions=content.named_texts("versions"),
        device=content.text("device", ""),
    )


_NOTHING = Configuration("", None, {}, "", "", "", 0, {}, {}, "")


def _space(path: Path) -> Space:
    content = Fields.read(path, 1)
    decisions = content.part("decisions")
    return Space(
        classes=content.texts("classes"),
        size=content.count_or_none("size"),
        decisions={name: decisions.texts(name) for name in decisions.content},
    )


def _images(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    content = Fields.read(path, 1)
    counts = {name: content.length(name) for name in ("train", "validation", "test")}
    return counts, content.texts("unreadable")


def _files(run: RunDir) -> tuple[File, ...]:
    """What lies in the directory, apart from hidden files and the report itself."""
    found = sorted(path for path in run.path.iterdir() if path.is_file())
    return tuple(
        File(path.name, path.stat().st_size, _sha256(path))
        for path in found
        if not path.name.startswith(".") and path != run.report
    )


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.suffix in (".onnx", ".engine") else ""
