"""INT8 range estimators: from the magnitudes of a tensor to the largest that INT8 represents.

Each is a file in ``calibration/`` that defines ``amax(histogram) -> float``; its name is the
file's, its description the first line of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fbn_deploy import plugins
from fbn_deploy.export.histogram import Histogram

PACKAGE = "calibration"
DEFAULT = "mse"


@dataclass(frozen=True)
class Estimator:
    """``amax`` gives a value in (0, histogram.amax]: what is larger will be clipped to it."""

    name: str
    description: str
    amax: Callable[[Histogram], float]


def estimators() -> list[Estimator]:
    """All estimators, by name."""
    return [estimator(name) for name in plugins.names(PACKAGE)]


def estimator(name: str) -> Estimator:
    """The estimator of that name; ``FBNError`` lists what exists."""
    module = plugins.load(PACKAGE, name, "calibration method")
    description = (module.__doc__ or "").partition("\n")[0].rstrip(".")
    return Estimator(name, description, module.amax)
