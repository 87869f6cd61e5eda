"""Eigenvalues at BatchNorms, of outputs and of gradients, and what is read off them, by hand."""

from __future__ import annotations

from math import exp, isnan, log
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from fbn_deploy.indicators import indicator
from fbn_deploy.indicators._backward import arrived, backward_facts, backward_pass
from fbn_deploy.indicators._spectra import (
    correlations,
    correlations_collected,
    gradient_correlations,
    spectra,
)


def spectrum_of(channels: torch.Tensor) -> torch.Tensor:
    """Of one BatchNorm that is given ``channels`` (C, N) at N single pixels."""
    norm = nn.BatchNorm2d(len(channels))
    with correlations_collected([norm]) as found:
        norm(channels.T[:, :, None, None])
    (spectrum,) = spectra([found[norm]])
    assert spectrum is not None
    return spectrum


def value(name: str, *spectra: list[float]) -> float:
    norms = [SimpleNamespace(spectrum=torch.tensor(s, dtype=torch.double)) for s in spectra]
    norms.append(SimpleNamespace(spectrum=None))  # behind a zero op
    candidate = SimpleNamespace(observation=SimpleNamespace(norms=norms))
    return indicator(name).value(cast(Any, candidate))


A = torch.tensor([1.0, -1.0, 1.0, -1.0])
B = torch.tensor([1.0, 1.0, -1.0, -1.0])


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (torch.stack([A, B]), [1.0, 1.0]),  # orthogonal: R is the identity
        (torch.stack([A, 5 * A + 3]), [0.0, 2.0]),  # the same but for scale and shift
        (torch.stack([A, A + B]), [1 - 0.5**0.5, 1 + 0.5**0.5]),  # correlation 1/√2
    ],
)
def test_spectrum_is_that_of_the_channel_correlations(
    channels: torch.Tensor, expected: list[float]
) -> None:
    assert spectrum_of(channels).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_batchnorm_that_does_not_vary_has_no_spectrum() -> None:
    norm = nn.BatchNorm2d(2)
    with correlations_collected([norm]) as found:
        norm(torch.zeros(4, 2, 3, 3))
    assert spectra([found[norm]]) == [None]


def test_conditioning_is_the_mean_of_means_of_logarithms() -> None:
    # [log(0 + 0.1) + log(2 + 0.1)] / 2 and log(1 + 0.1), then their mean.
    first, second = (log(0.1) + log(2.1)) / 2, log(1.1)
    assert value("trainability-conditioning", [0.0, 2.0], [1.0, 1.0]) == pytest.approx(
        (first + second) / 2
    )


def test_uncertainty_eigenvalue_is_the_sum_of_the_smallest() -> None:
    assert value("uncertainty-eigenvalue", [0.25, 1.75], [0.5, 1.5]) == pytest.approx(0.75)


def test_effective_rank_is_a_share_of_the_channels() -> None:
    # p = (0, 1): e^0 / 2; p = (1/2, 1/2): e^(log 2) / 2
    assert value("expressivity-rank", [0.0, 2.0], [1.0, 1.0]) == pytest.approx(0.5 + 1.0)


def at_gradients(name: str, *gradients: tuple[torch.Tensor | None, bool]) -> float:
    norms = [
        SimpleNamespace(
            gradients=None if g is None else backward_facts([arrived(g)])[0], ends_choice=ends
        )
        for g, ends in gradients
    ]
    candidate = SimpleNamespace(observation=SimpleNamespace(norms=norms))
    return indicator(name).value(cast(Any, candidate))


def test_gradients_are_read_at_batchnorms_that_end_no_op() -> None:
    orthogonal, correlated = torch.stack([A, B]).T, torch.stack([A, A + B]).T
    assert at_gradients(
        "trainability-gradients", (orthogonal, False), (correlated, False), (correlated, True)
    ) == pytest.approx((1 + (1 - 0.5**0.5)) / 2, abs=1e-4)


def test_where_all_end_an_op_all_gradients_are_read() -> None:
    gradients = torch.stack([A, B]).T
    assert at_gradients("trainability-gradients", (gradients, True), (None, False)) == (
        pytest.approx(1.0, abs=1e-4)
    )


def test_the_size_of_gradients_is_no_matter() -> None:
    (small,) = spectra([gradient_correlations(1e-6 * torch.stack([A, A + B]).T)])
    assert small is not None
    assert small.tolist() == pytest.approx([1 - 0.5**0.5, 1 + 0.5**0.5], abs=1e-4)


