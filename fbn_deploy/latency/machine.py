"""What else the machine was doing, and how fast it ran, while something was timed.

Every reading is optional: where the kernel does not say (no /proc, no pressure files), its part
is zero and nothing is detected from it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from fbn_deploy.cores import allowed_cores, core_class

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows counts no context switches
    resource = None

_PROC = Path("/proc")
_REFERENCE_BYTES = bytes(65_536)
_REFERENCE_RUNS = 15
_MATRIX = 64  # small enough that no BLAS shares it among threads
_ARITHMETIC_RUNS, _PRODUCTS = 5, 8
_NUMBERS, _EXPONENTIALS = 4_000, 24


@dataclass(frozen=True)
class Snapshot:
    """Counters since boot, in seconds; only differences mean something, except ``load``."""

    time_s: float
    waited_s: float  # this process's threads, ready to run but without a core
    pressure_s: float  # some task on the machine waited for a core
    steal_s: Mapping[int, float]  # allowed core → the hypervisor ran somebody else on it
    load: float  # one-minute load average


class Machine(Protocol):
    """What timing asks of the machine; tests hand in one that they control."""

    def now_s(self) -> float:
        """A monotonic clock."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def preemptions(self) -> int:
        """Involuntary context switches of this process so far."""
        ...

    def reference_us(self) -> float:
        """Time of a fixed piece of work, in microseconds: how fast the machine is now."""
        ...

    def arithmetic_us(self) -> float:
        """Time of fixed floating-point work, in microseconds: longer where another thread
        computes on the same core."""
        ...

    def snapshot(self) -> Snapshot: ...


class ThisMachine:
    """The machine that runs this process."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def preemptions(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0

    def reference_us(self) -> float:
        """SHA-256 of 64 KiB: no memory traffic, no threads, the same work everywhere; the
        median of 15 runs (about 1 ms together)."""
        return _median_us(lambda: hashlib.sha256(_REFERENCE_BYTES).digest(), _REFERENCE_RUNS)

    def arithmetic_us(self) -> float:
        """Eight products of 64×64 matrices and 24 times the exponentials of 4,000 numbers, in
        float32 and first-level cache; the median of 5 runs (about 0.5 ms together)."""
        return _median_us(_arithmetic(), _ARITHMETIC_RUNS)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            time_s=time.perf_counter(),
            waited_s=_waited_s(),
            pressure_s=_pressure_s(),
            steal_s=_steal_s(),
            load=_load(),
        )


def _median_us(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[runs // 2] * 1e6


def arithmetic_work() -> str:
    """What ``arithmetic_us`` and ``reference_us`` are the times of; times of other work, by other
    libraries or on other ones of unequal cores do not compare."""
    kind = core_class()
    return f"{_work()}, {kind}" if kind else _work()


@functools.cache
def _work() -> str:
    import ssl

    import numpy as np

    return f"products, exponentials; numpy {np.__version__} ({_kernels()}), {ssl.OPENSSL_VERSION}"


def _kernels() -> str:
    """The BLAS that numpy was built with, the environment that chooses its kernels, and the
    processor's features that numpy uses."""
    import numpy as np

    said: Any = np.show_config(mode="dicts")
    blas = said.get("Build Dependencies", {}).get("blas", {})
    features = said.get("SIMD Extensions", {}).get("found", [])
    chosen = [os.environ.get(name, "") for name in ("OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS")]
    parts = [blas.get("name", ""), blas.get("version", ""), *chosen, *features[-1:]]
    return " ".join(filter(None, parts))


@functools.cache
def _arithmetic() -> Callable[[], None]:
    import numpy as np

    matrix = np.full((_MATRIX, _MATRIX), 0.5, np.float32)
    product = np.empty_like(matrix)
    numbers = np.full(_NUMBERS, 0.5, np.float32)
    exponentials = np.empty_like(numbers)

    def work() -> None:
        for _ in range(_PRODUCTS):
            np.dot(matrix, matrix, out=product)
        for _ in range(_EXPONENTIALS):
            np.exp(numbers, out=exponentials)

    return work


def _waited_s() -> float:
    """Run-queue delay of all threads: the second number of their ``schedstat``, nanoseconds."""
    total_ns = 0
    for task in (_PROC / "self" / "task").glob("*/schedstat"):
        fields = _read(task).split()
        total_ns += int(fields[1]) if len(fields) > 1 else 0
    return total_ns / 1e9


def _pressure_s() -> float:
    """``some … total=`` of /proc/pressure/cpu, microseconds."""
    line = _read(_PROC / "pressure" / "cpu").partition("\n")[0]
    total = line.rpartition("total=")[2]
    return int(total) / 1e6 if total.isdigit() else 0.0


def _steal_s() -> dict[int, float]:
    """The eighth time of the allowed cores' ``cpuN`` lines of /proc/stat, in clock ticks."""
    names = {f"cpu{core}": core for core in allowed_cores() or ()}
    lines = _read(_PROC / "stat").splitlines()
    each = (line.split() for line in lines if line.startswith("cpu"))
    return {
        names[fields[0]]: int(fields[8]) / os.sysconf("SC_CLK_TCK")
        for fields in each
        if len(fields) > 8 and fields[0] in names
    }


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
