"""Which settings of two runs differ, named one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def differing(found: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, str]:
    """Name → ``0.5 there, 1.0 asked``, for every single setting that is not the same, also within
    settings: ``space options width``."""
    there, here = _flat(found), _flat(asked)
    return {
        name: f"{there.get(name)} there, {here.get(name)} asked"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    }


def told(differences: Mapping[str, str]) -> str:
    """The differences in one line."""
    return "; ".join(f"{name}: {values}" for name, values in differences.items())


def _flat(settings: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{within} {key}".strip()
        found.update(_flat(value, name) if isinstance(value, Mapping) else {name: value})
    return found
