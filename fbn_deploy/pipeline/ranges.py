"""The ranges of activations that a run keeps, from images that it trains on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from fbn_deploy.data import ImageData, sample_indices
from fbn_deploy.export import estimators
from fbn_deploy.export.calibration import calibrated
from fbn_deploy.export.precision import activations, one_sided
from fbn_deploy.export.ranges import Ranges, model_hash
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.precision_settings import PrecisionSettings

Floats = npt.NDArray[np.float32]


def stored_ranges(
    context: Context, model: ir.Model, settings: PrecisionSettings, *, unsigned: bool = False
) -> Ranges:
    """The run's ranges if they are of this model, these images, this method and ``unsigned`` (held
    in uint8), else new ones."""
    data = context.data
    split = data.train
    count = min(settings.calibration_images, len(split))
    if count < settings.calibration_images:
        context.reporter.say(
            f"Calibrating with all {count} training images; "
            f"{settings.calibration_images} were asked."
        )
    seed = context.seed if settings.calibration_seed is None else settings.calibration_seed
    rows = sample_indices(split.labels, count, seed)
    said = [data.fingerprint, data.resolution, data.mean, data.std, split.rows[rows].tolist()]
    said += ["uint8"] if unsigned else []
    data_hash = hashlib.sha256(json.dumps(said).encode()).hexdigest()
    path = context.run.ranges(settings.calibration)
    tensors = activations(model, settings.keep_fp32, unsigned)
    if path.exists():
        stored = Ranges.load(path)
        same = stored.is_of(model_hash(model), data_hash, settings.calibration)
        if same and stored.amax.keys() >= set(tensors):
            context.reporter.say(f"Ranges of {path}, calibrated before")
            return stored

    def batches() -> Iterator[Floats]:
        for part in torch.split(rows, settings.calibration_batch):
            yield pixels(data, split.batch(part))

    found = calibrated(
        model,
        tensors,
        batches(),
        [estimators.estimator(settings.calibration)],
        count=count,
        data_hash=data_hash,
        reporter=context.reporter,
        one_sided=one_sided(model, settings.keep_fp32) if unsigned else (),
    )[settings.calibration]
    found.save(path)
    return found


def pixels(data: ImageData, images: torch.Tensor) -> Floats:
    """Normalised images as ONNX Runtime takes them: (B, 3, R, R) in rows."""
    found: Floats = data.normalize(images).contiguous().numpy()
    return found
