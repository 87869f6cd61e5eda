"""Uncertainty by Monte Carlo BatchNorm (Teye et al. 2018).

The same images are predicted T times, each time normalised by another mini-batch. The variance of
the softmax over the T passes, averaged over classes and images, is the model's uncertainty.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def uncertainty(candidate: Candidate) -> float:
    """Mean over anchors and classes of the variance over T of the predicted probabilities."""
    observation = candidate.observation
    anchors = observation.logits[:, : observation.anchors]
    return float(anchors.softmax(-1).var(0).mean())


INDICATOR = Indicator(
    "uncertainty",
    "variance of predictions under Monte Carlo BatchNorm",
    uncertainty,
    higher_is_better=False,
    needs=frozenset({Need.BATCHES, Need.TRAINING}),
)
