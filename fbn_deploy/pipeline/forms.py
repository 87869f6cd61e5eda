"""How the files of a run are written, under which names, and what holds them against the network.

They are written as the search wrote its candidates: as the targets of its budgets run them fastest,
be these here or not. A target that holds int8 activations otherwise gets a file of its own beside
that one, which met the budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fbn_deploy.export.precision.as_written import AsWritten
from fbn_deploy.export.precision.form import Form
from fbn_deploy.export.verification import Judge
from fbn_deploy.rundir import RunDir
from fbn_deploy.targets import (
    Target,
    default_target,
    form_for,
    ready_target,
    refuse_form,
    target_named,
    targets,
)


@dataclass(frozen=True)
class PrecisionFile:
    """A file in another precision than fp32 that is to be written."""

    name: str
    """Its precision in the names of its files: ``int8``, or ``int8-signed`` beside that."""
    form: Form
    judges: Sequence[Judge]
    """What it is verified on."""
    timed: Sequence[Target] = ()
    """Where it is timed beside fp32."""
    target: str | None = None
    """The one that was asked."""


def precision_file(
    found: dict[str, Any],
    precision: str,
    target: str | None = None,
    *,
    build_only: bool = False,
) -> PrecisionFile:
    """The file of a run, whose ``search.json`` is ``found``, in ``precision``: for ``target`` where
    one is asked, which is ready unless an engine is only built for it.

    In 16 bits targets may compute in float32, so that the file is held against the network as
    written as well. One that is only built is that alone. Raises ``FBNError`` where nothing could
    verify it.
    """
    here = _able(found, precision)
    form, name = _form(found, precision, target, here)
    if build_only:
        return PrecisionFile(name, form, [AsWritten()], target=target)
    if target is not None:
        refuse_form(target, precision)
        here = [ready_target(target)]
    elif not here:
        default_target(precision)  # says what each lacks
    as_written = [] if precision == "int8" else [AsWritten()]
    return PrecisionFile(name, form, [*here, *as_written], here, target)


def _form(
    found: dict[str, Any], precision: str, target: str | None, here: Sequence[Target]
) -> tuple[Form, str]:
    own = run_form(found, precision, [each.name for each in here])
    if target is None:
        return own, precision
    if precision != "int8":
        return run_form(found, precision, [target]), precision
    wanted = target_named(target).unsigned_activations
    if wanted is None or wanted == own.unsigned:
        return own, precision
    return replace(own, unsigned=wanted), RunDir.other_int8(wanted)


def run_form(found: dict[str, Any], precision: str, others: Iterable[str] = ()) -> Form:
    """That of the run's budgets; without any of latency, for the targets ``others``."""
    budgeted = {budget["target"] for budget in found["budgets"] if budget["target"]}
    tables = found["settings"].get("latency_tables")
    return form_for(precision, budgeted or others, bundled=bool(tables))


def _able(found: dict[str, Any], precision: str) -> list[Target]:
    """The targets of the budgets that are ready and run ``precision``; where none is, every one."""
    able = [t for t in targets() if precision in t.precisions and t.missing() is None]
    named = {budget["target"] for budget in found["budgets"]}
    return [target for target in able if target.name in named] or able


def verification_targets(found: dict[str, Any], say: Callable[[str], None]) -> list[Target]:
    """The targets that an export is verified on: ONNX Runtime, and, where they are ready, those of
    the budgets that were confirmed and the one that the search was told of. A confirmed one that
    is not ready here is said: it may have been on another machine."""
    confirmed = found["best"]["confirmed"]  # a target of a latency table is not among them
    told = found["settings"]["target"]
    ready = [ready_target("onnxruntime-cpu")]
    for name in dict.fromkeys([*confirmed, *([told] if told else [])]):
        target = target_named(name)
        reason = target.missing()
        if reason is None:
            ready += [target] if target not in ready else []
        elif name in confirmed:
            say(f"Not verified on {name}, where the budget was confirmed: {reason.rstrip('.')}.")
    return ready
