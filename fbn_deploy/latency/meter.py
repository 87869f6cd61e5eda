"""Latency of whole networks on one target: from the cache, else measured and stored."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.cores import allowed_cores
from fbn_deploy.errors import unknown
from fbn_deploy.latency import confirm
from fbn_deploy.latency.crowding import Pace, best_pace
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.network import Network, network_from
from fbn_deploy.latency.protocol import CONFIRM, PROTOCOLS, TimingProtocol
from fbn_deploy.latency.record import Conditions, LatencyRecord, conditions_of, utc_now
from fbn_deploy.latency.slowdown import slow_reference_us, slowdown_of
from fbn_deploy.latency.timing import Timing, time_runs

if TYPE_CHECKING:
    import onnx_ir

    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.targets import Target

    Model = onnx_ir.Model | bytes | Path | Network

PROCESSES = 3  # that confirm a latency
STALE_S = 600.0
"""Within minutes a machine's speed is what ``slowdown.py`` reckons with. Hours apart, a search
once promised 3.86 ms by records of a faster hour, for a network that then took 4.12."""


@dataclass(frozen=True)
class Confirmation:
    """A network measured with care, by several processes one after the other."""

    records: tuple[LatencyRecord, ...]

    @property
    def value_ms(self) -> float:
        """The largest median of a process."""
        return max(record.value_ms for record in self.records)

    @property
    def upper_ms(self) -> float:
        """What a budget is held against, of the process where it is largest: the worst round, the
        upper end of the median's 95 % interval, the median on a slow day (``slowdown.py``).

        In a crowd that did not end (``crowding.py``) the worst round is the crowd's, 1.4 times the
        median at times, and says nothing of the network: it is left out there. Without the crowd
        the median is lower by more than what it stands for.
        """
        return max(map(_upper_ms, self.records))

    @property
    def slowdown(self) -> float:
        """The largest factor by which a process found the machine faster than on a slow day."""
        return max(slowdown_of(record) for record in self.records)

    @property
    def disturbed(self) -> bool:
        """Whether any of the measurements was disturbed to its end."""
        return any(record.disturbed for record in self.records)

    @property
    def crowded_out(self) -> bool:
        """Whether somebody else computed on the core through one of the measurements."""
        return any(record.timing.crowded_out for record in self.records)

    def meets(self, budget_ms: float) -> bool:
        """Whether the budget holds with all that was seen of the machine's variation."""
        return self.upper_ms <= budget_ms

    def as_json(self) -> dict[str, Any]:
        """``value_ms``, ``upper_ms``, ``slowdown``, ``disturbed`` and every record."""
        return {
            "value_ms": self.value_ms,
            "upper_ms": self.upper_ms,
            "slowdown": self.slowdown,
            "disturbed": self.disturbed,
            "records": [record.as_json() for record in self.records],
        }


def _upper_ms(record: LatencyRecord) -> float:
    timing = record.timing
    bounds = [timing.high_ms, timing.value_ms * slowdown_of(record)]
    return max(bounds if timing.crowded_out else [*bounds, timing.worst_round_ms])


