"""``search.json`` read again, by every stage that goes on from it. Needs no PyTorch."""

from __future__ import annotations

from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json
from fbn_deploy.rundir import RunDir

SCHEMA = 1
# What later stages take out of it: name → keys of the object, or None where it is a list.
_PARTS: dict[str, tuple[str, ...] | None] = {
    "settings": ("algorithm", "batch", "budgets", "candidates", "target", "threads"),
    "budgets": None,
    "candidates": None,
    "best": ("architecture", "confirmed", "costs", "text"),
}


def stored_search(run: RunDir) -> dict[str, Any]:
    """The content of ``search.json``. Raises ``FBNError`` when the run was not searched yet, and
    when the file is of another schema or incomplete."""
    path = run.search
    if not path.exists():
        raise FBNError(f"{run.path} has no {path.name} yet; run fbn search on it first.")
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise FBNError(f"{path} is no search result of schema {SCHEMA}; move it away.")
    for name, keys in _PARTS.items():
        part = content.get(name)
        if not isinstance(part, list if keys is None else dict):
            raise FBNError(f"{path} is incomplete: there is no {name}. Move it away, search again.")
        if lacking := [key for key in keys or () if key not in part]:
            raise FBNError(
                f"{path} is incomplete: {name} lacks {', '.join(lacking)}. Move it away and search "
                "again."
            )
    return content
