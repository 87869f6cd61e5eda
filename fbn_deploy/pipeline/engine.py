"""The stage that builds an engine from an exported model, and holds it against the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.export.metadata import feeding
from fbn_deploy.export.verification import allowed, verify
from fbn_deploy.pipeline.context import Context
from fbn_deploy.progress import duration
from fbn_deploy.targets import EngineBuilder, EngineOptions


@dataclass(frozen=True)
class EngineSettings:
    """Which engine to build, and whether it is run here."""

    target: EngineBuilder
    options: EngineOptions
    build_only: bool
    precision: str = "fp32"
    max_drop: float = 0.0
    """Points of top-1 accuracy that an engine in another precision than fp32 may lose."""


def export_engine(
    context: Context, network: nn.Module, model: Path, settings: EngineSettings
) -> dict[str, Any]:
    """Builds ``model.<target>.engine`` and its story, which is returned.

    Unless it is only built, the engine takes its name after it was run on the test images and
    agreed with ``network``. Raises ``FBNError`` when it did not; then there is no new file.
    """
    target, reporter = settings.target, context.reporter

    def check(engine: Path) -> dict[str, Any]:
        result = verify(
            engine,
            network,
            context.data,
            context.data.test,
            target,
            precision=settings.precision,
            batch=settings.options.batch,
        )
        passed = result.passed_in(settings.precision, settings.max_drop)
        reporter.say(f"{'Verified' if passed else 'FAILED'}: engine on {result.text()}")
        if not passed:
            raise FBNError(
                f"The engine of {model} differs from the trained network, so it was not written: "
                f"{allowed(settings.precision, settings.max_drop)} is allowed; {result.text()}."
            )
        return {**result.as_json(), "passed": True}

    with reporter.task(f"Building the engine of {model.name} for {target.name}", 1, "engines") as t:
        report = target.engine_from_onnx(
            model,
            target.engine_path(model),
            precision=settings.precision,
            options=settings.options,
            progress=lambda text: t.update(0, text),
            check=None if settings.build_only else check,
            about=feeding(context.data),
        )
        t.update(1)
    size_mb = report.path.stat().st_size / 1e6
    memory = ", ".join(f"{kind} {n / 1e6:.1f} MB" for kind, n in report.memory_bytes.items())
    reporter.say(
        f"{report.path}: {size_mb:.1f} MB, built in {duration(report.seconds)}"
        + (f"; device memory: {memory}" if memory else "")
    )
    if report.warnings:
        reporter.say(f"The builder warned: {'; '.join(report.warnings)}")
    return report.story
