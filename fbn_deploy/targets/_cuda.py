"""The CUDA driver, asked through ctypes before any GPU runtime is touched: without a usable
driver some of them crash the process instead of raising an error."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import sys
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_TEXT_LENGTH = 256
# CUdevice_attribute numbers of cuda.h
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@functools.cache
def driver_problem() -> str | None:
    """Why no CUDA device can be used here, with what mends it; None when one can."""
    mend = "Install the NVIDIA driver (https://www.nvidia.com/drivers) on a machine with its GPU"
    driver = _driver()
    if driver is None:
        return f"no NVIDIA driver is installed ({_LIBRARY} does not load). {mend}"
    if code := driver.cuInit(0):
        return f"the NVIDIA driver does not start (cuInit: error {code}). {mend}"
    count = ctypes.c_int()
    code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return f"the NVIDIA driver finds no GPU (cuDeviceGetCount: error {code}). {mend}"
    return None


def device_name() -> str:
    """The first GPU's name. Only when ``driver_problem()`` is None."""
    return _device_text("cuDeviceGetName")


def driver_version() -> str:
    """The newest CUDA version that the driver supports, as ``12.4``."""
    driver = _driver()
    assert driver is not None
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def compute_capability() -> tuple[int, int]:
    """The first GPU's compute capability: (9, 0) is Hopper. Only when ``driver_problem()`` is
    None."""
    driver = _driver()
    assert driver is not None
    handle, number = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(handle), 0)
    numbers = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        numbers.append(number.value)
    return numbers[0], numbers[1]


@functools.cache  # every lookup of a latency asks
def power_state() -> str:
    """``limit=300.00W`` where nvidia-smi says, as this process found it; else empty."""
    limit = _nvidia_smi("power.limit")
    return f"limit={limit}W" if limit else ""


def clock_mhz() -> float | None:
    """The clock of the first GPU's multiprocessors now, where nvidia-smi says."""
    clock = _nvidia_smi("clocks.sm")
    return float(clock) if clock else None


@functools.cache
def driver_release() -> str:
    """The driver's own version, as ``580.95.05``; empty where nvidia-smi does not say."""
    return _nvidia_smi("driver_version")


def _device_text(function: str) -> str:
    """What a function of the driver writes about the first GPU."""
    driver = _driver()
    assert driver is not None
    handle = ctypes.c_int()
    written = ctypes.create_string_buffer(_TEXT_LENGTH)
    driver.cuDeviceGet(ctypes.byref(handle), 0)
    getattr(driver, function)(written, _TEXT_LENGTH, handle)
    return written.value.decode(errors="replace")


def _nvidia_smi(query: str) -> str:
    """One number about the first GPU; empty when nvidia-smi is absent or does not know it."""
    program = shutil.which("nvidia-smi")
    if program is None or driver_problem() is not None:
        return ""
    # By its PCI address: CUDA_VISIBLE_DEVICES may make another GPU CUDA's first one.
    place = _device_text("cuDeviceGetPCIBusId")
    command = [program, f"--id={place}", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    value = answer.stdout.strip()
    return "" if value.startswith("[") else value


@functools.cache
def _driver() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
