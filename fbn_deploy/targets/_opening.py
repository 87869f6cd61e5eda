"""What every ``open`` checks and builds before a runtime sees the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fbn_deploy.targets._protocol import Target

_SEED = 0
_WHERE = ("Exception from", "Check '")  # OpenVINO's source lines, before its reason


def check_request(
    target: Target, model: bytes | Path, *, batch: int, threads: int, precision: str
) -> None:
    """Raises ``FBNError`` for what no runtime can open, before one is loaded."""
    if batch < 1 or threads < 1:
        raise FBNError(f"Batch and threads are at least 1; got batch {batch}, threads {threads}.")
    if precision not in target.precisions:
        raise FBNError(
            f"Target {target.name!r} does not run {precision!r}; "
            f"it runs: {', '.join(target.precisions)}."
        )
    if isinstance(model, Path) and not model.is_file():
        raise FBNError(f"There is no ONNX file {model}.")


def model_label(model: bytes | Path) -> str:
    """How messages call the model."""
    return str(model) if isinstance(model, Path) else "The model"


def cannot_open(target: Target, model: bytes | Path, error: Exception) -> FBNError:
    """The error for a model that the runtime refuses, with the first line that gives a reason."""
    return FBNError(
        f"{model_label(model)} cannot be opened on target {target.name!r}: {_reason(error)} "
        "Check that it is a complete ONNX model that this runtime supports."
    )


def cannot_run(target: Target, model: bytes | Path, error: Exception) -> FBNError:
    """The error for a model that was opened and fails in a run: of memory, say."""
    return FBNError(
        f"{model_label(model)} does not run on target {target.name!r}: {_reason(error)} "
        "Try a smaller batch, or another model."
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if not line.startswith(_WHERE)), lines[0])


def filled_shape(
    model: bytes | Path, name: str, shape: Sequence[Any], batch: int
) -> tuple[int, ...]:
    """``shape`` with its free first dimension set to ``batch``; integers are fixed dimensions.

    Raises ``FBNError`` when another dimension is free, or the first is fixed to another batch.
    """
    free = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
    if any(axis > 0 for axis in free):
        raise FBNError(
            f"{model_label(model)}: input {name!r} has the shape {list(shape)}; only its first "
            "dimension, the batch, may be free. Export it with a fixed image size."
        )
    if shape and not free and shape[0] != batch:
        raise FBNError(
            f"{model_label(model)}: input {name!r} has a fixed batch of {shape[0]}, and batch "
            f"{batch} was asked. Pass --batch {shape[0]}, or export it with a free batch."
        )
    return tuple(batch if axis in free else int(size) for axis, size in enumerate(shape))


def sample_inputs(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, npt.DTypeLike]
) -> dict[str, npt.NDArray[Any]]:
    """Inputs for timing: standard normal numbers, always the same; zeros for integers."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, shape in shapes.items():
        dtype = np.dtype(dtypes[name])
        values = rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)
        arrays[name] = values.astype(dtype)
    return arrays


def checked_inputs(
    inputs: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, npt.DTypeLike],
) -> dict[str, npt.NDArray[Any]]:
    """``inputs`` as contiguous arrays; ``FBNError`` that names every one that does not match."""
    import numpy as np

    wrong = [f"there is no input {name!r}" for name in inputs if name not in shapes]
    for name, shape in shapes.items():
        want = f"{name!r} takes {list(shape)} {np.dtype(dtypes[name])}"
        if name not in inputs:
            wrong.append(f"{want}, and is missing")
        elif inputs[name].shape != shape or inputs[name].dtype != np.dtype(dtypes[name]):
            wrong.append(f"{want}, got {list(inputs[name].shape)} {inputs[name].dtype}")
    if wrong:
        raise FBNError("The inputs do not match the model: " + "; ".join(wrong) + ".")
    return {name: np.ascontiguousarray(array) for name, array in inputs.items()}


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half: robust as a median, but not bound to a profiler's 1 µs steps."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)