class LatencyMeter:
    """Measures models on ``target``, one at a time; with ``cache=None`` nothing is remembered.

    The methods take an ``onnx_ir.Model``, the bytes of an ONNX model, its path, or any of these as
    a ``Network``, and raise ``FBNError`` when the target cannot open it. ``fresh=True`` measures,
    and returns what it measured, although the cache has a record. A meter that is not ``patient``
    waits for no crowd to end.
    """

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 1,
        threads: int = 1,
        precision: str = "fp32",
        cache: LatencyCache | None = None,
        pace: Pace | None = None,
        patient: bool = True,
    ) -> None:
        self.target = target
        self.batch = batch
        self.threads = threads
        self.precision = precision
        self.cache = cache
        self.pace = cache.best_pace(target.device()) if cache and pace is None else pace
        """The best that is known of the device (``crowding.py``)."""
        self._patient = patient
        self._checked: set[str] = set()  # hashes of networks with a confirmation of another day
        self.num_measured = 0
        self.num_from_cache = 0
        self.seconds = 0.0
        """Spent on measuring, the opening of models included."""

    def measure(
        self, model: Model, protocol: str = "quick", *, fresh: bool = False
    ) -> LatencyRecord:
        """The latency of ``model`` under a timing protocol: ``quick`` or ``confirm``."""
        network = network_from(model)
        how = _protocol(protocol)
        conditions = self._conditions(network, how)
        stored = None if fresh else self._from_cache(conditions)
        return stored or self._keep(self._measured(network, conditions, how), fresh)

    def settled(
        self, model: Model, record: LatencyRecord, protocol: str = "quick"
    ) -> LatencyRecord:
        """``record`` unless it is doubtful, perhaps by what is over now: then ``model`` is measured
        again, and what that gives stands if it says more (``LatencyRecord.gives_way_to``)."""
        if not self.doubts(record):
            return record
        again = self.measure(model, protocol, fresh=True)
        return again if record.gives_way_to(again, self.pace) else record

    def doubts(self, record: LatencyRecord) -> bool:
        """Whether ``record`` was disturbed, or made in a crowd by what is known now."""
        return record.disturbed or record.was_crowded(self.pace)

    def known(
        self, network_hash: str, inputs: Mapping[str, tuple[int, ...]], protocol: str = "quick"
    ) -> LatencyRecord | None:
        """The cached latency of a network whose structure hash is known; None if there is none, or
        one of a crowd that could not be told then."""
        network = Network(b"", network_hash, inputs)
        return self._from_cache(self._conditions(network, _protocol(protocol)))

    def confirm(self, model: Model, *, fresh: bool = False) -> LatencyRecord:
        """The latency under the careful protocol, measured in this process."""
        return self.measure(model, CONFIRM.name, fresh=fresh)

    def confirm_in_fresh_process(
        self,
        model: Model,
        *,
        processes: int = PROCESSES,
        protocol: str = CONFIRM.name,
        fresh: bool = False,
        renewed: bool = True,
    ) -> Confirmation:
        """The latency under a timing protocol in new processes, one after the other.

        Memory layout differs from process to process and the clock drifts with time; a budget
        has to hold over both. Three processes, 15 to 45 s; see ``timing.py`` for how
        well that holds. What the cache holds is taken if it is true today (``_renew``;
        ``renewed=False`` takes it as it is). A process that is found to have been in a crowd only
        because a later one was not is measured again.
        """
        network = network_from(model)
        how = _protocol(protocol)
        if renewed and not fresh:
            self._renew(network, how)
        records: list[LatencyRecord] = []
        for process in range(1, processes + 1):
            conditions = self._conditions(network, how, process)
            record = None if fresh else self._from_cache(conditions)
            if record is None:
                # The slowest process counts: behind one in a crowd, others wait for nothing.
                patient = not any(each.timing.crowded_out for each in records)
                record = self._measured_elsewhere(network, conditions, how, patient)
                record = self._keep(record, fresh)
            records.append(record)
        for number, record in enumerate(records):
            if record.was_crowded(self.pace):
                again = self._measured_elsewhere(network, record.conditions, how)
                records[number] = self._keep(again, fresh)
        return Confirmation(tuple(records))

    def _renew(self, network: Network, protocol: TimingProtocol) -> None:
        """Holds a stored confirmation that is older than ``STALE_S`` once against a new process.

        Where its bound does not cover that process's median, the machine is slower than it was:
        all of it is forgotten. Else the new process stands for the one that was disturbed, or for
        the oldest unless it was disturbed itself. A process in a crowd tells nothing, and leaves
        the next one to tell.
        """
        if self.cache is None or network.hash in self._checked:
            return
        each_process = [self._conditions(network, protocol, 1 + n) for n in range(PROCESSES)]
        stored = [record for each in each_process if (record := self._stored(each))]
        if not stored or max(record.age_s() for record in stored) < STALE_S:
            return
        now = self._measured_elsewhere(network, each_process[0], protocol)
        if now.timing.crowded_out:
            return
        former = Confirmation(tuple(stored))
        if now.value_ms > former.upper_ms:
            self.forget(former)
            self.cache.put(now, self.pace)
        else:
            worst = min(stored, key=lambda each: (not each.disturbed, each.date))
            if worst.disturbed or not now.disturbed:
                self.cache.remove([worst])
                self.cache.put(dataclasses.replace(now, conditions=worst.conditions), self.pace)
        self._checked.add(network.hash)

    def forget(self, confirmation: Confirmation) -> None:
        """Takes its records out of the cache; the next time it is measured again."""
        if self.cache:
            self.cache.remove(list(confirmation.records))

    def _conditions(
        self, network: Network, protocol: TimingProtocol, process: int = 0
    ) -> Conditions:
        return conditions_of(
            self.target,
            network=network.hash,
            inputs=network.input_shapes(self.batch),
            batch=self.batch,
            threads=self.threads,
            precision=self.precision,
            protocol=protocol,
            process=process,
            settings=self.target.settings_of(network.source, self.batch),
        )

    def _from_cache(self, conditions: Conditions) -> LatencyRecord | None:
        record = self._stored(conditions)
        self.num_from_cache += record is not None
        return record

    def _stored(self, conditions: Conditions) -> LatencyRecord | None:
        """What the cache has, unless that was made in a crowd by what is known now."""
        record = self.cache.get(conditions) if self.cache else None
        return None if record is None or record.was_crowded(self.pace) else record

    def _keep(self, record: LatencyRecord, fresh: bool) -> LatencyRecord:
        """Offers ``record`` to the cache; what that holds now (another process may have been
        first), or ``record`` where a fresh one was asked."""
        stored = self.cache.put(record, self.pace) if self.cache else record
        return record if fresh else stored

    def _measured(
        self, network: Network, conditions: Conditions, protocol: TimingProtocol
    ) -> LatencyRecord:
        start_s = time.perf_counter()
        with self.target.open(
            network.source, batch=self.batch, threads=self.threads, precision=self.precision
        ) as session:
            timing = time_runs(
                session.enqueue,
                protocol,
                one_thread=self.threads == 1,
                pace=self.pace,
                patient=self._patient,
            )
            clock_mhz = self.target.clock_mhz()
        self._count(start_s, timing)
        return LatencyRecord(
            conditions,
            timing,
            utc_now(),
            clock_mhz,
            cores=allowed_cores(),
            arithmetic=arithmetic_work(),
        )

    def _measured_elsewhere(
        self,
        network: Network,
        conditions: Conditions,
        protocol: TimingProtocol,
        patient: bool = True,
    ) -> LatencyRecord:
        start_s = time.perf_counter()
        record = confirm.record_from_fresh_process(
            network.source, conditions, protocol.name, self.pace, patient
        )
        self._count(start_s, record.timing)
        slow_us = None
        if self.cache and record.timing.pace is not None:  # else the processor's speed is nothing
            slow_us = slow_reference_us(self.cache.references_us(conditions))
        return dataclasses.replace(record, slow_reference_us=slow_us)

    def _count(self, start_s: float, timing: Timing) -> None:
        self.num_measured += 1
        self.seconds += time.perf_counter() - start_s
        self.pace = best_pace((self.pace, timing.pace))


def _protocol(name: str) -> TimingProtocol:
    if name not in PROTOCOLS:
        raise unknown("timing protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
