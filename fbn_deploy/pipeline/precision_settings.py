"""What a file in another precision than fp32 is asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.export import estimators
from fbn_deploy.targets import PRECISIONS

LOWER = PRECISIONS[1:]  # than fp32


@dataclass(frozen=True)
class PrecisionSettings:
    """What to write and how far it may fall behind. The rest is about int8 only."""

    precision: str
    max_drop: float = 0.5
    """Points of top-1 accuracy, 0 … 100, that may be lost on the test images."""
    calibration: str = estimators.DEFAULT
    calibration_images: int = 500
    calibration_batch: int = 8
    calibration_seed: int | None = None
    """Of the images' draw; None: the run's."""
    keep_fp32: tuple[str, ...] = ()
    equalize: bool = False
    weights_by_mse: bool = False
    """Weight ranges by least squared error instead of the largest weight of a channel."""
    analyze: bool = False

    def checked(self) -> PrecisionSettings:
        """Itself. Raises one ``FBNError`` for everything that is wrong."""
        mistakes = []
        if self.precision not in LOWER:
            mistakes.append(str(unknown("precision", self.precision, LOWER)))
        if not 0 <= self.max_drop <= 100:
            mistakes.append(f"--max-drop is 0 to 100 points of accuracy, not {self.max_drop:g}.")
        if self.calibration_seed is not None and self.calibration_seed < 0:
            mistakes.append(f"--calibration-seed is 0 or above, not {self.calibration_seed}.")
        if self.calibration_batch < 1:
            mistakes.append(f"--calibration-batch is at least 1, not {self.calibration_batch}.")
        try:
            estimators.estimator(self.calibration)
        except FBNError as error:
            mistakes.append(str(error))
        if mistakes:
            raise FBNError("\n".join(mistakes))
        return self


def as_searched(settings: PrecisionSettings, search: Mapping[str, Any]) -> PrecisionSettings:
    """``settings`` with the layers in fp32 that the search of a run left there, if it was in the
    same precision and nothing else is said: its latencies are of that file."""
    kept = tuple(search.get("keep_fp32", ()))
    same = settings.precision == search.get("precision")
    return settings if settings.keep_fp32 or not same else replace(settings, keep_fp32=kept)
