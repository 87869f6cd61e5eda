"""What every stage of a run shares: its directory, configuration, data and search space.

An option that is not given is taken from the run directory, so that ``fbn search --run DIR`` goes
on with what ``fbn train --run DIR`` was told; where there is no run yet, from the defaults.
"""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fbn_deploy.data import HeldOut, ImageData, load_data
from fbn_deploy.distributed import ALONE, Job
from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, remove_leftovers, write_bytes, write_json
from fbn_deploy.pipeline import changed_space
from fbn_deploy.progress import Reporter
from fbn_deploy.rundir import RunDir
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.definition import SpaceDefinition, definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet, check_network
from fbn_deploy.supernet.training import SupernetSettings, check

DEFAULT_SPACE, DEFAULT_DATA = "mobilenet", "digits"
SPACE_SCHEMA = SPLIT_SCHEMA = 1
NAMED = 5  # damaged images that are named one by one


@dataclass(frozen=True)
class Given:
    """What the user said of a run; None where nothing was said."""

    space: str | None = None
    resolution: int | None = None
    options: Mapping[str, Any] | None = None
    data: str | None = None
    download: bool = False
    strict: bool = False
    bn: str | None = None
    seed: int | None = None
    supernet: Mapping[str, Any] | None = None
    """Fields of ``SupernetSettings``; a value of None is not said."""


@dataclass(frozen=True)
class Context:
    """A run that is open."""

    run: RunDir
    data: ImageData
    definition: SpaceDefinition
    bn: str
    seed: int
    supernet_settings: SupernetSettings
    identity: Mapping[str, Any]
    """What all files of the run were made from: space, data, seed, BatchNorm mode."""
    reporter: Reporter
    job: Job = ALONE
    space_changed: bool = False
    """Whether the space's file is another one than when the run began."""

    def refuse_changed_space(self) -> None:
        """``FBNError`` where what is made now would not go with what the run has."""
        if self.space_changed:
            raise changed_space.no_new_results(self.run, self.definition.spec)

    def supernet(self) -> Supernet:
        """The untrained supernet."""
        return build_supernet(self.definition, len(self.data.classes), bn=self.bn, seed=self.seed)


Check = Callable[[Context, SearchSpace], None]
"""Raises ``FBNError`` where what was asked goes with no run of that context and space."""


def default_run() -> Path:
    """``runs/<time>``, to the millisecond: two commands may begin in the same second."""
    now = datetime.datetime.now()
    return Path("runs") / f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}"


