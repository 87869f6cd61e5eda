"""The course of a training: averaged weights, losses, the best epoch, early stop, loss scaling.

It is what the loop keeps beside weights and optimizer; a resumed training gets it back exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fbn_deploy.checkpoint import load_tensors, save_tensors
from fbn_deploy.distributed import Job
from fbn_deploy.errors import FBNError
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.retrain.recipes import Recipe

AVERAGE = "ema."
SUMMED = "summed_loss"


@dataclass(frozen=True)
class Epoch:
    """An epoch after which the validation split was looked at."""

    number: int
    accuracy: float


class Course:
    """``accuracy`` gives the validation accuracy of a network; ``best`` is the file of the best
    epoch's weights."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        *,
        steps_per_epoch: int,
        steps: int,
        scaler: torch.amp.GradScaler,
        accuracy: Callable[[nn.Module], float],
        best: Path,
        about: Mapping[str, Any],
        job: Job,
    ) -> None:
        self._network, self._recipe, self._scaler = network, recipe, scaler
        self._steps_per_epoch, self._steps = steps_per_epoch, steps
        self._accuracy, self._best_file, self._about = accuracy, best, about
        self._job = job
        self._average = _average(network, recipe.ema)
        self._summed: torch.Tensor | None = None  # losses of the epoch that is going on,
        self._summed_steps = 0  # and of how many of its steps
        self.epochs: list[Epoch] = []
        self.losses: list[tuple[int, float]] = []
        """Epoch → mean of its training losses, of the images that this process saw; without
        epochs in which a step's gradients overflowed."""
        self.ended = False

    @property
    def best(self) -> Epoch | None:
        """The epoch of the highest validation accuracy, the first of equals."""
        return max(self.epochs, key=lambda epoch: epoch.accuracy, default=None)

    @property
    def weights(self) -> nn.Module:
        """The network as it would be used now: the average, where one is kept."""
        return self._network if self._average is None else self._average.module

    def after(self, step: int, loss: torch.Tensor) -> None:
        if self._average is not None:
            self._average.update(self._network, step=step)
        self._summed = loss if self._summed is None else self._summed + loss
        self._summed_steps += 1
        number = -(-step // self._steps_per_epoch)
        if step < self._steps and step % self._steps_per_epoch:
            return
        if math.isfinite(mean := float(self._summed) / self._summed_steps):
            self.losses.append((number, mean))
        self._summed, self._summed_steps = None, 0
        if self._recipe.keep == "best":
            self._look(number)

    def _look(self, number: int) -> None:
        before = self.best
        self._job.share_(list(self.weights.buffers()))
        found = Epoch(number, self._accuracy(self.weights))
        self.epochs.append(found)
        if before is None or found.accuracy > before.accuracy:
            if self._job.is_first:
                about = {**self._about, "epoch": number, "validation": found.accuracy}
                save_tensors(self._best_file, self.weights.state_dict(), about)
        elif self._recipe.patience and number - before.number >= self._recipe.patience:
            self.ended = True

    def state(self) -> tuple[Mapping[str, torch.Tensor], dict[str, Any]]:
        averaged = {} if self._average is None else self._average.module.state_dict()
        notes: dict[str, Any] = {
            "epochs": [[epoch.number, epoch.accuracy] for epoch in self.epochs],
            "losses": [list(each) for each in self.losses],
            "summed_steps": self._summed_steps,
            "ended": self.ended,
        }
        if self._scaler.is_enabled():
            notes["scaler"] = self._scaler.state_dict()
        tensors = {AVERAGE + name: tensor for name, tensor in averaged.items()}
        return tensors if self._summed is None else {**tensors, SUMMED: self._summed}, notes

    def restore(self, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]) -> None:
        own = dict(tensors)
        summed = own.pop(SUMMED, None)
        if summed is not None:
            self._summed = summed.to(next(self._network.parameters()).device)
        if self._average is not None:
            self._average.module.load_state_dict(
                {name.removeprefix(AVERAGE): tensor for name, tensor in own.items()}
            )
        self.epochs = [Epoch(number, accuracy) for number, accuracy in notes["epochs"]]
        # Checkpoints of earlier versions have none.
        self.losses = [(number, loss) for number, loss in notes.get("losses", [])]
        self._summed_steps = notes.get("summed_steps", 0)
        self.ended = notes["ended"]
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(notes["scaler"])

    def result(self) -> dict[str, torch.Tensor]:
        """The weights that the recipe keeps, on the CPU: the first process's, whose running
        statistics differ from those of the others unless BatchNorms are synchronised."""
        if self._recipe.keep == "best":
            shared = self._job.share_state(
                load_tensors(self._best_file) if self._job.is_first else None
            )
            assert shared is not None, "A training that looks at every epoch has a best one."
            self._refuse_other_best(shared[1])
            return shared[0]
        own = {name: tensor.cpu() for name, tensor in self.weights.state_dict().items()}
        shared = self._job.share_state((own, {}))
        assert shared is not None, "The first process has weights."
        return shared[0]

    def _refuse_other_best(self, found: Mapping[str, Any]) -> None:
        """``FBNError`` where the file of the best epoch's weights is not of this training.

        Where rounding differs from time to time, a training that was killed between that file and
        its checkpoint may have left an epoch there that came out worse when it was done again:
        that epoch is then the best.
        """
        assert self.best is not None, "A training that looks at every epoch has a best one."
        about = dict(found)
        epoch = Epoch(about.pop("epoch", 0), about.pop("validation", -1.0))
        refuse_other_run(self._best_file, about, self._about)
        if epoch.accuracy < self.best.accuracy:
            raise FBNError(
                f"{self._best_file} holds epoch {epoch.number} with a validation accuracy of "
                f"{epoch.accuracy:.2%}, but epoch {self.best.number} had {self.best.accuracy:.2%}: "
                "another training wrote there. Move it and the checkpoint beside it away and train "
                "again."
            )
        looked_at = {each.number: each for each in self.epochs} | {epoch.number: epoch}
        self.epochs = list(looked_at.values())


def _average(network: nn.Module, decay: float) -> Any:
    """timm's moving average; in its beginning it decays faster, so that short trainings gain."""
    if not decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(network, decay=decay, use_warmup=True)
