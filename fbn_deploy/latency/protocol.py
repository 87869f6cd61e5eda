"""How long and how often a latency is sampled: the protocols, which are part of its conditions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

METHOD = "waits and crowded slices off, awake, slices of 1 ms, by divisions, exponentials, memory"
"""Changes when the same runs would give another number."""


@dataclass(frozen=True)
class TimingProtocol:
    """How long and how often. Times in seconds; ``width`` is the half-width of the median's
    95 % interval, relative to it, at which timing ends. ``limit_s`` ends it in any case,
    and later by what was lost to a crowd, ``patience_s`` at most. ``round_s`` is what a round has
    of the core to itself, as long as there is patience."""

    name: str
    warmup_s: float
    warmup_runs: int
    round_s: float
    min_rounds: int
    width: float
    limit_s: float
    patience_s: float = 0.0
    pause_s: float = 0.0
    attempts: int = 1

    @property
    def label(self) -> str:
        """Name, method and every number: records made otherwise are not mixed with these."""
        numbers = dataclasses.astuple(self)[1:]
        return f"{self.name}({', '.join(f'{number:g}' for number in numbers)}; {METHOD})"


QUICK = TimingProtocol(
    name="quick",
    warmup_s=0.04,
    warmup_runs=5,
    round_s=0.03,
    min_rounds=9,
    width=0.015,
    limit_s=0.9,
    patience_s=1.0,
)
"""A candidate in a search: 0.3 s for a 1 ms network on a quiet machine."""

CONFIRM = TimingProtocol(
    name="confirm",
    warmup_s=0.2,
    warmup_runs=10,
    round_s=0.25,
    min_rounds=6,
    width=0.015,
    limit_s=5.0,
    patience_s=10.0,
    pause_s=0.35,
    attempts=3,
)
"""A promise: rounds spread over seconds, timed again (three times at most) when disturbed."""

PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, CONFIRM)}
