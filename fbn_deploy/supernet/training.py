"""Supernet training: single paths, and by default only the BatchNorms learn.

FBN-NAS keeps every weight at its random initialisation and trains γ and β alone, which takes a
fraction of the steps of full training. ``train="bn+classifier"`` trains the classifier with them,
``train="all"`` everything: the controls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fbn_deploy.accelerator import compute_device
from fbn_deploy.data import ImageData, train_batches
from fbn_deploy.distributed import ALONE, Job
from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.loop import Loop, run_loop
from fbn_deploy.progress import Reporter
from fbn_deploy.randomness import deterministic_kernels, start_step, states_kept
from fbn_deploy.supernet.choice import choices, select_path
from fbn_deploy.supernet.frozen import train_only_batchnorm
from fbn_deploy.supernet.paths import sampler
from fbn_deploy.supernet.schedule import learning_rate
from fbn_deploy.supernet.supernet import Supernet

TRAINED = ("bn", "bn+classifier", "all")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.9),
    "adam": torch.optim.Adam,
}
EPOCHS, MIN_STEPS, MAX_STEPS = 10, 300, 1500
_STEP = 12  # stream of random numbers under one seed, beside those of batches and retraining
RATES = {"sgd": 0.1, "adam": 0.02}  # peak learning rates that are used when none is given


@dataclass(frozen=True)
class SupernetSettings:
    """How a supernet is trained. No weight decay: it would shrink γ, which is what is read.

    ``epochs=None`` stands for ten epochs, a tenth of full training as in BN-NAS, but from
    ``MIN_STEPS`` to ``MAX_STEPS`` steps: on NAS-Bench-201, indicators after 11,000 steps ranked
    worse than after 3,500.

    ``shards`` are parts of a batch that are each normalised by their own statistics, and whose
    gradients are averaged: as many as processes, unless given. The result depends on the number
    of shards, not on who computes them: one process with two shards ends bit for bit like two
    processes of as many threads each. (Statistics shared by all processes would not do that: where
    a path's features are constant, BatchNorms magnify the rounding of a sum to the size of the
    features.)
    """

    epochs: float | None = None
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float | None = None
    schedule: str = "cosine"
    label_smoothing: float = 0.1
    sampler: str = "uniform"
    train: str = "bn"
    shards: int | None = None
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        said = {**asdict(self), "learning_rate": self.peak_rate}
        return said if said.pop("shards") in (None, 1) else {**said, "shards": self.shards}

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.optimizer]

    def steps(self, per_epoch: int) -> int:
        if self.epochs is None:
            return min(max(MIN_STEPS, EPOCHS * per_epoch), MAX_STEPS)
        return max(1, round(self.epochs * per_epoch)) if self.epochs else 0


def check(settings: SupernetSettings) -> None:
    """All mistakes in ``settings`` at once, before any long work."""
    mistakes = []
    for value, known, kind in (
        (settings.optimizer, OPTIMIZERS, "optimizer"),
        (settings.train, TRAINED, "training mode"),
    ):
        if value not in known:
            mistakes.append(str(unknown(kind, value, known)))
    epochs = settings.epochs or 0.0
    if not 0 <= epochs < math.inf or settings.batch_size < 2:
        mistakes.append(
            "A supernet needs epochs of 0 (its random initialisation) or more, and batches of at "
            "least 2 images; asked: "
            f"{settings.epochs} epochs, batches of {settings.batch_size}."
        )
    if settings.shards is not None and settings.shards < 1:
        mistakes.append(f"A batch has at least 1 shard, not {settings.shards}.")
    if settings.learning_rate is not None and not 0 < settings.learning_rate < math.inf:
        mistakes.append(f"A learning rate is above 0, not {settings.learning_rate}.")
    if not 0 <= settings.label_smoothing < 1:
        mistakes.append(f"Label smoothing is from 0 to below 1, not {settings.label_smoothing}.")
    if settings.batch_size % max(settings.shards or 1, 1):
        mistakes.append(
            f"A batch of {settings.batch_size} images cannot be divided into {settings.shards} "
            "equal shards; change --batch-size or --shards."
        )
    if mistakes:
        raise FBNError(" ".join(mistakes))
    sampler(settings.sampler)
    learning_rate(settings.schedule, 1.0, 0, 1)


def train_supernet(
    supernet: Supernet,
    data: ImageData,
    settings: SupernetSettings,
    *,
    checkpoint: Path,
    about: dict[str, Any],
    reporter: Reporter,
    job: Job = ALONE,
) -> float:
    """Trains ``supernet`` in place on ``data.train``; returns the seconds it took. It lies on the
    CPU before and after.

    The processes of ``job`` draw the same paths and each take their shards of every batch; only
    the gradients of what is trained travel, once a step, in one buffer.

    ``checkpoint`` is the file of a killed run to go on from, if it exists.
    """
    check(settings)
    network = supernet.network
    if settings.train != "all":
        train_only_batchnorm(network)
    if settings.train == "bn+classifier":
        _classifier(network).requires_grad_(True)
    network.train()
    if settings.epochs == 0:
        reporter.say("The supernet is not trained: it is read at its random initialisation")
        return 0.0
    shards = settings.shards or job.size
    if shards % job.size or settings.batch_size % shards:
        parts = "1 shard" if shards == 1 else f"{shards} equal shards"
        raise FBNError(
            f"A batch of {settings.batch_size} images in {parts} cannot be divided among "
            f"{job.size} processes; change --batch-size, --shards or their number."
        )
    own = shards // job.size
    trained = [p for p in network.parameters() if p.requires_grad]
    decisions, paths = supernet.space.decisions, sampler(settings.sampler)
    criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    told: list[int] = []

    def backward(images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
        losses, totals = [], None
        shards = zip(images.chunk(own), labels.chunk(own), strict=True)
        for shard, (some, of) in enumerate(shards, job.rank * own):
            start_step(settings.seed, _STEP, step, shard)  # for a dropout in the space's network
            for parameter in trained:
                parameter.grad = None
            for path in paths(decisions, settings.seed, step):
                select_path(network, path)
                loss = criterion(network(some), of)
                loss.backward()
                losses.append(loss.detach())
            if own > 1:
                totals = _added(totals, trained)
        if totals is not None:
            for parameter, total in zip(trained, totals, strict=True):
                parameter.grad = None if total is None else total.div_(own)
        sent = job.average_gradients(trained)
        if sent and not told:
            told.append(sent)
            reporter.say(
                f"{job.size} processes; each hands over {sent:,} bytes of gradients a step"
            )
        return torch.stack(losses).mean()

    batches = train_batches(
        data, data.train, batch_size=settings.batch_size, seed=settings.seed, job=job
    )
    steps = settings.steps(batches.steps_per_epoch)
    network.to(compute_device())
    optimizer = OPTIMIZERS[settings.optimizer](trained, settings.peak_rate)

    def set_rates(step: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings.schedule, settings.peak_rate, step, steps)

    loop = Loop(
        title=f"Training the supernet ({settings.train}, {supernet.bn} BN)",
        steps=steps,
        batches=batches.steps,
        backward=backward,
        set_rates=set_rates,
        checkpoint=checkpoint,
        about={**about, "supernet": settings.as_json()},
        job=job,
    )
    # A training that goes on ends as one that did not stop.
    with states_kept(), deterministic_kernels(tf32=True):
        seconds = run_loop(loop, network, optimizer, reporter)
    network.to("cpu")
    return seconds


def _classifier(network: nn.Module) -> nn.Module:
    """The linear layer that is registered last, which is no candidate op."""
    candidates = {op for choice in choices(network).values() for op in choice.modules()}
    linear = [m for m in network.modules() if isinstance(m, nn.Linear) and m not in candidates]
    if not linear:
        raise FBNError("This network has no nn.Linear to train as its classifier; use --train bn.")
    return linear[-1]


def _added(
    totals: list[torch.Tensor | None] | None, parameters: list[nn.Parameter]
) -> list[torch.Tensor | None]:
    """``totals`` and the gradients of one more shard, which reach the same parameters."""
    if totals is None:
        return [parameter.grad for parameter in parameters]
    return [
        None if total is None or parameter.grad is None else total.add_(parameter.grad)
        for total, parameter in zip(totals, parameters, strict=True)
    ]
