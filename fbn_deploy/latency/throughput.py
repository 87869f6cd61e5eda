"""Images a second: over batch sizes, one run after the other, and with runs in parallel.

Latency and throughput are two questions. For each batch the runs follow one another on all
threads that were asked; a target that serves several requests at once (``targets.Parallel``) is
also measured that way, as OpenVINO's benchmark_app does with its throughput hint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.cache import known_pace
from fbn_deploy.latency.network import network_from
from fbn_deploy.latency.protocol import QUICK
from fbn_deploy.latency.record import utc_now
from fbn_deploy.latency.timing import time_runs
from fbn_deploy.targets import Parallel, device_memory_bytes

if TYPE_CHECKING:
    from fbn_deploy.latency.meter import Model
    from fbn_deploy.targets import Target

SCHEMA = 1
BATCHES = (1, 2, 4, 8, 16, 32)
PARALLEL_S = 2.0


@dataclass(frozen=True)
class Rate:
    """``images_per_s`` with ``requests`` runs of ``batch`` images in flight at a time."""

    batch: int
    requests: int
    images_per_s: float
    run_ms: float
    """How long one run of the batch takes: its median, or with several in flight their mean."""
    device_memory_bytes: int | None = None
    """For intermediate results of one run; None where the target does not say."""
    disturbed: tuple[str, ...] = ()
    """What disturbed the runs, in words; not known of several in flight."""

    def text(self) -> str:
        """A line of the table."""
        line = f"{self.batch:5}  {self.requests:9}  {self.images_per_s:8,.1f}  {self.run_ms:10.3f}"
        if self.device_memory_bytes is not None:
            line += f"  {self.device_memory_bytes / 1e6:9.1f}"
        return f"{line}  disturbed: {'; '.join(self.disturbed)}" if self.disturbed else line


@dataclass(frozen=True)
class Throughput:
    """Rates of one model with the conditions that they were measured under."""

    target: str
    device: str
    precision: str
    threads: int
    versions: dict[str, str]
    date: str
    rates: tuple[Rate, ...]
    stopped: str
    """Why larger batches were not measured; empty where all were."""

    @property
    def best(self) -> Rate:
        """The most images a second."""
        return max(self.rates, key=lambda rate: rate.images_per_s)

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def text(self) -> str:
        """A line for each rate, and the best."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        known = any(rate.device_memory_bytes is not None for rate in self.rates)
        lines = [
            f"{self.target} on {self.device}, {versions}, {self.precision}, threads {self.threads}",
            "batch  in flight  images/s    ms a run" + ("  device MB" if known else ""),
        ]
        lines += [rate.text() for rate in self.rates]
        lines += [f"Larger batches were not measured: {self.stopped}"] if self.stopped else []
        best = self.best
        return "\n".join(
            [*lines, f"Best: {best.images_per_s:,.1f} images/s at batch {best.batch} with "
             f"{best.requests} in flight"]
        )  # fmt: skip


def measure_throughput(
    model: Model,
    target: Target,
    *,
    threads: int,
    precision: str = "fp32",
    batches: Sequence[int] = BATCHES,
) -> Throughput:
    """Rates of ``model`` over ``batches``, smallest first.

    Ends early, with the reason, at a batch that the model or the memory does not take. Raises
    ``FBNError`` when the first is already refused.
    """
    source, pace = network_from(model).source, known_pace(target.device())
    rates: list[Rate] = []
    stopped = ""
    for batch in sorted(batches):
        try:
            with target.open(source, batch=batch, threads=threads, precision=precision) as session:
                timing = time_runs(session.enqueue, QUICK, one_thread=threads == 1, pace=pace)
                memory = device_memory_bytes(session)
            run_ms = timing.value_ms
            rates.append(
                Rate(batch, 1, 1000 * batch / run_ms, run_ms, memory, disturbed=timing.disturbed)
            )
            if isinstance(target, Parallel):
                runs_per_s, requests = target.runs_per_second(
                    source, batch=batch, threads=threads, precision=precision, seconds=PARALLEL_S
                )
                mean_ms = 1000 * requests / runs_per_s
                rates.append(Rate(batch, requests, batch * runs_per_s, mean_ms))
        except FBNError as error:
            if not rates:
                raise
            stopped = str(error)
            break
    return Throughput(
        target.name,
        target.device(),
        precision,
        threads,
        target.versions(),
        utc_now(),
        tuple(rates),
        stopped,
    )
