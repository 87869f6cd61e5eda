"""Composites: one rank of every candidate, from its ranks by several indicators.

Ranks are taken over all candidates evaluated so far, ties share the mean of their ranks, and rank
1 is the best. A value that is not finite ranks last. With m candidates and ranks r_k by the
composite's indicators k:

- ``mean`` = mean_k r_k (FBN-NAS);
- ``log`` = −Σ_k log((m + 1 − r_k) / m) (AZ-NAS, Lee and Ham 2024, with its sign
  turned): a candidate that is poor by one indicator is not made up for by the others.

What tells good candidates from poor ones need not tell good ones from each other. A composite may
name an indicator that does: its best fifth is then ordered anew among itself, by the same
combination of that order and that indicator, and of equals the better one by the former order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from fbn_deploy import plugins
from fbn_deploy.errors import unknown
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import indicator

Ranks = NDArray[np.float64]  # (indicators, candidates), 1 the best


def _mean(ranks: Ranks) -> Ranks:
    combined: Ranks = ranks.mean(axis=0)
    return combined


def _log(ranks: Ranks) -> Ranks:
    count = ranks.shape[1]
    combined: Ranks = -np.log((count + 1 - ranks) / count).sum(axis=0)
    return combined


COMBINED: dict[str, Callable[[Ranks], Ranks]] = {"mean": _mean, "log": _log}
BEST = 0.2  # of all candidates
# Sums of logarithms of equal products differ by less, by rounding; those of unequal ones by more:
# products of two ranks among n that are whole or half, by a share of at least 1 / (2 n)².
SAME = 1e-12


@dataclass(frozen=True)
class Composite:
    """Indicators and the way in which their ranks become one number: a key of ``COMBINED``.
    ``among_best`` helps to order the best fifth."""

    of_all: tuple[str, ...]
    combined: str = "mean"
    among_best: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """All indicators that it reads."""
        return (*self.of_all, self.among_best) if self.among_best else self.of_all

    @property
    def description(self) -> str:
        """One line."""
        then = f"; the best fifth also by {self.among_best}" if self.among_best else ""
        return f"{self.combined} rank of {', '.join(self.of_all)}{then}"


# FBN-NAS's three perspectives, each by the definition that the evidence supports
# (benchmarks/results/ablation.md): expressivity, trainability, uncertainty.
_PERSPECTIVES = Composite(
    ("expressivity-rank", "trainability-gradients", "uncertainty-eigenvalue", "uncertainty-signal"),
    "log",
)
COMPOSITES: dict[str, Composite] = {
    "cpi": replace(_PERSPECTIVES, among_best="trainability-cka"),
    "cpi-gradients": _PERSPECTIVES,  # the former one, without a second look at the best
    # The one before, of forward passes alone.
    "cpi-spectra": Composite(
        ("expressivity-regions", "trainability-conditioning", "uncertainty-eigenvalue")
    ),
    # The perspectives with γ/σ and Monte Carlo BatchNorm as the paper defines them, and
    # expressivity by its section 5.3 and by its section 4.
    "cpi-regions": Composite(("expressivity-regions", "trainability", "uncertainty")),
    "cpi-paper": Composite(("expressivity-accuracy", "trainability", "uncertainty")),
    # Chen et al. 2021, section 3.3: the sum of both ranks, which ranks as their mean.
    "te-nas": Composite(("ntk", "linear-regions")),
    # Lee and Ham 2024: complexity is the number of FLOPs.
    "az-nas": Composite(("az-expressivity", "az-progressivity", "az-trainability", "flops"), "log"),
    # The training-free bar on NAS-Bench-201.
    "three-proxy": Composite(("synflow", "naswot", "jacob-cov")),
}


def composite(name: str) -> Composite:
    """The composite of that name, or the one that consists of the indicator ``name`` alone.

    ``FBNError`` lists what exists.
    """
    if name in COMPOSITES:
        return COMPOSITES[name]
    known = plugins.names("fbn_deploy.indicators")
    if name not in known:
        raise unknown("indicator", name, [*COMPOSITES, *known])
    return Composite((name,))


def indicators_of(name: str) -> tuple[str, ...]:
    """The indicators that ``name`` is made of: a composite's parts, or itself."""
    return composite(name).parts


def needs_training(names: Sequence[str]) -> bool:
    """Whether one of the composites or indicators reads what training has written."""
    return _any_needs(names, Need.TRAINING)


def needs_skeleton(names: Sequence[str]) -> bool:
    """Whether one of them reads the bare network, which a proxy of the space is not."""
    return _any_needs(names, Need.SKELETON)


def _any_needs(names: Sequence[str], need: Need) -> bool:
    return any(need in indicator(part).needs for name in names for part in indicators_of(name))


def composite_rank(name: str, scores: Sequence[Mapping[str, float]]) -> list[float]:
    """The rank of every candidate by the composite or indicator ``name``; lower is better."""
    of = composite(name)
    places = _first_look(of, scores)
    if of.among_best:
        best = _best(places)
        again = _ranks(of.among_best, [scores[number] for number in best])
        first = rankdata(places[best])
        places = rankdata(places)
        places[best] = _ordered(COMBINED[of.combined](np.array([first, again])), first)
    listed: list[float] = places.tolist()
    return listed


def looked_at_again(name: str, scores: Sequence[Mapping[str, float]]) -> list[int]:
    """Who is ordered anew by ``among_best``, by number: all others need no value of it. ``scores``
    hold the values of ``of_all``."""
    of = composite(name)
    return _best(_first_look(of, scores)) if of.among_best else []


def _first_look(of: Composite, scores: Sequence[Mapping[str, float]]) -> Ranks:
    return COMBINED[of.combined](np.array([_ranks(part, scores) for part in of.of_all]))


def _best(places: Ranks) -> list[int]:
    ranks = rankdata(places)
    best: list[int] = np.flatnonzero(ranks <= math.ceil(BEST * len(ranks))).tolist()
    return best


def _ordered(values: Ranks, then: Ranks) -> Ranks:
    """Ranks by ``values``, of equal ones by the ranks ``then``."""
    order = np.argsort(values)
    groups = np.empty(len(values))
    groups[order] = np.cumsum(np.diff(values[order], prepend=values[order[:1]]) > SAME)
    ranks: Ranks = rankdata(groups * len(values) + then)  # ``then`` is from 1 to their number
    return ranks


def _ranks(name: str, scores: Sequence[Mapping[str, float]]) -> Ranks:
    """Ranks by one indicator, 1 the best."""
    sign = -1.0 if indicator(name).higher_is_better else 1.0
    values = [sign * score[name] for score in scores]
    ranks: Ranks = rankdata([v if math.isfinite(v) else math.inf for v in values])
    return ranks
