"""From an architecture to the values of several indicators, which share what they compute.

Every indicator runs with gradients allowed, on random numbers that start anew from the probe's
seed, and with deterministic kernels where the device has them; the caller's random state and
settings are given back. So a value depends on nothing but the architecture, the supernet and the
probe, and not on which indicators are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from fbn_deploy.indicators._candidate import Candidate, Setting
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._observation import ProbeBatches
from fbn_deploy.indicators._protocol import Indicator, indicator
from fbn_deploy.randomness import reproducible
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.supernet import Supernet


class Scoring:
    """``Scoring(supernet, probe, asked)(architecture)`` → indicator → value.

    ``asked`` are names, or indicators that have no file. Nothing is computed that none of them
    needs.
    """

    def __init__(
        self, supernet: Supernet, probe: ProbeBatches, asked: Sequence[str | Indicator]
    ) -> None:
        self.indicators = [indicator(each) if isinstance(each, str) else each for each in asked]
        device = next(supernet.network.parameters()).device
        needs = frozenset[Need]().union(*(each.needs for each in self.indicators))
        self._setting = Setting(supernet, probe.to(device), needs)

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Indicator → whether its higher values rank first."""
        return {each.name: each.higher_is_better for each in self.indicators}

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        candidate = Candidate(self._setting, architecture)
        scores = {}
        for each in self.indicators:
            with reproducible(self._setting.device, self._setting.probe.seed):
                scores[each.name] = each.value(candidate)
        return scores


def score(
    supernet: Supernet, architecture: Architecture, probe: ProbeBatches, names: Sequence[str]
) -> dict[str, float]:
    """The indicators ``names`` of one architecture; for many, keep one ``Scoring``."""
    return Scoring(supernet, probe, names)(architecture)
