"""The latency of a network from the times of its blocks, and how far off that may be.

Blocks do not add up by themselves: in a network a runtime fuses across their borders, keeps its
own memory layout between them, and finds their weights in slower memory than a loop over one block
does. So the sum is corrected by what whole networks (*probes*) took. With n_b the number of times
that a network has block b, t_b the block's own time and x_bk its features,

    y = a · Σ_b n_b t_b  +  Σ_k w_k Σ_b n_b x_bk  +  Σ_b n_b t_b δ_b  +  ε

where a is free, w_k ~ N(0, s²) and δ_b ~ N(0, τ²): ridge regression that is pulled towards the
sum, in its dual form (a Gaussian process of mean zero; Rasmussen and Williams 2006, chapter 2),

    ŷ(x) = k(x)ᵀ (K + σ²I)⁻¹ y.

Features: the blocks' times by kind and by shape, their number, nodes, bytes written, bytes of
weights and multiply-adds; each scaled so that over the probes it is as large as the sum. In cell
spaces the network's seams (``composition.py``) are features as well, scaled together. Everything
is divided by the network's plain sum first, so that errors are relative. s, τ and σ are those of
a small grid with the smallest mean absolute leave-one-out error, which has a closed form (there,
equation 5.12): r_i = [(K + σ²I)⁻¹ y]_i / [(K + σ²I)⁻¹]_ii.

Every probe has a moment of the machine (``moment.py``); z is how far that is from the median over
the probes. Its latency is taken for f / (1 - γᵀz), which is fitted as y = f + γᵀ(z y); γ has a
prior of its own, which the grid takes or leaves. Predicted is f, the latency of a typical moment,
or that of a moment that is given. r_i then is y_i (1 - γᵀz_i) - f_i, and the error in that moment
r_i / (1 - γᵀz_i).

The interval is conformal (Lei et al. 2018): predictive deviation times the ⌈(n+1)·0.9⌉-th smallest
of |r_i| over its own deviation. Since s, τ and σ were chosen on the same r_i, these are a little
too small: the interval is widened by the same quantile of |residual| over half-width in folds that
fit and prior did not see, where that is above 1; in typical moments, since a search knows no other,
and what others do to a network is part of the error. It assumes that networks to come are like the
probes, and is checked by folds that saw neither fit nor widening; so is the error that is told.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.moment import EXPECTED, UNKNOWN, Moment

if TYPE_CHECKING:
    import numpy.typing as npt

    from fbn_deploy.latency.blocks import Block
    from fbn_deploy.latency.composition import Composition

    Matrix = npt.NDArray[np.float64]

COVERAGE = 0.9
MIN_PROBES = 10
_FREE = 3.0  # prior deviation of a, which lies between 0.5 and 1.5
_SHARED = (0.01, 0.03, 0.1, 0.3)  # s
_SINGLE = (0.0, 0.03, 0.1)  # τ
_SEAMS = 3.0  # all seams together, as a multiple of the sum; chosen of 1 and 3 on two tables
_NOISE = (0.005, 0.01, 0.02, 0.05, 0.1)  # σ
_MOMENT = (0.0, 1.0)  # whether γ may be anything but 0
_SLOWED_MOST = 2.0  # by a moment, whatever the fit says of one that it has not seen
_FOLDS = 6
# A probe that is that many times as far off as the median one, in deviations (which are large at
# the ends of a space), was disturbed: it hardly counts in the fit (its noise has that many times
# the variance), and fully in the interval.
_OUTLIER, _DOUBT = 10.0, 1e4
_ROUNDS = 3  # of choosing the prior and the outliers in turns


@dataclass(frozen=True)
class Prediction:
    """A latency in milliseconds, with the interval that is to cover nine measurements of ten
    (``Quality.coverage`` says how many it does)."""

    value_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True)
class Quality:
    """How well networks were predicted that neither fit nor prior saw, a sixth of them at a time,
    without knowing their moments. Errors are fractions."""

    probes: int
    mape: float
    worst: float
    spearman: float
    coverage: float
    """Share of the networks inside the interval of a predictor fitted on other folds."""
    width: float
    """Median half-width of the intervals over the prediction."""
    sum_mape: float
    """The same error for the plain sum of blocks."""

    def text(self) -> str:
        return (
            f"Error over {self.probes} whole networks, each left out: {self.mape:.1%} in the mean, "
            f"{self.worst:.1%} at most, Spearman {self.spearman:.3f}; intervals of "
            f"±{self.width:.1%} cover {self.coverage:.0%}. (Plain sum of blocks: "
            f"{self.sum_mape:.1%}.)"
        )


class Features:
    """Blocks and seams as rows of numbers; a network is a sum of rows, divided by its plain sum.
    Seams take no time of their own, and have a column each."""

    def __init__(
        self,
        blocks: Mapping[str, Block],
        times_ms: Mapping[str, float],
        seams: Iterable[str] = (),
    ) -> None:
        self.position = {key: number for number, key in enumerate(sorted(blocks))}
        self.seams = {name: len(blocks) + n for n, name in enumerate(sorted(set(seams)))}
        ordered = [blocks[key] for key in self.position]
        times = np.array([times_ms[block.key] for block in ordered])
        counted = [(1.0, b.nodes, b.activations_mb, b.weights_mb, b.multiply_adds) for b in ordered]
        groups = ([b.kind for b in ordered], [b.name.rpartition(" ")[2] for b in ordered])
        timed = [
            times * np.array([each == name for each in group])
            for group in groups
            for name in sorted(set(group))
        ]
        of_blocks = np.column_stack([np.array(counted), *timed])
        blank = np.zeros((len(blocks), len(self.seams)))
        of_seams = np.zeros((len(self.seams), of_blocks.shape[1]))
        self.times = np.append(times, np.zeros(len(self.seams)))
        self.columns = np.block([[of_blocks, blank], [of_seams, np.eye(len(self.seams))]])

    def contents(self, networks: Sequence[Composition]) -> Matrix:
        """(networks, blocks and seams). Raises ``FBNError`` for a block that was not measured;
        seams that no network of the fit has say nothing."""
        matrix = np.zeros((len(networks), len(self.times)))
        for row, network in enumerate(networks):
            for key, count in network.blocks.items():
                if key not in self.position:
                    raise FBNError(f"The block {key} of a network is not in the latency table.")
                matrix[row, self.position[key]] = count
            for name in network.seams.keys() & self.seams.keys():
                matrix[row, self.seams[name]] = network.seams[name]
        return matrix

    def scale(self, contents: Matrix) -> Matrix:
        """What each column is multiplied by: over these networks it becomes as large as their
        sum; seams keep their proportions, so that a rare one says little. A column that none has
        says nothing; δ alone stands for its blocks."""
        typical = (contents @ self.columns).mean(axis=0)
        first = len(typical) - len(self.seams)
        typical[first:] = typical[first:].sum() / _SEAMS
        scale: Matrix = np.zeros_like(typical)
        np.divide((contents @ self.times).mean(), typical, out=scale, where=typical > 0)
        return scale


@dataclass(frozen=True)
class _Prior:
    shared: float
    single: float
    noise: float
    moment: float


class _LeftOut(NamedTuple):
    errors: Matrix
    """Relative, in the probe's own moment."""
    far: Matrix
    """In predictive deviations."""


