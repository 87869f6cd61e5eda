"""The trained networks that benchmarks/precision.py quantises: trained once, kept, resumed.

    python benchmarks/precision_networks.py --flowers DIR --cifar10 DIR --runs DIR

Each is trained by the project's own retraining with a short schedule; a killed training goes on.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.data import ImageData, load_data
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.progress import reporter
from fbn_deploy.retrain.evaluation import accuracy
from fbn_deploy.retrain.network import subnet
from fbn_deploy.retrain.recipes import recipe
from fbn_deploy.retrain.training import RetrainSettings, retrain
from fbn_deploy.supernet.definition import SpaceDefinition, definition


@dataclass(frozen=True)
class Case:
    """A network, the images it is trained on, and for how long."""

    space: str
    resolution: int
    data: str
    architecture: str
    epochs: float
    batch_size: int
    learning_rate: float
    options: dict[str, Any] = field(default_factory=dict)

    def definition(self) -> SpaceDefinition:
        return definition(self.space, self.resolution, self.options)


CASES = {
    "mobilenet@flowers": Case(
        "mobilenet",
        160,
        "flowers",
        "stage1.0=mb3_k3,stage1.1=mb3_k3,stage2.0=mb3_k5,stage2.1=mb3_k3,stage3.0=mb6_k3,"
        "stage3.1=identity,stage4.0=mb3_k5,stage4.1=mb3_k3,stage5.0=mb6_k5,stage5.1=mb3_k3,"
        "stage6.0=mb3_k3",
        epochs=16,
        batch_size=32,
        learning_rate=0.05,
        options={"width": 0.5, "depth": 2},
    ),
    "nasbench201@cifar10": Case(
        "nasbench201",
        32,
        "cifar10",
        "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_1x1~1|"
        "nor_conv_3x3~2|",
        epochs=4,
        batch_size=128,
        learning_rate=0.1,
        options={"channels": 8, "cells": 2},
    ),
}


def trained(name: str, data: ImageData, runs: Path, *, epochs: float | None = None) -> nn.Module:
    """The network of ``CASES[name]`` in evaluation mode; trained now if ``runs`` has it not."""
    case = CASES[name]
    made = case.definition()
    space = made.search_space(made.network(len(data.classes), 0))
    architecture = space.parse(case.architecture)
    changes = {
        "epochs": epochs or case.epochs,
        "batch_size": case.batch_size,
        "learning_rate": case.learning_rate,
    }
    network = subnet(made, architecture, len(data.classes), fair_bn=True, seed=0)
    about = {
        "space": made.as_json(),
        "architecture": dict(architecture),
        "data": data.fingerprint,
        "quick": changes,
    }
    path = runs / f"{name.replace('@', '-')}.safetensors"
    if path.exists():
        tensors, found = load_tensors(path)
        refuse_other_run(path, found, about)
        load_weights(network, tensors, path)
        return network.eval()
    partial = path.with_suffix(".partial.safetensors")
    retrain(
        network,
        data,
        RetrainSettings(recipe("quick", changes)),
        checkpoint=partial,
        best=path.with_suffix(".best.safetensors"),
        about=about,
        reporter=reporter(),
    )
    save_tensors(path, network.state_dict(), about)
    partial.unlink(missing_ok=True)
    return network.eval()


def images(name: str, folders: dict[str, str]) -> ImageData:
    """The data set of a case; ``folders`` maps ``flowers`` and ``cifar10`` to directories."""
    case = CASES[name]
    return load_data(folders[case.data], resolution=case.resolution, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flowers", required=True)
    parser.add_argument("--cifar10", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.only:
        data = images(name, {"flowers": arguments.flowers, "cifar10": arguments.cifar10})
        network = trained(name, data, arguments.runs)
        print(f"{name}: top-1 {100 * accuracy(network, data, data.test):.2f} % on {len(data.test)}")


if __name__ == "__main__":
    main()
