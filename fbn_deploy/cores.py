"""The cores that this process may run on."""

from __future__ import annotations

import os


def allowed_cores() -> tuple[int, ...] | None:
    """Their numbers; None where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return tuple(sorted(os.sched_getaffinity(0)))


def number_of_cores() -> int:
    """How many they are; all of the machine's where the system does not say."""
    return len(allowed_cores() or ()) or os.cpu_count() or 1
