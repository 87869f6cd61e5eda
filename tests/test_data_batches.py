"""Batches: reproducible from (seed, step), normalised, prefetched; augmentations; samples."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fbn_deploy.data import (
    ImageData,
    eval_batches,
    load_data,
    sample_indices,
    train_batches,
)
from fbn_deploy.data.augment import (
    Augmentation,
    Chain,
    Flip,
    ResizedCrop,
    Shift,
    default_augmentation,
)
from fbn_deploy.data.batches import Batch, prefetched


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(resolution=8, seed=0)


def images(count: int, resolution: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        0, 256, (count, resolution, resolution, 3), dtype=torch.uint8, generator=generator
    )
    return pixels.permute(0, 3, 1, 2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


# Training batches


def test_a_batch_depends_on_seed_and_step_only(digits: ImageData) -> None:
    batches = train_batches(digits, digits.train, batch_size=64, seed=3)
    through = list(batches.steps(0, 40))  # more than two epochs of 17 steps
    resumed = train_batches(digits, digits.train, batch_size=64, seed=3)
    assert all(same(a, b) for a, b in zip(through[25:], resumed.steps(25, 40), strict=True))
    other = train_batches(digits, digits.train, batch_size=64, seed=4)
    assert not same(through[25], other.at(25))


def test_the_global_random_state_is_neither_used_nor_changed(digits: ImageData) -> None:
    batches = train_batches(digits, digits.train, batch_size=16, seed=0)
    torch.manual_seed(1)
    first, state = batches.at(0), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()  # type: ignore[index]
    torch.manual_seed(2)
    assert same(first, batches.at(0))
    torch.manual_seed(1)
    list(batches.steps(0, 3))
    load_data(resolution=8, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_an_epoch_shows_no_image_twice_and_the_next_one_another_order(digits: ImageData) -> None:
    batches = train_batches(digits, digits.train, batch_size=50, seed=0, augment=False)
    epochs = []
    for epoch in range(2):
        start = epoch * batches.steps_per_epoch
        labels = [batch[1] for batch in batches.steps(start, start + batches.steps_per_epoch)]
        epochs.append(torch.cat(labels))
    assert all(len(labels) == len(digits.train) // 50 * 50 for labels in epochs)
    assert not torch.equal(*epochs)
    rows = [
        tuple(image.flatten().tolist())
        for step in range(batches.steps_per_epoch)
        for image in batches.at(step)[0]
    ]
    assert len(set(rows)) == len(rows)


def test_a_split_smaller_than_the_batch_is_one_batch(digits: ImageData) -> None:
    batches = train_batches(digits, digits.validation, batch_size=10_000, seed=0)
    assert batches.steps_per_epoch == 1
    assert len(batches.at(5)[1]) == len(digits.validation)


def test_training_batches_are_normalised_channels_last_floats(digits: ImageData) -> None:
    inputs, labels = train_batches(digits, digits.train, batch_size=32, seed=0).at(0)
    assert inputs.shape == (32, 3, 8, 8)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_evaluation_goes_through_the_split_in_order(digits: ImageData) -> None:
    batches = list(eval_batches(digits, digits.test, 100))
    assert [len(labels) for _, labels in batches] == [100, 100, 100, 59]
    assert torch.equal(torch.cat([labels for _, labels in batches]), digits.test.labels)
    expected = digits.normalize(digits.test.batch(range(100)))
    assert torch.equal(batches[0][0], expected)


# Prefetching


def batch_of(number: int) -> Batch:
    return torch.full((1,), float(number)), torch.tensor([number])


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_an_exception_in_the_background_is_raised_in_its_turn() -> None:
    def make(number: int) -> Batch:
        if number == 2:
            raise ValueError("the third one")
        return batch_of(number)

    batches = prefetched(make, range(5))
    assert [int(next(batches)[1]), int(next(batches)[1])] == [0, 1]
    with pytest.raises(ValueError, match="the third one"):
        next(batches)
    assert not prefetch_threads()


def test_the_thread_ends_when_the_consumer_stops() -> None:
    def consume_one() -> None:
        batches: Iterator[Batch] = prefetched(batch_of, range(10**9))
        next(batches)
        assert prefetch_threads()

    consume_one()
    assert not prefetch_threads()


def test_only_a_few_batches_are_made_ahead() -> None:
    made: list[int] = []

    def make(number: int) -> Batch:
        made.append(number)
        return batch_of(number)

    batches = prefetched(make, range(1000))
    next(batches)
    time.sleep(0.2)
    batches.close()
    assert len(made) < 10


# Augmentations


@pytest.mark.parametrize(
    "augmentation", [Shift(2), Flip(), ResizedCrop(), Chain((ResizedCrop(), Flip()))]
)
def test_augmentations_keep_shape_type_and_layout_and_leave_their_input(
    augmentation: Augmentation,
) -> None:
    before = images(6, 16)
    given_images = before.clone()
    after = augmentation(given_images, rng())
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    assert after.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(given_images, before)
    assert torch.equal(after, augmentation(before, rng()))
    assert not torch.equal(after, augmentation(before, rng(1)))


def test_shift_moves_each_image_as_a_whole_and_lets_black_in() -> None:
    dot = torch.zeros(200, 3, 9, 9, dtype=torch.uint8)
    dot[:, :, 4, 4] = 255
    shifted = Shift(2)(dot, rng())
    rows, columns = shifted[:, 0].nonzero()[:, 1], shifted[:, 0].nonzero()[:, 2]
    assert len(rows) == 200
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4, 5, 6}
    white = Shift(2)(torch.full((200, 3, 9, 9), 255, dtype=torch.uint8), rng())
    assert white.min() == 0


def test_flip_mirrors_about_half_of_the_images_and_no_other_way() -> None:
    before = images(400, 4)
    after = Flip()(before, rng())
    mirrored = (after == before.flip(3)).all((1, 2, 3))
    unchanged = (after == before).all((1, 2, 3))
    assert (mirrored ^ unchanged).all()
    assert 150 < mirrored.sum() < 250


def test_a_resized_crop_of_everything_changes_nothing() -> None:
    before = images(3, 16)
    assert torch.equal(ResizedCrop(scale=(1, 1), ratio=(1, 1))(before, rng()), before)


def test_a_resized_crop_enlarges_a_part() -> None:
    ramp = torch.arange(0, 256, 4, dtype=torch.uint8).expand(100, 3, 64, 64)  # left to right
    cropped = ResizedCrop(scale=(0.25, 0.25), ratio=(1, 1))(ramp, rng())
    span = cropped[:, 0, 0].amax(1).int() - cropped[:, 0, 0].amin(1).int()
    assert (span == 31 * 4).all()  # half the width


def test_digits_are_shifted_small_images_flipped_too_and_photographs_cropped() -> None:
    assert default_augmentation(32, mirrored=False) == Shift(4)
    assert default_augmentation(32, mirrored=True) == Chain((Shift(4), Flip()))
    assert default_augmentation(160, mirrored=True) == Chain((ResizedCrop(), Flip()))


# Samples


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    wanted=st.integers(1, 100),
    seed=st.integers(0, 2**32),
)
def test_a_sample_is_balanced_as_far_as_the_classes_reach(
    counts: list[int], wanted: int, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    chosen = sample_indices(labels, wanted, seed)
    assert len(chosen) == len(set(chosen.tolist())) == min(wanted, len(labels))
    assert torch.equal(chosen, sample_indices(labels, wanted, seed))
    taken = torch.bincount(labels[chosen], minlength=len(counts)).tolist()
    most = max(taken)
    assert all(k >= most - 1 or k == have for k, have in zip(taken, counts, strict=True))
