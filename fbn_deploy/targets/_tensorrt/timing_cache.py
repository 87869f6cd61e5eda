"""Kernel timings that builds share: one file for each GPU, version, driver and set of flags.

The file is TensorRT's own, so ``trtexec --timingCacheFile`` reads it too. It is replaced whole;
what another process added meanwhile is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.files import write_bytes
from fbn_deploy.targets._tensorrt import building
from fbn_deploy.targets._tensorrt.package import TensorRt


def cache_path(folder: Path, conditions: Mapping[str, str], suffix: str) -> Path:
    """The file in ``folder`` for timings made under exactly these conditions."""
    text = json.dumps(dict(sorted(conditions.items())))
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.{suffix}"


class TimingCache:
    """The timing cache in ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes:
        """What is known; nothing where there is no file yet."""
        with contextlib.suppress(OSError):
            return self._path.read_bytes()
        return b""

    def add(self, trt: TensorRt, learnt: bytes) -> None:
        """Adds what a build learnt. A cache that cannot be written costs time, not the build."""
        known = self.read()
        if not learnt or learnt == known:
            return
        content = building.combined(trt, learnt, known) if known else learnt
        with contextlib.suppress(FBNError, OSError, ValueError):
            write_bytes(self._path, content)
