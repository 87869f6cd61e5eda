"""Which formulas remembered values come from."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


@functools.cache
def formulas() -> str:
    """A hash of this package's source: a value stands only as long as no formula changed."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
