"""Verification: a deployed file against the trained network, on real images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from fbn_deploy.data import ImageData, Split, eval_batches
from fbn_deploy.errors import FBNError
from fbn_deploy.export.graph import INPUT, OUTPUT

BATCH = 50
MAX_ERROR = 1e-3  # largest relative difference of logits that fp32 kernels may show
MIN_AGREEMENT = 0.999  # of top-1 predictions; a tie between two classes may fall either way
MIN_AGREEMENT_16_BITS = 0.99


class _Answers(Protocol):
    def run(self, inputs: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]: ...


class Judge(Protocol):
    """What can run a file: a target, or ``precision/as_written.py``."""

    @property
    def name(self) -> str: ...

    @property
    def precisions(self) -> tuple[str, ...]: ...

    @property
    def int8_weight_levels(self) -> int: ...

    def open(
        self, model: Path, *, batch: int, threads: int, precision: str = "fp32"
    ) -> AbstractContextManager[_Answers]: ...


@dataclass(frozen=True)
class Verification:
    """A file run on ``target``, held against the trained network over ``images`` real images.

    ``max_relative_error`` is max |difference| over max |logit| of the trained network;
    accuracies are top-1, between 0 and 1.
    """

    target: str
    images: int
    max_relative_error: float
    top1_agreement: float
    accuracy_trained: float
    accuracy_exported: float

    @property
    def passed(self) -> bool:
        return self.max_relative_error <= MAX_ERROR and self.top1_agreement * self.images >= min(
            self.images - 1, MIN_AGREEMENT * self.images
        )

    def passed_in(self, precision: str, max_drop: float) -> bool:
        """Whether a file or an engine in ``precision`` may be deployed; what ``allowed`` says.
        ``max_drop`` counts for less than fp32 only: points of top-1 accuracy, 0 … 100."""
        if precision == "fp32":
            return self.passed
        drop = 100 * (self.accuracy_trained - self.accuracy_exported)
        near = precision == "int8" or self.top1_agreement >= MIN_AGREEMENT_16_BITS
        return near and drop <= max_drop + 1e-9

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}

    def text(self) -> str:
        """One line for people."""
        return (
            f"{self.target}: {self.images} images, top-1 {100 * self.accuracy_exported:.2f} % "
            f"(trained network {100 * self.accuracy_trained:.2f} %), agreement "
            f"{100 * self.top1_agreement:.2f} %, largest relative error "
            f"{self.max_relative_error:.1e}"
        )


def allowed(precision: str, max_drop: float) -> str:
    """For people: what ``Verification.passed_in`` asks of ``precision``."""
    if precision == "fp32":
        return (
            f"a relative error of at most {MAX_ERROR:g} and an agreement of at least "
            f"{100 * MIN_AGREEMENT:g} %"
        )
    said = f"a top-1 drop of at most {max_drop:g} points (--max-drop)"
    if precision != "int8":
        said += f" and an agreement of at least {100 * MIN_AGREEMENT_16_BITS:g} %"
    return said


@torch.inference_mode()
def verify(
    model: Path,
    network: nn.Module,
    data: ImageData,
    split: Split,
    target: Judge,
    *,
    precision: str = "fp32",
    batch: int | None = None,
) -> Verification:
    """Runs all of ``split`` through ``model`` on ``target`` and through ``network``.

    ``batch`` is for a model that takes no other.
    """
    network.eval()
    size = batch or min(BATCH, len(split))
    largest = difference = 0.0
    agreed = right_network = right_model = 0
    with target.open(model, batch=size, threads=1, precision=precision) as session:
        for images, labels in eval_batches(data, split, size):
            expected = network(images)
            padded = images.new_zeros((size, *images.shape[1:]))
            padded[: len(images)] = images
            answer = session.run({INPUT: padded.contiguous().numpy()})[OUTPUT]
            found = torch.from_numpy(answer)[: len(images)]
            _refuse_not_finite("The trained network", expected)
            _refuse_not_finite(f"{model} on {target.name}", found)
            largest = max(largest, float(expected.abs().max()))
            difference = max(difference, float((expected - found).abs().max()))
            agreed += int((expected.argmax(1) == found.argmax(1)).sum())
            right_network += int((expected.argmax(1) == labels).sum())
            right_model += int((found.argmax(1) == labels).sum())
    return Verification(
        target=target.name,
        images=len(split),
        max_relative_error=difference / max(largest, 1e-12),
        top1_agreement=agreed / len(split),
        accuracy_trained=right_network / len(split),
        accuracy_exported=right_model / len(split),
    )


def _refuse_not_finite(what: str, logits: torch.Tensor) -> None:
    """NaN would pass every comparison that follows."""
    wrong = int((~logits.isfinite()).any(1).sum())
    if wrong:
        raise FBNError(
            f"{what} answers {wrong} of {len(logits)} images with NaN or infinity: its numbers "
            "overflow. Train it again with a lower learning rate, or export it in fp32 or bf16."
        )
