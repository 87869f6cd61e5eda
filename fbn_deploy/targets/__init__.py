"""Targets: one file each, found by its name. Importing this package imports no runtime."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fbn_deploy import plugins
from fbn_deploy.errors import FBNError
from fbn_deploy.targets._engines import EngineBuilder, EngineOptions
from fbn_deploy.targets._protocol import (
    LayerTime,
    NoLayerTimes,
    Parallel,
    Session,
    Target,
    device_memory_bytes,
)

if TYPE_CHECKING:
    from fbn_deploy.export.precision.form import Form

PRECISIONS = ("fp32", "fp16", "bf16", "int8")  # that a target may run

__all__ = [
    "PRECISIONS",
    "EngineBuilder",
    "EngineOptions",
    "LayerTime",
    "NoLayerTimes",
    "Parallel",
    "Session",
    "Target",
    "default_target",
    "device_memory_bytes",
    "engine_builder",
    "engine_targets",
    "form_for",
    "ready_target",
    "refuse_form",
    "shifts_as_convolution",
    "target_named",
    "targets",
    "unsigned_activations",
]


def targets() -> list[Target]:
    """Every target, ready or not, the most wanted first."""
    found = [target_named(name) for name in plugins.names(__name__)]
    return sorted(found, key=lambda target: (target.preference, target.name))


def ready_target(name: str) -> Target:
    """The target ``name``. Raises ``FBNError`` when it does not exist, or is not ready: then
    with the reason, the command that mends it, and a target that is ready."""
    target = target_named(name)
    reason = target.missing()
    if reason is None:
        return target
    others = [other.name for other in targets() if other.name != name and not other.missing()]
    instead = f", or pass --target {others[0]}." if others else "."
    raise FBNError(f"Target {name!r} is not ready: {reason.rstrip('.')}{instead}")


def shifts_as_convolution(names: Iterable[str]) -> bool:
    """Whether a file for the targets ``names`` holds what folding leaves of a BatchNorm as a
    convolution: where one of them wants that, and where none is named."""
    wanted = [target_named(name).shifts_as_convolution for name in names]
    return any(wanted) or not wanted


def unsigned_activations(names: Iterable[str]) -> bool:
    """Whether an int8 file for the targets ``names`` holds its activations as uint8: where one of
    them wants that, and all of them take it."""
    wanted = {target_named(name).unsigned_activations for name in names}
    return True in wanted and False not in wanted


def form_for(
    precision: str,
    names: Iterable[str],
    keep_fp32: Iterable[str] = (),
    *,
    bundled: bool = False,
) -> Form:
    """How a file in ``precision`` is written for the targets ``names``: as they run it fastest. In
    int8 a shift that folding leaves is a convolution on every target, since those are quantised; a
    scale alone stays a Mul in fp32 (``folding.rewrite``). ``bundled``: as the graphs of a bundle
    are, which may go to any device, shifts are convolutions in every precision."""
    from fbn_deploy.export.precision.form import Form

    names = list(names)
    return Form(
        precision,
        bundled or precision == "int8" or shifts_as_convolution(names),
        precision == "int8" and unsigned_activations(names),
        tuple(keep_fp32),
    )


def refuse_form(name: str, precision: str, unsigned: bool | None = None) -> None:
    """``FBNError`` where the target ``name`` does not run ``precision``, or would hold int8
    activations otherwise than ``unsigned`` says."""
    target = target_named(name)
    if precision not in target.precisions:
        raise FBNError(
            f"Target {name!r} does not run {precision}; it runs {', '.join(target.precisions)}."
        )
    wanted = target.unsigned_activations
    if precision == "int8" and None not in (unsigned, wanted) and unsigned != wanted:
        raise FBNError(
            f"These int8 networks hold activations as {'uint8' if unsigned else 'int8'}; for "
            f"{name!r} they are deployed as {'uint8' if wanted else 'int8'}. Make the bundle with "
            f"fbn bundle --precision int8 --target {name}."
        )


def engine_targets() -> list[str]:
    """Names of the targets that build engines."""
    return [target.name for target in targets() if isinstance(target, EngineBuilder)]


def engine_builder(name: str) -> EngineBuilder:
    """The target ``name``, which builds engines here. Raises ``FBNError`` when it does not exist,
    runs ONNX files itself, or cannot build on this machine."""
    target = target_named(name)
    if not isinstance(target, EngineBuilder):
        raise FBNError(
            f"Target {name!r} runs ONNX files and builds no engines; those that do: "
            f"{', '.join(engine_targets())}."
        )
    if reason := target.cannot_build():
        raise FBNError(f"Target {name!r} builds no engines here: {reason.rstrip('.')}.")
    return target


def default_target(precision: str = "fp32") -> Target:
    """The best target that is ready and runs ``precision``: a GPU that can run before the CPU.

    Raises ``FBNError`` that lists what each target lacks when there is none.
    """
    reasons: list[str] = []
    for target in targets():
        lacking = f"does not run {precision}" if precision not in target.precisions else None
        reason = target.missing() or lacking
        if reason is None:
            return target
        reasons.append(f"{target.name}: {reason}")
    raise FBNError(f"No target that runs {precision} is ready here.\n" + "\n".join(reasons))


def target_named(name: str) -> Target:
    """The target of that name, ready or not; ``FBNError`` lists what exists."""
    target: Target = plugins.load(__name__, name, "target").TARGET
    return target
