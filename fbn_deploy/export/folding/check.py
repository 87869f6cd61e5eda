"""Runs two models in ONNX Runtime on the same random inputs and compares what they give."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fbn_deploy.errors import FBNError

BATCH = 2
"""Stands in for a symbolic batch; more than one, so that images that mix would show."""

UNKNOWN_SIZE = 64
"""Stands in for any other size that is not known."""

LARGEST_INPUT = 1 << 28
"""Numbers in one random input above which nothing is run."""

MAX_ERROR = 1e-3
"""Largest relative error of a folded model, as for an exported one (``export.verification``). The
rounding of float32 is 2e-6 at most in ``benchmarks/results/folding_exactness.json``."""

MAX_ERROR_COARSE = 0.05
"""The same where tensors have 16 or 8 bits: folding moves torchvision's networks in float16 by
8e-4, and ONNX Runtime 1.31's own optimisations move a MobileNetV2 in int8 by 8e-3."""

COARSE = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT8, ir.DataType.UINT8})


class CannotCheck(Exception):
    """The models were not compared; the text says why."""


def limit_of(model: ir.Model) -> float:
    """The largest relative error that rounding explains in a model of this precision."""
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    values += model.graph.initializers.values()
    return MAX_ERROR_COARSE if any(value.dtype in COARSE for value in values) else MAX_ERROR


def refusal(error: float, limit: float) -> str:
    """Why a result with this error is not written, and what to do."""
    found = (
        f"differs by {error:.1e} of the largest output, more than the {limit:g} of rounding"
        if np.isfinite(error)
        else "has outputs of other shapes, or NaN or infinity in other places"
    )
    return (
        f"the result {found}, when both run in ONNX Runtime on a random input. Nothing was "
        "written; please report this model."
    )


def session(model: bytes | str, optimized: bool = True) -> Any:
    """An ONNX Runtime session on one CPU thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    level = "ORT_ENABLE_ALL" if optimized else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def random_inputs(inputs: Any, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Normally distributed inputs for the ``get_inputs()`` of a session.

    Raises ``CannotCheck`` for inputs that are no float tensors or are very large.
    """
    kinds = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(float16)": np.float16,
    }
    rng = np.random.default_rng(seed)
    made: dict[str, npt.NDArray[Any]] = {}
    for item in inputs:
        if item.type not in kinds:
            raise CannotCheck(f"input {item.name} is {item.type}, only float inputs are made up")
        shape = [
            size if isinstance(size, int) else (UNKNOWN_SIZE if axis else BATCH)
            for axis, size in enumerate(item.shape or ())
        ]
        if np.prod(shape, dtype=np.float64) > LARGEST_INPUT:
            raise CannotCheck(f"input {item.name} of shape {shape} is too large to make up")
        made[item.name] = rng.standard_normal(shape).astype(kinds[item.type])
    return made


def relative_error(
    before: bytes | str,
    after: bytes | str,
    inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    seed: int = 0,
) -> float:
    """The largest relative error of ``after`` against ``before`` over all outputs.

    Both are serialised models or paths. The error of an output is max |a − b| / max |a|, or the
    share of the numbers that differ where they are no floats; infinity where shapes differ or
    values that are not finite do not agree. The reference runs without the runtime's own graph
    optimisations, so that it is the author's model and not another folding of it.
    Raises ``CannotCheck`` when ``before`` does not run or gives something other than tensors, and
    ``FBNError`` when ``after`` alone does not run.
    """
    try:
        reference = session(before, optimized=False)
        feeds = dict(inputs) if inputs is not None else random_inputs(reference.get_inputs(), seed)
        expected = reference.run(None, feeds)
    except CannotCheck:
        raise
    except Exception as error:
        raise CannotCheck(f"ONNX Runtime does not run it: {first_line(error)}") from error
    if not all(isinstance(output, np.ndarray) for output in expected):
        raise CannotCheck("it gives sequences or maps, only tensors are compared")
    try:
        found = session(after).run(None, feeds)
    except MemoryError as error:
        raise CannotCheck("there is no memory to run the result as well") from error
    except Exception as error:
        raise FBNError(f"ONNX Runtime does not run the result: {first_line(error)}") from error
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def first_line(error: BaseException) -> str:
    """What a library says, without its stack of calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _difference(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind not in "fV":
        return float(np.mean(a != b)) if a.size else 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    difference = np.max(np.abs(a - b), initial=0.0, where=finite)
    with contextlib.suppress(ZeroDivisionError):
        return float(difference) / float(np.max(np.abs(a), initial=0.0, where=finite))
    return 0.0 if difference == 0.0 else float("inf")
