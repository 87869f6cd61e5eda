"""A bundle of a space's blocks and probes, for devices without PyTorch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fbn_deploy.errors import FBNError
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
) -> Inventory:
    """Writes the bundle of a space and returns what is in it.

    Raises ``FBNError`` for a space that builds its networks by itself: it has no blocks.
    """
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
    _as_if_trained(supernet.network)
    with reporter.task("Exporting the supernet once for all blocks", 1, "graphs"):
        graph = candidate_graphs(supernet, batch)
    parts = parts_of(
        supernet,
        lambda architecture: fold_affine(graph(architecture))[0],
        batch,
        reporter,
        probes=probes,
    )

    def patterned(name: str) -> bytes:
        return _patterned(proto_from(parts.model(name))[1])

    with reporter.task(f"Writing {out}", len(parts.inventory.graphs), "graphs") as task:
        write_bundle(out, parts.inventory, patterned, task.update)
    return parts.inventory


def _as_if_trained(network: nn.Module) -> None:
    """BatchNorms as training leaves them: no scale is 1, no shift 0, and in every second one some
    scales are negative. Folding leaves the same nodes behind as it does after training."""
    generator = torch.Generator().manual_seed(_SEED)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for number, norm in enumerate(norms):
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 1.5),
        ):
            if tensor is not None:
                tensor.data.uniform_(low, high, generator=generator)
        if number % 2 and norm.weight is not None:
            norm.weight.data[::8] *= -1


def _patterned(model: onnx.ModelProto) -> bytes:
    """The graph with every weight replaced by a pattern of the size that keeps activations as
    large as the input (He et al. 2015)."""
    pattern = np.random.default_rng(_SEED).standard_normal(_PATTERN).astype(np.float32)
    for tensor in model.graph.initializer:
        elements = math.prod(tensor.dims)
        if tensor.data_type == onnx.TensorProto.FLOAT and elements > 1:
            fan_in = math.prod(tensor.dims[1:]) if len(tensor.dims) > 1 else 100
            values = np.resize(pattern * math.sqrt(2.0 / fan_in), elements)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(values.reshape(tuple(tensor.dims)), tensor.name)
            )
    content: bytes = model.SerializeToString()
    return content
