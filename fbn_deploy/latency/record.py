"""A latency with its story: the conditions under which it was measured, and the numbers."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fbn_deploy.cores import allowed_cores, core_class
from fbn_deploy.errors import FBNError
from fbn_deploy.latency.crowding import Pace, is_crowded
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.timing import Timing

if TYPE_CHECKING:
    from fbn_deploy.latency.protocol import TimingProtocol
    from fbn_deploy.targets import Target

SCHEMA = 1
# Numbers that older records lack.
_LATER = frozenset(
    {
        "best_arithmetic_us",
        "best_reference_us",
        "known_kappa",
        "crowded",
        "crowded_out",
        "memory_us",
    }
)


@dataclass(frozen=True)
class Conditions:
    """Everything that a latency depends on. Two records are comparable when these are equal."""

    target: str
    device: str
    precision: str
    batch: int
    threads: int
    network: str
    """Hash of the ONNX graph without its weights (``network.py``)."""
    inputs: Mapping[str, tuple[int, ...]]
    """Input name → shape, with the batch filled in."""
    versions: Mapping[str, str]
    settings: Mapping[str, str]
    """The runtime's; also ``cores`` where fewer are allowed to the process than it has threads, and
    ``core_class`` where a machine's cores are not alike."""
    power: str
    """Frequency governor or power limit; empty where the system does not say."""
    protocol: str
    """The timing protocol's label: its name and its numbers."""
    process: int = 0
    """0: the process that asked; 1, 2, …: fresh processes started to measure this and end."""

    def as_json(self) -> dict[str, Any]:
        """A JSON object with sorted keys inside, the same for equal conditions."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["inputs"] = {name: list(shape) for name, shape in sorted(self.inputs.items())}
        values["versions"] = dict(sorted(self.versions.items()))
        values["settings"] = dict(sorted(self.settings.items()))
        return values

    def are_of(self, *, precision: str, threads: int, batch: int, device: str) -> bool:
        """Whether a budget under these can be held against what was measured under ``self``, on
        its target; ``device`` is empty where nothing says. A table from elsewhere is of a device
        that only shares the target's name."""
        asked = (precision, threads, batch, device or self.device)
        return (self.precision, self.threads, self.batch, self.device) == asked

    def key(self) -> str:
        """SHA-256 over all of it: the cache's key."""
        text = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Conditions:
        """The inverse of ``as_json``. Raises ``TypeError`` or ``KeyError`` for anything else."""
        inputs = {name: tuple(shape) for name, shape in value["inputs"].items()}
        return cls(**{**value, "inputs": inputs})


def conditions_of(
    target: Target,
    *,
    network: str,
    inputs: Mapping[str, tuple[int, ...]],
    batch: int,
    threads: int,
    precision: str,
    protocol: TimingProtocol,
    settings: Mapping[str, str],
    process: int = 0,
) -> Conditions:
    """The conditions here and now on ``target`` with these runtime ``settings``."""
    cores = len(allowed_cores() or range(threads))
    few = {"cores": str(cores)} if cores < threads else {}
    unequal = {"core_class": kind} if (kind := core_class()) else {}
    return Conditions(
        target=target.name,
        device=target.device(),
        precision=precision,
        batch=batch,
        threads=threads,
        network=network,
        inputs=dict(inputs),
        versions=target.versions(),
        settings={**settings, **few, **unequal},
        power=target.power_state(),
        protocol=protocol.label,
        process=process,
    )


@dataclass(frozen=True)
class LatencyRecord:
    """A measurement: the numbers (``timing``), the conditions, the date, the clock."""

    conditions: Conditions
    timing: Timing
    date: str
    """UTC, ISO 8601."""
    clock_mhz: float | None
    """The device's clock right after timing, where the system says."""
    slow_reference_us: float | None = None
    """``reference_us`` when the machine is slow, as known at that time (``slowdown.py``); None
    where too little was known. Stored with the record, so that what follows from it stays."""

    cores: tuple[int, ...] | None = None
    """The cores that the process was allowed to run on (its pinning); None where the system does
    not say. On a GPU target they only start the work."""
    arithmetic: str | None = None
    """The work that ``best_arithmetic_us`` and ``best_reference_us`` are the times of; None in
    older records."""

    @property
    def value_ms(self) -> float:
        """The median in milliseconds."""
        return self.timing.value_ms

    @property
    def disturbed(self) -> bool:
        """Whether something else on the machine got in the way."""
        return bool(self.timing.disturbed)

    def was_crowded(self, best: Pace | None) -> bool:
        """Whether it passes for one of a quiet core because no calmer moment was known then than
        one that is crowded by ``best``, the best pace that is known of the device now."""
        known = self.timing.known_kappa
        if best is None or known is None or self.arithmetic != arithmetic_work():
            return False
        return not self.timing.crowded_out and is_crowded(known, best)

    def gives_way_to(self, other: LatencyRecord, best: Pace | None) -> bool:
        """Whether ``other``, made later under the same conditions, says more of the network; for
        ``best`` see ``was_crowded``."""
        if self.was_crowded(best) and not other.was_crowded(best):
            return True
        return self.disturbed and not other.disturbed

    def age_s(self) -> float:
        """Seconds since ``date``."""
        now = datetime.datetime.now(datetime.timezone.utc)
        return (now - datetime.datetime.fromisoformat(self.date)).total_seconds()

    def as_json(self) -> dict[str, Any]:
        """One flat JSON object with a ``schema`` number and the conditions under their name."""
        numbers = dataclasses.asdict(self.timing)
        return {
            "schema": SCHEMA,
            **numbers,
            "disturbed": list(self.timing.disturbed),
            "date": self.date,
            "clock_mhz": self.clock_mhz,
            "slow_reference_us": self.slow_reference_us,
            "cores": None if self.cores is None else list(self.cores),
            "arithmetic": self.arithmetic,
            "conditions": self.conditions.as_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> LatencyRecord:
        """The inverse of ``as_json``. Raises ``FBNError`` when ``value`` is no such record."""
        try:
            if value["schema"] != SCHEMA:
                raise FBNError(
                    f"A latency record has the schema {value['schema']}; this version of "
                    f"fbn_deploy reads schema {SCHEMA}. Measure again, or update fbn_deploy."
                )
            cores = value.get("cores")  # older records have none
            names = [field.name for field in dataclasses.fields(Timing)]
            numbers = {name: value[name] for name in names if name not in _LATER}
            numbers |= {name: value[name] for name in _LATER if name in value}
            numbers["disturbed"] = tuple(numbers["disturbed"])
            return cls(
                conditions=Conditions.from_json(value["conditions"]),
                timing=Timing(**numbers),
                date=value["date"],
                clock_mhz=value["clock_mhz"],
                slow_reference_us=value.get("slow_reference_us"),  # nor do they have this
                cores=None if cores is None else tuple(cores),
                arithmetic=value.get("arithmetic"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise FBNError(f"This is no latency record: {error!r} in its JSON.") from error


def utc_now() -> str:
    """The date of a record: UTC, ISO 8601, seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
