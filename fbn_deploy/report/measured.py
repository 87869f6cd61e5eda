"""Latency records and profiles, as ``latency/record.py`` writes them into a run's files."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.profile import SCHEMA as PROFILE_SCHEMA
from fbn_deploy.latency.profile import Layer
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.latency.timing import Timing
from fbn_deploy.report.fields import Fields

Record = LatencyRecord


# Numbers that older records lack, or that are null where the device's own clock times.
_MAY_LACK = frozenset({"best_arithmetic_us", "best_reference_us", "known_kappa", "memory_us"})


@dataclass(frozen=True)
class Profile:
    """The latency of a file, and of its layers in the order in which they ran."""

    record: Record
    layers: tuple[Layer, ...]
    runs: int
    onnx_sha256: str
    """Of the file that was profiled; empty where an older version profiled it."""
    without_layers: str
    """Why there are none, where the runtime times no layers."""

    @property
    def sum_ms(self) -> float:
        """The layers' sum, with the profiler's own time."""
        return sum(layer.latency_ms for layer in self.layers)


def read_profile(path: Path) -> Profile:
    """Raises ``FBNError`` when ``path`` is no profile that this version reads."""
    content = Fields.read(path, PROFILE_SCHEMA)
    return Profile(
        record=record_of(content.part("latency")),
        layers=tuple(
            Layer(
                name=each.text("name"),
                op=each.text("op"),
                added=bool(each.flag("added")),
                latency_ms=each.number("latency_ms"),
                share=each.number("share"),
                nodes=each.texts("nodes"),
            )
            for each in content.parts("layers")
        ),
        runs=content.count_or_none("layers_runs") or 0,
        onnx_sha256=content.text("onnx_sha256", ""),
        without_layers=content.text("without_layers", ""),
    )


def record_of(content: Fields) -> Record:
    """A record whose numbers are numbers and whose names are texts."""
    try:
        found = LatencyRecord.from_json(content.content)
    except FBNError as error:
        raise FBNError(f"{content.path}: {content.place}: {error}") from None
    named = {field.name for field in dataclasses.fields(Timing)}
    older = {"crowded"} - content.content.keys()
    for name in named - _MAY_LACK - {"crowded_out", "disturbed"} - older:
        content.number(name)
    for name in (*_MAY_LACK, "clock_mhz", "slow_reference_us"):
        content.number_or_none(name)
    content.flag("crowded_out")
    content.text("date")
    content.texts("disturbed")
    content.numbers("cores")
    conditions = content.part("conditions")
    for name in ("target", "device", "precision", "power", "protocol", "network"):
        conditions.text(name)
    for name in ("batch", "threads"):
        conditions.count(name)
    if any(name not in conditions for name in ("versions", "settings")):
        raise FBNError(f"{content.path}: {content.place} says no versions or settings.")
    conditions.part("versions")
    conditions.part("settings")
    return found
