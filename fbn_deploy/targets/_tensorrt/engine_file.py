"""Engine files: TensorRT's own bytes, and beside them a JSON file that says where they hold.

An engine belongs to one version of TensorRT and, unless it was built otherwise, to one kind of
GPU; deserialising another one fails late or takes the process down. So the story beside it is read
first, and an engine that does not belong here, or is not whole, is refused with the reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, replacing, write_json
from fbn_deploy.targets._engines import Check, EngineOptions

SCHEMA = 1
SUFFIX = ".engine"
_KEYS = {"bytes", "sha256", "target", "version", "device", "onnx_sha256", "options"}
_AGAIN = "Build it again with fbn export and --target {target}."


@dataclass(frozen=True)
class Here:
    """What an engine is held against. ``gpu`` is None where engines run on every GPU."""

    target: str
    version: str
    gpu: str | None
    compute_capability: tuple[int, int] | None


def story_path(engine: Path) -> Path:
    """The JSON file beside ``engine``."""
    return engine.with_name(engine.name + ".json")


def save(
    engine: Path, plan: bytes, story: dict[str, Any], check: Check | None = None
) -> dict[str, Any]:
    """Writes both files, each whole or not at all, and returns the story as it was written.

    ``check`` is asked before either has its name; what it returns is the story's
    ``verification``. Killed between the two files, they do not match, and ``load`` says so.
    """
    whole = {
        "schema": SCHEMA,
        "bytes": len(plan),
        "sha256": hashlib.sha256(plan).hexdigest(),
        **story,
    }
    whole["verification"] = _checked(plan, whole, check) if check is not None else None
    with replacing(engine) as temporary:
        temporary.write_bytes(plan)
    write_json(story_path(engine), whole)
    return whole


def _checked(plan: bytes, story: dict[str, Any], check: Check) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fbn-engine-") as folder:
        engine = Path(folder) / f"model{SUFFIX}"
        engine.write_bytes(plan)
        write_json(story_path(engine), story)
        return check(engine)


def story_of(engine: Path) -> dict[str, Any]:
    """What is written beside ``engine``. Raises ``FBNError`` when it is missing or no story."""
    if not engine.is_file():
        raise FBNError(f"There is no engine {engine}.")
    path = story_path(engine)
    if not path.is_file():
        raise FBNError(
            f"{engine} has no {path.name} beside it, so nothing says which GPU and version it is "
            "for. Build it again with fbn export."
        )
    story = read_json(path)
    if not isinstance(story, dict) or story.get("schema") != SCHEMA:
        raise FBNError(f"{path} has another schema than {SCHEMA}; build the engine again.")
    if missing := _KEYS - story.keys():
        raise FBNError(f"{path} says nothing of {', '.join(sorted(missing))}; build it again.")
    device, options = story["device"], story["options"]
    known = {field.name for field in dataclasses.fields(EngineOptions)}
    if not isinstance(options, dict) or options.keys() != known:
        raise FBNError(
            f"{path} has other options of the engine than this version of fbn_deploy knows; build "
            "it again."
        )
    if device is not None and not (
        isinstance(device, dict) and {"gpu", "compute_capability"} <= device.keys()
    ):
        raise FBNError(f"{path} does not say which GPU the engine is for; build it again.")
    return story


def load(engine: Path, here: Here) -> tuple[bytes, dict[str, Any]]:
    """The engine's bytes and its story.

    Raises ``FBNError`` when the file is not the one that was built, whole, or was built for
    another target, version or GPU than ``here``.
    """
    story = story_of(engine)
    again = _AGAIN.format(target=story.get("target", here.target))
    plan = engine.read_bytes()
    if len(plan) != story["bytes"]:
        raise FBNError(
            f"{engine} is not whole: {len(plan)} bytes, and {story['bytes']} were written. {again}"
        )
    if hashlib.sha256(plan).hexdigest() != story["sha256"]:
        raise FBNError(f"{engine} is damaged: its content is not what was written. {again}")
    if problem := foreign(story, here):
        raise FBNError(f"{engine} {problem}. {again}")
    return plan, story


def foreign(story: dict[str, Any], here: Here) -> str | None:
    """Why an engine with this story does not run here; None when nothing speaks against it."""
    if story["target"] != here.target:
        return f"is an engine of target {story['target']!r}, not of {here.target!r}"
    compatible = story["options"]["version_compatible"]
    built_with, here_is = story["version"], here.version
    if not (_newer(here_is, built_with) if compatible else built_with == here_is):
        return f"was built with version {built_with}, and version {here_is} is installed here"
    if here.gpu is None or story["device"] is None:
        return None
    gpu, capability = story["device"]["gpu"], tuple(story["device"]["compute_capability"])
    hardware = story["options"]["hardware"]
    runs = {
        "this": gpu == here.gpu and capability == here.compute_capability,
        "same-capability": capability == here.compute_capability,
        "ampere-plus": (here.compute_capability or (0, 0)) >= (8, 0),
    }[hardware]
    if runs:
        return None
    number = ".".join(map(str, here.compute_capability or ()))
    return (
        f"was built for {gpu} (compute capability {'.'.join(map(str, capability))}, hardware: "
        f"{hardware}), and this is {here.gpu} ({number})"
    )


def _newer(version: str, than: str) -> bool:
    """Whether ``version`` has the major version of ``than`` and is not older."""
    numbers, old = ([int(n) for n in v.split(".")[:3] if n.isdigit()] for v in (version, than))
    return numbers[:1] == old[:1] and numbers >= old
