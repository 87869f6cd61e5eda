"""Recipes of retraining by name: every number of a training, readable in one place.

timm supplies optimizers, schedules, augmentation policies, mixup and averages of weights; their
names here are timm's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_type_hints

from fbn_deploy.errors import FBNError, unknown

AUGMENTATIONS = ("data", "timm", "none")
SCHEDULES = ("cosine", "linear")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
KEPT = ("last", "best")


@dataclass(frozen=True)
class Recipe:
    """How a subnet is trained. Sizes are those of the whole job, rates those at their peak."""

    description: str
    epochs: float
    batch_size: int
    """Images of one optimizer step, over all processes and accumulated parts."""
    learning_rate: float
    optimizer: str = "sgd"
    """A name of timm's; ``sgd`` is with Nesterov momentum, ``momentum`` without."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_vectors: bool = False
    """Whether biases and BatchNorms decay too."""
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    """Of linearly rising rates; at most a tenth of the training."""
    clip_norm: float = 0.0
    """Largest norm of all gradients; 0 for no limit."""
    label_smoothing: float = 0.0
    augmentation: str = "data"
    """``data``: what suits the data set, as in supernet training (shifts up to 64 pixels, crops
    above; flips). ``timm``: its ImageNet transform, crops of the original image included.
    ``none``."""
    crop_scale: float = 0.08
    """The smallest share of an image that ``timm`` crops."""
    color_jitter: float = 0.0
    auto_augment: str = ""
    """A policy of timm's for ``timm``: ``rand-m9-mstd0.5-inc1``, ``original``, …"""
    grow_from: float = 1.0
    """Share of the resolution at which training begins (``retrain/growth.py``); images of 64
    pixels or less keep their size."""
    random_erasing: float = 0.0
    """Probability with which a rectangle of the image is blanked."""
    cutout: float = 0.0
    """Side of the blanked square, as a share of the image's."""
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    """Probability, at the end of training, with which a path is dropped; it rises linearly."""
    auxiliary: float = 0.0
    """Weight of the auxiliary classifier's loss, where the space has one."""
    ema: float = 0.0
    """Decay of the average of weights that is kept instead of the last ones; 0 for none."""
    distill_weight: float = 0.5
    distill_temperature: float = 4.0
    accumulate: int = 1
    """Parts of a batch that pass one after the other before the optimizer steps."""
    precision: str = "auto"
    """``auto``: fp32 on a CPU; on a GPU bf16, or fp16 where it has no bf16."""
    keep: str = "last"
    """``last``: trained on all training images. ``best``: trained without the validation split,
    which picks the epoch."""
    patience: int = 0
    """Epochs without a better validation accuracy that end the training; 0 for no limit."""
    fair_bn: bool = True
    """Keep the BatchNorms that the supernet added: they are folded away at export, so they cost
    nothing and may help training."""


RECIPES: dict[str, Recipe] = {
    "quick": Recipe(
        "a first result within minutes, on small sets",
        epochs=20,
        batch_size=32,
        learning_rate=0.05,
        warmup_epochs=1,
        label_smoothing=0.1,
        grow_from=0.5,
    ),
    # Dong and Yang 2020, table 1 ("H"): the training behind NAS-Bench-201's 200-epoch figures.
    "nasbench201": Recipe(
        "as the networks of NAS-Bench-201 were trained",
        epochs=200,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=5e-4,
        decay_vectors=True,
        fair_bn=False,
    ),
    # Dong and Yang 2020, table 1, with the 12 epochs of its columns `…_e12`.
    "nasbench201-12": Recipe(
        "as NAS-Bench-201's 12-epoch figures",
        epochs=12,
        batch_size=256,
        learning_rate=0.1,
        weight_decay=5e-4,
        decay_vectors=True,
        fair_bn=False,
    ),
    # Liu et al. 2019, appendix A.2.1; SGD there is without Nesterov.
    "darts-cifar": Recipe(
        "as DARTS trains its CIFAR networks",
        epochs=600,
        batch_size=96,
        learning_rate=0.025,
        optimizer="momentum",
        weight_decay=3e-4,
        decay_vectors=True,
        clip_norm=5.0,
        cutout=0.5,
        drop_path=0.2,
        auxiliary=0.4,
        fair_bn=False,
    ),
    # FBN-NAS and SPOS: 240 epochs, batch 1024, rate 0.5, weight decay 4e-5, label smoothing 0.1,
    # linear decay of the rate; decay only on matrices.
    "imagenet": Recipe(
        "ImageNet at full length",
        epochs=240,
        batch_size=1024,
        learning_rate=0.5,
        weight_decay=4e-5,
        schedule="linear",
        label_smoothing=0.1,
        augmentation="timm",
        color_jitter=0.4,
    ),
}
DEFAULT = RECIPES["quick"]
OVERRIDABLE = tuple(field.name for field in fields(Recipe) if field.name != "description")


def recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name with ``changes`` (field → value, or text from a command line).

    A change of None is none. ``FBNError`` lists all that is wrong, before any work.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    said = {field: value for field, value in (changes or {}).items() if value is not None}
    for field in said:
        if field not in OVERRIDABLE:
            raise unknown("setting of a recipe", field, OVERRIDABLE)
    types = get_type_hints(Recipe)
    changed = replace(
        RECIPES[name],
        **{field: _typed(field, value, types[field]) for field, value in said.items()},
    )
    _check(changed)
    return changed


def _typed(field: str, value: Any, kind: type) -> Any:
    if not isinstance(value, str) or kind is str:
        return kind(value)
    if kind is bool:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise FBNError(f"{field} is true or false, not {value!r}.")
    try:
        return kind(value)
    except ValueError:
        raise FBNError(f"{field} is a {kind.__name__}, not {value!r}.") from None


def _check(chosen: Recipe) -> None:
    mistakes = [
        str(unknown(kind, value, known))
        for value, known, kind in (
            (chosen.augmentation, AUGMENTATIONS, "augmentation"),
            (chosen.schedule, SCHEDULES, "schedule"),
            (chosen.precision, PRECISIONS, "precision"),
            (chosen.keep, KEPT, "way to keep weights"),
        )
        if value not in known
    ]
    numbers = {field.name: getattr(chosen, field.name) for field in fields(chosen)}
    mistakes += [
        f"{name} is a number, not {value}."
        for name, value in numbers.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if chosen.epochs <= 0 or chosen.batch_size < 2 or chosen.learning_rate <= 0:
        mistakes.append(
            "Retraining needs epochs and a learning rate above 0 and batches of at least 2 images; "
            f"asked: {chosen.epochs:g} epochs, rate {chosen.learning_rate:g}, batches of "
            f"{chosen.batch_size}."
        )
    shares = ("random_erasing", "cutout", "drop_path", "ema", "distill_weight", "label_smoothing")
    mistakes += [
        f"{field} is between 0 and 1, not {getattr(chosen, field):g}."
        for field in shares
        if not 0 <= getattr(chosen, field) <= 1
    ]
    if chosen.ema == 1 or chosen.drop_path == 1 or chosen.label_smoothing == 1:
        mistakes.append("ema, drop_path and label_smoothing are below 1.")
    amounts = (
        "momentum", "weight_decay", "warmup_epochs", "clip_norm", "color_jitter", "mixup", "cutmix",
        "auxiliary", "patience",
    )  # fmt: skip
    mistakes += [
        f"{field} is 0 or above, not {getattr(chosen, field):g}."
        for field in amounts
        if getattr(chosen, field) < 0
    ]
    if chosen.accumulate < 1 or chosen.batch_size % max(1, chosen.accumulate):
        mistakes.append(
            f"A batch of {chosen.batch_size} images cannot pass in {chosen.accumulate} equal parts."
        )
    if not 0 < chosen.grow_from <= 1:
        mistakes.append(f"grow_from is above 0 and at most 1, not {chosen.grow_from:g}.")
    if chosen.distill_temperature <= 0 or not 0 < chosen.crop_scale <= 1:
        mistakes.append("distill_temperature is above 0, and crop_scale above 0 and at most 1.")
    if chosen.augmentation != "timm" and (chosen.color_jitter or chosen.auto_augment):
        mistakes.append(
            "color_jitter and auto_augment are parts of timm's transform: choose augmentation timm."
        )
    if chosen.patience and chosen.keep != "best":
        mistakes.append("patience looks at validation accuracy: choose keep best with it.")
    if mistakes:
        raise FBNError(" ".join(mistakes))


def as_json(chosen: Recipe) -> dict[str, Any]:
    """What identifies a training by ``chosen``: all but the words about it."""
    return {name: value for name, value in asdict(chosen).items() if name != "description"}
