"""The run directory: every path of a run, and the configuration that all its files share."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fbn_deploy.differing import differing, told
from fbn_deploy.errors import FBNError
from fbn_deploy.files import read_json, write_json
from fbn_deploy.lock import hold

SCHEMA = 1
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "onnxruntime", "openvino")


@dataclass(frozen=True)
class RunDir:
    """``runs/<name>/`` and the names of what lies in it."""

    path: Path

    @property
    def run(self) -> Path:
        """The configuration, versions and device."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """Held by the process that writes here."""
        return self.path / ".lock"

    @property
    def space(self) -> Path:
        """The decisions of the search space."""
        return self.path / "space.json"

    @property
    def split(self) -> Path:
        """Which images train, validate and test."""
        return self.path / "split.json"

    @property
    def supernet(self) -> Path:
        """The trained supernet."""
        return self.path / "supernet.safetensors"

    @property
    def supernet_checkpoint(self) -> Path:
        """Where a killed training of the supernet goes on."""
        return self.path / "supernet.partial.safetensors"

    @property
    def scores(self) -> Path:
        """Indicator values of every candidate so far, a line each."""
        return self.path / "scores.jsonl"

    @property
    def search(self) -> Path:
        """Candidates and the chosen architecture."""
        return self.path / "search.json"

    @property
    def bench(self) -> Path:
        """Indicators against trained accuracies."""
        return self.path / "bench.json"

    @property
    def subnet(self) -> Path:
        """The retrained subnet."""
        return self.path / "subnet.safetensors"

    @property
    def subnet_checkpoint(self) -> Path:
        """Where a killed retraining goes on."""
        return self.path / "subnet.partial.safetensors"

    @property
    def subnet_best(self) -> Path:
        """The weights of the epoch with the best validation accuracy."""
        return self.path / "subnet.best.safetensors"

    @property
    def subnet_last(self) -> Path:
        """Weights and optimizer of the last step, where another epoch's weights were kept."""
        return self.path / "subnet.last.safetensors"

    @property
    def model(self) -> Path:
        """The folded and verified network."""
        return self.path / "model.onnx"

    @property
    def fold_report(self) -> Path:
        """What folding absorbed where, and what stayed."""
        return self.path / "fold.json"

    @property
    def verify(self) -> Path:
        """The comparison of ``model`` with the trained network."""
        return self.path / "verify.json"

    @staticmethod
    def other_int8(unsigned: bool) -> str:
        """What stands for ``int8`` in the names of a file whose activations are held otherwise than
        those of the file for the run's budgets."""
        return "int8-unsigned" if unsigned else "int8-signed"

    def precision_model(self, precision: str) -> Path:
        """The network in another precision than fp32."""
        return self.path / f"model.{precision}.onnx"

    def precision_verify(self, precision: str) -> Path:
        """The comparison of ``precision_model`` with the trained network."""
        return self.path / f"verify.{precision}.json"

    def precision_profile(self, precision: str) -> Path:
        """Latency of ``precision_model``, whole and by layer."""
        return self.path / f"profile.{precision}.json"

    def ranges(self, method: str) -> Path:
        """The ranges of activations that one calibration method found."""
        return self.path / f"calibration.{method}.json"

    @property
    def profile(self) -> Path:
        """Latency of the whole and by layer."""
        return self.path / "profile.json"

    @property
    def report(self) -> Path:
        """All of the run on one page."""
        return self.path / "report.html"

    def precisions(self) -> list[str]:
        """The precisions beside fp32 that were verified."""
        found = self.path.glob(self.precision_verify("*").name)
        return sorted(path.name.split(".", 2)[1] for path in found)

    def engine_stories(self) -> list[Path]:
        """The JSON files beside engines."""
        return sorted(self.path.glob("*.engine.json"))

    def configuration(self) -> dict[str, Any]:
        """What ``run.json`` holds. Raises ``FBNError`` when this is no run directory."""
        if not self.run.is_file():
            raise FBNError(
                f"{self.path} is no run directory (there is no run.json in it). "
                "Start one with fbn search or fbn deploy and --run."
            )
        content = read_json(self.run)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise FBNError(
                f"{self.run} has another schema than {SCHEMA}; use the version it is of."
            )
        found = content.get("configuration")
        if not isinstance(found, dict):
            raise FBNError(f"{self.run} holds no configuration; it was not written by fbn_deploy.")
        return found

    def claim(self) -> None:
        """Makes this process the only one that writes here until it ends; ``FBNError`` where
        another one does. Whoever reads, or writes a file of its own whole, needs no claim."""
        hold(self.lock)

    def start(self, configuration: Mapping[str, Any], device: str) -> None:
        """Writes ``run.json``, or checks that the one which is there says the same. The same images
        may lie elsewhere now: then it is written anew with that place."""
        if not self.run.exists():
            write_json(
                self.run,
                {
                    "schema": SCHEMA,
                    "configuration": configuration,
                    "versions": versions(),
                    "device": device,
                },
            )
            return
        found = self.configuration()
        differences = differing(found, configuration)
        other_images = "data fingerprint" in differences
        if other_images and differences.keys() <= {"data fingerprint", "data spec"}:
            raise FBNError(
                f"{self.path} was begun with other images than {configuration['data']['spec']} "
                "holds now. Bring those back, say with --data where they are, or begin a run in "
                "another directory."
            )
        moved = None if other_images else differences.pop("data spec", None)
        if differences:
            raise FBNError(
                f"{self.path} belongs to a run with other settings ({told(differences)}). "
                "Leave them out to go on with it, or choose another directory."
            )
        if moved:
            there = {**found, "data": configuration["data"]}
            write_json(self.run, {**read_json(self.run), "configuration": there})


def versions() -> dict[str, str]:
    """Package → version, of those that results depend on and that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
