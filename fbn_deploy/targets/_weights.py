"""The hash of an ONNX file together with the files that hold its weights; needs no onnx package."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from fbn_deploy.files import sha256_of

# A tensor's external_data: the key "location", and its value behind a tag and a length.
_LOCATION = re.compile(rb"\n\x08location\x12(?:([\x00-\x7f])|([\x80-\xff][\x00-\x7f]))", re.DOTALL)


def hash_with_weights(model: Path) -> str:
    """SHA-256 of ``model`` and of the files beside it that it names; that of the file alone, as
    reports compare it, where it names none."""
    content = model.read_bytes()
    digest = hashlib.sha256(content)
    for location in sorted(_locations(content)):
        beside = model.parent / location
        if beside.is_file():
            digest.update(sha256_of(beside).encode())
    return digest.hexdigest()


def _locations(content: bytes) -> set[str]:
    found = set()
    for match in _LOCATION.finditer(content):
        length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(match[1] or match[2]))
        found.add(content[match.end() : match.end() + length].decode(errors="replace"))
    return {location for location in found if location and "\0" not in location}
