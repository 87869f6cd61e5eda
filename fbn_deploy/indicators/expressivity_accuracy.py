"""Expressivity as the accuracy of the subnet inside the supernet (FBN-NAS, section 4)."""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def accuracy(candidate: Candidate) -> float:
    """Share of correct predictions over all probe images, normalised by their own batch."""
    observation = candidate.observation
    correct = observation.logits.argmax(-1) == observation.labels
    return float(correct.double().mean())


INDICATOR = Indicator(
    "expressivity-accuracy",
    "accuracy of the subnet with the supernet's weights",
    accuracy,
    needs=frozenset({Need.BATCHES, Need.TRAINING}),
)
