"""How a file is fed, and what its logits stand for: told by the file itself and by the JSON files
that describe it."""

from __future__ import annotations

import json
from typing import Any

import onnx_ir as ir

from fbn_deploy.data import ImageData

RESIZE = (
    "JPEG decoded at 1/2, 1/4 or 1/8 of its size where that leaves twice the resolution; EXIF "
    "orientation applied, transparency laid on white; the largest centred square, bilinear with "
    "antialiasing"
)
"""What ``data/reader.py`` does."""


def feeding(data: ImageData) -> dict[str, Any]:
    """``input``: how an image becomes what the network takes; ``classes``: their names in the
    order of the logits. The same for files of all precisions: their interface is float32."""
    return {
        "input": {
            "layout": "NCHW, RGB",
            "resolution": data.resolution,
            "resize": RESIZE,
            "values": "(pixel / 255 - mean) / std",
            "mean": list(data.mean),
            "std": list(data.std),
        },
        "classes": list(data.classes),
    }


def described(model: ir.Model, data: ImageData) -> ir.Model:
    """``model``, which is not modified, with ``feeding`` in its metadata: ``input.layout``, …,
    and ``classes``. Lists are in JSON. Latencies are found by a hash that leaves metadata out."""
    told = feeding(data)
    named = {f"input.{name}": value for name, value in told["input"].items()}
    named["classes"] = told["classes"]
    result = model.clone()
    for name, value in named.items():
        result.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    return result
