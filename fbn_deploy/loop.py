"""The training loop that supernets and subnets share: it resumes bit by bit after a kill.

Everything random is a function of the seed and the step (batches, paths, rates), so the state of
a run is its step, its weights, its optimizer, and what the training keeps beside them. It is saved
every half minute and at Ctrl-C; a run that is started again goes on from there and ends as if it
had never stopped. In a job of several processes the first one saves, and hands the state to the
others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from fbn_deploy.checkpoint import load_tensors, restore_training, save_tensors, training_state
from fbn_deploy.differing import differing, told
from fbn_deploy.distributed import ALONE, Job
from fbn_deploy.errors import FBNError
from fbn_deploy.progress import Reporter
from fbn_deploy.stopping import Stopped, at_end_of_step

SAVE_EVERY_S = 30.0
KEPT = "kept."  # prefix of the tensors that a training keeps beside weights and optimizer
Batch = tuple[torch.Tensor, torch.Tensor]


class Kept(Protocol):
    """What a training keeps beside weights and optimizer (averages of weights, the best result)."""

    ended: bool
    """Whether the training is to end before its last step."""

    def after(self, step: int, loss: torch.Tensor) -> None:
        """Told after every optimizer step; ``step`` of them are done, the last one's loss is
        ``loss`` (a scalar that may still be computed: reading it waits for the device)."""

    def state(self) -> tuple[Mapping[str, torch.Tensor], dict[str, Any]]:
        """Everything, as tensors and as JSON."""

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""


class Nothing:
    """Keeps nothing."""

    ended = False

    def after(self, step: int, loss: torch.Tensor) -> None:
        pass

    def state(self) -> tuple[Mapping[str, torch.Tensor], dict[str, Any]]:
        return {}, {}

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
        pass


NOTHING = Nothing()


@dataclass(frozen=True)
class Loop:
    """What a run of the loop needs.

    ``backward(images, labels, step)`` runs the passes, leaves gradients, and returns the loss.
    ``update()`` lets the optimizer step (its ``step`` unless given). ``about`` identifies the run:
    a checkpoint of another run is refused. ``work``: how much the first n steps are, where they
    are not alike; for the time left.
    """

    title: str
    steps: int
    batches: Callable[[int, int], Iterator[Batch]]  # (start, stop) → those batches
    backward: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
    set_rates: Callable[[int], None]  # learning rates of a step, into the optimizer
    checkpoint: Path
    about: Mapping[str, Any]
    update: Callable[[], object] | None = None
    kept: Kept = NOTHING
    job: Job = ALONE
    work: Callable[[int], float] | None = None


def run_loop(
    loop: Loop, network: nn.Module, optimizer: torch.optim.Optimizer, reporter: Reporter
) -> float:
    """Trains ``network`` in place to the last step and returns its seconds of training.

    The checkpoint stays; whoever stores the result removes it. Raises ``FBNError`` when the loss
    is not finite or the checkpoint belongs to another run.
    """
    step, seconds = _resumed(loop, network, optimizer)
    if step:
        reporter.say(f"{loop.title}: goes on from step {step} of {loop.steps}")
    device = next(network.parameters()).device
    update = loop.update or optimizer.step
    started = saved = time.monotonic()
    with (
        reporter.task(loop.title, loop.steps, "steps", loop.work) as task,
        at_end_of_step() as stop,
    ):
        batches = iter(()) if loop.kept.ended else loop.batches(step, loop.steps)
        first, images_seen = step, 0
        for images, labels in batches:
            loop.set_rates(step)
            optimizer.zero_grad(set_to_none=True)
            loss = loop.backward(
                images.to(device, non_blocking=True), labels.to(device, non_blocking=True), step
            )
            update()
            step += 1
            images_seen += len(images) * loop.job.size
            loop.kept.after(step, loss)
            now = time.monotonic()
            if step % 10 == 0 or step == loop.steps or step == first + 1:
                value = _finite(float(loss), loop.title, step)
                pace = images_seen / (now - started)
                task.update(step, f"{pace:,.0f} images/s, loss {value:.3f}")
            if loop.kept.ended or stop.asked:
                break
            if now - saved > SAVE_EVERY_S and step < loop.steps:
                _save(loop, network, optimizer, step, seconds + now - started)
                saved = now
        stopped = stop.asked
    seconds += time.monotonic() - started
    if step > first:
        _save(loop, network, optimizer, step, seconds)
    if stopped:
        raise Stopped
    return seconds


def _save(
    loop: Loop, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, seconds: float
) -> None:
    if not loop.job.is_first:
        return
    tensors, notes = loop.kept.state()
    about = {**loop.about, "step": step, "seconds": seconds}
    if notes:
        about["kept"] = notes
    kept = {KEPT + name: tensor for name, tensor in tensors.items()}
    save_tensors(loop.checkpoint, {**training_state(network, optimizer), **kept}, about)


def _resumed(loop: Loop, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    own = None
    if loop.job.is_first and loop.checkpoint.exists():
        own = load_tensors(loop.checkpoint)
    shared = loop.job.share_state(own)
    if shared is None:
        return 0, 0.0
    tensors, about = shared
    step, seconds = about.pop("step", 0), about.pop("seconds", 0.0)
    notes = about.pop("kept", {})
    refuse_other_run(loop.checkpoint, about, loop.about)
    kept = {n.removeprefix(KEPT): tensors.pop(n) for n in list(tensors) if n.startswith(KEPT)}
    restore_training(network, optimizer, tensors, loop.checkpoint)
    loop.kept.restore(kept, notes)
    return step, seconds


def refuse_other_run(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """``FBNError`` that names what differs when ``path`` was made by a run of other settings."""
    if differences := differing(found, asked):
        raise FBNError(
            f"{path} belongs to a run with other settings ({told(differences)}). Start with the "
            "settings it was made with, or move that file away to make it anew."
        )


def _finite(loss: float, title: str, step: int) -> float:
    if not math.isfinite(loss):
        raise FBNError(f"{title}: the loss is {loss} at step {step}; lower --learning-rate.")
    return loss
