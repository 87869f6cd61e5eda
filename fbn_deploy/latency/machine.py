"""What else the machine was doing, and how fast it ran, while something was timed.

Every reading is optional: where the kernel does not say (no /proc, no pressure files), its part
is zero and nothing is detected from it.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from fbn_deploy.cores import allowed_cores, core_class
from fbn_deploy.latency.crowding import Pace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows counts no context switches
    resource = None

_PROC = Path("/proc")
_DIVISIONS = 1_000
_NUMBERS, _EXPONENTIALS = 512, 32
_CACHE_LINE = 64  # bytes
_PIECES, _PIECE_BYTES = 32, 2 << 20


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

    def look(self) -> Pace:
        """How fast two fixed pieces of work are done now (``crowding.py``)."""
        ...

    def read_memory(self) -> float:
        """Microseconds that reading 2 MiB takes which the second cache does not hold."""
        ...

    def run_queue_delay_s(self) -> float:
        """``Snapshot.waited_s`` alone."""
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

    def look(self) -> Pace:
        """32 times the exponentials of 512 numbers in float32, between two chains of 1,000
        divisions in float64 of which the shorter one counts; all in first-level cache, each begun
        once before. 0.06 ms together."""
        divisions, exponentials = _divisions(), _exponentials()
        divisions()
        reference_us = _us(divisions)
        exponentials(1)
        arithmetic_us = _us(lambda: exponentials(_EXPONENTIALS))
        return Pace(arithmetic_us, min(reference_us, _us(divisions)))

    def read_memory(self) -> float:
        """The sum of the next 2 MiB of 64, in turns: from memory, or from a last cache that is
        larger. Who shares these makes it slower, whatever core they are on. 0.25 to 0.35 ms."""
        return _us(next(_pieces()).sum)

    def run_queue_delay_s(self) -> float:
        return _waited_s()

    def snapshot(self) -> Snapshot:
        return Snapshot(
            time_s=time.perf_counter(),
            waited_s=self.run_queue_delay_s(),
            pressure_s=_pressure_s(),
            steal_s=_steal_s(),
            load=_load(),
        )


def _us(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def arithmetic_work() -> str:
    """What the times of a ``Pace`` are of; times of other work, by other libraries or on other ones
    of unequal cores do not compare."""
    kind = core_class()
    return f"{_work()}, {kind}" if kind else _work()


@functools.cache
def _work() -> str:
    """Both works, and the processor's features by which numpy chooses how to do them."""
    import numpy as np

    said: Any = np.show_config(mode="dicts")
    features = said.get("SIMD Extensions", {}).get("found", [])
    return " ".join(["divisions, exponentials; numpy", np.__version__, *features[-1:]])


@functools.cache
def _divisions() -> Callable[[], object]:
    """Each one needs the quotient of the one before."""
    import numpy as np

    divisors, quotients = (_aligned(_DIVISIONS, np.float64) for _ in range(2))
    divisors.fill(1.0000001)
    return lambda: np.divide.accumulate(divisors, out=quotients)


@functools.cache
def _exponentials() -> Callable[[int], None]:
    import numpy as np

    numbers, exponentials = (_aligned(_NUMBERS, np.float32) for _ in range(2))
    numbers.fill(0.5)

    def work(times: int) -> None:
        for _ in range(times):
            np.exp(numbers, out=exponentials)

    return work


@functools.cache
def _pieces() -> Iterator[npt.NDArray[Any]]:
    """Written once, since pages of zeros that nobody wrote are all the same memory; and read once,
    so that no timed read has to write back what was written."""
    import numpy as np

    pieces = np.ones((_PIECES, _PIECE_BYTES // 4), np.float32)
    pieces.sum()
    return itertools.cycle(pieces)


def _aligned(count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """Zeros that begin with a cache line: elsewhere vector loads take longer, in one process and
    not in the next."""
    import numpy as np

    size = count * np.dtype(kind).itemsize
    memory = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(kind)


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
