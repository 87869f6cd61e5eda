"""What works on this machine, and the command that mends what does not."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fbn_deploy.latency.cache import default_cache_path
from fbn_deploy.rundir import versions
from fbn_deploy.targets import targets

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Examination:
    """Versions, devices and targets. ``targets`` maps a name to what it lacks, or None."""

    versions: dict[str, str]
    devices: dict[str, str]
    targets: dict[str, str | None]
    cache: str

    def as_json(self) -> dict[str, Any]:
        return {
            "versions": self.versions,
            "devices": self.devices,
            "targets": {
                name: {"ready": missing is None, "missing": missing}
                for name, missing in self.targets.items()
            },
            "latency_cache": self.cache,
        }

    def table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, show_header=False)
        for name, version in self.versions.items():
            table.add_row("version", name, Text(version))
        for name, description in self.devices.items():
            table.add_row("device", name, Text(description))
        for name, missing in self.targets.items():
            table.add_row("target", name, Text(missing or "ready", "green" if not missing else ""))
        table.add_row("cache", "latency", Text(self.cache))
        return table


def examination() -> Examination:
    """Looks at everything; what cannot be loaded is said, not raised."""
    found = targets()
    devices = {"cpu": f"{_device_of(found)}, {os.cpu_count()} cores"}
    try:
        import torch

        gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
        devices |= {f"cuda:{number}": torch.cuda.get_device_name(number) for number in gpus}
        if not gpus:
            devices["cuda"] = "PyTorch sees no GPU"
    except ImportError as error:
        devices["torch"] = f"cannot be imported ({error}); pip install torch torchvision"
    return Examination(
        versions(),
        devices,
        {target.name: target.missing() for target in found},
        str(default_cache_path()),
    )


def _device_of(found: list[Any]) -> str:
    return next((t.device() for t in found if t.name.endswith("-cpu") and not t.missing()), "CPU")
