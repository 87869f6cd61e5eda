"""Two processes as one job, on gloo: the same supernet, the same scores, the same mistakes."""

from __future__ import annotations

import contextlib
import copy
import json
import multiprocessing
import os
import random
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fbn_deploy import loop
from fbn_deploy.data import ImageData, load_data, train_batches
from fbn_deploy.data.augment import Chain, Flip, ResizedCrop, Shift
from fbn_deploy.data.batches import TrainBatches
from fbn_deploy.distributed import ALONE, Job, join
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import Scoring, indicators_of, probe_batches
from fbn_deploy.pipeline.context import Given, open_run
from fbn_deploy.pipeline.sharing import SharedScoring, Values
from fbn_deploy.pipeline.train import trained_supernet
from fbn_deploy.progress import Silent
from fbn_deploy.retrain.course import Course
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings, retrain
from fbn_deploy.retrain.trial import Trial, TrialSettings
from fbn_deploy.supernet.definition import definition
from fbn_deploy.supernet.supernet import Supernet, build_supernet
from fbn_deploy.supernet.syncbn import plain_batchnorm, synchronise_batchnorm
from fbn_deploy.supernet.training import SupernetSettings, train_supernet

# Its processes are forked, which PyTorch refuses where others have run autograd before.
pytestmark = pytest.mark.alone

SPACE = definition("nasbench201", 8, {"channels": 4, "cells": 1})


