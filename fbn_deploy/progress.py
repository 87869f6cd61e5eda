"""Progress of long work: a bar with rate and time left, plain lines when there is no terminal.

Whoever works long is handed a ``Reporter`` and knows nothing of terminals. Everything is written
to stderr, so that stdout carries results only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LINE_EVERY_S = 10.0  # between two plain lines of one task
Work = Callable[[int], float]


class Task(Protocol):
    """One piece of long work that is under way."""

    def update(self, done: int, note: str = "") -> None:
        """``done`` of the task's total are done; ``note`` is what to show beside it."""


class Reporter(Protocol):
    """Where progress goes."""

    def task(
        self, title: str, total: int, unit: str, work: Work | None = None
    ) -> AbstractContextManager[Task]:
        """A task of ``total`` units; use it in a ``with`` statement. ``work``: how much the first
        n units are, where they are not alike."""

    def say(self, message: str) -> None:
        """One line that stays."""


class _SilentTask:
    def update(self, done: int, note: str = "") -> None:
        pass


class Silent:
    """Says nothing."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, work: Work | None = None) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, message: str) -> None:
        pass


class Pace:
    """Units a second and seconds left, from the units done since the first update."""

    def __init__(self, total: int, work: Work | None = None) -> None:
        self._total, self._work = total, work or float
        self._first: tuple[float, int] | None = None

    def text(self, done: int, unit: str) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        elapsed, since = now - self._first[0], done - self._first[1]
        if elapsed <= 0 or since <= 0:
            return ""
        ahead = self._work(self._total) - self._work(done)
        left_s = elapsed * ahead / (self._work(done) - self._work(self._first[1]))
        return f"{_rate(since / elapsed, unit)}, {duration(left_s)} left"


def _rate(rate: float, unit: str) -> str:
    if rate >= 1 or not unit:
        return f"{rate:,.3g} {unit}/s" if rate < 100 else f"{rate:,.0f} {unit}/s"
    return f"{1 / rate:.3g} s per {unit.rstrip('s')}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``75 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 10:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class _LineTask:
    def __init__(self, title: str, total: int, unit: str, work: Work | None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._pace, self._last = Pace(total, work), time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        pace = self._pace.text(done, self._unit)
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            parts = [f"{self._title}: {done}/{self._total} {self._unit}", pace, note]
            print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)


class Lines:
    """Plain lines on stderr, at most one every ten seconds for a task."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, work: Work | None = None) -> Iterator[Task]:
        started = time.monotonic()
        yield _LineTask(title, total, unit, work)
        print(
            f"{title}: done in {duration(time.monotonic() - started)}", file=sys.stderr, flush=True
        )

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class _BarTask:
    def __init__(self, display: Progress, number: TaskID, unit: str, pace: Pace) -> None:
        self._display, self._number, self._unit, self._pace = display, number, unit, pace

    def update(self, done: int, note: str = "") -> None:
        text = ", ".join(part for part in (self._pace.text(done, self._unit), note) if part)
        self._display.update(self._number, completed=done, note=text)


class Bars:
    """Rich progress bars on stderr. Tasks within a task share one display: before 14.1, rich allows
    no second one on a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._display: Progress | None = None

    @contextmanager
    def task(self, title: str, total: int, unit: str, work: Work | None = None) -> Iterator[Task]:
        started = time.monotonic()
        with self._shown() as display:
            number = display.add_task(title, total=total, note="")
            try:
                yield _BarTask(display, number, unit, Pace(total, work))
            finally:
                display.remove_task(number)
        self.say(f"{title}: done in {duration(time.monotonic() - started)}")

    @contextmanager
    def _shown(self) -> Iterator[Progress]:
        """The display, which the outermost task starts and ends."""
        if self._display is not None:
            yield self._display
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        try:
            with Progress(*columns, console=self._console, transient=True) as self._display:
                yield self._display
        finally:
            self._display = None

    def say(self, message: str) -> None:
        self._console.print(message, highlight=False, markup=False, soft_wrap=True)


def reporter(quiet: bool = False) -> Reporter:
    """Bars on a terminal, plain lines elsewhere, nothing when ``quiet``."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
