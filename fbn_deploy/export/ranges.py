"""Ranges: what calibration found about the activations of one model on one set of images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, write_json

SCHEMA = 1


@dataclass(frozen=True)
class Ranges:
    """``amax`` maps a tensor's name to the largest magnitude that INT8 shall represent.

    ``means`` maps it to its mean by channel (axis 1), for bias correction. ``model_hash`` and
    ``data_hash`` say for which model and images, ``method`` and ``count`` (images) how.
    """

    amax: Mapping[str, float]
    means: Mapping[str, tuple[float, ...]]
    method: str
    model_hash: str
    data_hash: str
    count: int

    def save(self, path: Path) -> None:
        """Writes the ranges as JSON, whole or not at all."""
        write_json(
            path,
            {
                "schema": SCHEMA,
                "method": self.method,
                "model_hash": self.model_hash,
                "data_hash": self.data_hash,
                "count": self.count,
                "amax": dict(self.amax),
                "means": {name: list(values) for name, values in self.means.items()},
            },
        )

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """What ``save`` wrote. Raises ``FBNError`` when it is missing, damaged or newer."""
        value = read_json(path)
        try:
            if value["schema"] != SCHEMA:
                raise FBNError(
                    f"{path} has the schema {value['schema']}; this version reads {SCHEMA}. "
                    "Remove it to calibrate again."
                )
            return cls(
                amax={str(name): float(limit) for name, limit in value["amax"].items()},
                means={
                    str(name): tuple(map(float, means)) for name, means in value["means"].items()
                },
                method=value["method"],
                model_hash=value["model_hash"],
                data_hash=value["data_hash"],
                count=int(value["count"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FBNError(
                f"{path} holds no ranges ({error!r}). Remove it to calibrate again."
            ) from error

    def is_of(self, model_hash: str, data_hash: str, method: str) -> bool:
        """Whether these ranges were found on that model and those images by that method."""
        return (self.model_hash, self.data_hash, self.method) == (model_hash, data_hash, method)


def model_hash(model: ir.Model) -> str:
    """SHA-256 of a model with its weights: ranges belong to numbers, not to a structure."""
    content = ir.to_proto(model).SerializeToString(deterministic=True)
    return hashlib.sha256(content).hexdigest()
