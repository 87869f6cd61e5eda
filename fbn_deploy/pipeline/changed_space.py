"""A run whose search space's file is another one than when it began: edited, or of a new release.

What was chosen and trained does not hang on a comment. Where the file offers the same choices, a
finished run goes on, under the hash that it began with; whether its weights have their names and
shapes still is seen where they are loaded. Scores and supernets are another matter: those of two
files would be ranked together, so none are made any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fbn_deploy.differing import differing
from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json
from fbn_deploy.rundir import RunDir
from fbn_deploy.space import SearchSpace


def as_begun(
    now: Mapping[str, Any], begun: Mapping[str, Any], said: Collection[str] = ()
) -> dict[str, Any]:
    """The identity ``now`` of a space with the hash that it had when it ``begun``, and without
    options that its file did not have then, unless they were ``said``."""
    known = {*begun.get("options", {}), *said}
    return {
        **now,
        "sha256": begun.get("sha256"),
        "options": {name: value for name, value in now["options"].items() if name in known},
    }


def refuse_other_choices(run: RunDir, spec: str, space: SearchSpace) -> None:
    """``FBNError`` where ``space`` decides other things than ``space.json`` says."""
    there = read_json(run.space)["decisions"] if run.space.exists() else {}
    here = {decision.name: list(decision.options) for decision in space.decisions}
    if differences := differing(there, here):
        first, values = next(iter(differences.items()))
        raise FBNError(
            f"The search space {spec} changed since {run.path} began: {len(differences)} of its "
            f"{len(here)} choices are others, the first is {first} ({values}). Restore the file as "
            "it was, or begin another run in another directory."
        )


def no_new_results(run: RunDir, spec: str) -> FBNError:
    """What a stage raises that would train a supernet or score candidates."""
    return FBNError(
        f"The file of the search space {spec} changed since {run.path} began, so that what is "
        "trained and scored from now on would not go with what is there. Restore the file as it "
        "was, or begin another run in another directory; what is finished there can still be "
        "retrained and exported."
    )


def warning(spec: str) -> str:
    """What is said where a run goes on all the same."""
    return (
        f"The file of the search space {spec} changed since the run began. It has the same "
        "choices, so the run goes on; if its layers compute something else now, restore it."
    )
