"""What the CPU targets share: the processor's name, clock and power state."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BOARD = Path("/proc/device-tree/model")
_X86 = ("cpu family", "model", "stepping")
_ARM = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
_CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
_NO_TURBO = Path("/sys/devices/system/cpu/intel_pstate/no_turbo")
_BOOST = Path("/sys/devices/system/cpu/cpufreq/boost")


@functools.cache
def device_name() -> str:
    """This processor (``named``)."""
    otherwise = _text(_BOARD) or platform.processor() or platform.machine()
    return named(_cpuinfo(), otherwise, os.cpu_count())


def named(facts: Mapping[str, str], otherwise: str, cores: int | None) -> str:
    """The processor's model name, or ``otherwise`` (its board) where it has none, as on Arm; what
    tells it from others of that name (many virtual machines share one): family/model/stepping, or
    implementer/part/variant/revision; and the core count. ``facts`` are those of ``cpuinfo``."""
    keys = _X86 if "cpu family" in facts else _ARM
    numbers = "/".join(facts[key] for key in keys if key in facts)
    detail = f"{numbers}, " if numbers else ""
    name = facts.get("model name") or otherwise.rstrip("\0")  # a device tree's texts end in it
    return f"{name} ({detail}{cores} cores)"


@functools.cache
def int8_weight_levels() -> int:
    """127 where the processor sums int8 products in 32 bits (VNNI, AMX; Arm), else 63: x86 without
    VNNI adds them in pairs into saturating 16-bit numbers (vpmaddubsw), and 2 · 255 · 63 fits."""
    flags = set(_cpuinfo().get("flags", "").split())
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return 63 if x86 and not flags & {"avx512_vnni", "avx_vnni", "amx_int8"} else 127


def power_state() -> str:
    """``governor=…`` and turbo, where the kernel says; empty in most virtual machines."""
    parts = []
    if governor := _text(_CPUFREQ / "scaling_governor"):
        parts.append(f"governor={governor}")
    if no_turbo := _text(_NO_TURBO):
        parts.append(f"turbo={'off' if no_turbo == '1' else 'on'}")
    elif boost := _text(_BOOST):
        parts.append(f"turbo={'on' if boost == '1' else 'off'}")
    return " ".join(parts)


def clock_mhz() -> float | None:
    """The first core's clock now. A virtual machine often states its nominal clock here."""
    if khz := _text(_CPUFREQ / "scaling_cur_freq"):
        return float(khz) / 1000
    mhz = _cpuinfo().get("cpu MHz")
    return float(mhz) if mhz else None


def _cpuinfo() -> dict[str, str]:
    return cpuinfo(_text(_CPUINFO) or "")


def cpuinfo(text: str) -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is none."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    return facts


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