def open_run(
    path: Path,
    given: Given,
    reporter: Reporter,
    *,
    create: bool = True,
    job: Job = ALONE,
    check: Check | None = None,
) -> Context:
    """Reads or starts the run in ``path``, with all its data loaded and checked.

    Raises ``FBNError`` for wrong options or data, for a directory that cannot be written, and
    when ``path`` holds a run that was told otherwise. Nothing is written before all is checked;
    ``check`` is the caller's part of that.
    Of the processes of ``job`` the first one writes; the images have to lie where each one runs.
    """
    run = RunDir(path)
    found = run.configuration() if job.is_first and (run.run.exists() or not create) else {}
    stored = job.share(found)
    space, spec = stored.get("space", {}), stored.get("data", {}).get("spec")
    seed = _first(given.seed, stored.get("seed"), 0)
    if not 0 <= seed < 2**63:
        raise FBNError(f"A seed is from 0 to below 2^63, not {seed}.")
    name = _first(given.space, space.get("name"), DEFAULT_SPACE)
    name = str(Path(name).absolute()) if name.endswith(".py") else name  # as a run stores it
    same = name == space.get("name")
    chosen = definition(
        name,
        _first(given.resolution, space.get("resolution") if same else None, None),
        {**(space.get("options", {}) if same else {}), **(given.options or {})},
    )
    settings = _settings(given, stored, seed, job)
    spec = _absolute(_first(given.data, spec, DEFAULT_DATA))
    held_out = _held_out(run, job)
    with (
        reporter.task(f"Reading {spec}", 100, "%") as task,
        _downloads(given, job),
        _advised(bool(stored) and given.data is None),
    ):
        data = load_data(
            spec,
            resolution=chosen.resolution,
            seed=seed,
            download=given.download,
            progress=lambda done, total: task.update(100 * done // total, f"{total} images"),
            strict=given.strict,
            held_out=held_out,
        )
    reporter.say(data.describe())
    for damaged in data.damaged[:NAMED]:
        reporter.say(f"Left out, it cannot be read: {damaged}")
    if (more := len(data.damaged) - NAMED) > 0:
        reporter.say(f"… and {more:,} more; {run.split} names them all.")
    now = chosen.as_json()
    begun = changed_space.as_begun(now, space, given.options or ()) if same else now
    configuration = {
        "space": begun,
        "data": {"spec": spec, "fingerprint": data.fingerprint},
        "bn": _first(given.bn, stored.get("bn"), "fair"),
        "seed": seed,
        "supernet": settings.as_json(),
    }
    identity = {key: configuration[key] for key in ("space", "bn", "seed")}
    identity["data"] = data.fingerprint
    context = Context(
        run,
        data,
        chosen,
        configuration["bn"],
        seed,
        settings,
        identity,
        reporter,
        job,
        space_changed=begun != now,
    )
    _refuse_other_images(data, job)
    network = chosen.network(len(data.classes), seed)
    space_found = chosen.search_space(network)
    if not stored:
        check_network(network, chosen, context.bn)
    if not job.is_first:
        return context
    if check is not None:
        check(context, space_found)
    run.start(configuration, _device())
    if context.space_changed:
        changed_space.refuse_other_choices(run, chosen.spec, space_found)
        reporter.say(changed_space.warning(chosen.spec))
    remove_leftovers(run.path)
    _write_split(run, data)
    write_json(
        run.space,
        {
            "schema": SPACE_SCHEMA,
            **begun,
            "classes": list(data.classes),
            "size": space_found.size,
            "decisions": {d.name: list(d.options) for d in space_found.decisions},
        },
    )
    return context


def _held_out(run: RunDir, job: Job) -> HeldOut | None:
    """The split that the run made when it began."""
    content = job.share(read_json(run.split) if job.is_first and run.split.exists() else None)
    if content is None:
        return None
    if not isinstance(content, dict) or content.get("schema") != SPLIT_SCHEMA:
        raise FBNError(f"{run.split} is no split of schema {SPLIT_SCHEMA}; move it away.")
    try:
        return HeldOut.from_json(content)
    except FBNError as error:
        raise FBNError(f"{run.split} is damaged; move it away. {error}") from error


def _write_split(run: RunDir, data: ImageData) -> None:
    """The split as the run began with it, with the names of files that were held out, and the
    images that cannot be read now."""
    held_out = data.held_out
    rows = {"validation": held_out.validation, "test": held_out.test} if data.files else {}
    content = {
        "schema": SPLIT_SCHEMA,
        **held_out.as_json(),
        "files": {name: [data.files[row] for row in part] for name, part in rows.items()},
        "unreadable": list(data.damaged),
    }
    encoded = json.dumps(content).encode()  # on one line: it may be long
    if not run.split.exists() or run.split.read_bytes() != encoded:
        write_bytes(run.split, encoded)


def _downloads(given: Given, job: Job) -> contextlib.AbstractContextManager[None]:
    """Within the block the first process may fetch what the others then find."""
    return job.first_before_others() if given.download else contextlib.nullcontext()


@contextlib.contextmanager
def _advised(remembered: bool) -> Iterator[None]:
    """What is wrong with images that the run remembers is said with what to do if they moved."""
    try:
        yield
    except FBNError as error:
        if not remembered:
            raise
        advice = "If the run's images moved, say with --data where they are now."
        raise FBNError(f"{error}\n{advice}") from error


def _refuse_other_images(data: ImageData, job: Job) -> None:
    fingerprints = job.gather(data.fingerprint)
    if others := [rank for rank, each in enumerate(fingerprints) if each != fingerprints[0]]:
        raise FBNError(
            f"Process {others[0]} of the job reads other images than process 0 from the same "
            "place; give every machine the same data."
        )


def _settings(given: Given, stored: Mapping[str, Any], seed: int, job: Job) -> SupernetSettings:
    known = {field.name for field in fields(SupernetSettings)}
    said = {k: v for k, v in (given.supernet or {}).items() if v is not None}
    before = {k: v for k, v in stored.get("supernet", {}).items() if k in known}
    if "optimizer" in said and said["optimizer"] != before.get("optimizer"):
        before.pop("learning_rate", None)
    before["shards"] = before.get("shards", 1) if stored else job.size  # 1 is not written down
    settings = replace(SupernetSettings(), **{**before, **said, "seed": seed})
    check(settings)
    return settings


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _absolute(spec: str) -> str:
    """``spec`` with its directory made absolute, so that a run can be continued from anywhere."""
    scheme, _, directory = spec.partition(":")
    if spec == DEFAULT_DATA:
        return spec
    if scheme in ("cifar10", "cifar100", "wds") and directory:
        return f"{scheme}:{Path(directory).expanduser().absolute()}"
    folder = Path(spec).expanduser()
    return str(folder.absolute()) if folder.exists() else spec


def _device() -> str:
    import torch

    from fbn_deploy.targets._cpu import device_name

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return device_name()
