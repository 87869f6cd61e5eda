"""The stage that ends with the network in fp16, bf16 or int8, held against the trained network.

A tensor that float16 does not hold is found on training images, before an fp16 file is written.
The file takes its name only after the accuracy gate on held-out images: a top-1 drop of more than
``max_drop`` points on any target is refused, for int8 after the most sensitive layers were left
in fp32, up to half of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import nn

from fbn_deploy.data import ImageData, sample_indices
from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.export import estimators
from fbn_deploy.export.calibration import calibrated, largest_magnitudes
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.precision import (
    LARGEST_FLOAT16,
    activations,
    one_sided,
    quantizable,
    quantized_int8,
    typed_bf16,
    typed_fp16,
)
from fbn_deploy.export.precision.form import Form
from fbn_deploy.export.precision.sensitivity import sensitivity
from fbn_deploy.export.ranges import Ranges, model_hash
from fbn_deploy.export.verification import Verification, allowed, verify
from fbn_deploy.files import replacing, sha256_of, write_json
from fbn_deploy.latency.cache import known_pace
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.pipeline.context import Context
from fbn_deploy.targets import PRECISIONS, Target

SCHEMA = 1
LOWER = PRECISIONS[1:]  # than fp32
ANALYSED_IMAGES = 64
ANALYSED_BATCH = 16
WATCHED_IMAGES, WATCHED_BATCH = 32, 8  # for what float16 does not hold; all tensors lie in memory

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PrecisionSettings:
    """What to write and how far it may fall behind. The rest is about int8 only."""

    precision: str
    max_drop: float = 0.5
    """Points of top-1 accuracy, 0 … 100, that may be lost on the test images."""
    calibration: str = estimators.DEFAULT
    calibration_images: int = 500
    calibration_batch: int = 8
    calibration_seed: int | None = None
    """Of the images' draw; None: the run's."""
    keep_fp32: tuple[str, ...] = ()
    equalize: bool = False
    weights_by_mse: bool = False
    """Weight ranges by least squared error instead of the largest weight of a channel."""
    analyze: bool = False

    def checked(self) -> PrecisionSettings:
        """Itself. Raises one ``FBNError`` for everything that is wrong."""
        mistakes = []
        if self.precision not in LOWER:
            mistakes.append(str(unknown("precision", self.precision, LOWER)))
        if not 0 <= self.max_drop <= 100:
            mistakes.append(f"--max-drop is 0 to 100 points of accuracy, not {self.max_drop:g}.")
        if self.calibration_seed is not None and self.calibration_seed < 0:
            mistakes.append(f"--calibration-seed is 0 or above, not {self.calibration_seed}.")
        if self.calibration_batch < 1:
            mistakes.append(f"--calibration-batch is at least 1, not {self.calibration_batch}.")
        try:
            estimators.estimator(self.calibration)
        except FBNError as error:
            mistakes.append(str(error))
        if mistakes:
            raise FBNError("\n".join(mistakes))
        return self


def as_searched(settings: PrecisionSettings, search: Mapping[str, Any]) -> PrecisionSettings:
    """``settings`` with the layers in fp32 that the search of a run left there, if it was in the
    same precision and nothing else is said: its latencies are of that file."""
    kept = tuple(search.get("keep_fp32", ()))
    same = settings.precision == search.get("precision")
    return settings if settings.keep_fp32 or not same else replace(settings, keep_fp32=kept)


def export_precision(
    context: Context,
    network: nn.Module,
    settings: PrecisionSettings,
    targets: Sequence[Target],
    form: Form,
) -> dict[str, Any]:
    """Writes ``model.<precision>.onnx`` and ``verify.<precision>.json``; the latter's content.

    ``targets`` that do not run the precision are left out. ``form``: how the file is written
    (``targets.form_for``). Raises ``FBNError`` when none is left,
    or when the gate does not pass; then there is no file under the model's name that was not
    there before.
    """
    settings.checked()
    able = [target for target in targets if settings.precision in target.precisions]
    if not able:
        raise FBNError(
            f"No target here runs {settings.precision} ({', '.join(t.name for t in targets)} were "
            "asked), so nothing could be verified. Pass a --target that does; fbn targets lists "
            "them."
        )
    subnet_sha256 = sha256_of(context.run.subnet)
    model = _folded(context, network, settings, form)
    gate = _Gate(context, network, settings, able, form, subnet_sha256)
    if settings.precision == "int8":
        return gate.int8(model)
    if settings.precision == "fp16":
        _refuse_overflow(context, model)
    typed = typed_fp16(model) if settings.precision == "fp16" else typed_bf16(model)
    return gate.written(typed, model, {})


def _folded(
    context: Context, network: nn.Module, settings: PrecisionSettings, form: Form
) -> ir.Model:
    """The network in fp32 without BatchNorms, its gauge chosen for the precision."""
    context.reporter.say("Exporting to ONNX and folding BatchNorms away")
    exported = onnx_from_module(network, context.definition.resolution)
    return fold_affine(
        exported,
        equalize=settings.equalize,
        gauge_limit=form.gauge_limit,
        as_convolution=form.as_convolution,
    )[0]


def _refuse_overflow(context: Context, model: ir.Model) -> None:
    """``FBNError`` when a tensor of ``model`` in fp32 leaves float16's range on training images.

    The gate cannot see that: targets on the CPU keep tensors in float32 where the file says
    float16. No margin is kept below the largest float16, and images that are not looked at may
    give more.
    """
    split = context.data.train
    count = min(WATCHED_IMAGES, len(split), len(context.data.test))
    rows = sample_indices(split.labels, count, context.seed)
    batches = (
        _pixels(context.data, split.batch(part)) for part in torch.split(rows, WATCHED_BATCH)
    )
    found = largest_magnitudes(model, batches)
    wide = {name: value for name, value in found.items() if not value <= LARGEST_FLOAT16}
    if wide:
        name, value = next(iter(wide.items()))
        raise FBNError(
            f"{context.run.precision_model('fp16')} was not written: float16 ends at "
            f"{LARGEST_FLOAT16:,.0f}, and on {count} training images {len(wide)} of {len(found)} "
            f"tensors go beyond, the first of them {name!r} to {value:,.0f}. Choose --precision "
            "bf16 or fp32."
        )


@dataclass(frozen=True)
class _Gate:
    """Tries graphs on the targets and keeps one that passes."""

    context: Context
    network: nn.Module
    settings: PrecisionSettings
    targets: Sequence[Target]
    form: Form
    subnet_sha256: str = ""

    def int8(self, model: ir.Model) -> dict[str, Any]:
        """The most that passes: all layers, or all but the 1, 2, 4, … most sensitive ones."""
        settings = self.settings
        ranges = stored_ranges(self.context, model, settings, unsigned=self.form.unsigned)
        levels = min(target.int8_weight_levels for target in self.targets)
        about: dict[str, Any] = {
            "calibration": _about(ranges),
            "weight_levels": levels,
            "weights_by_mse": settings.weights_by_mse,
            "activations": "uint8" if self.form.unsigned else "int8",
        }
        order: list[str] = []
        if settings.analyze:
            order = self._analyse(model, ranges, about)
        kept, more = list(settings.keep_fp32), 1
        while True:
            quantized = quantized_int8(
                model,
                ranges,
                keep_fp32=kept,
                weights_by_mse=settings.weights_by_mse,
                weight_levels=levels,
                unsigned=self.form.unsigned,
            )
            about["kept_fp32"] = kept
            try:
                return self.written(quantized, model, about)
            except _Refused as refused:
                order = order or self._analyse(model, ranges, about)
                if more > len(quantizable(model)) / 2 or more >= len(order):
                    raise FBNError(
                        f"{refused} Even with the {len(kept)} most sensitive layers in fp32. "
                        "Try another --calibration, --equalize, or a larger --max-drop."
                    ) from None
                self.context.reporter.say(
                    f"{refused} Trying again with the {more} most sensitive layers in fp32."
                )
                kept = [*settings.keep_fp32, *order[:more]]
                more *= 2

    def _analyse(self, model: ir.Model, ranges: Ranges, about: dict[str, Any]) -> list[str]:
        data = self.context.data
        rows = sample_indices(data.validation.labels, ANALYSED_IMAGES, self.context.seed)
        batches = [
            _pixels(data, data.validation.batch(part)) for part in torch.split(rows, ANALYSED_BATCH)
        ]
        about["sensitivity"] = sensitivity(
            model,
            ranges,
            batches,
            keep_fp32=self.settings.keep_fp32,
            unsigned=self.form.unsigned,
            weights_by_mse=self.settings.weights_by_mse,
            weight_levels=about["weight_levels"],
            reporter=self.context.reporter,
        )
        return list(about["sensitivity"])

    def written(self, model: ir.Model, fp32: ir.Model, about: dict[str, Any]) -> dict[str, Any]:
        """``model`` under its name, if it passes; the content of its verification."""
        run, settings, reporter = self.context.run, self.settings, self.context.reporter
        path = run.precision_model(settings.precision)
        with replacing(path) as temporary:
            ir.save(model, temporary)
            onnx.checker.check_model(temporary, full_check=True)
            results = [self._verified(temporary, target) for target in self.targets]
            for result in results:
                reporter.say(("Verified on " if self._passes(result) else "Over the limit on ")
                             + result.text())  # fmt: skip
            if failed := [result for result in results if not self._passes(result)]:
                raise _Refused(self._refusal(path, failed))
            # Before the file has its name: what stands there until then goes with the old story.
            speed = [_speed(temporary, fp32, settings.precision, t) for t in self.targets]
        for each in speed:
            if each["latency_ms"] > each["fp32_latency_ms"]:
                reporter.say(_slower(settings.precision, each))
        content = {
            "schema": SCHEMA,
            "model": path.name,
            "onnx_sha256": sha256_of(path),
            "subnet_sha256": self.subnet_sha256,
            "precision": settings.precision,
            "settings": asdict(settings),
            "max_drop": settings.max_drop,
            **about,
            "results": [{**result.as_json(), "passed": True} for result in results],
            "speed": speed,
        }
        write_json(run.precision_verify(settings.precision), content)
        return content

    def _verified(self, path: Path, target: Target) -> Verification:
        data = self.context.data
        return verify(
            path, self.network, data, data.test, target, precision=self.settings.precision
        )

    def _passes(self, result: Verification) -> bool:
        return result.passed_in(self.settings.precision, self.settings.max_drop)

    def _refusal(self, path: Path, failed: Sequence[Verification]) -> str:
        limits = allowed(self.settings.precision, self.settings.max_drop)
        return (
            f"{path} was not written: {limits} is allowed; "
            f"{'; '.join(result.text() for result in failed)}."
        )


class _Refused(FBNError):
    """The gate did not pass."""


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
    tensors = activations(model, settings.keep_fp32)
    if path.exists():
        stored = Ranges.load(path)
        same = stored.is_of(model_hash(model), data_hash, settings.calibration)
        if same and stored.amax.keys() >= set(tensors):
            context.reporter.say(f"Ranges of {path}, calibrated before")
            return stored

    def batches() -> Iterator[Floats]:
        for part in torch.split(rows, settings.calibration_batch):
            yield _pixels(data, split.batch(part))

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


def _pixels(data: ImageData, images: torch.Tensor) -> Floats:
    """Normalised images as ONNX Runtime takes them: (B, 3, R, R) in rows."""
    found: Floats = data.normalize(images).contiguous().numpy()
    return found


def _about(ranges: Ranges) -> dict[str, Any]:
    return {
        "method": ranges.method,
        "images": ranges.count,
        "model_hash": ranges.model_hash,
        "data_hash": ranges.data_hash,
    }


def _speed(path: Path, fp32: ir.Model, precision: str, target: Target) -> dict[str, Any]:
    """Latency of both on one target, batch 1, one thread, one after the other."""
    pace = known_pace(target.device())
    before = LatencyMeter(target, pace=pace).measure(fp32).value_ms
    after = LatencyMeter(target, precision=precision, pace=pace).measure(path).value_ms
    return {"target": target.name, "latency_ms": after, "fp32_latency_ms": before}


def _slower(precision: str, speed: dict[str, Any]) -> str:
    return (
        f"Warning: on {speed['target']} {precision} is slower than fp32 here: "
        f"{speed['latency_ms']:.3f} ms against {speed['fp32_latency_ms']:.3f} ms."
    )
