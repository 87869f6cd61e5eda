"""The stage that ends with the network in fp16, bf16 or int8, held against the trained network.

A tensor that float16 does not hold is found on training images, before an fp16 file is written.
The file takes its name only after the accuracy gate on held-out images: a top-1 drop of more than
``max_drop`` points on any target is refused, for int8 after the most sensitive layers were left
in fp32, up to half of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from fbn_deploy.data import sample_indices
from fbn_deploy.errors import FBNError
from fbn_deploy.export.calibration import largest_magnitudes
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import onnx_from_module
from fbn_deploy.export.metadata import described, feeding
from fbn_deploy.export.precision import (
    LARGEST_FLOAT16,
    quantizable,
    quantized_int8,
    typed_bf16,
    typed_fp16,
)
from fbn_deploy.export.precision.form import Form
from fbn_deploy.export.precision.sensitivity import sensitivity
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.export.verification import Judge, Verification, allowed, verify
from fbn_deploy.files import replacing, sha256_of, write_json
from fbn_deploy.latency.cache import known_pace
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.forms import PrecisionFile
from fbn_deploy.pipeline.precision_settings import PrecisionSettings
from fbn_deploy.pipeline.ranges import pixels, stored_ranges
from fbn_deploy.targets import Target

SCHEMA = 1
ANALYSED_IMAGES = 64
ANALYSED_BATCH = 16
WATCHED_IMAGES, WATCHED_BATCH = 32, 8  # for what float16 does not hold; all tensors lie in memory
NAMED = 5  # layers of a refusal


def export_precision(
    context: Context, network: nn.Module, settings: PrecisionSettings, file: PrecisionFile
) -> dict[str, Any]:
    """Writes ``model.<name>.onnx`` and ``verify.<name>.json`` of ``file``; the latter's content.

    Raises ``FBNError`` when the gate does not pass; then there is no file under the model's name
    that was not there before.
    """
    settings.checked()
    subnet_sha256 = sha256_of(context.run.subnet)
    context.reporter.say("Exporting to ONNX and folding BatchNorms away")
    exported = onnx_from_module(network, context.definition.resolution)
    model = _folded(exported, settings, file.form)
    gate = _Gate(context, network, settings, file, exported, subnet_sha256)
    if settings.precision == "int8":
        return gate.int8(model)
    if settings.precision == "fp16":
        _refuse_overflow(context, model, context.run.precision_model(file.name))
    typed = typed_fp16(model) if settings.precision == "fp16" else typed_bf16(model)
    return gate.written(typed, model, {})


def _folded(exported: ir.Model, settings: PrecisionSettings, form: Form) -> ir.Model:
    """The network in fp32 without BatchNorms, its gauge chosen for the precision."""
    return fold_affine(
        exported,
        equalize=settings.equalize,
        gauge_limit=form.gauge_limit,
        as_convolution=form.as_convolution,
    )[0]


def _refuse_overflow(context: Context, model: ir.Model, path: Path) -> None:
    """``FBNError`` when a tensor of ``model`` in fp32 leaves float16's range on training images.

    It says which; that the answers then are no numbers, the gate would find as well. No margin is
    kept below the largest float16, and images that are not looked at may give more.
    """
    split = context.data.train
    count = min(WATCHED_IMAGES, len(split), len(context.data.test))
    rows = sample_indices(split.labels, count, context.seed)
    batches = (pixels(context.data, split.batch(part)) for part in torch.split(rows, WATCHED_BATCH))
    found = largest_magnitudes(model, batches)
    wide = {name: value for name, value in found.items() if not value <= LARGEST_FLOAT16}
    if wide:
        name, value = next(iter(wide.items()))
        raise FBNError(
            f"{path} was not written: float16 ends at "
            f"{LARGEST_FLOAT16:,.0f}, and on {count} training images {len(wide)} of {len(found)} "
            f"tensors go beyond, the first of them {name!r} to {value:,.0f}. Choose --precision "
            "bf16 or fp32."
        )


@dataclass(frozen=True)
class _Gate:
    """Tries graphs on the judges of ``file`` and keeps one that passes."""

    context: Context
    network: nn.Module
    settings: PrecisionSettings
    file: PrecisionFile
    exported: ir.Model
    subnet_sha256: str = ""

    def int8(self, model: ir.Model) -> dict[str, Any]:
        """The most that passes: all layers, or all but the 1, 2, 4, …, at last half of them that
        are most sensitive."""
        settings, unsigned = self.settings, self.file.form.unsigned
        ranges = stored_ranges(self.context, model, settings, unsigned=unsigned)
        levels = min(judge.int8_weight_levels for judge in self.file.judges)
        about: dict[str, Any] = {
            "calibration": _about(ranges),
            "weight_levels": levels,
            "weights_by_mse": settings.weights_by_mse,
            "activations": "uint8" if unsigned else "int8",
        }
        errors: dict[str, float] = {}
        if settings.analyze:
            errors = self._analyse(model, ranges, about)
        left, most = 0, len(quantizable(model, unsigned)) // 2
        while True:
            kept = [*settings.keep_fp32, *islice(errors, left)]
            quantized = quantized_int8(
                model,
                ranges,
                keep_fp32=kept,
                weights_by_mse=settings.weights_by_mse,
                weight_levels=levels,
                unsigned=unsigned,
            )
            about["kept_fp32"] = kept
            try:
                return self.written(quantized, model, about)
            except _Refused as refused:
                errors = errors or self._analyse(model, ranges, about)
                more = min(max(1, 2 * left), most, len(errors))
                if more == left:
                    raise FBNError(f"{refused} {_gave_up(left, errors)}") from None
                left = more
                self.context.reporter.say(
                    f"{refused} Trying again with the {left} most sensitive layers in fp32."
                )

    def _analyse(self, model: ir.Model, ranges: Ranges, about: dict[str, Any]) -> dict[str, float]:
        data = self.context.data
        rows = sample_indices(data.validation.labels, ANALYSED_IMAGES, self.context.seed)
        batches = [
            pixels(data, data.validation.batch(part)) for part in torch.split(rows, ANALYSED_BATCH)
        ]
        found = sensitivity(
            model,
            ranges,
            batches,
            keep_fp32=self.settings.keep_fp32,
            unsigned=self.file.form.unsigned,
            weights_by_mse=self.settings.weights_by_mse,
            weight_levels=about["weight_levels"],
            reporter=self.context.reporter,
        )
        about["sensitivity"] = found
        return found

    def written(self, model: ir.Model, fp32: ir.Model, about: dict[str, Any]) -> dict[str, Any]:
        """``model`` under its name, if it passes; the content of its verification."""
        run, settings, reporter = self.context.run, self.settings, self.context.reporter
        path = run.precision_model(self.file.name)
        with replacing(path) as temporary:
            ir.save(described(model, self.context.data), temporary)
            onnx.checker.check_model(temporary, full_check=True)
            results = [self._verified(temporary, judge) for judge in self.file.judges]
            for result in results:
                reporter.say(("Verified on " if self._passes(result) else "Over the limit on ")
                             + result.text())  # fmt: skip
            if failed := [result for result in results if not self._passes(result)]:
                raise _Refused(self._refusal(path, failed))
            # Before the file has its name: what stands there until then goes with the old story.
            speed = [
                _speed(temporary, self._deployed_fp32(fp32, target), settings.precision, target)
                for target in self.file.timed
            ]
        for each in speed:
            if each["latency_ms"] > each["fp32_latency_ms"]:
                reporter.say(_slower(settings.precision, each))
        content = {
            "schema": SCHEMA,
            "model": path.name,
            "onnx_sha256": sha256_of(path),
            "subnet_sha256": self.subnet_sha256,
            "precision": settings.precision,
            "target": self.file.target,
            "settings": asdict(settings),
            "max_drop": settings.max_drop,
            **feeding(self.context.data),
            **about,
            "results": [{**result.as_json(), "passed": True} for result in results],
            "speed": speed,
        }
        write_json(run.precision_verify(self.file.name), content)
        return content

    def _deployed_fp32(self, fp32: ir.Model, target: Target) -> ir.Model:
        """``fp32`` as ``target`` runs it fastest, which the form of this file may not be."""
        form = self.file.form
        if form.as_convolution == target.shifts_as_convolution:
            return fp32
        fastest = replace(form, as_convolution=target.shifts_as_convolution)
        return _folded(self.exported, self.settings, fastest)

    def _verified(self, path: Path, judge: Judge) -> Verification:
        data = self.context.data
        return verify(path, self.network, data, data.test, judge, precision=self.settings.precision)

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


def _gave_up(left: int, errors: Mapping[str, float]) -> str:
    """What was tried, and the layers that int8 costs most."""
    worst = ", ".join(f"{name} ({error:.2g})" for name, error in islice(errors.items(), NAMED))
    tried = f"Even with the {left} most sensitive layers in fp32. " if left else ""
    named = f"Relative squared error of the outputs with one layer alone in int8: {worst}. "
    return (
        f"{tried}{named if worst else ''}"
        "Try another --calibration, --equalize, or a larger --max-drop."
    )


def _about(ranges: Ranges) -> dict[str, Any]:
    return {
        "method": ranges.method,
        "images": ranges.count,
        "model_hash": ranges.model_hash,
        "data_hash": ranges.data_hash,
    }


def _speed(path: Path, fp32: ir.Model, precision: str, target: Target) -> dict[str, Any]:
    """Latency of both on one target, batch 1, one thread, one after the other, and what disturbed
    either."""
    wide = LatencyMeter(target, pace=known_pace(target.device()))
    before = wide.measure(fp32)
    narrow = LatencyMeter(target, precision=precision, pace=wide.pace)
    after = narrow.settled(path, narrow.measure(path))
    wide.pace = narrow.pace  # a moment that may tell that the first one was in a crowd
    before = wide.settled(fp32, before)
    return {
        "target": target.name,
        "latency_ms": after.value_ms,
        "fp32_latency_ms": before.value_ms,
        "disturbed": sorted({*before.timing.disturbed, *after.timing.disturbed}),
    }


def _slower(precision: str, speed: dict[str, Any]) -> str:
    disturbed = f" Disturbed: {'; '.join(speed['disturbed'])}." if speed["disturbed"] else ""
    return (
        f"Warning: on {speed['target']} {precision} is slower than fp32 here: "
        f"{speed['latency_ms']:.3f} ms against {speed['fp32_latency_ms']:.3f} ms.{disturbed}"
    )
