"""What a batch's loss is: labels, smoothed or mixed; an auxiliary classifier; a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from fbn_deploy.retrain.recipes import Recipe
from fbn_deploy.retrain.teacher import Teacher

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def mixing(recipe: Recipe, num_classes: int) -> Mix | None:
    """timm's mixup and CutMix: a batch and its labels → mixed images and (B, classes) targets."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    from timm.data import Mixup

    mix: Mix = Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
    return mix


def objective(
    network: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    recipe: Recipe,
    teacher: Teacher | None,
) -> torch.Tensor:
    """The mean loss of ``images``, for labels (B,) or mixed targets (B, classes).

    With weight w and temperature T, (1 − w)·CE + w·T²·KL(teacher/T ‖ subnet/T), Hinton et al. 2015,
    section 2; plus the auxiliary classifier's cross-entropy times its weight.
    """
    output = network(images)
    logits, auxiliary = output if isinstance(output, tuple) else (output, None)
    smoothing = 0.0 if targets.is_floating_point() else recipe.label_smoothing  # mixed: done
    loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    if teacher is not None:
        t = recipe.distill_temperature
        divergence = F.kl_div(
            F.log_softmax(logits / t, 1),
            F.log_softmax(teacher(images) / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        loss = (1 - recipe.distill_weight) * loss + recipe.distill_weight * t**2 * divergence
    if auxiliary is not None:
        loss = loss + recipe.auxiliary * F.cross_entropy(
            auxiliary, targets, label_smoothing=smoothing
        )
    return loss
