"""The number of multiply-adds: the complexity of AZ-NAS, and the other baseline that costs nothing.

One multiply-add is one FLOP.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def flops(candidate: Candidate) -> float:
    """Multiply-adds of the folded network for one image."""
    return float(candidate.flops)


INDICATOR = Indicator(
    "flops", "multiply-adds of the folded network", flops, needs=frozenset({Need.SKELETON})
)
