"""What two processes say to each other: frames of one JSON object and some bytes."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

_LENGTHS = struct.Struct(">QQ")  # of the JSON and of the bytes


def send(stream: BinaryIO, value: dict[str, Any], content: bytes = b"") -> None:
    """Writes one frame and flushes it."""
    header = json.dumps(value).encode()
    stream.write(_LENGTHS.pack(len(header), len(content)))
    stream.write(header)
    stream.write(content)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None when the other side has gone, be it in the middle of one."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_length, content_length = _LENGTHS.unpack(lengths)
    header, content = stream.read(header_length), stream.read(content_length)
    if len(header) < header_length or len(content) < content_length:
        return None
    return json.loads(header), content
