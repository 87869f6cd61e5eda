"""The CUDA driver, asked through ctypes before any GPU runtime is touched: without a usable
driver some of them crash the process instead of raising an error."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NAME_LENGTH = 256


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
    driver = _driver()
    assert driver is not None
    handle = ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_LENGTH)
    driver.cuDeviceGet(ctypes.byref(handle), 0)
    driver.cuDeviceGetName(name, _NAME_LENGTH, handle)
    return name.value.decode(errors="replace")


def driver_version() -> str:
    """The newest CUDA version that the driver supports, as ``12.4``."""
    driver = _driver()
    assert driver is not None
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


@functools.cache
def _driver() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
