"""Options that several commands take together, and the settings that they say.

Nothing heavy is imported before it is needed: every call of ``fbn`` reads this file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from fbn_deploy.commands import _options as options
from fbn_deploy.errors import FBNError

if TYPE_CHECKING:
    from fbn_deploy.pipeline.context import Given
    from fbn_deploy.pipeline.precision_settings import PrecisionSettings
    from fbn_deploy.pipeline.search_settings import SearchSettings
    from fbn_deploy.targets import EngineBuilder, EngineOptions


@dataclass(frozen=True)
class RunOptions:
    """The space, the images and the supernet of a run."""

    run: options.Run = None
    space: options.Space = None
    resolution: options.Resolution = None
    width: options.Width = None
    depth: options.Depth = None
    space_option: options.SpaceOption = None
    data: options.Data = None
    download: options.Download = False
    strict: options.Strict = False
    seed: options.Seed = None
    bn: options.Bn = None
    train_mode: options.TrainMode = None
    sampler: options.Sampler = None
    epochs: options.Epochs = None
    batch_size: options.BatchSize = None
    optimizer: options.Optimizer = None
    learning_rate: options.Rate = None
    schedule: options.Schedule = None
    label_smoothing: options.Smoothing = None
    shards: options.Shards = None

    def training(self) -> dict[str, Any]:
        """Field of ``SupernetSettings`` → what was said of it; ``None`` where nothing was."""
        return {
            "train": self.train_mode,
            "sampler": self.sampler,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "label_smoothing": self.label_smoothing,
            "shards": self.shards,
        }

    def given(self) -> Given:
        from fbn_deploy.pipeline.context import Given

        spelt: dict[str, Any] = {}
        for text in self.space_option or []:
            name, equals, value = text.partition("=")
            if not equals:
                raise FBNError(f"--space-option is NAME=VALUE, not {text!r}.")
            spelt[name] = value
        named = {"width": self.width, "depth": self.depth}
        return Given(
            space=self.space,
            resolution=self.resolution,
            options=spelt | {name: value for name, value in named.items() if value is not None},
            data=self.data,
            download=self.download,
            strict=self.strict,
            bn=self.bn,
            seed=self.seed,
            supernet=self.training(),
        )


@dataclass(frozen=True)
class SearchOptions:
    """The budgets of a search and how it looks for what meets them."""

    latency_budget: options.LatencyBudget = None
    flops_budget: options.FlopsBudget = None
    params_budget: options.ParamsBudget = None
    target: options.TargetName = None
    threads: options.Threads = 1
    batch: options.Batch = 1
    algorithm: options.Algorithm = "evolution"
    candidates: options.Candidates = 100
    finalists: options.Finalists = 0
    indicator: options.IndicatorName = "cpi"
    probe_batches: options.ProbeBatches = 4
    probe_size: options.ProbeSize = 64
    proxy: options.Proxy = True
    predictor: options.PredictorName = "auto"
    latency_table: options.LatencyTables = None

    def settings(
        self, precision: str | None = None, keep_fp32: Sequence[str] = ()
    ) -> SearchSettings:
        """Checked throughout; all budgets that cannot be read in one ``FBNError``. ``precision``
        is that of the file that is deployed, ``keep_fp32`` its layers that are not int8."""
        from fbn_deploy.pipeline.search_settings import SearchSettings
        from fbn_deploy.search.budgets import flops_budget, latency_budget, params_budget

        mistakes, budgets = [], []
        for parse, texts in (
            (latency_budget, self.latency_budget or []),
            (flops_budget, [self.flops_budget]),
            (params_budget, [self.params_budget]),
        ):
            for text in texts:
                try:
                    budgets += [parse(text)] if text is not None else []
                except FBNError as error:
                    mistakes.append(str(error))
        if mistakes:
            raise FBNError("\n".join(mistakes))
        return SearchSettings(
            tuple(budgets),
            target=self.target,
            threads=self.threads,
            batch=self.batch,
            algorithm=self.algorithm,
            candidates=self.candidates,
            finalists=self.finalists,
            indicator=self.indicator,
            probe_batches=self.probe_batches,
            probe_size=self.probe_size,
            precision=precision or "fp32",
            keep_fp32=tuple(keep_fp32),
            proxy=self.proxy,
            predictor=self.predictor,
            latency_tables=tuple(str(path.absolute()) for path in self.latency_table or []),
        ).resolved()


@dataclass(frozen=True)
class EngineBuildOptions:
    """How an engine is built; for targets that build engines only."""

    build_only: options.BuildOnly = False
    batch: options.EngineBatch = None
    max_batch: options.MaxBatch = None
    optimization_level: options.OptimizationLevel = 3
    workspace: options.WorkspaceMb = None
    version_compatible: options.VersionCompatible = False
    hardware: options.Hardware = "this"

    def builder(self, target: str | None) -> EngineBuilder | None:
        """The target if it builds engines, can do so here, and can run them, or only builds.

        Raises ``FBNError`` when it cannot, or when these options are not for it.
        """
        from fbn_deploy.targets import engine_builder, engine_targets, ready_target

        if target is not None and target in engine_targets():
            builder = engine_builder(target)
            builder.check_options(self.options(self.max_batch or 1))
            if not self.build_only and builder.missing():
                try:
                    ready_target(target)
                except FBNError as error:
                    raise FBNError(f"{error} Or build without running: --build-only.") from None
            return builder
        if self != EngineBuildOptions():
            raise FBNError(
                "Options of engines (--build-only, --batch, --max-batch, --optimization-level, "
                "--workspace, --version-compatible, --hardware) go with --target "
                f"{' or '.join(engine_targets())}."
            )
        return None

    def options(self, batch: int) -> EngineOptions:
        """Checked; ``batch`` is taken where none was said."""
        from fbn_deploy.targets import EngineOptions

        return EngineOptions(
            batch=batch if self.batch is None else self.batch,
            max_batch=self.max_batch,
            optimization_level=self.optimization_level,
            workspace_mb=self.workspace,
            version_compatible=self.version_compatible,
            hardware=self.hardware,
        )


_IN_16_BITS = {"max_drop", "equalize"}  # options of a precision that say something in fp16 and bf16


@dataclass(frozen=True)
class PrecisionOptions:
    """The precision beside fp32 and how far it may fall behind."""

    precision: options.Precision = None
    max_drop: options.MaxDrop = 0.5
    calibration: options.Calibration = "mse"
    calibration_images: options.CalibrationImages = 500
    calibration_batch: options.CalibrationBatch = 8
    calibration_seed: options.CalibrationSeed = None
    keep_fp32: options.KeepFp32 = None
    equalize: options.Equalize = False
    weights_by_mse: options.WeightsByMse = False
    analyze: options.Analyze = False

    def settings(self) -> PrecisionSettings | None:
        """None for fp32; all mistakes in one ``FBNError``."""
        from fbn_deploy.pipeline.precision_settings import PrecisionSettings

        if self.precision in (None, "fp32"):
            self._refuse_idle(set())
            return None
        if self.precision != "int8":
            self._refuse_idle(_IN_16_BITS)
        return PrecisionSettings(
            str(self.precision),
            max_drop=self.max_drop,
            calibration=self.calibration,
            calibration_images=self.calibration_images,
            calibration_batch=self.calibration_batch,
            calibration_seed=self.calibration_seed,
            keep_fp32=tuple(self.keep_fp32 or ()),
            equalize=self.equalize,
            weights_by_mse=self.weights_by_mse,
            analyze=self.analyze,
        ).checked()

    def _refuse_idle(self, used: Collection[str]) -> None:
        """``FBNError`` for options beside those ``used``, which would be passed over in silence."""
        idle = [
            f"--{field.name.replace('_', '-')}: only with --precision "
            + ("fp16, bf16 or int8" if field.name in _IN_16_BITS else "int8")
            for field in fields(self)
            if field.name not in {"precision", *used} and getattr(self, field.name) != field.default
        ]
        if idle:
            raise FBNError(f"{'; '.join(idle)}.")