_PRIORS = [_Prior(*each) for each in itertools.product(_SHARED, _SINGLE, _NOISE, _MOMENT)]


class Predictor:
    """Fitted once on the probes of a table."""

    def __init__(
        self,
        blocks: Mapping[str, Block],
        times_ms: Mapping[str, float],
        probes: Sequence[tuple[Composition, float]],
        moments: Sequence[Moment] = (),
    ) -> None:
        """``times_ms``: block key → time. ``probes``: what a network consists of, and its own
        time; ``moments``: when that was, for each of them or not at all."""
        if len(probes) < MIN_PROBES:
            raise FBNError(
                f"A predictor is fitted on {MIN_PROBES} whole networks or more; "
                f"there are {len(probes)}."
            )
        seams = [name for network, _ in probes for name in network.seams]
        self._features = Features(blocks, times_ms, seams)
        contents = self._features.contents([network for network, _ in probes])
        meanwhile = [at for _, at in zip(probes, moments or [UNKNOWN] * len(probes), strict=True)]
        self._typical = np.median(np.array(meanwhile), axis=0)  # NaN where not all are known
        measured = np.array([value for _, value in probes])
        self._probes = contents, measured, self._untypical(meanwhile)
        self._fit = _Fit(self._features, *self._probes)

    @property
    def mape(self) -> float:
        """Mean absolute percentage error over the probes, each left out of the fit but not of the
        choice of the prior, as a fraction: it tells fits apart, and ``quality`` how good one is."""
        return self._fit.mape

    @functools.cached_property
    def quality(self) -> Quality:
        """How well it predicts; takes some three seconds."""
        return _quality(self._features, *self._probes)

    @functools.cached_property
    def _wider(self) -> float:
        return _widening(self._features, *self._probes)

    def __call__(self, network: Composition, moment: Moment = UNKNOWN) -> Prediction:
        """The latency of a network with these blocks, in a typical moment or in ``moment``."""
        contents = self._features.contents([network])
        value, half = self._fit.predict(contents, self._untypical([moment]))
        half *= self._wider
        return Prediction(float(value[0]), float(value[0] - half[0]), float(value[0] + half[0]))

    def _untypical(self, moments: Sequence[Moment]) -> Matrix:
        """How far off what is typical, times what may be expected of it; what is unknown, be it of
        one probe, is typical."""
        untypical: Matrix = (np.array(moments) - self._typical) * EXPECTED
        return np.nan_to_num(untypical)

    def sum_ms(self, network: Composition) -> float:
        """The plain sum of the blocks."""
        return float(self._features.contents([network])[0] @ self._features.times)


