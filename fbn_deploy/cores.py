"""The cores that this process may run on."""

from __future__ import annotations

import functools
import os
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_SPEEDS = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")


def allowed_cores() -> tuple[int, ...] | None:
    """Their numbers; None where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return tuple(sorted(os.sched_getaffinity(0)))


def number_of_cores() -> int:
    """How many they are; all of the machine's where the system does not say."""
    return len(allowed_cores() or ()) or os.cpu_count() or 1


def own_cores() -> int:
    """How many fall to this process where torchrun started several on the machine; at least 1."""
    return max(1, number_of_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def core_class() -> str | None:
    """Which of a machine's unequal cores (big.LITTLE, P and E cores) they are, by the kernel's
    figures, as in ``cpu_capacity 446``; None where all are alike or nothing is known."""
    known = ((name, _speeds(_CPUS, name)) for name in _SPEEDS)
    name, speeds = next(((name, found) for name, found in known if found), ("", {}))
    own = sorted({speeds[core] for core in allowed_cores() or () if core in speeds})
    if not own or len(set(speeds.values())) == 1:
        return None
    return f"{Path(name).name} {', '.join(map(str, own))}"


@functools.cache
def _speeds(cpus: Path, name: str) -> dict[int, int]:
    """Core → its figure in the file ``name``, of the cores in ``cpus`` that have one."""
    found: dict[int, int] = {}
    for file in cpus.glob(f"cpu[0-9]*/{name}"):
        core = file.relative_to(cpus).parts[0].removeprefix("cpu")
        try:
            found[int(core)] = int(file.read_text())
        except (OSError, ValueError):  # a core that is off has none
            continue
    return found
