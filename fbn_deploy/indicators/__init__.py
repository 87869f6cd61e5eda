"""Indicators: what a candidate promises, read off one set of forward passes; one file each."""

from fbn_deploy.indicators._composite import COMPOSITES, composite_rank, indicators_of
from fbn_deploy.indicators._observation import (
    Norm,
    Observation,
    ProbeBatches,
    observe,
    probe_batches,
)
from fbn_deploy.indicators._protocol import Indicator, indicator, indicators

__all__ = [
    "COMPOSITES",
    "Indicator",
    "Norm",
    "Observation",
    "ProbeBatches",
    "composite_rank",
    "indicator",
    "indicators",
    "indicators_of",
    "observe",
    "probe_batches",
]
