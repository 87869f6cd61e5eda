"""Ctrl-C: a command stops where it is, a training at the end of its step, once that is saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class Stopped(BaseException):
    """Ctrl-C, under a name that Typer does not catch: we say how to go on."""


class Stop:
    """Whether Ctrl-C was pressed where it waits for the end of a step."""

    def __init__(self) -> None:
        self.waits = False
        self.asked = False

    def pressed(self, _signal: int = 0, _frame: object = None) -> None:
        """Raises ``Stopped``, at once or when the step that is under way has ended; pressed twice,
        at once."""
        if self.asked or not self.waits:
            raise Stopped
        self.asked = True


_STOP = Stop()


def listen() -> None:
    """From now on Ctrl-C raises ``Stopped``, unless this process ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _STOP.pressed)


@contextlib.contextmanager
def at_end_of_step() -> Iterator[Stop]:
    """Within the block Ctrl-C only sets ``asked``; who sees that saves, and raises ``Stopped``."""
    _STOP.waits = True
    try:
        yield _STOP
    finally:
        _STOP.waits = _STOP.asked = False