class _Fit:
    """The fit on some probes. ``prior`` and ``scale`` are found unless given."""

    def __init__(
        self,
        features: Features,
        contents: Matrix,
        measured: Matrix,
        moments: Matrix,
        *,
        prior: _Prior | None = None,
        scale: Matrix | None = None,
    ) -> None:
        self._features = features
        self.scale = features.scale(contents) if scale is None else scale
        target = measured / (contents @ features.times)
        self._rows = *self._relative(contents), moments * target[:, None]
        self._products = _products(self._rows, self._rows)
        self.prior, trust = self._chosen(target, prior)
        found = self._left_out(self.prior, target, trust)
        self.left_out = found.errors
        self._inverse = self._inverted(self.prior, trust)
        self._weights = self._inverse @ target
        self._quantile = _quantile(found.far)

    @property
    def mape(self) -> float:
        return float(np.abs(self.left_out).mean())

    def _relative(self, contents: Matrix) -> tuple[Matrix, Matrix]:
        """Features and single blocks of networks, over each network's plain sum."""
        single = contents * self._features.times
        sums = single.sum(axis=1, keepdims=True)
        return contents @ self._features.columns * self.scale / sums, single / sums

    def _chosen(self, target: Matrix, given: _Prior | None) -> tuple[_Prior, Matrix]:
        """The prior with the smallest error, and the probes to be trusted (1) or doubted."""
        told = self._rows[2].any()
        priors = [given] if given else [each for each in _PRIORS if told or not each.moment]
        trust = np.ones(len(target))
        for _ in range(_ROUNDS):
            prior = min(priors, key=lambda each: self._error(each, target, trust))
            far = self._left_out(prior, target, trust).far
            trust = np.where(far > _OUTLIER * np.median(far), _DOUBT, 1.0)
        return prior, trust

    def _error(self, prior: _Prior, target: Matrix, trust: Matrix) -> float:
        errors = self._left_out(prior, target, trust).errors
        return float(np.abs(errors)[trust == 1.0].mean())

    def _inverted(self, prior: _Prior, trust: Matrix) -> Matrix:
        noise = np.diag(prior.noise**2 * trust)
        covariance = _kernel(self._products, prior) + noise
        return np.asarray(np.linalg.inv(covariance), dtype=np.float64)

    def _left_out(self, prior: _Prior, target: Matrix, trust: Matrix) -> _LeftOut:
        """Each probe by the fit without it, but for γ."""
        inverse = self._inverted(prior, trust)
        weights, diagonal = inverse @ target, np.diag(inverse)
        residuals = weights / diagonal
        variance = 1.0 / diagonal - prior.noise**2 * (trust - 1.0)
        deviations = np.sqrt(np.maximum(variance, prior.noise**2))
        typical = target - self._rows[2] @ self._gamma(prior, weights)
        errors = residuals / np.maximum(typical, target / _SLOWED_MOST)
        return _LeftOut(errors, np.abs(residuals) / deviations)

    def predict(self, contents: Matrix, moments: Matrix | None = None) -> tuple[Matrix, Matrix]:
        """Latency and half-width of the interval, in milliseconds; of typical moments, or scaled
        to ``moments``."""
        untypical = np.zeros((len(contents), self._rows[2].shape[1]))
        rows = *self._relative(contents), untypical
        cross = _kernel(_products(rows, self._rows), self.prior)
        own = np.array(
            [
                _kernel(_products(one, one), self.prior)[0, 0]
                for one in (tuple(part[n : n + 1] for part in rows) for n in range(len(contents)))
            ]
        )
        spent = np.einsum("ij,jk,ik->i", cross, self._inverse, cross)
        deviation = np.sqrt(np.maximum(own - spent, 0.0) + self.prior.noise**2)
        times = contents @ self._features.times
        if moments is not None:
            times = times * self._slowed(moments)
        return cross @ self._weights * times, self._quantile * deviation * times

    def _slowed(self, moments: Matrix) -> Matrix:
        """How many times as long networks take at ``moments`` as in a typical one."""
        speed = 1.0 - moments @ self._gamma(self.prior, self._weights)
        return np.asarray(1.0 / np.clip(speed, 1.0 / _SLOWED_MOST, _SLOWED_MOST), dtype=np.float64)

    def _gamma(self, prior: _Prior, weights: Matrix) -> Matrix:
        return np.asarray(prior.moment**2 * self._rows[2].T @ weights, dtype=np.float64)


