"""Calibration: runs a model on real images, watches activations, and estimates their ranges.

The images stream through ONNX Runtime with the watched tensors as extra outputs; of each tensor
stay a histogram and the sums of its channels, whatever the number of images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from fbn_deploy.cores import number_of_cores
from fbn_deploy.errors import FBNError
from fbn_deploy.export.estimators import Estimator
from fbn_deploy.export.histogram import NOTHING, UNSIGNED_LEVELS, GrowingHistogram
from fbn_deploy.export.ranges import Ranges, model_hash
from fbn_deploy.progress import Reporter

MIN_IMAGES = 8
"""Below, a range is what a few images happen to show."""

_NAMED = 5  # tensors that an error names


class Observed:
    """One tensor: the histogram of its magnitudes and the mean of each channel (axis 1)."""

    def __init__(self) -> None:
        self.histogram = GrowingHistogram()
        self._sums: npt.NDArray[np.float64] = np.zeros(0)
        self._count = 0

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """``values`` is (batch, channels, …), or (batch,), then without channels."""
        self.histogram.add(values)
        if values.ndim < 2:
            return
        axes = (0, *range(2, values.ndim))
        sums = values.sum(axis=axes, dtype=np.float64)
        self._sums = sums if self._count == 0 else self._sums + sums
        self._count += values.size // values.shape[1]

    def means(self) -> tuple[float, ...]:
        """Rounded to 7 digits, as much as a float32 holds."""
        return tuple(float(f"{mean:.7g}") for mean in self._sums / max(self._count, 1))


def calibrated(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[npt.NDArray[np.float32]],
    estimators: Sequence[Estimator],
    *,
    count: int,
    data_hash: str,
    reporter: Reporter,
    one_sided: Collection[str] = (),
) -> dict[str, Ranges]:
    """Name of an estimator → the ranges of ``tensors`` that it finds; all from one pass. Those
    ``one_sided`` are never negative and will be held in uint8, with 255 steps.

    ``model`` takes one input, (batch, 3, R, R) float32, of which ``batches`` are ``count``
    images. Raises ``FBNError`` for fewer images than ``MIN_IMAGES``, and where a tensor is NaN or
    infinite or 0 for all images: both are a broken network, or other images than it was made for.
    """
    if count < MIN_IMAGES:
        raise FBNError(
            f"Calibration has {count} images; it needs at least {MIN_IMAGES}, better 100 to 500. "
            "Pass a larger --calibration-images, or more data."
        )
    observed = {name: Observed() for name in tensors}
    feed = model.graph.inputs[0].name
    assert feed is not None, "A model without an input name."
    inside = [name for name in tensors if name != feed]
    session = _session(model, inside) if inside else None
    done = 0
    with reporter.task("Calibrating", count, "images") as task:
        for images in batches:
            values = session.run(inside, {feed: np.ascontiguousarray(images)}) if session else []
            for name, value in zip(inside, values, strict=True):
                observed[name].add(value)
            if feed in observed:
                observed[feed].add(images)
            done += len(images)
            task.update(done)
            _refuse_not_finite(observed, done)
    assert done == count, f"{done} images instead of {count}."
    _refuse_dead(observed, count)
    found = {name: each.histogram.value() for name, each in observed.items()}
    for name in found.keys() & set(one_sided):
        found[name] = dataclasses.replace(found[name], levels=UNSIGNED_LEVELS)
    means = {name: each.means() for name, each in observed.items()}
    digest = model_hash(model)
    return {
        estimator.name: Ranges(
            {name: estimator.amax(histogram) for name, histogram in found.items()},
            means,
            estimator.name,
            digest,
            data_hash,
            count,
        )
        for estimator in estimators
    }


def largest_magnitudes(
    model: ir.Model, batches: Iterable[npt.NDArray[np.float32]]
) -> dict[str, float]:
    """Name of a float32 tensor that ``model`` computes, or its input → its largest |x|; NaN or
    infinite if such a value was seen. ``model`` and ``batches`` as in ``calibrated``."""
    feed = model.graph.inputs[0].name
    assert feed is not None, "A model without an input name."
    inside = [
        value.name
        for node in model.graph
        for value in node.outputs
        if value.name and value.dtype in (None, ir.DataType.FLOAT) and node.op_type != "Constant"
    ]
    session = _session(model, inside)
    largest = dict.fromkeys([feed, *inside], 0.0)
    for images in batches:
        values = session.run(inside, {feed: np.ascontiguousarray(images)})
        for name, value in zip(largest, [images, *values], strict=True):
            # NaN stays: np.maximum hands it on
            largest[name] = float(np.maximum(largest[name], np.abs(value).max(initial=0.0)))
    return largest


def _session(model: ir.Model, tensors: Sequence[str]) -> Any:
    """A session with ``tensors`` as outputs, all threads of the machine."""
    import onnxruntime

    watched = model.clone()
    values = {value.name: value for node in watched.graph for value in node.outputs}
    watched.graph.outputs.clear()
    watched.graph.outputs.extend(values[name] for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = number_of_cores()
    return onnxruntime.InferenceSession(
        ir.to_proto(watched).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _refuse_not_finite(observed: dict[str, Observed], done: int) -> None:
    wrong = [name for name, each in observed.items() if not math.isfinite(each.histogram.amax)]
    if wrong:
        raise FBNError(
            f"Calibration met values that are NaN or infinite within the first {done} images, in "
            f"{_some(wrong)}. The network is broken, or the images are not what it was trained on."
        )


def _refuse_dead(observed: dict[str, Observed], count: int) -> None:
    dead = [name for name, each in observed.items() if each.histogram.amax <= NOTHING]
    if dead:
        raise FBNError(
            f"{_some(dead)} stayed 0 for all {count} calibration images, so no range can be "
            "estimated. Calibrate with more images, or leave the layers that read it in fp32 with "
            "--keep-fp32."
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more
