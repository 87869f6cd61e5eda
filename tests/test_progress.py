"""What is said while long work goes on."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fbn_deploy import progress
from fbn_deploy.retrain.growth import growing, work


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_units_that_are_alike_take_as_long_as_those_before(clock: list[float]) -> None:
    pace = progress.Pace(100)
    assert pace.text(0, "steps") == ""
    clock[0] = 10.0
    assert pace.text(20, "steps") == "2 steps/s, 40 s left"


def test_the_time_left_knows_that_later_steps_are_more_work(clock: list[float]) -> None:
    """The first half of 100 steps is a quarter of the work each of the second: 20 of them in 10 s
    are 20 of 50 + 4 · 50 = 250 parts, so that 230 parts are left, at 2 a second."""
    pace = progress.Pace(100, lambda done: min(done, 50) + 4 * max(done - 50, 0))
    assert pace.text(0, "steps") == ""
    clock[0] = 10.0
    assert pace.text(20, "steps") == f"2 steps/s, {progress.duration(115.0)} left"


def test_the_work_of_a_training_on_growing_images_is_their_pixels() -> None:
    """From 64 to 128 pixels over four fifths of five steps, in multiples of 16: 64, 80, 96, 112."""
    resolution = growing(0.5, 128, 5)
    done = work(resolution, 5)
    assert [done(n) for n in range(6)] == [0, 64**2, 64**2 + 80**2, 64**2 + 80**2 + 96**2,
                                           64**2 + 80**2 + 96**2 + 112**2,
                                           64**2 + 80**2 + 96**2 + 112**2 + 128**2]  # fmt: skip


class OneDisplay(Console):
    """A terminal that has one display at a time, as those of rich before 14.1."""

    shown: Any = None

    def set_live(self, live: Any) -> Any:
        assert self.shown is None, "Only one live display may be active at once"
        self.shown = live
        return super().set_live(live)

    def clear_live(self) -> None:
        self.shown = None
        super().clear_live()


def test_tasks_within_a_task_share_one_display() -> None:
    console = OneDisplay(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    bars = progress.Bars(console)
    with bars.task("Searching", 4, "candidates") as outer:
        outer.update(1)
        with bars.task("Exporting", 2, "graphs") as inner:
            inner.update(2, "the last one")
            bars.say("Two at once.")
            console.shown.refresh()
        assert console.shown is not None, "The outer task goes on."
        outer.update(3)
        console.shown.refresh()
    assert console.shown is None
    with pytest.raises(KeyboardInterrupt), bars.task("Searching", 4, "candidates"):
        raise KeyboardInterrupt
    assert console.shown is None
    with bars.task("Training", 1, "steps") as task:
        task.update(1)
    frames = console.file.getvalue()
    assert "4/4" not in frames, "Nobody said so."
    assert "2/2 the last one" in frames
    for line in ("Two at once.", "Exporting: done in", "Searching: done in", "Training: done in"):
        assert frames.count(line) == 1
