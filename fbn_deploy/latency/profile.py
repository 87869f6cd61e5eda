"""A network's latency with its story, and where the time goes, layer by layer.

The whole is timed in one session and the layers are profiled in another: a profiler slows what it
watches, so the layers' sum exceeds the whole in small networks. The profile states both.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy import files
from fbn_deploy.errors import FBNError
from fbn_deploy.latency.cache import known_pace
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.naming import Nodes, named
from fbn_deploy.latency.network import proto_from
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.targets import NoLayerTimes, device_memory_bytes

if TYPE_CHECKING:
    import onnx
    import onnx_ir

    from fbn_deploy.targets import LayerTime, Target

SCHEMA = 1
_LAYERS_MS = 1000.0
_MIN_RUNS, _MAX_RUNS = 20, 300


@dataclass(frozen=True)
class Layer:
    """One executed layer. ``share`` is its part of the layers' sum."""

    name: str
    """The ONNX node's name; a layer that the runtime added keeps the runtime's name."""
    op: str
    """The ONNX op; the runtime's kernel for a layer that the runtime added."""
    added: bool
    """True for a layer that is no node of the model: a change of memory layout, mostly."""
    latency_ms: float
    share: float
    nodes: tuple[str, ...] = ()
    """Every ONNX node that was fused into it, where the runtime says. Exported nodes begin with
    the choice that they are of: ``stage1_0.mb6_k3.depthwise.conv/Conv``."""


@dataclass(frozen=True)
class NetworkProfile:
    """The whole (``record``) and the ``layers`` in the order in which they ran."""

    record: LatencyRecord
    layers: tuple[Layer, ...]
    runs: int
    """Runs over which each layer's time is an interquartile mean."""
    onnx_sha256: str = ""
    """Of the ONNX file; empty where no file was profiled, or by an older version."""
    device_memory_bytes: int | None = None
    """For intermediate results; None where the target does not say, or an older version."""
    without_layers: str = ""
    """Why there are none, where the runtime times no layers."""

    @property
    def sum_ms(self) -> float:
        """The layers' sum, profiler overhead included."""
        return sum(layer.latency_ms for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        """The content of ``profile.json``."""
        return {
            "schema": SCHEMA,
            "onnx_sha256": self.onnx_sha256,
            "latency": self.record.as_json(),
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
            "layers_sum_ms": self.sum_ms,
            "layers_runs": self.runs,
            "device_memory_bytes": self.device_memory_bytes,
            "without_layers": self.without_layers,
        }

    def save(self, path: Path) -> None:
        """Writes ``profile.json``, whole or not at all."""
        files.write_json(path, self.as_json())

    @classmethod
    def load(cls, path: Path) -> NetworkProfile:
        """What ``save`` wrote. Raises ``FBNError`` when it is missing, damaged or newer."""
        value = files.read_json(path)
        try:
            if value["schema"] != SCHEMA:
                raise FBNError(
                    f"{path} has the schema {value['schema']}; this version reads {SCHEMA}. "
                    "Profile the model again, or update fbn_deploy."
                )
            return cls(
                record=LatencyRecord.from_json(value["latency"]),
                layers=tuple(
                    Layer(**{**layer, "nodes": tuple(layer.get("nodes", ()))})
                    for layer in value["layers"]
                ),
                runs=value["layers_runs"],
                onnx_sha256=value.get("onnx_sha256", ""),
                device_memory_bytes=value.get("device_memory_bytes"),
                without_layers=value.get("without_layers", ""),
            )
        except (KeyError, TypeError) as error:
            raise FBNError(f"{path} is no profile: {error!r}.") from error


def profile_network(
    model: onnx_ir.Model | bytes | Path,
    target: Target,
    *,
    batch: int = 1,
    threads: int = 1,
    precision: str = "fp32",
    protocol: str = "confirm",
) -> NetworkProfile:
    """Measures ``model`` whole, always anew, and then its layers in a session of their own."""
    meter = LatencyMeter(
        target,
        batch=batch,
        threads=threads,
        precision=precision,
        pace=known_pace(target.device()),
    )
    source, proto = named(*proto_from(model))
    digest = files.sha256_of(model) if isinstance(model, Path) else ""
    record = meter.measure(model, protocol)
    runs = round(min(max(_LAYERS_MS / record.value_ms, _MIN_RUNS), _MAX_RUNS))
    with target.open(
        source, batch=batch, threads=threads, precision=precision, profile=True
    ) as session:
        memory = device_memory_bytes(session)
        try:
            layers, without = named_layers(session.layers(runs), proto), ""
        except NoLayerTimes as error:
            layers, without = (), str(error)
    return NetworkProfile(record, layers, runs, digest, memory, without)


def named_layers(times: list[LayerTime], model: onnx.ModelProto) -> tuple[Layer, ...]:
    """``times`` under the names of the model's nodes."""
    total_ms = sum(time.latency_ms for time in times) or 1.0
    nodes = Nodes(model, times)
    layers = []
    for time in times:
        node = nodes.behind(time)
        layers.append(
            Layer(
                name=node.name or node.output[0] if node else time.name,
                op=node.op_type if node else time.op,
                added=node is None,
                latency_ms=time.latency_ms,
                share=time.latency_ms / total_ms,
                nodes=nodes.fused(time),
            )
        )
    return tuple(layers)
