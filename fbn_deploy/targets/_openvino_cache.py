"""Compiled OpenVINO models that are kept: a file is compiled once for its settings and machine.

A blob is OpenVINO's own export behind the SHA-256 of itself, so that a damaged one is compiled
anew instead of being handed to native code. Its name is a hash of everything it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import cache_folder, write_bytes
from fbn_deploy.targets._weights import hash_with_weights

_DIGEST = 32  # bytes of a SHA-256


def blob_path(model: Path, conditions: Mapping[str, Any]) -> Path:
    """Where the blob of the file ``model`` lies, or would lie. ``conditions`` are settings, shapes,
    versions and the device."""
    digest = hashlib.sha256(hash_with_weights(model).encode())
    digest.update(json.dumps(conditions, sort_keys=True, default=str).encode())
    return cache_folder() / "openvino" / f"{digest.hexdigest()[:32]}.blob"


def imported(core: Any, path: Path, config: Mapping[str, Any]) -> Any | None:
    """The compiled model in ``path``; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, blob = content[:_DIGEST], content[_DIGEST:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    try:
        return core.import_model(io.BytesIO(blob), "CPU", dict(config))
    except RuntimeError:  # a blob that this build of OpenVINO does not take
        return None


def keep(compiled: Any, path: Path) -> None:
    """Writes the blob, whole or not at all. One that cannot be written costs time, nothing else."""
    with contextlib.suppress(FBNError, OSError, RuntimeError):
        stream = io.BytesIO()
        compiled.export_model(stream)
        blob = stream.getvalue()
        write_bytes(path, hashlib.sha256(blob).digest() + blob)