def test_signal_is_the_mean_over_the_deviation_of_what_images_add() -> None:
    # Positions are summed: channel 0 has 1 and 3, mean 2, deviation √2; channel 1 has none.
    gradients = torch.tensor([[[0.5, 0.5], [0, 0]], [[2.0, 1.0], [0, 0]]])
    assert at_gradients("uncertainty-signal", (gradients, True), (None, True)) == pytest.approx(
        (2 / 2**0.5 + 0) / 2
    )


def test_without_gradients_there_is_no_signal() -> None:
    assert isnan(at_gradients("uncertainty-signal", (torch.zeros(2, 3), False), (None, False)))


def test_gradients_arrive_at_outputs_before_what_works_in_place() -> None:
    # BatchNorm makes ±1 of (5, 3) and (3, 5). The ReLU turns the −1 into 0 and its gradient off:
    # logits (1, 0) and (0, 1), softmax e / (1 + e), and ∂L/∂y = softmax − label where y > 0.
    norm = nn.BatchNorm1d(2)
    network = nn.Sequential(norm, nn.ReLU(inplace=True))
    images = torch.tensor([[5.0, 3.0], [3.0, 5.0]])
    logits, facts = backward_pass(network, [norm], images, torch.tensor([0, 0]))
    share = exp(1) / (1 + exp(1))
    assert logits.flatten().tolist() == pytest.approx([1, 0, 0, 1], abs=1e-4)
    assert facts[norm].per_image.flatten().tolist() == (
        pytest.approx([share - 1, 0, 0, share], abs=1e-4)
    )


def test_gradients_arrive_at_a_batchnorm_behind_another_before_what_works_in_place() -> None:
    # Both BatchNorms give ±1, so the gradients at the second are the ones above; what the first
    # gives is no matter, as the second scales it: its gradients are 0 but for ε.
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    network = nn.Sequential(first, second, nn.ReLU(inplace=True))
    images = torch.tensor([[5.0, 3.0], [3.0, 5.0]])
    _, facts = backward_pass(network, [first, second], images, torch.tensor([0, 0]))
    share = exp(1) / (1 + exp(1))
    assert facts[second].per_image.flatten().tolist() == (
        pytest.approx([share - 1, 0, 0, share], abs=1e-4)
    )
    assert facts[first].per_image.flatten().tolist() == pytest.approx([0, 0, 0, 0], abs=1e-4)


@pytest.mark.parametrize("trained", [False, True])
def test_a_backward_pass_computes_no_gradient_of_a_weight(trained: bool) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    network.requires_grad_(trained)
    images = torch.tensor([[5.0, 3.0], [3.0, 5.0], [1.0, 1.0]])
    logits, facts = backward_pass(
        network, [network[1], network[3]], images, torch.tensor([0, 1, 1])
    )
    assert facts.keys() == {network[1], network[3]}
    assert not logits.requires_grad
    assert all(p.grad is None and p.requires_grad == trained for p in network.parameters())


def test_where_no_batchnorm_reaches_the_logits_there_are_no_facts() -> None:
    norm = nn.BatchNorm1d(2)
    images = torch.tensor([[5.0, 3.0], [3.0, 5.0]])
    _, facts = backward_pass(nn.Linear(2, 2), [norm], images, torch.tensor([0, 0]))
    assert not facts


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert spectra([correlations(torch.randn(64, 8, 4, 4))]) != [None]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_eigenvalues_that_do_not_converge_in_single_precision_are_computed_in_double(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    (expected,) = spectra([correlations(features)])
    eigvalsh = torch.linalg.eigvalsh

    def fails(matrix: torch.Tensor) -> torch.Tensor:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("The algorithm failed to converge.")
        return eigvalsh(matrix)

    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    (found,) = spectra([correlations(features)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_spectra_of_many_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(64, width, 4, 4, generator=generator) for width in (8, 300, 8, 3)]
    features[2].zero_()
    features[3][0, 0, 0, 0] = torch.nan
    together = spectra([correlations(each) for each in features])
    assert [None if each is None else len(each) for each in together] == [8, 150, None, None]
    for each, of in zip(features[:2], together, strict=False):
        torch.testing.assert_close(spectra([correlations(each)])[0], of, rtol=0, atol=0)
