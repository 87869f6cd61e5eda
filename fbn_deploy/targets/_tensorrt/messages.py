"""TensorRT's log: collected instead of printed, and summed up."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fbn_deploy.targets._tensorrt.package import TensorRt

_ERRORS = ("ERROR", "INTERNAL_ERROR")
_LAYERS = "Layers:"  # how the message begins in which a builder lists the engine's layers
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")  # of the engine
# "Error Code 4: API Usage Error (…)" says more than the function that found it.
_FUNCTION = re.compile(r"^(?:\[[\w.:]+::\d+\]|\w+::\w+:)\s*")


class Messages:
    """What a logger heard. Severities are TensorRT's own words."""

    def __init__(self) -> None:
        self._warnings: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self.layers = ""
        """The builder's list of the layers of the engine, where it gave one."""
        self.memory_bytes: dict[str, int] = {}
        """Device memory of the engine's ``activation`` (intermediate results) and ``weights``,
        where the builder says it."""

    def hear(self, severity: str, text: str) -> None:
        """Takes in one message."""
        text = text.strip()
        if severity in _ERRORS:
            self._errors[_FUNCTION.sub("", text)] += 1
        elif severity == "WARNING":
            self._warnings[_FUNCTION.sub("", text)] += 1
        elif text.startswith(_LAYERS):
            self.layers = text
        elif found := _MEMORY.match(text):
            self.memory_bytes[found[1].lower()] = int(found[2])

    @property
    def warnings(self) -> list[str]:
        """Each warning once, with how often it came."""
        return _summed(self._warnings)

    @property
    def errors(self) -> list[str]:
        """Each error once; the first is usually the cause."""
        return _summed(self._errors)

    def reason(self, otherwise: str) -> str:
        """The first error, or ``otherwise`` where the log holds none."""
        return self.errors[0] if self._errors else otherwise


def logger(trt: TensorRt, messages: Messages) -> Any:
    """A logger of ``trt`` that tells ``messages``. Keep it as long as what it was given to."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants it called by name

        def log(self, severity: Any, msg: str) -> None:
            messages.hear(severity.name, msg)

    return Logger()


def _summed(counted: Counter[str]) -> list[str]:
    return [text if count == 1 else f"{text} ({count} times)" for text, count in counted.items()]