def started(work: Callable[[Job], Any], wait_for: int = 2) -> dict[int, Any]:
    """Rank → what ``work`` returns, of the first ``wait_for`` of two processes to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def process(rank: int) -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port))  # fmt: skip
        torch.set_num_threads(1)
        torch.cuda.is_available = lambda: False  # two processes share no GPU, and forks have none
        try:
            answers.put((rank, work(join())))
        except BaseException:
            answers.put((rank, RuntimeError(traceback.format_exc())))

    processes = [context.Process(target=process, args=(rank,)) for rank in range(2)]
    for each in processes:
        each.start()
    found = dict(answers.get(timeout=120) for _ in range(wait_for))
    for each in processes:
        each.join(10)
    for answer in found.values():
        if isinstance(answer, RuntimeError):
            raise answer
    return found


def two(work: Callable[[Job], Any]) -> list[Any]:
    """What ``work`` returns in each of two processes that form one job."""
    found = started(work)
    return [found[0], found[1]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as each of two processes has: sums over several threads round otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(resolution=8, seed=0)


def supernet_after(
    job: Job, digits: ImageData, folder: Path, steps: int = 50, dropout: float = 0, **changes: Any
) -> Supernet:
    supernet = build_supernet(SPACE, 10, seed=0)
    supernet.network.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(dropout))
    per_epoch = len(digits.train) // 32
    settings = SupernetSettings(epochs=steps / per_epoch, batch_size=32, **changes)
    train_supernet(
        supernet,
        digits,
        settings,
        checkpoint=folder / "partial",
        about={},
        reporter=Silent(),
        job=job,
    )
    return supernet


def arrays(network: nn.Module) -> dict[str, Any]:
    """What is trained; running statistics are gathered anew for every candidate."""
    return {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "sgd", "sampler": "fair", "steps": 5}, {"train": "all", "steps": 5},
     {"dropout": 0.3, "steps": 5}],
)  # fmt: skip
def test_two_processes_train_the_supernet_that_one_trains_in_two_shards_bit_for_bit(
    digits: ImageData, tmp_path: Path, changes: dict[str, Any]
) -> None:
    alone = supernet_after(ALONE, digits, tmp_path / "one", shards=2, **changes)
    first, second = two(
        lambda job: arrays(supernet_after(job, digits, tmp_path / "two", **changes).network)
    )
    assert first.keys() == second.keys() == arrays(alone.network).keys()
    for name, expected in arrays(alone.network).items():
        assert np.array_equal(first[name], second[name]), name
        assert np.array_equal(first[name], expected), name


def test_a_run_that_one_process_began_keeps_its_single_shard(tmp_path: Path) -> None:
    """Two processes cannot go on with its training, only with what needs none."""
    options = {"channels": 4, "cells": 1}
    open_run(tmp_path, Given(space="nasbench201", resolution=8, options=options), Silent())

    def going_on(job: Job) -> list[Any]:
        context = open_run(tmp_path, Given(), Silent(), create=False, job=job)
        with pytest.raises(FBNError, match="in 1 shard cannot be divided among 2 processes"):
            trained_supernet(context)
        return [context.supernet_settings.shards, trained_supernet(context, needed=False).seconds]

    assert two(going_on) == [[1, 0.0], [1, 0.0]]
    assert open_run(tmp_path, Given(), Silent()).supernet_settings.shards == 1


def test_two_processes_keep_the_split_of_their_run_also_where_one_downloads(tmp_path: Path) -> None:
    given = Given(space="nasbench201", resolution=8, options={"channels": 4, "cells": 1})
    split = open_run(tmp_path, given, Silent()).run.split
    stored = json.loads(split.read_text())
    stored["test"].append(stored["train"].pop())
    split.write_text(json.dumps(stored))

    def images(job: Job) -> int:
        said = replace(given, download=True)
        return len(open_run(tmp_path, said, Silent(), job=job).data.held_out.test)

    assert two(images) == [len(stored["test"])] * 2


@pytest.mark.parametrize("kind", ["indicators", "trial"])
def test_two_processes_give_the_scores_of_one(digits: ImageData, kind: str) -> None:
    names = (*indicators_of("cpi"), *indicators_of("cpi-spectra"))
    supernet = build_supernet(SPACE, 10, seed=0)
    rng = random.Random(0)
    candidates = [supernet.space.sample(rng) for _ in range(7)]
    probe = probe_batches(digits, batches=2, batch_size=32, seed=0)

    def scores(job: Job) -> Any:
        values: Values = Scoring(supernet, probe, names)
        if kind == "trial":
            values = Trial(SPACE, digits, TrialSettings(steps=4, batch_size=16))
        shared = SharedScoring([values], supernet.space, job)
        if not job.is_first:
            return shared.serve()
        found = [values for values, _ in shared(candidates)]
        shared.end()
        return found

    assert two(scores)[0] == scores(ALONE)


def test_synchronised_batchnorm_is_that_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    images, weights = torch.randn(8, 3, 4, 4) * 2 + 1, torch.randn(8, 3, 4, 4)

    def passed(job: Job) -> list[Any]:
        network = nn.Sequential(nn.BatchNorm2d(3))
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        synchronise_batchnorm(network, job)
        own = job.part(8, "A batch")
        x = images[own].clone().requires_grad_(True)
        y = network(x)
        (y * weights[own]).sum().backward()
        bn = network[0]
        sums = [job.sum_(each.grad.clone()) for each in (bn.weight, bn.bias)]
        plain_batchnorm(network)
        assert type(network[0]) is nn.BatchNorm2d
        return [t.detach().numpy() for t in (y, x.grad, *sums, bn.running_mean, bn.running_var)]

    expected, (first, second) = passed(ALONE), two(passed)
    for k in (0, 1):
        assert np.allclose(np.concatenate([first[k], second[k]]), expected[k], atol=1e-5)
    for k in (2, 3, 4, 5):
        assert np.allclose(first[k], expected[k], atol=1e-4)
        assert np.array_equal(first[k], second[k])


@pytest.mark.parametrize("augment", [Shift(2), Chain((ResizedCrop(), Flip()))])
def test_parts_of_a_batch_are_the_batch_that_one_process_gets(
    digits: ImageData, augment: Any
) -> None:
    whole = TrainBatches(digits, digits.train, 32, 0, augment).at(3)
    parts = [TrainBatches(digits, digits.train, 32, 0, augment, Job(r, 4)).at(3) for r in range(4)]
    for k in (0, 1):
        assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


def test_a_batch_that_cannot_be_divided_is_refused(digits: ImageData) -> None:
    with pytest.raises(FBNError, match="A batch of 32 images cannot be divided among 3 processes"):
        train_batches(digits, digits.train, batch_size=32, seed=0, job=Job(0, 3))


@pytest.mark.parametrize(("keep", "sync_bn"), [("best", True), ("best", False), ("last", False)])
def test_two_processes_retrain_one_network_and_a_resumed_job_ends_alike(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, sync_bn: bool
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip
    chosen = recipe("quick", {"epochs": 0.3, "keep": keep, "ema": 0.9, "accumulate": 2})

    def trained(job: Job, folder: str, stop_after: int | None = None) -> dict[str, Any]:
        after = Course.after

        def stops(course: Course, step: int, loss: torch.Tensor) -> None:
            after(course, step, loss)
            if step == stop_after:
                raise KeyboardInterrupt

        monkeypatch.setattr(Course, "after", stops)
        monkeypatch.setattr(loop, "SAVE_EVERY_S", -1.0)
        own = copy.deepcopy(network)
        with contextlib.suppress(KeyboardInterrupt):
            retrain(
                own, digits, RetrainSettings(chosen, sync_bn=sync_bn), about={}, reporter=Silent(),
                checkpoint=tmp_path / folder / "p", best=tmp_path / folder / "b", job=job,
            )  # fmt: skip
        return {name: tensor.numpy() for name, tensor in own.state_dict().items()}

    first, second = two(lambda job: trained(job, "whole"))
    two(lambda job: trained(job, "broken", stop_after=4))
    resumed, _ = two(lambda job: trained(job, "broken"))
    for name, expected in first.items():
        assert np.array_equal(second[name], expected), name
        assert np.array_equal(resumed[name], expected), name


def test_a_process_that_dies_ends_the_other_with_a_reason() -> None:
    def dies(job: Job) -> str:
        if not job.is_first:
            os._exit(9)
        with pytest.raises(FBNError) as raised:
            job.gather(job.share([1]))
        return str(raised.value)

    assert "goes on from the last checkpoint" in started(dies, wait_for=1)[0]
