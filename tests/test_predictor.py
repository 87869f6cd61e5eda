"""The predictor on latencies whose law is known: it finds the law, and knows its own error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.blocks import Block
from fbn_deploy.latency.composition import Composition
from fbn_deploy.latency.moment import UNKNOWN, Moment
from fbn_deploy.latency.predictor import Predictor, spearman

RNG = np.random.default_rng(0)
KINDS = ("k3", "k5", "k7")
BLOCKS = {
    f"{kind}@{shape}": Block(
        key=f"{kind}@{shape}",
        kind=kind,
        name=f"{kind} {shape}",
        nodes=3 + number % 3,
        activations_mb=0.1 * (1 + number % 4),
        weights_mb=0.02 * (1 + number % 5),
        multiply_adds=1.0 + number,
    )
    for number, (kind, shape) in enumerate(
        (kind, shape) for kind in KINDS for shape in ("16×8×8", "32×4×4", "64×2×2")
    )
}
TIMES = {key: 0.02 + 0.01 * block.multiply_adds for key, block in BLOCKS.items()}


def network(rng: np.random.Generator) -> Composition:
    chosen = rng.choice(sorted(BLOCKS), size=rng.integers(6, 20))
    return Composition({str(key): int((chosen == key).sum()) for key in set(chosen)})


def true_ms(network: Composition) -> float:
    """Blocks take 30 % longer in a network, those of kernel 7 another 20 %, and every border
    between blocks saves 8 microseconds."""
    total = 0.0
    for key, count in network.blocks.items():
        factor = 1.3 * (1.2 if BLOCKS[key].kind == "k7" else 1.0)
        total += count * (factor * TIMES[key] - 0.008)
    return total


def measured(count: int, noise: float, seed: int = 0) -> list[tuple[Composition, float]]:
    rng = np.random.default_rng(seed)
    networks = [network(rng) for _ in range(count)]
    return [(each, true_ms(each) * (1 + noise * rng.standard_normal())) for each in networks]


def test_the_law_is_found_where_the_plain_sum_is_far_off() -> None:
    predictor = Predictor(BLOCKS, TIMES, measured(48, noise=0.002))
    unseen = measured(60, noise=0.0, seed=1)
    errors = [abs(predictor(counts).value_ms / value - 1) for counts, value in unseen]
    sums = [abs(predictor.sum_ms(counts) / value - 1) for counts, value in unseen]
    assert np.mean(errors) < 0.005
    assert np.mean(sums) > 0.1


def test_intervals_cover_nine_of_ten_networks_that_were_not_fitted() -> None:
    inside = []
    for seed in range(6):
        predictor = Predictor(BLOCKS, TIMES, measured(48, noise=0.02, seed=seed))
        for counts, value in measured(60, noise=0.02, seed=100 + seed):
            prediction = predictor(counts)
            inside.append(prediction.low_ms <= value <= prediction.high_ms)
    assert 0.85 <= np.mean(inside) <= 0.97


def test_the_stated_error_is_that_of_networks_left_out() -> None:
    probes = measured(48, noise=0.02)
    quality = Predictor(BLOCKS, TIMES, probes).quality
    assert quality.probes == 46  # without the shortest and the longest
    assert quality.mape == pytest.approx(0.8 * 0.02, rel=0.5)  # mean |N(0, 0.02)| = 0.016
    assert quality.spearman > 0.98
    assert quality.sum_mape > 0.1
    assert 0.75 <= quality.coverage <= 1.0


def test_leave_one_out_in_closed_form_is_what_refitting_gives() -> None:
    from fbn_deploy.latency.predictor import Features, _Fit

    probes = measured(20, noise=0.02)
    features = Features(BLOCKS, TIMES)
    counts = features.contents([network for network, _ in probes])
    values = np.array([value for _, value in probes])
    kept = np.arange(20) != 7
    for spread, rel in ((0.0, 1e-6), (0.3, 0.1)):  # γ is not refitted
        moments = spread * np.random.default_rng(3).standard_normal((20, 3))
        slowed = values * (1.0 + moments @ (0.2, 0.0, 0.1))
        fit = _Fit(features, counts, slowed, moments)
        others = counts[kept], slowed[kept], moments[kept]
        again = _Fit(features, *others, prior=fit.prior, scale=fit.scale)
        assert bool(fit.prior.moment) == bool(spread)
        predicted, _ = again.predict(counts[7:8], moments[7:8])
        assert 1 - predicted[0] / slowed[7] == pytest.approx(fit.left_out[7], rel=rel)


def test_a_disturbed_probe_does_not_spoil_the_others() -> None:
    probes = measured(48, noise=0.005)
    probes[5] = (probes[5][0], 3.0 * probes[5][1])
    predictor = Predictor(BLOCKS, TIMES, probes)
    unseen = measured(60, noise=0.0, seed=1)
    errors = [abs(predictor(counts).value_ms / value - 1) for counts, value in unseen]
    assert np.median(errors) < 0.02


def test_the_same_table_gives_the_same_prediction_to_the_last_bit() -> None:
    probes = measured(30, noise=0.02)
    (counts, _), one, two = probes[0], Predictor(BLOCKS, TIMES, probes), Predictor(
        dict(reversed(BLOCKS.items())), TIMES, probes
    )  # fmt: skip
    assert one(counts) == two(counts)


def shared(
    count: int, seed: int = 0
) -> tuple[list[tuple[Composition, float]], list[Moment], list[float]]:
    """Networks on a machine that others share for a varying part of the time, and use the memory
    of: both make networks slower. Measured latencies, their moments, and how slow these were."""
    rng = np.random.default_rng(1000 + seed)
    networks = measured(count, noise=0.003, seed=seed)
    moments = [Moment(rng.uniform(0.0, 1.0), 2.0, rng.uniform(5.5, 6.0)) for _ in networks]
    slowed = [1.0 + 0.2 * at.crowd + 0.3 * (at.memory - 5.75) for at in moments]
    at_once = zip(networks, slowed, strict=True)
    return [(each, value * slow) for (each, value), slow in at_once], moments, slowed


def test_what_the_machine_did_meanwhile_is_told_from_the_networks() -> None:
    (probes, moments, slowed), (unseen, meanwhile, slow) = shared(48), shared(60, seed=1)
    told, blind = Predictor(BLOCKS, TIMES, probes, moments), Predictor(BLOCKS, TIMES, probes)
    typical = 1.0 + float(
        np.median([at.crowd for at in moments]) * 0.2
        + np.median([at.memory - 5.75 for at in moments]) * 0.3
    )
    assert min(slowed) < typical < max(slowed)

    def error(values: list[float], predicted: list[float]) -> float:
        return float(np.mean([abs(p / v - 1.0) for p, v in zip(predicted, values, strict=True)]))

    networks, values = [each for each, _ in unseen], [value for _, value in unseen]
    typical_ms = [value / s * typical for value, s in zip(values, slow, strict=True)]
    then = [told(*each).value_ms for each in zip(networks, meanwhile, strict=True)]
    assert error(values, then) < 0.01
    assert error(typical_ms, [told(each).value_ms for each in networks]) < 0.01
    assert error(typical_ms, [blind(each).value_ms for each in networks]) > 0.02
    assert told.mape < 0.01 < blind.mape


def test_the_error_that_is_told_is_that_of_moments_that_nobody_knows_beforehand() -> None:
    probes, moments, _ = shared(48)
    told = Predictor(BLOCKS, TIMES, probes, moments)
    unseen, _, _ = shared(60, seed=1)
    errors = [abs(told(each).value_ms / value - 1.0) for each, value in unseen]
    assert told.quality.mape == pytest.approx(np.mean(errors), rel=0.4)
    covered = [told(each).low_ms <= value <= told(each).high_ms for each, value in unseen]
    assert 0.8 <= np.mean(covered) <= 1.0


def test_what_is_known_of_some_moments_alone_does_not_count() -> None:
    """Of the outermost networks, say, which were measured later: it would stand for them."""
    probes, moments, _ = shared(48)
    some = [at if n < 7 else at._replace(memory=math.nan) for n, at in enumerate(moments)]
    none = [at._replace(memory=math.nan) for at in moments]
    one, other = (Predictor(BLOCKS, TIMES, probes, each) for each in (some, none))
    assert one(probes[0][0], moments[0]) == other(probes[0][0], moments[0])


def test_moments_are_of_all_probes_or_of_none() -> None:
    probes, moments, _ = shared(12)
    with pytest.raises(ValueError, match="shorter"):
        Predictor(BLOCKS, TIMES, probes, moments[:1])


def test_a_machine_that_nobody_shares_is_the_same_with_and_without_its_moments() -> None:
    probes = measured(30, noise=0.02)
    blind = Predictor(BLOCKS, TIMES, probes)
    for moment in (Moment(0.0, 2.0, 5.5), UNKNOWN):
        told = Predictor(BLOCKS, TIMES, probes, [moment] * 30)
        assert told(probes[0][0]) == told(probes[0][0], moment) == blind(probes[0][0])


def test_a_moment_like_none_before_slows_by_a_factor_of_two_at_most() -> None:
    probes, moments, _ = shared(48)
    predictor = Predictor(BLOCKS, TIMES, probes, moments)
    typical = predictor(probes[0][0])
    for memory, factor in ((50.0, 2.0), (0.0, 0.5)):
        then = predictor(probes[0][0], Moment(0.5, 2.0, memory))
        assert then.value_ms == pytest.approx(factor * typical.value_ms)
        assert then.high_ms == pytest.approx(factor * typical.high_ms)


def test_what_a_seam_saves_is_found() -> None:
    """Sums that a convolution feeds cost nothing: 0.1 ms less for each of 0 to 3 megabytes."""

    def fused(networks: list[tuple[Composition, float]]) -> list[tuple[Composition, float]]:
        rng = np.random.default_rng(2)
        seams = [float(rng.integers(4)) for _ in networks]
        return [
            (
                Composition(each.blocks, {"Conv>Add": seam, "Conv>Relu": 3.0 - seam}),
                value - 0.1 * seam,
            )
            for (each, value), seam in zip(networks, seams, strict=True)
        ]

    probes, unseen = fused(measured(48, noise=0.002)), fused(measured(60, noise=0.0, seed=1))

    def mape(predictor: Predictor, unseen: list[tuple[Composition, float]]) -> float:
        return float(np.mean([abs(predictor(each).value_ms / ms - 1) for each, ms in unseen]))

    blind = [(Composition(each.blocks), value) for each, value in probes]
    assert mape(Predictor(BLOCKS, TIMES, probes), unseen) < 0.01
    assert mape(Predictor(BLOCKS, TIMES, blind), unseen) > 0.04


def test_a_seam_that_no_probe_has_changes_nothing() -> None:
    predictor = Predictor(BLOCKS, TIMES, measured(20, noise=0.02))
    network, _ = measured(1, noise=0.0, seed=5)[0]
    assert predictor(Composition(network.blocks, {"Conv>Add": 1.0})) == predictor(network)


def test_a_block_that_was_not_measured_is_refused() -> None:
    predictor = Predictor(BLOCKS, TIMES, measured(20, noise=0.02))
    with pytest.raises(FBNError, match="not in the latency table"):
        predictor(Composition({"k9@1×1×1": 1}))


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(FBNError, match="10 whole networks or more; there are 3"):
        Predictor(BLOCKS, TIMES, measured(3, noise=0.02))


def test_a_block_of_a_kind_that_no_probe_has_is_predicted_with_a_sane_interval() -> None:
    rare = Block("rare", "rare", "rare 7×7×7", 5, 0.3, 0.1, 4.0)
    blocks, times = {**BLOCKS, "rare": rare}, {**TIMES, "rare": 0.06}
    predictor = Predictor(blocks, times, measured(48, noise=0.002))
    counts = Composition({**measured(1, noise=0.0, seed=5)[0][0].blocks, "rare": 1})
    prediction = predictor(counts)
    assert prediction.value_ms == pytest.approx(1.3 * predictor.sum_ms(counts), rel=0.3)
    assert 0.7 < prediction.low_ms / prediction.value_ms < 1


def test_spearman_is_that_of_the_textbook() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    assert spearman(a, b) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman(a, np.array([2.0, 2.0, 5.0, 5.0])) == pytest.approx(2 / 5**0.5)
