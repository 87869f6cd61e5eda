"""How fast a candidate learns in its first steps: what orders the best candidates, among which
indicators at initialisation do not tell one from another.

A trial trains all weights of a candidate for a short time, on images at half the resolution and,
where its space says how (``SpaceDefinition.trial``), in a smaller skeleton. Its value is the mean
training loss of the last quarter of the steps: training losses foretell the final accuracy better
than a validation that comes so early (Ru et al. 2021, "Speedy Performance Estimation for Neural
Architecture Search"). All candidates see the same images in the same order, which takes out most
of the noise. For figures see ``benchmarks/finalists.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from fbn_deploy.accelerator import compute_device
from fbn_deploy.data import ImageData, train_batches
from fbn_deploy.randomness import reproducible
from fbn_deploy.retrain.network import subnet
from fbn_deploy.space import Architecture
from fbn_deploy.supernet.definition import SpaceDefinition

LOSS = "trial_loss"


@dataclass(frozen=True)
class TrialSettings:
    """SGD with Nesterov momentum at a constant rate: a decay would end what is compared."""

    steps: int = 160
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Trial:
    """``Trial(definition, data, settings)(architecture)`` → ``{"trial_loss": loss}``, in nats.

    The value depends on nothing else but the device and, on a processor, the number of threads. It
    is not finite where training diverged. Raises ``FBNError`` when the space's ``TRIAL`` gives no
    network with the same decisions.
    """

    higher_is_better: Mapping[str, bool] = {LOSS: False}

    def __init__(
        self,
        definition: SpaceDefinition,
        data: ImageData,
        settings: TrialSettings,
        *,
        fair_bn: bool = True,
    ) -> None:
        self._data, self._settings, self._fair_bn = data, settings, fair_bn
        self._definition = definition.in_small(definition.trial, "TRIAL", len(data.classes))
        self._factor = data.resolution // self._definition.resolution
        self._device = compute_device()

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        settings = self._settings
        with reproducible(self._device, settings.seed):
            network = subnet(
                self._definition,
                architecture,
                len(self._data.classes),
                fair_bn=self._fair_bn,
                seed=settings.seed,
            )
            losses = torch.stack(list(self._losses(network))).tolist()
        last = losses[-max(len(losses) // 4, 1) :]
        return {LOSS: sum(last) / len(last)}

    def _losses(self, network: nn.Module) -> Iterator[torch.Tensor]:
        """Trains ``network``; the loss of every step."""
        settings = self._settings
        network.to(self._device).requires_grad_(True).train()
        optimizer = torch.optim.SGD(
            network.parameters(),
            settings.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
        batches = train_batches(
            self._data,
            self._data.train,
            batch_size=settings.batch_size,
            seed=settings.seed,
            augment=False,
        )
        for some, labels in batches.steps(0, settings.steps):
            images = some.to(self._device)
            if self._factor > 1:
                images = nn.functional.avg_pool2d(images, self._factor)
            loss = nn.functional.cross_entropy(network(images), labels.to(self._device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            yield loss.detach()
