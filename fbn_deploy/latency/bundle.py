"""A bundle: the blocks and probes of a space in one file, to be measured where no PyTorch is.

It is a zip archive: ``manifest.json`` with the inventory and the SHA-256 of every graph and of
itself, and ``graphs/<name>.onnx``. Weights do not matter for latency; they are a repeated pattern,
so that sixty networks of ten megabytes make a file of a few. Reading needs the standard library
only.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fbn_deploy import __version__
from fbn_deploy.errors import FBNError
from fbn_deploy.files import replacing
from fbn_deploy.latency.inventory import Inventory, digest
from fbn_deploy.latency.network import Network

SCHEMA = 1
KIND = "fbn bundle"
_MANIFEST = "manifest.json"
# What reading a damaged archive raises; NotImplementedError is a RuntimeError.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError, KeyError,
)  # fmt: skip
_DATE = (1980, 1, 1, 0, 0, 0)  # the same bundle is the same file, whenever it was written


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every graph was checked."""

    path: Path
    inventory: Inventory

    def network(self, name: str) -> Network:
        """The graph of that name, for a meter."""
        graph = self.inventory.graphs[name]
        with zipfile.ZipFile(self.path) as archive:
            return Network(archive.read(_entry(name)), graph.hash, graph.inputs)


def write_bundle(
    path: Path,
    inventory: Inventory,
    graph_bytes: Callable[[str], bytes],
    progress: Callable[[int], None],
) -> None:
    """Writes the bundle, whole or not at all; ``progress`` is told how many graphs are in."""
    files: dict[str, str] = {}
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for number, name in enumerate(inventory.graphs, 1):
            content = graph_bytes(name)
            files[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(_info(_entry(name)), content)
            progress(number)
        manifest = {
            "kind": KIND,
            "schema": SCHEMA,
            "fbn_deploy": __version__,
            "inventory": inventory.as_json(),
            "files": files,
        }
        text = json.dumps({**manifest, "sha256": digest(manifest)}, indent=1)
        archive.writestr(_info(_MANIFEST), text)


def read_bundle(path: Path) -> Bundle:
    """The bundle in ``path``, with every graph checked against the manifest.

    Raises ``FBNError`` when it is no bundle, of another schema, altered or incomplete.
    """
    if not path.is_file():
        raise FBNError(f"There is no bundle {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _manifest(path, archive)
            inventory = Inventory.from_json(manifest["inventory"])
            _check(path, archive, manifest["files"], inventory)
    except _DAMAGE as error:
        raise FBNError(
            f"{path} is no bundle, or it was damaged on its way ({error}). "
            "Copy it again, or make it again with fbn bundle."
        ) from error
    return Bundle(path, inventory)


def _manifest(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    manifest = json.loads(archive.read(_MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise FBNError(f"{path} is no bundle; fbn bundle makes one.")
    if manifest.get("schema") != SCHEMA:
        raise FBNError(
            f"{path} has the schema {manifest.get('schema')}; this version of fbn_deploy reads "
            f"{SCHEMA}. Make the bundle with the version that is on the device."
        )
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if digest(content) != manifest.get("sha256"):
        raise FBNError(f"{path} was altered: its manifest does not have the hash that it states.")
    return manifest


def _check(path: Path, archive: zipfile.ZipFile, files: dict[str, str], known: Inventory) -> None:
    held = set(archive.namelist()) - {_MANIFEST}
    wanted = {_entry(name) for name in known.graphs}
    if wanted != held or files.keys() != known.graphs.keys():
        missing, extra = sorted(wanted - held), sorted(held - wanted)
        raise FBNError(
            f"{path} is incomplete: missing {', '.join(missing[:3]) or 'nothing'}, not in its "
            f"manifest {', '.join(extra[:3]) or 'nothing'}. Make it again with fbn bundle."
        )
    for name, expected in files.items():
        if hashlib.sha256(archive.read(_entry(name))).hexdigest() != expected:
            raise FBNError(f"{path} was altered: the graph {name} does not have its hash.")


def _entry(name: str) -> str:
    return f"graphs/{name}.onnx"


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    return info
