"""The target that each of TensorRT's packages makes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import cache_folder
from fbn_deploy.targets import _cuda, _opening
from fbn_deploy.targets._engines import (
    DEFAULT_OPTIONS,
    Check,
    EngineOptions,
    EngineReport,
    Progress,
)
from fbn_deploy.targets._host import OnCuda
from fbn_deploy.targets._tensorrt import device, engine_file
from fbn_deploy.targets._tensorrt.builder import BuilderProcess, BuiltEngine
from fbn_deploy.targets._tensorrt.building import CannotParseError
from fbn_deploy.targets._tensorrt.package import Package
from fbn_deploy.targets._tensorrt.session import TensorRtSession
from fbn_deploy.targets._tensorrt.timing_cache import cache_path
from fbn_deploy.targets._weights import hash_with_weights

# TensorRT-RTX 1.7 stores the weights of an INT8 depthwise convolution anew for every image of the
# batch: a MobileNet of 3 MB in INT8 gave engines of 11, 35 and 114 MB for batch 1, 8 and 32, and of
# 8 MB whatever the batch with its depthwise convolutions in fp32.
_SWOLLEN, _KERNELS_BYTES = 6, 10_000_000  # kernels alone take up to a few MB
_SWOLLEN_WARNING = (
    "the engine is more than 6 times as large as the model: depthwise convolutions in int8 are "
    "stored for each image of the batch. Leave them in fp32 with --keep-fp32 '*depthwise*', or "
    "build for a smaller batch"
)


@dataclass(frozen=True)
class TensorRtTarget(OnCuda):
    """An NVIDIA GPU by way of ``package``."""

    package: Package
    name: str
    description: str
    preference: int
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16", "int8")
    int8_weight_levels: int = 127
    unsigned_activations: bool | None = False  # its parser refuses them
    shifts_as_convolution: bool = True  # not measured
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "tf32": "off",
            "timing": "device events, transfers excluded",
            "cuda_graph": "where it captures",
            "optimization_level": str(EngineOptions.optimization_level),
        }
    )

    def missing(self) -> str | None:
        """The driver is asked first: without one, a runtime can end the process."""
        return (
            _cuda.driver_problem()
            or self.package.import_problem()
            or device.import_problem()
            or self._unsupported_gpu()
        )

    def cannot_build(self) -> str | None:
        needs_gpu = not self.package.builds_without_gpu
        return (needs_gpu and self.missing()) or self.package.import_problem()

    def _unsupported_gpu(self) -> str | None:
        """TensorRT-RTX lists the compute capabilities that it knows; TensorRT has no such list
        and refuses others when it builds."""
        listed = getattr(self.package.load(), "ComputeCapability", None)
        names = [name for name in dir(listed) if name.startswith("SM")]
        major, minor = _cuda.compute_capability()
        if not names or f"SM{major}{minor}" in names:
            return None
        known = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in sorted(names, key=_number))
        return (
            f"{self.package.label} {self.package.version()} does not run on {_cuda.device_name()} "
            f"(compute capability {major}.{minor}); it runs on {known}. Use TensorRT there"
        )

    def versions(self) -> dict[str, str]:
        known = {
            self.package.module: self.package.version(),
            "driver_cuda": _cuda.driver_version(),
            "driver": _cuda.driver_release(),
        }
        return {name: version for name, version in known.items() if version}

    def open(
        self,
        model: bytes | Path,
        *,
        batch: int,
        threads: int,
        precision: str = "fp32",
        profile: bool = False,
    ) -> TensorRtSession:
        """As ``Target.open``. A ``Path`` that ends in ``.engine`` is loaded; an ONNX file with an
        engine of it beside is not built again: what was delivered is what is measured."""
        _opening.check_request(self, model, batch=batch, threads=threads, precision=precision)
        if problem := self.missing():
            raise FBNError(f"Target {self.name!r} is not ready: {problem.rstrip('.')}.")
        options = EngineOptions(batch=batch)
        plan, label, options = self._plan(model, options)
        return TensorRtSession(
            self.package.load(),
            plan,
            label=label,
            batch=batch,
            profile=profile,
            version_compatible=options.version_compatible,
            runtime_cache=self._cache("runtime", options),
        )

    def _plan(
        self, model: bytes | Path, options: EngineOptions
    ) -> tuple[bytes, str, EngineOptions]:
        """A serialised engine, how messages call it, and how it was built."""
        if not isinstance(model, Path):
            return self._built(model, options).plan, "The engine", options
        engine = model if model.suffix == engine_file.SUFFIX else self.engine_path(model)
        if model == engine or self._delivered(model, engine, options.batch):
            plan, story = engine_file.load(engine, self._here())
            return plan, str(engine), EngineOptions(**story["options"])
        return self._built(model, options).plan, f"The engine of {model}", options

    def settings_of(self, model: bytes | Path, batch: int) -> dict[str, str]:
        """``settings``, with the options of the engine that ``open`` takes for ``model``."""
        if not isinstance(model, Path):
            return self.settings
        engine = model if model.suffix == engine_file.SUFFIX else self.engine_path(model)
        if model != engine and not self._delivered(model, engine, batch):
            return self.settings
        options = EngineOptions(**engine_file.story_of(engine)["options"])
        built = {"optimization_level": str(options.optimization_level)}
        if options.version_compatible:
            built["version_compatible"] = "yes"
        if options.hardware != "this":
            built["hardware"] = options.hardware
        return {**self.settings, **built}

    def check_options(self, options: EngineOptions) -> None:
        wrong = []
        if options.hardware != "this" and self.package.portable_engines:
            wrong.append("run on every GPU that it knows; leave --hardware out")
        if options.version_compatible and not self.package.lean_runtime:
            wrong.append("run on the version alone that built them; leave --version-compatible out")
        if wrong:
            raise FBNError(f"Engines of target {self.name!r} {'; they '.join(wrong)}.")

    def engine_path(self, model: Path) -> Path:
        """``model.<target>.engine`` beside ``model.onnx``."""
        return model.with_name(f"{model.stem}.{self.name}{engine_file.SUFFIX}")

    def _delivered(self, model: Path, engine: Path, batch: int) -> bool:
        """Whether ``engine`` was made from ``model`` and takes ``batch``."""
        try:
            story = engine_file.story_of(engine)
        except FBNError:  # none there, or one whose writing was killed
            return False
        options = EngineOptions(**story["options"])
        largest = options.max_batch or options.batch
        takes = batch <= largest if options.max_batch else batch == largest
        same: bool = story["onnx_sha256"] == hash_with_weights(model)
        return same and takes and engine_file.foreign(story, self._here()) is None

    def engine_from_onnx(
        self,
        model: Path,
        destination: Path,
        *,
        precision: str = "fp32",
        options: EngineOptions = DEFAULT_OPTIONS,
        progress: Progress | None = None,
        check: Check | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> EngineReport:
        _opening.check_request(self, model, batch=options.batch, threads=1, precision=precision)
        if problem := self.cannot_build():
            raise FBNError(f"Target {self.name!r} builds no engines here: {problem.rstrip('.')}.")
        self.check_options(options)
        built = self._built(model, options, progress)
        story = {
            "target": self.name,
            "version": self.package.version(),
            "device": self._device_story(),
            "model": model.name,
            "onnx_sha256": hash_with_weights(model),
            "precision": precision,
            "options": dataclasses.asdict(options),
            **(about or {}),
            "build": built.story,
        }
        if precision == "int8" and _swollen(len(built.plan), model.stat().st_size):
            built.story["warnings"].append(_SWOLLEN_WARNING)
        return EngineReport(destination, engine_file.save(destination, built.plan, story, check))

    def _built(
        self, model: bytes | Path, options: EngineOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        cache = None if self.package.builds_without_gpu else self._cache("timing", options)
        try:
            return self._builder.build(model, options, timing_cache=cache, progress=progress)
        except CannotParseError as error:
            raise _opening.cannot_open(self, model, error) from error
        except FBNError as error:
            label = _opening.model_label(model)
            raise FBNError(
                f"{label} was not built on target {self.name!r}: {str(error).rstrip('.')}."
            ) from error

    @functools.cached_property
    def _builder(self) -> BuilderProcess:
        return BuilderProcess(self.package)

    def _cache(self, kind: str, options: EngineOptions) -> Path:
        """The file with timings, or compiled kernels, for this GPU, version, driver, flags."""
        conditions = {
            **self.versions(),
            "gpu": _cuda.device_name(),
            "compute_capability": str(_cuda.compute_capability()),
            "version_compatible": str(options.version_compatible),
            "hardware": options.hardware,
        }
        return cache_path(cache_folder() / self.package.module, conditions, kind)

    def _here(self) -> engine_file.Here:
        portable = self.package.portable_engines
        return engine_file.Here(
            self.name,
            self.package.version(),
            gpu=None if portable else _cuda.device_name(),
            compute_capability=None if portable else _cuda.compute_capability(),
        )

    def _device_story(self) -> dict[str, Any] | None:
        """The GPU that the engine was built on; None where there is none."""
        if _cuda.driver_problem() is not None:
            return None
        return {
            "gpu": _cuda.device_name(),
            "compute_capability": list(_cuda.compute_capability()),
            "driver": _cuda.driver_release(),
            "driver_cuda": _cuda.driver_version(),
        }


def _swollen(plan_bytes: int, model_bytes: int) -> bool:
    return plan_bytes > _SWOLLEN * model_bytes + _KERNELS_BYTES


def _number(name: str) -> int:
    return int(name[2:])
