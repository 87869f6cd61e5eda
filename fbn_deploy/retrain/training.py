"""The training of a subnet by a recipe: all its weights, on one device or by several processes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fbn_deploy.accelerator import compute_device
from fbn_deploy.cores import own_cores
from fbn_deploy.data import ImageData, train_batches
from fbn_deploy.distributed import ALONE, Job
from fbn_deploy.errors import FBNError
from fbn_deploy.loop import Loop, run_loop
from fbn_deploy.progress import Reporter
from fbn_deploy.randomness import start_step, states_kept
from fbn_deploy.retrain.course import Course
from fbn_deploy.retrain.evaluation import accuracy
from fbn_deploy.retrain.growth import growing, resized, takes_sizes, work
from fbn_deploy.retrain.network import add_auxiliary, remove_auxiliary, set_drop_path
from fbn_deploy.retrain.objective import mixing, objective
from fbn_deploy.retrain.optimizers import usable_optimizer
from fbn_deploy.retrain.recipes import DEFAULT, Recipe, as_json
from fbn_deploy.retrain.schedule import rate_setter
from fbn_deploy.retrain.teacher import Teacher, teacher
from fbn_deploy.retrain.transform import timm_transform
from fbn_deploy.supernet.fairbn import keep_scales_positive
from fbn_deploy.supernet.syncbn import plain_batchnorm, synchronise_batchnorm

_DRAWN, _STEP = 10, 11  # streams of random numbers under one seed, beside those of the batches


@dataclass(frozen=True)
class RetrainSettings:
    """A recipe and what else decides the result. ``sync_bn``: BatchNorm statistics are those of
    all processes' images, not of each one's."""

    recipe: Recipe = DEFAULT
    seed: int = 0
    teacher: str | None = None
    warm_start: bool = False
    sync_bn: bool = False

    def as_json(self) -> dict[str, Any]:
        said = {"teacher": self.teacher, "warm_start": self.warm_start, "sync_bn": self.sync_bn}
        return {**as_json(self.recipe), "seed": self.seed, **said}


@dataclass(frozen=True)
class Trained:
    """What a training ended with. ``losses``: epoch → mean training loss, in nats; of several
    processes those of the first. ``epochs`` are those at which validation was looked at."""

    seconds: float
    losses: tuple[tuple[int, float], ...]
    epochs: tuple[tuple[int, float], ...]
    best_epoch: int | None


def retrain(
    network: nn.Module,
    data: ImageData,
    settings: RetrainSettings,
    *,
    checkpoint: Path,
    best: Path,
    about: dict[str, Any],
    reporter: Reporter,
    job: Job = ALONE,
    workers: int | None = None,
) -> Trained:
    """Trains ``network`` in place and leaves it on the CPU with the weights that the recipe keeps.

    ``checkpoint`` is where a killed training goes on, ``best`` where the best epoch's weights are
    kept; ``workers`` processes make batches (None: one for each of this process's cores where
    images are decoded or changed one by one, else none). Raises ``FBNError`` for a recipe that
    this network or machine cannot follow.
    """
    chosen = settings.recipe
    device = compute_device()
    with states_kept(), _precision(chosen.precision, device) as (autocast, scaler):
        start_step(settings.seed, _DRAWN)
        if chosen.auxiliary and not add_auxiliary(network):
            reporter.say("This space has no auxiliary classifier: its loss is left out.")
        if chosen.drop_path and not set_drop_path(network, 0.0):
            reporter.say("This network has no paths that can be dropped: drop_path is left out.")
        network.to(device).train()
        taught = teacher(settings.teacher, data, device) if settings.teacher else None
        split = data.train if chosen.keep == "best" else data.full_train
        transform = timm_transform(chosen, data)
        batches = train_batches(
            data,
            split,
            batch_size=chosen.batch_size,
            seed=settings.seed,
            augment=chosen.augmentation != "none",
            job=job,
            transform=transform,
            workers=_workers(workers, transform is not None or not split.images.in_memory),
        )
        steps = max(1, round(chosen.epochs * batches.steps_per_epoch))
        optimizer = usable_optimizer(network, chosen)
        parts = _parts(chosen, min(chosen.batch_size, len(split)), job)
        example = data.normalize(split.batch([0, 1])).to(device)
        resolution = _resolution(network, taught, example, chosen, steps, reporter)
        passes, gradients_stay = _distributed(network, device, example, settings.sync_bn, job)
        mix = mixing(chosen, len(data.classes))

        def backward(images: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
            start_step(settings.seed, _STEP, step, job.rank)
            if chosen.drop_path:
                set_drop_path(network, chosen.drop_path * step / steps)
            images, targets = _blanked(resized(images, resolution(step))), labels
            if mix is not None:
                images, targets = mix(images, labels)
            losses = []
            pieces = list(zip(images.chunk(parts), targets.chunk(parts), strict=True))
            for number, (some_images, some_targets) in enumerate(pieces, 1):
                with gradients_stay() if number < len(pieces) else contextlib.nullcontext():
                    with autocast():
                        loss = objective(passes, some_images, some_targets, chosen, taught)
                    scaler.scale(loss / len(pieces)).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.detach())
            return torch.stack(losses).mean()

        _blanked = _blanking(chosen, device)

        course = Course(
            network,
            chosen,
            steps_per_epoch=batches.steps_per_epoch,
            steps=steps,
            scaler=scaler,
            accuracy=lambda candidate: accuracy(candidate, data, data.validation, job=job),
            best=best,
            about=about,
            job=job,
        )
        loop = Loop(
            title="Training the subnet",
            steps=steps,
            batches=batches.steps,
            backward=backward,
            set_rates=rate_setter(optimizer, chosen, steps, batches.steps_per_epoch),
            checkpoint=checkpoint,
            about=about,
            update=_update(network, chosen, optimizer, scaler),
            kept=course,
            job=job,
            work=work(resolution, steps),
        )
        seconds = run_loop(loop, network, optimizer, reporter)
    plain_batchnorm(network)
    network.to("cpu").load_state_dict(course.result())
    remove_auxiliary(network)
    set_drop_path(network, 0.0)
    looked = tuple((epoch.number, epoch.accuracy) for epoch in course.epochs)
    losses = tuple(course.losses)
    return Trained(seconds, losses, looked, course.best.number if course.best else None)


def _update(
    network: nn.Module,
    chosen: Recipe,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Callable[[], None]:
    """What a step does with its gradients."""

    def update() -> None:
        if chosen.clip_norm:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), chosen.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        keep_scales_positive(network)

    return update


def _workers(asked: int | None, wanted: bool) -> int:
    if asked is None:
        return own_cores() if wanted else 0
    if asked < 0:
        raise FBNError(f"Workers are 0 (a thread of this process) or more, not {asked}.")
    return asked


@contextlib.contextmanager
def _precision(
    name: str, device: torch.device
) -> Iterator[tuple[Callable[[], contextlib.AbstractContextManager[Any]], torch.amp.GradScaler]]:
    """(a context in which passes run at that precision, a scaler of losses). fp16 gradients are
    scaled, or they would vanish. Within the block cuDNN looks for the fastest kernels."""
    if name == "auto":
        name = "fp32"
        if device.type == "cuda":
            name = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    types = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    kind = types[name]
    scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")
    was = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield (lambda: torch.autocast(device.type, kind, enabled=kind is not None)), scaler
    finally:
        torch.backends.cudnn.benchmark = was


def _resolution(
    network: nn.Module,
    taught: Teacher | None,
    example: torch.Tensor,
    chosen: Recipe,
    steps: int,
    reporter: Reporter,
) -> Callable[[int], int]:
    """Step → resolution of its images."""
    full = example.shape[-1]
    resolution = growing(chosen.grow_from, full, steps)
    sizes = {resolution(step) for step in range(steps)}
    if not takes_sizes(network, example, sizes):
        who = "This network"
    elif taught is not None and not takes_sizes(taught, example, sizes):
        who = "This teacher"
    else:
        return resolution
    reporter.say(f"{who} takes images of one size only: grow_from is left out.")
    return growing(1.0, full, steps)


def _blanking(chosen: Recipe, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """timm's random erasing of normalised images, in the data's mean colour; cutout (DeVries and
    Taylor 2017) is its square of one size, which here lies wholly within the image."""
    if not chosen.cutout and not chosen.random_erasing:
        return lambda images: images
    from timm.data.random_erasing import RandomErasing

    erase = []
    if chosen.random_erasing:
        erase.append(RandomErasing(probability=chosen.random_erasing, device=device))
    if chosen.cutout:
        share = chosen.cutout**2
        erase.append(RandomErasing(1.0, share, share, 1.0, 1.0, device=device))

    def blanked(images: torch.Tensor) -> torch.Tensor:
        for each in erase:
            images = each(images)
        return images

    return blanked


def _parts(chosen: Recipe, batch_size: int, job: Job) -> int:
    """Into how many parts a process divides its images of a batch; ``FBNError`` where these are
    not equal, or not even where images are mixed."""
    own = job.part(batch_size, "A batch")
    count = own.stop - own.start
    if count % chosen.accumulate:
        raise FBNError(
            f"{count} images a process cannot pass in {chosen.accumulate} equal parts; change "
            "--batch-size or --accumulate."
        )
    if (chosen.mixup or chosen.cutmix) and count % 2:
        raise FBNError(
            f"Mixed images come in pairs; {count} images a process are an odd number. Change "
            "--batch-size, or leave mixup and cutmix out."
        )
    return chosen.accumulate


def _distributed(
    network: nn.Module, device: torch.device, example: torch.Tensor, sync_bn: bool, job: Job
) -> tuple[nn.Module, Callable[[], contextlib.AbstractContextManager[Any]]]:
    """(the network whose backward pass averages gradients over the job, a context in which it
    does not). Running statistics are the first process's, as DistributedDataParallel has it."""
    if job.size == 1:
        return network, contextlib.nullcontext
    unused = _has_unused(network, example)
    if sync_bn:
        synchronise_batchnorm(network, job)
    wrapped = nn.parallel.DistributedDataParallel(
        network,
        device_ids=[torch.cuda.current_device()] if device.type == "cuda" else None,
        find_unused_parameters=unused,
    )
    return wrapped, wrapped.no_sync


def _has_unused(network: nn.Module, images: torch.Tensor) -> bool:
    """Whether some parameters do not reach the output: a cell's node that only zeros follow."""
    trial = copy.deepcopy(network)
    output = trial(images)
    for each in output if isinstance(output, tuple) else (output,):
        each.sum().backward(retain_graph=True)
    return any(p.grad is None for p in trial.parameters() if p.requires_grad)
