"""The part of a target that says what it runs on: this machine's processor, or its first GPU."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from fbn_deploy.targets import _cpu, _cuda


class Host(Protocol):
    """What ``_cpu.py`` and ``_cuda.py`` know."""

    def device_name(self) -> str: ...
    def power_state(self) -> str: ...
    def clock_mhz(self) -> float | None: ...


class _OnHost:
    host: ClassVar[Host]
    settings: dict[str, str]

    def settings_of(self, model: bytes | Path, batch: int) -> dict[str, str]:
        return self.settings

    def device(self) -> str:
        return self.host.device_name()

    def power_state(self) -> str:
        return self.host.power_state()

    def clock_mhz(self) -> float | None:
        return self.host.clock_mhz()


class OnCpu(_OnHost):
    """A target on this machine's processor."""

    host: ClassVar[Host] = _cpu

    @property
    def int8_weight_levels(self) -> int:
        return _cpu.int8_weight_levels()


class OnCuda(_OnHost):
    """A target on the first GPU."""

    host: ClassVar[Host] = _cuda
