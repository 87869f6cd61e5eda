"""Runs two models in ONNX Runtime on the same random inputs and compares what they give."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH = 2
"""Stands in for a symbolic batch; more than one, so that images that mix would show."""

UNKNOWN_SIZE = 64
"""Stands in for any other size that is not known."""

LARGEST_INPUT = 1 << 28
"""Numbers in one random input above which nothing is run."""


class CannotCheck(Exception):
    """The models were not run; the text says why."""


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

    Both are serialised models or paths. The error of an output is max |a − b| / max |a|. The
    reference runs without the runtime's own graph optimisations, so that it is the author's
    model and not another folding of it. Values that are not finite must agree.
    Raises ``CannotCheck`` when a model does not run.
    """
    try:
        reference, folded = session(before, optimized=False), session(after)
        feeds = dict(inputs) if inputs is not None else random_inputs(reference.get_inputs(), seed)
        expected, found = reference.run(None, feeds), folded.run(None, feeds)
    except CannotCheck:
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotCheck(f"ONNX Runtime does not run it: {first[0][:300]}") from error
    return max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)


def _difference(a: Any, b: Any) -> float:
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fV":
        return 0.0 if np.array_equal(a, b) else float("inf")
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    difference = np.max(np.abs(a - b), initial=0.0, where=finite)
    with contextlib.suppress(ZeroDivisionError):
        return float(difference) / float(np.max(np.abs(a), initial=0.0, where=finite))
    return 0.0 if difference == 0.0 else float("inf")
