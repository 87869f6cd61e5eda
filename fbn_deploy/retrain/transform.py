"""timm's training transform of original images: crops, flips, colours, policies."""

from __future__ import annotations

from fbn_deploy.data import ImageData, Transform
from fbn_deploy.errors import FBNError
from fbn_deploy.retrain.recipes import Recipe


def timm_transform(chosen: Recipe, data: ImageData) -> Transform | None:
    """What ``chosen`` does to each image, or None where it keeps to the data set's augmentation.
    Images whose mirror image means something else are not mirrored."""
    if chosen.augmentation != "timm":
        return None
    from timm.data import create_transform

    try:
        transform: Transform = create_transform(
            input_size=data.resolution,
            is_training=True,
            scale=(chosen.crop_scale, 1.0),
            hflip=0.5 if data.flip else 0.0,
            color_jitter=chosen.color_jitter,
            auto_augment=chosen.auto_augment or None,
            mean=data.mean,
            std=data.std,
        )
    except (AssertionError, AttributeError, KeyError, ValueError) as error:
        raise FBNError(
            f"timm knows no policy auto_augment={chosen.auto_augment!r} ({error or 'unknown'}). "
            "Give one such as rand-m9-mstd0.5-inc1, original or augmix-m3-w3."
        ) from error
    return transform
