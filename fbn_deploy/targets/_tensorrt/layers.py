"""Layers of an engine → the nodes of the ONNX model that they compute.

TensorRT fuses nodes into kernels and renames them. Both its engine inspector (JSON, as of an
engine that is loaded) and its builder's log (lines ``Name: …, LayerType: …, Metadata: …``) keep,
as metadata, the names of the nodes: ``[ONNX Layer: stem.conv][ONNX Layer: stem.relu]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_LINE = re.compile(r"^Name: (.+?), LayerType: ([^,]+),(.*)$")
_KERNEL = re.compile(r"_myl\d+_\d+$")  # the compiler's number behind a node's name
# A kernel is called after the node that takes its time: the convolution, not its activation.
_HEAVY = ("Conv", "Gemm", "MatMul", "ConvTranspose")


@dataclass(frozen=True)
class EngineLayer:
    """One kernel. ``op`` is TensorRT's word for it; ``nodes`` are ONNX node names, in order."""

    name: str
    op: str
    nodes: tuple[str, ...]

    def main_node(self) -> str | None:
        """The node that takes most of the time, by its op; the first where no op is heavy; None
        for a kernel that TensorRT added."""
        heavy = (node for node in self.nodes if _op_of(node) in _HEAVY)
        return next(heavy, self.nodes[0] if self.nodes else None)


def layers_from_inspector(information: str) -> list[EngineLayer]:
    """Layers from the JSON of ``EngineInspector.get_engine_information``.

    An engine that was built without details lists bare names.
    """
    found = []
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, str):
            found.append(EngineLayer(layer, "", nodes_in(layer)))
            continue
        name, metadata = layer.get("Name", ""), layer.get("Metadata", "")
        op = layer.get("LayerType", "")
        found.append(EngineLayer(name, op, nodes_in(metadata)))
    return found


def layers_from_log(text: str) -> list[EngineLayer]:
    """Layers from the message in which a builder lists them."""
    lines = (_LINE.match(line.strip()) for line in text.splitlines())
    return [
        EngineLayer(match[1], match[2], nodes_in(match[3].rpartition("Metadata:")[2]))
        for match in lines
        if match
    ]


def nodes_in(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that ``metadata`` names, each once."""
    return tuple(dict.fromkeys(_NODE.findall(metadata)))


def layer_called(name: str, layers: Sequence[EngineLayer]) -> EngineLayer | None:
    """The layer that a profiler calls ``name``."""
    exact = (layer for layer in layers if layer.name == name)
    bare = _KERNEL.sub("", name)
    alike = (layer for layer in layers if _KERNEL.sub("", layer.name) == bare)
    return next(exact, next(alike, None))


def _op_of(node: str) -> str:
    """``Conv`` of ``stage1_0.mb6_k3.depthwise.conv/Conv_2``: how exported nodes are named."""
    return re.sub(r"_\d+$", "", node.rpartition("/")[2])
