"""The shapes of a graph's values, where they can be inferred."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass


def infer_shapes(model: ir.Model) -> None:
    """Adds the shapes that are missing; what cannot be inferred stays unknown."""
    if all(value.shape is not None for node in model.graph for value in node.outputs if value.name):
        return
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    finally:
        logger.setLevel(level)
