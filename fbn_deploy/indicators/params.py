"""The number of parameters: the baseline that every proxy has to beat."""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def params(candidate: Candidate) -> float:
    """Weights and biases of the folded network."""
    return float(candidate.params)


INDICATOR = Indicator(
    "params", "parameters of the folded network", params, needs=frozenset({Need.SKELETON})
)
