"""Which layers INT8 costs most: each is quantised alone, the rest stays fp32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fbn_deploy.export.precision import weights
from fbn_deploy.export.precision.as_written import AsWrittenSession
from fbn_deploy.export.precision.placement import kept_nodes, quantizable
from fbn_deploy.export.precision.quantized import quantized_int8
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.progress import Reporter

Floats = npt.NDArray[np.float32]


def sensitivity(
    model: ir.Model,
    ranges: Ranges,
    batches: Sequence[Floats],
    *,
    keep_fp32: Sequence[str] = (),
    unsigned: bool = False,
    weights_by_mse: bool = False,
    weight_levels: int = weights.LEVELS,
    reporter: Reporter,
) -> dict[str, float]:
    """Name of a layer → Σ (y_q − y)² / Σ y² of the network's outputs with only that layer in INT8,
    the most sensitive layer first.

    Q/DQ pairs are computed in float32, as they are defined, so that no kernel's own rounding is
    taken for a layer's. Layers of ``keep_fp32`` are left out; ``unsigned``, ``weights_by_mse`` and
    ``weight_levels`` are those of the file (``quantized_int8``).
    """
    kept = {node.name for node in kept_nodes(model.graph, keep_fp32)}
    able = quantizable(model, unsigned)
    names = [name for name in able if name not in kept]
    expected = _outputs(model, batches)
    power = float((expected.astype(np.float64) ** 2).sum()) or 1.0
    errors: dict[str, float] = {}
    with reporter.task("Sensitivity", len(names), "layers") as task:
        for number, name in enumerate(names):
            others = [other for other in able if other != name]
            alone = quantized_int8(
                model,
                ranges,
                keep_fp32=others,
                weights_by_mse=weights_by_mse,
                weight_levels=weight_levels,
                unsigned=unsigned,
            )
            found = _outputs(alone, batches)
            errors[name] = float(((found - expected).astype(np.float64) ** 2).sum()) / power
            task.update(number + 1)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def _outputs(model: ir.Model, batches: Sequence[Floats]) -> Floats:
    name = model.graph.inputs[0].name
    with AsWrittenSession(ir.to_proto(model).SerializeToString()) as session:
        answers = [session.run({str(name): images}) for images in batches]
    return np.concatenate([next(iter(each.values())) for each in answers])