def _products(a: Sequence[Matrix], b: Sequence[Matrix]) -> list[Matrix]:
    """Of features, single blocks and moments."""
    return [one @ other.T for one, other in zip(a, b, strict=True)]


def _kernel(products: Sequence[Matrix], prior: _Prior) -> Matrix:
    deviations = prior.shared, prior.single, prior.moment
    weighted = [s**2 * product for s, product in zip(deviations, products, strict=True)]
    return np.asarray(_FREE**2 + np.sum(weighted, axis=0), dtype=np.float64)


def _quantile(ratios: Matrix) -> float:
    """The conformal one: the ⌈(n+1)·0.9⌉-th smallest."""
    rank = min(math.ceil((len(ratios) + 1) * COVERAGE), len(ratios))
    return float(np.sort(ratios)[rank - 1])


def _folds(sums: Matrix) -> Iterator[npt.NDArray[np.intp]]:
    """The networks held out, each once; pairs stay together, since probes are drawn in two ways by
    turns (``probes.py``). The shortest and the longest by their plain sums are never held out:
    networks to come lie between."""
    numbers = np.arange(len(sums))
    inner = (numbers != sums.argmin()) & (numbers != sums.argmax())
    for fold in range(_FOLDS):
        yield np.flatnonzero(inner & (numbers // 2 % _FOLDS == fold))


def _widening(features: Features, contents: Matrix, measured: Matrix, moments: Matrix) -> float:
    """What the half-widths of a fit on these networks are multiplied by; 1 or more."""
    ratios = []
    for held in _folds(contents @ features.times):
        others = (np.delete(each, held, axis=0) for each in (contents, measured, moments))
        value, half = _Fit(features, *others).predict(contents[held])
        ratios.append(np.abs(value - measured[held]) / half)
    return max(1.0, _quantile(np.concatenate(ratios)))


def _quality(features: Features, contents: Matrix, measured: Matrix, moments: Matrix) -> Quality:
    sums = contents @ features.times
    folds = list(_folds(sums))
    predictions = []
    for held in folds:
        others = [np.delete(each, held, axis=0) for each in (contents, measured, moments)]
        value, half = _Fit(features, *others).predict(contents[held])
        predictions.append((value, half * _widening(features, *others)))
    predicted, halves = (np.concatenate(each) for each in zip(*predictions, strict=True))
    judged = np.concatenate(folds)
    measured, sums = measured[judged], sums[judged]
    errors = np.abs(predicted / measured - 1.0)
    return Quality(
        probes=len(measured),
        mape=float(errors.mean()),
        worst=float(errors.max()),
        spearman=spearman(predicted, measured),
        coverage=float(np.mean(np.abs(predicted - measured) <= halves)),
        width=float(np.median(halves / predicted)),
        sum_mape=float(np.abs(sums / measured - 1.0).mean()),
    )


def spearman(a: Matrix, b: Matrix) -> float:
    """Rank correlation; equal values share their mean rank."""
    ranks = [_ranks(values) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Matrix) -> Matrix:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Matrix = (ends - (counts - 1) / 2.0)[inverse]
    return ranks
