"""A bundle of a space's blocks and probes, for devices without PyTorch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.latency.bundle import write_bundle
from fbn_deploy.latency.inventory import Inventory
from fbn_deploy.latency.network import proto_from
from fbn_deploy.latency.predictor import MIN_PROBES
from fbn_deploy.pipeline.parts import PROBES, parts_of
from fbn_deploy.progress import Reporter
from fbn_deploy.supernet.definition import SpaceDefinition
from fbn_deploy.supernet.supernet import build_supernet
from fbn_deploy.targets import PRECISIONS, form_for, refuse_form

_PATTERN = 64  # floats: what is not repeated of a tensor is 256 bytes
_SEED = 0


def bundle(
    definition: SpaceDefinition,
    num_classes: int,
    batch: int,
    out: Path,
    reporter: Reporter,
    *,
    bn: str = "fair",
    probes: int = PROBES,
    precision: str = "fp32",
    target: str | None = None,
) -> Inventory:
    """Writes the bundle of a space and returns what is in it, all of it in ``precision``.

    ``target``, which need not be here, says how int8 holds activations (``quantized_int8``).
    Raises ``FBNError`` for a space that builds its networks by itself: it has no blocks.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if target is not None:
        refuse_form(target, precision)
    form = form_for(precision, [target] if target else [], bundled=True)
    if min(num_classes, batch) < 1 or probes < MIN_PROBES:
        raise FBNError(
            f"Classes and batch are at least 1, probes at least {MIN_PROBES}; "
            f"asked: {num_classes}, {batch}, {probes}."
        )
    if definition.builds_subnets:
        raise FBNError(
            f"The space {definition.name} builds its networks by itself, so there are no blocks "
            "to bundle."
        )
    supernet = build_supernet(definition, num_classes, bn=bn)
    with reporter.task("Exporting the supernet once for all blocks", 1, "graphs"):
        graph = candidate_graphs(supernet, batch)
    parts = parts_of(
        supernet,
        lambda architecture: fold_affine(graph(architecture), gauge_limit=form.gauge_limit)[0],
        batch,
        reporter,
        form=form,
        probes=probes,
    )

    if (found := len(parts.inventory.probes)) < MIN_PROBES:
        raise FBNError(
            f"The space {definition.name} has {found} networks that differ; a latency predictor "
            f"needs {MIN_PROBES}. Measure these few one by one with fbn profile."
        )

    def patterned(name: str) -> bytes:
        model = onnx_ir.from_proto(_patterned(proto_from(parts.folded(name))[1]))
        content: bytes = onnx_ir.to_proto(form.of(model)).SerializeToString()
        return content

    with reporter.task(f"Writing {out}", len(parts.inventory.graphs), "graphs") as task:
        write_bundle(out, parts.inventory, patterned, task.update)
    return parts.inventory


def _patterned(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every weight replaced by a pattern of the size that keeps activations as
    large as the input (He et al. 2015).

    Each has a pattern of its own: runtimes compute equal layers that read the same tensor once.
    """
    for number, tensor in enumerate(model.graph.initializer):
        rng = np.random.default_rng([_SEED, number])
        pattern = rng.standard_normal(_PATTERN).astype(np.float32)
        elements = math.prod(tensor.dims)
        if tensor.data_type == onnx.TensorProto.FLOAT and elements > 1:
            fan_in = math.prod(tensor.dims[1:]) if len(tensor.dims) > 1 else 100
            values = np.resize(pattern * math.sqrt(2.0 / fan_in), elements)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(values.reshape(tuple(tensor.dims)), tensor.name)
            )
    return model
