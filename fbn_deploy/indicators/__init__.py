"""Indicators: what a candidate promises, each a formula over one candidate; one file each."""

from fbn_deploy.indicators._candidate import Candidate, Setting
from fbn_deploy.indicators._composite import (
    COMPOSITES,
    Composite,
    composite,
    composite_rank,
    indicators_of,
    looked_at_again,
    needs_skeleton,
    needs_training,
)
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._observation import (
    Norm,
    Observation,
    ProbeBatches,
    observe,
    probe_batches,
)
from fbn_deploy.indicators._protocol import Indicator, indicator, indicators
from fbn_deploy.indicators._scoring import Scoring, score
from fbn_deploy.indicators._sources import formulas

__all__ = [
    "COMPOSITES",
    "Candidate",
    "Composite",
    "Indicator",
    "Need",
    "Norm",
    "Observation",
    "ProbeBatches",
    "Scoring",
    "Setting",
    "composite",
    "composite_rank",
    "formulas",
    "indicator",
    "indicators",
    "indicators_of",
    "looked_at_again",
    "needs_skeleton",
    "needs_training",
    "observe",
    "probe_batches",
    "score",
]
