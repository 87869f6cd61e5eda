"""What every INT8 range estimator does, and what calibration says to broken input."""

from __future__ import annotations

import dataclasses
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration import entropy, mse, percentile
from fbn_deploy.errors import FBNError
from fbn_deploy.export.calibration import Observed, calibrated, largest_magnitudes
from fbn_deploy.export.estimators import Estimator, estimator, estimators
from fbn_deploy.export.histogram import BINS, GrowingHistogram, Histogram
from fbn_deploy.export.ranges import Ranges
from fbn_deploy.progress import Silent

every_estimator = pytest.mark.parametrize("method", estimators(), ids=lambda each: each.name)


def histogram(values: np.ndarray, parts: int = 1) -> Histogram:
    growing = GrowingHistogram()
    for part in np.array_split(values.astype(np.float32), parts):
        growing.add(part)
    return growing.value()


def normal(count: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(count)


def network(scale: float = 1.0) -> ir.Model:
    """Conv 1×1 with weights ``scale`` and two channels, then Relu: (batch, 3, 4, 4)."""
    weight = np.full((2, 3, 1, 1), scale, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="stem"),
            helper.make_node("Relu", ["c"], ["y"], name="act"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return ir.from_proto(model)


def images(count: int = 16) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, 4, 4), dtype=np.float32)


def ranges(
    batches: list[np.ndarray], model: ir.Model | None = None, method: str = "minmax"
) -> Ranges:
    return calibrated(
        model or network(),
        ["x", "y"],
        batches,
        [estimator(method)],
        count=sum(len(batch) for batch in batches),
        data_hash="of these images",
        reporter=Silent(),
    )[method]


@every_estimator
def test_a_range_lies_between_nothing_and_the_largest_value(method: Estimator) -> None:
    for values in (normal(), np.abs(normal()), normal(3), np.ones(5), np.array([0.0, 2.5])):
        found = method.amax(histogram(values))
        assert 0 < found <= np.abs(values).max() * (1 + 1e-6)


@every_estimator
def test_a_range_scales_with_the_tensor(method: Estimator) -> None:
    values = normal()
    assert method.amax(histogram(8 * values)) == pytest.approx(8 * method.amax(histogram(values)))


@every_estimator
def test_a_range_does_not_depend_on_signs_batches_or_their_order(method: Estimator) -> None:
    values = normal()
    expected = method.amax(histogram(values))
    assert method.amax(histogram(-values)) == expected
    assert method.amax(histogram(values, parts=7)) == expected
    assert method.amax(histogram(values[::-1], parts=3)) == expected


@every_estimator
def test_a_tensor_of_equal_values_is_represented_exactly(method: Estimator) -> None:
    assert method.amax(histogram(np.full(1000, 3.0))) == pytest.approx(3.0, rel=1e-3)


@every_estimator
def test_every_method_has_a_description(method: Estimator) -> None:
    assert len(method.description) > 20


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_one_outlier_among_many_values_is_clipped(method: str) -> None:
    values = np.concatenate([normal(100_000), [200.0]])
    assert estimator(method).amax(histogram(values)) < 150
    assert estimator("minmax").amax(histogram(values)) == 200


def test_the_percentile_is_where_numpy_finds_it() -> None:
    values = np.abs(normal(100_000))
    expected = np.percentile(values, percentile.PERCENTILE)
    bin_width = values.max() / BINS
    assert percentile.amax(histogram(values)) == pytest.approx(expected, abs=2 * bin_width)


@pytest.mark.parametrize(("values", "levels"), [(normal(), 127), (np.exp(normal()), 255)])
def test_the_mse_range_rounds_the_values_themselves_best(values: np.ndarray, levels: int) -> None:
    found = mse.amax(dataclasses.replace(histogram(values), levels=levels))

    def error(limit: float) -> float:
        step = limit / levels
        steps = np.clip(np.rint(values / step), -levels, levels)
        return float(((values - steps * step) ** 2).sum())

    tried = [error(part * np.abs(values).max()) for part in np.linspace(0.1, 1, 200)]
    assert error(found) <= min(tried) * 1.01


@pytest.mark.parametrize("levels", [127, 255])
def test_the_entropy_range_equals_the_definition_evaluated_bin_by_bin(levels: int) -> None:
    values = np.concatenate([normal(5_000), 3 * normal(500)])
    found = dataclasses.replace(histogram(values), levels=levels)
    counts, best, chosen, groups = found.counts, np.inf, 0, levels + 1
    for i in range(groups, BINS + 1):
        p = counts[:i].copy()
        edges = np.arange(groups + 1) * i // groups
        sums, filled = (np.add.reduceat(each, edges[:-1]) for each in (p, (p > 0).astype(int)))
        q = np.repeat(sums / np.maximum(filled, 1), np.diff(edges)) * (p > 0)
        inside = p.sum()
        p[-1] += counts[i:].sum()
        q[-1] = q[-1] or 1.0
        used = p > 0
        p, q = p[used] / p.sum(), q[used] / inside
        divergence = float((p * np.log(p / q)).sum())
        if divergence < best - 1e-12:
            best, chosen = divergence, i
    assert entropy.amax(found) == pytest.approx(found.amax * chosen / BINS)


@pytest.mark.parametrize(
    "values", [np.repeat(np.arange(1, 17) / 16, 100), np.repeat([1.0, 4.0], [1000, 10])]
)
def test_the_entropy_range_of_few_values_is_the_widest_of_equals(values: np.ndarray) -> None:
    """Any range shows so few values exactly, so that none has to be clipped."""
    for levels in (127, 255):
        found = dataclasses.replace(histogram(values), levels=levels)
        assert entropy.amax(found) == values.max()


