"""Learning rates over a run: a pure function of the step, so that a resumed run needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

from fbn_deploy.errors import unknown


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def linear(progress: float) -> float:
    """A straight line from 1 to 0."""
    return 1 - progress


SCHEDULES: dict[str, Callable[[float], float]] = {"cosine": cosine, "linear": linear}


def learning_rate(schedule: str, peak: float, step: int, steps: int, warmup: int = 0) -> float:
    """The rate for ``step`` of ``steps``: rises linearly over ``warmup`` steps, then decays."""
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * SCHEDULES[schedule]((step - warmup) / max(1, steps - warmup))
