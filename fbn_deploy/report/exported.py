"""What the exports of a run say: folding, verification, other precisions, engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fbn_deploy.report.fields import Fields, shown

SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """A file run on real images and held against the trained network (``verification.py``)."""

    target: str
    images: int
    max_relative_error: float
    top1_agreement: float
    accuracy_trained: float
    accuracy_exported: float
    passed: bool

    @property
    def change(self) -> float:
        """Accuracy gained (or, negative, lost) by the export, as a share."""
        return self.accuracy_exported - self.accuracy_trained


@dataclass(frozen=True)
class Export:
    """``model.onnx`` and how it was verified."""

    model: str
    batchnorms_before: int | None
    batchnorms_after: int | None
    checks: tuple[Check, ...]
    onnx_sha256: str
    """Of the file that was verified; empty where an older version verified it."""
    subnet_sha256: str
    """Of the trained network's file that it was exported from; empty as above."""
    input: Mapping[str, str]
    """How an image becomes what the network takes; empty as above."""


@dataclass(frozen=True)
class Folding:
    """What folding absorbed, and what had to stay and why."""

    nodes_before: int
    nodes_after: int
    absorbed: int
    stayed: int
    reasons: Mapping[str, int]
    warnings: tuple[str, ...]
    max_error: float | None
    check: str


@dataclass(frozen=True)
class Speed:
    """The latency of a precision beside fp32 on one target, one measured after the other."""

    target: str
    latency_ms: float
    fp32_latency_ms: float
    disturbed: tuple[str, ...]
    """What disturbed either of them, in words."""

    @property
    def factor(self) -> float:
        """Above 1: faster than fp32."""
        return self.fp32_latency_ms / self.latency_ms if self.latency_ms else 1.0


@dataclass(frozen=True)
class Precision:
    """``model.<precision>.onnx``, which passed its gate."""

    name: str
    model: str
    target: str
    """The one that was asked; empty where none was."""
    max_drop: float | None
    """Points of accuracy that were allowed to be lost."""
    checks: tuple[Check, ...]
    speeds: tuple[Speed, ...]
    kept_fp32: tuple[str, ...]
    sensitivity: Mapping[str, float]
    """Layer → relative squared error of the outputs with it alone in int8."""
    calibration: Mapping[str, str]
    settings: Mapping[str, str]
    """Option → what was told; an older version wrote down some of them."""
    onnx_sha256: str
    subnet_sha256: str
    activations: str
    """``int8`` or ``uint8``; empty where nothing says."""
    input: Mapping[str, str]
    """As an ``Export`` says it."""

    @property
    def label(self) -> str:
        """``name``, or ``int8-signed`` for a file beside that for the run's budgets."""
        return self.model.removeprefix("model.").removesuffix(".onnx")


@dataclass(frozen=True)
class Engine:
    """An engine file by the story beside it."""

    name: str
    bytes: int | None
    sha256: str
    """Of the engine; ``onnx_sha256`` is of the model that it was built from."""
    target: str
    version: str
    device: Mapping[str, str]
    """GPU, driver, …; empty where it was built without one."""
    model: str
    onnx_sha256: str
    precision: str
    options: Mapping[str, str]
    seconds: float | None
    warnings: tuple[str, ...]
    layers: int
    check: Check | None
    """None: built and not run."""


def read_export(path: Path) -> Export:
    """``verify.json``."""
    content = Fields.read(path, SCHEMA)
    folded = content.part("batchnorms")
    return Export(
        model=content.text("model"),
        batchnorms_before=folded.count_or_none("before"),
        batchnorms_after=folded.count_or_none("after"),
        checks=tuple(_check(each) for each in content.parts("results")),
        onnx_sha256=content.text("onnx_sha256", ""),
        subnet_sha256=content.text("subnet_sha256", ""),
        input=content.named_texts("input"),
    )


def read_folding(path: Path) -> Folding:
    """``fold.json``."""
    content = Fields.read(path, SCHEMA)
    reasons = Counter(
        each.text(key)
        for each in content.parts("stayed")
        for key in ("scale_reason", "shift_reason")
        if key in each
    )
    return Folding(
        nodes_before=content.part("nodes").count("before"),
        nodes_after=content.part("nodes").count("after"),
        absorbed=content.length("absorbed"),
        stayed=content.length("stayed"),
        reasons=dict(reasons.most_common()),
        warnings=content.texts("warnings"),
        max_error=content.part("check").number_or_none("max_relative_error"),
        check=content.part("check").text("how", ""),
    )


def read_precision(path: Path) -> Precision:
    """``verify.<precision>.json``."""
    content = Fields.read(path, SCHEMA)
    return Precision(
        name=content.text("precision"),
        model=content.text("model"),
        target=content.text("target", ""),
        max_drop=content.number_or_none("max_drop"),
        checks=tuple(_check(each) for each in content.parts("results")),
        speeds=tuple(
            Speed(
                each.text("target"),
                each.number("latency_ms"),
                each.number("fp32_latency_ms"),
                each.texts("disturbed"),
            )
            for each in content.parts("speed")
        ),
        kept_fp32=content.texts("kept_fp32"),
        sensitivity=content.named_numbers("sensitivity"),
        calibration={
            name: text
            for name, text in content.named_texts("calibration").items()
            if not name.endswith("_hash")
        },
        settings=_settings(content),
        onnx_sha256=content.text("onnx_sha256", ""),
        subnet_sha256=content.text("subnet_sha256", ""),
        activations=content.text("activations", ""),
        input=content.named_texts("input"),
    )


def read_engine(path: Path) -> Engine:
    """``model.<target>.engine.json``."""
    content = Fields.read(path, SCHEMA)
    build = content.part("build")
    return Engine(
        name=path.name.removesuffix(".json"),
        bytes=content.count_or_none("bytes"),
        sha256=content.text("sha256", ""),
        target=content.text("target"),
        version=content.text("version", ""),
        device=content.named_texts("device"),
        model=content.text("model", ""),
        onnx_sha256=content.text("onnx_sha256", ""),
        precision=content.text("precision", "fp32"),
        options=content.named_texts("options"),
        seconds=build.number_or_none("seconds"),
        warnings=build.texts("warnings"),
        layers=build.length("layers"),
        check=_check(content.part("verification")) if "verification" in content else None,
    )


def _settings(content: Fields) -> dict[str, str]:
    """What an export was told; older versions say a part of it, in other places."""
    calibration = content.named_texts("calibration")
    places = {
        "max_drop": shown(content.number_or_none("max_drop")),
        "weights_by_mse": shown(content.flag("weights_by_mse")),
        "calibration": calibration.get("method", "none"),
        "calibration_images": calibration.get("images", "none"),
    }
    told = {name: text for name, text in places.items() if text != "none"}
    return told | content.named_texts("settings")


def _check(content: Fields) -> Check:
    return Check(
        target=content.text("target"),
        images=content.count("images"),
        max_relative_error=content.number("max_relative_error"),
        top1_agreement=content.share("top1_agreement"),
        accuracy_trained=content.share("accuracy_trained"),
        accuracy_exported=content.share("accuracy_exported"),
        passed=bool(content.flag("passed")),
    )