def test_counting_grows_over_values_of_any_size_and_loses_none() -> None:
    values = np.concatenate([normal(1000) * 10.0**power for power in (-6, 0, 5)])
    found = histogram(values, parts=30)
    assert found.counts.sum() + found.num_zeros == pytest.approx(3000)
    assert found.amax == np.abs(values.astype(np.float32)).max()


def test_ranges_of_a_small_network_are_those_counted_by_hand() -> None:
    x = images()
    found = ranges([x[:10], x[10:]])
    assert found.amax["x"] == x.max()
    assert found.amax["y"] == pytest.approx(x.sum(axis=1).max(), rel=1e-6)
    assert found.means["y"] == pytest.approx([x.sum(axis=1).mean()] * 2, rel=1e-5)
    assert found.count == 16


def test_ranges_do_not_depend_on_the_batch_size() -> None:
    x = images()
    a, b = ranges([x], method="mse"), ranges(np.array_split(x, 5), method="mse")
    assert a.amax == b.amax


def test_ranges_are_the_same_after_saving_and_belong_to_one_model(tmp_path: Path) -> None:
    found = ranges([images()])
    found.save(tmp_path / "ranges.json")
    loaded = Ranges.load(tmp_path / "ranges.json")
    assert loaded == dataclasses.replace(loaded, amax=found.amax, means=found.means)
    assert loaded.is_of(found.model_hash, "of these images", "minmax")
    assert not loaded.is_of(
        ranges([images()], network(0.5)).model_hash, "of these images", "minmax"
    )
    assert not loaded.is_of(found.model_hash, "of others", "minmax")


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1}'])
def test_damaged_ranges_are_refused_with_what_to_do(content: str, tmp_path: Path) -> None:
    (tmp_path / "ranges.json").write_text(content)
    with pytest.raises(FBNError, match=r"damaged|calibrate again"):
        Ranges.load(tmp_path / "ranges.json")


def test_nan_and_infinite_activations_name_the_tensor() -> None:
    x = images()
    x[3, 0, 0, 0] = np.nan
    with pytest.raises(FBNError, match=r"NaN or infinite .* 'x'"):
        ranges([x])
    with pytest.raises(FBNError, match=r"NaN or infinite .* 'y'"):
        ranges([np.full((8, 3, 4, 4), 1e38, np.float32)], network(1e3))


def test_a_dead_tensor_is_named() -> None:
    with pytest.raises(FBNError, match=r"'y' stayed 0 for all 16 .*--keep-fp32"):
        ranges([images()], network(-1.0))


def test_too_few_images_are_refused_before_any_runs() -> None:
    drawn = iter([images(3)])
    with pytest.raises(FBNError, match="3 images; it needs at least 8"):
        calibrated(network(), ["x"], drawn, [estimator("minmax")], count=3, data_hash="",
                   reporter=Silent())  # fmt: skip
    assert len(list(drawn)) == 1


def test_calibration_holds_no_batch_but_the_last_when_it_draws_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither its images nor the tensors that they gave."""
    seen: list[weakref.ref[np.ndarray]] = []
    add = Observed.add

    def watched(self: Observed, values: np.ndarray) -> None:
        seen.append(weakref.ref(values))
        add(self, values)

    def batches() -> Iterator[np.ndarray]:
        for number in range(5):
            assert len(seen) == 2 * number, "The earlier ones were looked at."
            assert all(earlier() is None for earlier in seen[:-2])
            yield images(2)

    monkeypatch.setattr(Observed, "add", watched)
    calibrated(network(), ["x", "y"], batches(), [estimator("mse")], count=10, data_hash="",
               reporter=Silent())  # fmt: skip
    assert len(seen) == 10


def test_what_is_kept_of_a_tensor_is_as_large_after_many_batches_as_after_one() -> None:
    observed, sizes = Observed(), []
    for batch in np.split(images(400), 50):
        observed.add(batch)
        sizes.append(len(pickle.dumps(observed)))
    assert sizes[-1] < sizes[0] + batch.nbytes


def test_an_unknown_method_lists_what_exists() -> None:
    with pytest.raises(FBNError, match="entropy, minmax, mse, percentile"):
        estimator("kl")


def test_values_next_to_nothing_count_as_nothing() -> None:
    found = histogram(np.array([0.0, 1e-40, -1e-36, 1e-31]))
    assert found.amax == 0.0
    with pytest.raises(FBNError, match="'c' stayed 0 for all 16"):
        calibrated(network(1e-36), ["c"], [images()], [estimator("mse")], count=16, data_hash="",
                   reporter=Silent())  # fmt: skip


def test_the_input_alone_may_be_watched() -> None:
    found = calibrated(network(), ["x"], [images()], [estimator("minmax")], count=16,
                       data_hash="", reporter=Silent())["minmax"]  # fmt: skip
    assert found.amax == {"x": pytest.approx(float(images().max()))}


def test_the_largest_magnitudes_are_those_of_all_batches_on_both_sides() -> None:
    """c = −1e5 · (x₁ + x₂ + x₃), of which the Relu leaves nothing."""
    x = images()
    found = largest_magnitudes(network(-1e5), [x[:10], x[10:]])
    assert found == {
        "x": x.max(),
        "c": pytest.approx(1e5 * x.sum(axis=1).max(), rel=1e-6),
        "y": 0.0,
    }
