"""timm's schedules as a function of the step alone, so that a resumed training needs no state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fbn_deploy.retrain.recipes import Recipe


def rate_setter(
    optimizer: torch.optim.Optimizer, chosen: Recipe, steps: int, steps_per_epoch: int
) -> Callable[[int], None]:
    """Sets the optimizer's learning rates for a step: a linear rise over the warm-up, then a decay
    to 0 over the rest. The warm-up takes at most a tenth of ``steps``."""
    from timm.scheduler import CosineLRScheduler, PolyLRScheduler

    warmup = min(steps // 10, round(chosen.warmup_epochs * steps_per_epoch))
    given: dict[str, Any] = {
        "t_initial": max(2, steps - warmup),
        "warmup_t": warmup,
        "warmup_lr_init": chosen.learning_rate / (warmup + 1),
        "warmup_prefix": True,
        "t_in_epochs": False,
    }
    scheduler = (
        CosineLRScheduler(optimizer, **given)
        if chosen.schedule == "cosine"
        else PolyLRScheduler(optimizer, power=1.0, **given)
    )
    set_rates: Callable[[int], None] = scheduler.step_update
    return set_rates
