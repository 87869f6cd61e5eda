"""The published baselines, on networks small enough to count by hand.

The networks: a softmax of logits (log 3, 0) is (3/4, 1/4), of (2 log 3, 0) it is (9/10, 1/10); for
the label 0 the gradient by the logits is (p₀ − 1, p₁) = (−1/4, 1/4) and (−1/10, 1/10).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log, nan
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import Candidate, az_progressivity, indicator
from fbn_deploy.indicators._blocks import blocks, entropy
from fbn_deploy.indicators._codes import code_kernel, log_determinant
from fbn_deploy.indicators._layers import weights
from fbn_deploy.supernet.supernet import Chosen

LOG3 = log(3)


def value(name: str, network: nn.Module, *batches: list[list[float]]) -> float:
    """The indicator of ``network`` on batches of flat images, all of class 0."""
    tensors = [torch.tensor(rows) for rows in batches]
    labelled = tuple((rows, torch.zeros(len(rows), dtype=torch.long)) for rows in tensors)
    candidate = SimpleNamespace(
        images=labelled[0][0],
        labels=labelled[0][1],
        batches=labelled,
        subnet=lambda: network,
        setting=SimpleNamespace(probe=SimpleNamespace(anchors=0)),
    )
    return indicator(name).value(candidate)  # type: ignore[arg-type]


def linear(*rows: list[float]) -> nn.Linear:
    """A linear layer without bias, its weight written out."""
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


def two_classes() -> nn.Linear:
    """x → (x log 3, 0)."""
    return linear([LOG3], [0.0])


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_naswot_is_the_log_determinant_of_shared_signs() -> None:
    # codes (1, 0) and (1, 1): each agrees with itself twice, with the other once: |2 1; 1 2| = 3
    assert value("naswot", nn.ReLU(), [[1, -1], [1.0, 1]]) == pytest.approx(log(3))


def test_images_with_one_code_count_once_in_naswot() -> None:
    # codes (1, 0), (1, 0) and (1, 1)
    images = [[1, -1], [2.0, -1], [1.0, 1]]
    assert value("naswot", nn.ReLU(), images) == pytest.approx(log(3))
    assert value("naswot", nn.ReLU(), images[:2]) == pytest.approx(log(2))


@pytest.mark.parametrize("seed", range(20))
def test_a_repeated_code_changes_no_log_determinant(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = [(torch.rand(32, n, generator=generator) > 0.5).float() for n in (700, 300)]
    again = [0, *range(32), 31, 5]

    def kernel(rows: Sequence[int]) -> torch.Tensor:
        # A large feature map is sampled and scaled up by a number that is not whole.
        first, second = (code_kernel(codes[list(rows)]) for codes in layers)
        return first * (1000 / 700) + second

    expected = float(torch.linalg.slogdet(kernel(range(32)))[1])
    assert log_determinant(kernel(range(32))) == expected
    assert log_determinant(kernel(again)) == pytest.approx(expected, rel=1e-9)


def test_linear_regions_are_distinct_codes() -> None:
    # (1, 0), (1, 1), (1, 0)
    assert value("linear-regions", nn.ReLU(), [[1, -1], [1, 1], [2.0, -3]]) == 2


def test_jacob_cov_of_uncorrelated_jacobians() -> None:
    # J = 2x: (2, 4, 6) and (2, −4, 2) have correlation 0, so v = (1, 1)
    k = 1e-5
    expected = -2 * (log(1 + k) + 1 / (1 + k))
    assert value("jacob-cov", Square(), [[1, 2, 3], [1.0, -2, 1]]) == pytest.approx(expected)


def test_jacob_cov_of_equal_jacobians() -> None:
    # a linear network: both Jacobians are its weight, so v = (0, 2)
    k = 1e-5
    expected = -(log(k) + 1 / k + log(2 + k) + 1 / (2 + k))
    got = value("jacob-cov", linear([1.0, 2.0, 4.0]), [[1, 2, 3], [1.0, -2, 1]])
    assert got == pytest.approx(expected, rel=1e-4)


def test_snip_sums_weights_times_gradients() -> None:
    # |log 3 · −1/4| + |0 · 1/4|
    assert value("snip", two_classes(), [[1.0]]) == pytest.approx(LOG3 / 4)


def test_grasp_multiplies_weights_with_hessian_times_gradient() -> None:
    # H = 3/16 · (1 −1; −1 1), g = (−1/4, 1/4), H g = (−3/32, 3/32), −w · H g = 3/32 log 3
    assert value("grasp", two_classes(), [[1.0]]) == pytest.approx(3 / 32 * LOG3)


def test_synflow_sums_the_flow_through_every_layer() -> None:
    # |w|: 1·1 + 1·2 = 3 flows into 3·3 = 9; the saliencies of each layer sum up to 9. The
    # BatchNorm, whose γ is 5, and the ReLU6, which would stop at 6, are bypassed.
    norm = nn.BatchNorm1d(1)
    nn.init.constant_(norm.weight, 5.0)
    network = nn.Sequential(linear([-1.0, 2.0]), norm, Times(3), nn.ReLU6(), linear([1.0]))
    assert value("synflow", network, [[7.0, 8.0]]) == pytest.approx(log(9 + 9))


def test_fisher_squares_activation_times_gradient() -> None:
    # a = (log 3, 0), ∂L/∂a = (−1/4, 1/4): ½ (log 3 / 4)²
    assert value("fisher", two_classes(), [[1.0]]) == pytest.approx((LOG3 / 4) ** 2 / 2)


def test_fisher_sums_positions_before_it_squares_and_averages_images_after() -> None:
    # A 1×1 convolution with weight 1 and a mean over two positions give the first logit; the
    # second is 0. Positions (log 3, log 3) give a · ∂L/∂a = log 3 · −1/8 each.
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1, bias=False)
            nn.init.ones_(self.conv.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.conv(x[:, None, None]).mean((1, 2, 3))
            return torch.stack([first, torch.zeros_like(first)], 1)

    # Two equal images: each has half the gradient, and the mean of their squares is that of one.
    one, two = [[LOG3, LOG3]], [[LOG3, LOG3]] * 2
    assert value("fisher", Network(), one) == pytest.approx((LOG3 / 4) ** 2 / 2)
    assert value("fisher", Network(), two) == pytest.approx((LOG3 / 8) ** 2 / 2)


def test_ntk_is_the_condition_number_of_the_gram_matrix_of_gradients() -> None:
    # the gradient by the weight is x: (1, 0) and (0, 2) give Θ = diag(1, 4)
    assert value("ntk", linear([1.0, 1.0]), [[1, 0], [0.0, 2]]) == pytest.approx(4)


def test_zico_divides_mean_by_deviation_of_gradients() -> None:
    # batches x = 1 and x = 2: g = (∓1/4) and 2 · (∓1/10); mean |g| 0.225, deviation 0.025: 9 each
    assert value("zico", two_classes(), [[1.0]], [[2.0]]) == pytest.approx(log(18), rel=1e-4)


def test_zico_wants_two_batches() -> None:
    with pytest.raises(FBNError, match="2 probe batches"):
        value("zico", two_classes(), [[1.0]])


def test_entropy_is_that_of_the_scaled_eigenvalues() -> None:
    # 4 samples of 2 channels: (±1, 0) and (0, ±1) have covariance diag(½, ½): log 2;
    # (±√3, 0) and (0, ±1) have diag(3/2, 1/2): shares ¾ and ¼
    even = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).reshape(4, 2, 1, 1)
    uneven = torch.tensor([[3**0.5, 0], [-(3**0.5), 0], [0, 1], [0, -1]]).reshape(4, 2, 1, 1)
    assert entropy(even) == pytest.approx(log(2))
    assert entropy(uneven) == pytest.approx(-(0.75 * log(0.75) + 0.25 * log(0.25)), rel=1e-6)


def images(channels: int = 1) -> list[list[list[list[float]]]]:
    return torch.zeros(8, channels, 4, 4).tolist()  # type: ignore[no-any-return]


def test_expressivity_sums_and_progressivity_takes_the_least_growth() -> None:
    # One channel has one eigenvalue, entropy 0; two channels filled by white noise and its
    # negative: still one; white noise in two channels: nearly log 2.
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, -x], 1)

    def network() -> nn.Sequential:
        return nn.Sequential(Chosen("a", Times(2)), Chosen("b", Doubled()))

    white = [torch.zeros(256, 2, 8, 8).tolist()]
    assert value("az-expressivity", network(), images()) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
    assert value("az-progressivity", network(), images()) == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
    # two channels: log 2 enters, log 2 after a, and after b four channels of rank two
    assert value("az-expressivity", network(), *white) == pytest.approx(3 * log(2), abs=1e-2)
    assert value("az-progressivity", network(), *white) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("entropies", [[nan, 1.0, 2.0], [1.0, nan, 3.0], [1.0, 2.0, nan]])
def test_a_growth_that_is_no_number_leaves_no_least_one(
    entropies: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(az_progressivity, "entropies", lambda candidate: entropies)
    assert isnan(value("az-progressivity", nn.Identity(), images()))  # type: ignore[arg-type]


def test_trainability_is_0_for_a_block_that_keeps_the_size_of_gradients() -> None:
    # one channel: M = factor · E[g²] = factor; −2 − ½ + 2 = −½, and −1 − 1 + 2 = 0 for a factor −1
    doubling = nn.Sequential(Chosen("a", Times(2)))
    turning = nn.Sequential(Chosen("a", Times(-1)))
    both = nn.Sequential(Chosen("a", Times(2)), Chosen("b", Times(-1)))
    assert value("az-trainability", doubling, images()) == pytest.approx(-0.5, abs=1e-5)  # type: ignore[arg-type]
    assert value("az-trainability", turning, images()) == pytest.approx(0, abs=1e-5)  # type: ignore[arg-type]
    assert value("az-trainability", both, images()) == pytest.approx(-0.25, abs=1e-5)  # type: ignore[arg-type]


def test_trainability_of_a_block_that_computes_nothing_is_minus_infinity() -> None:
    assert value("az-trainability", nn.Sequential(Chosen("a", Times(1))), images()) == -float("inf")  # type: ignore[arg-type]


def test_trainability_reads_each_position_of_a_reduction() -> None:
    # a 2×2 mean: each of the four positions gets ¼ of the gradient, M = (¼ ¼ ¼ ¼)ᵀ, σ = ½
    pooling = nn.Sequential(Chosen("a", nn.AvgPool2d(2)))
    expected = -0.5 - 2 + 2
    assert value("az-trainability", pooling, images()) == pytest.approx(expected, abs=1e-4)  # type: ignore[arg-type]


def test_blocks_hold_choices_or_lie_between_them() -> None:
    a, b = Chosen("x", nn.Conv2d(3, 3, 1)), Chosen("x", nn.Conv2d(3, 3, 1))
    nothing = Chosen("skip", nn.Identity())
    between = nn.ReLU()
    body = nn.Sequential(nn.Conv2d(3, 3, 1), a, between, nothing, b, nn.Flatten())
    assert blocks(nn.Sequential(body, nn.Linear(3, 2))) == [a, between, b]
    stages = nn.ModuleDict({"first": nn.ModuleList([a, between]), "second": nn.ModuleList([b])})
    assert blocks(nn.Sequential(nn.Flatten(), stages)) == [a, between, b]


def test_biases_and_batchnorms_are_no_weights_of_a_saliency() -> None:
    conv = nn.Conv2d(3, 4, 1)
    assert [w is conv.weight for w in weights(nn.Sequential(conv, nn.BatchNorm2d(4)))] == [True]


def test_counts_are_the_candidate_s() -> None:
    counted = SimpleNamespace(flops=12, params=34)
    assert indicator("flops").value(counted) == 12  # type: ignore[arg-type]
    assert indicator("params").value(counted) == 34  # type: ignore[arg-type]
    assert Candidate.__doc__
