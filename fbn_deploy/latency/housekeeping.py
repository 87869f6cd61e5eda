"""The cache looked after: what is in it, what can go, records carried to another machine."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy import files
from fbn_deploy.errors import FBNError
from fbn_deploy.latency.inventory import digest
from fbn_deploy.latency.record import Conditions, LatencyRecord
from fbn_deploy.targets import targets

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = 1
KIND = "fbn latency records"


@dataclass(frozen=True)
class Group:
    """Records whose conditions agree in all but network, inputs and process."""

    conditions: Conditions
    records: int
    disturbed: int
    first: str
    last: str

    def as_json(self) -> dict[str, Any]:
        shared = self.conditions.as_json()
        for own in ("network", "inputs", "process"):
            shared.pop(own)
        return {
            "records": self.records,
            "disturbed": self.disturbed,
            "first": self.first,
            "last": self.last,
            "conditions": shared,
        }


def groups(records: Sequence[LatencyRecord]) -> list[Group]:
    """The sets of conditions in ``records``, the largest first."""
    found: dict[str, list[LatencyRecord]] = {}
    for record in records:
        found.setdefault(_shared(record.conditions).key(), []).append(record)
    listed = [
        Group(
            conditions=_shared(same[0].conditions),
            records=len(same),
            disturbed=sum(record.disturbed for record in same),
            first=min(record.date for record in same),
            last=max(record.date for record in same),
        )
        for same in found.values()
    ]
    return sorted(listed, key=lambda group: (-group.records, group.conditions.key()))


def groups_table(path: Path, found: Sequence[Group]) -> RenderableType:
    """One row for each set of conditions."""
    from rich.console import Group as Lines
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("records", "disturbed"):
        table.add_column(name, justify="right")
    for name in ("target", "device", "versions", "precision", "batch", "threads", "protocol"):
        table.add_column(name, overflow="fold")
    table.add_column("last")
    for group in found:
        at = group.conditions
        table.add_row(
            str(group.records),
            str(group.disturbed),
            at.target,
            at.device,
            ", ".join(f"{name} {version}" for name, version in at.versions.items()),
            at.precision,
            str(at.batch),
            str(at.threads),
            at.protocol.partition("(")[0],
            group.last[:10],
        )
    count = sum(group.records for group in found)
    return Lines(f"{path}: {count} records under {len(found)} sets of conditions", table)


@dataclass(frozen=True)
class Wanted:
    """Which records are asked for; those that match everything that is said."""

    target: str | None = None
    older_than_days: int | None = None
    other_conditions: bool = False
    disturbed: bool = False
    everything: bool = False


def chosen(records: Sequence[LatencyRecord], wanted: Wanted) -> list[LatencyRecord]:
    """The records that match. Raises ``FBNError`` when nothing at all was said: everything has to
    be asked for by name."""
    if wanted == Wanted():
        raise FBNError(
            "Say which records: --target, --older-than DAYS, --other-conditions, --disturbed, "
            "in any combination, or --all."
        )
    now = datetime.datetime.now(datetime.timezone.utc)
    here = _conditions_here() if wanted.other_conditions else set()

    def matches(record: LatencyRecord) -> bool:
        if wanted.target is not None and record.conditions.target != wanted.target:
            return False
        if wanted.older_than_days is not None:
            age = now - datetime.datetime.fromisoformat(record.date)
            if age < datetime.timedelta(days=wanted.older_than_days):
                return False
        if wanted.other_conditions and _machine(record.conditions) in here:
            return False
        return record.disturbed or not wanted.disturbed

    return [record for record in records if matches(record)]


def write_records(path: Path, records: Sequence[LatencyRecord]) -> int:
    """Writes ``records`` to a file, whole or not at all; their number."""
    content = {"kind": KIND, "schema": SCHEMA, "records": [each.as_json() for each in records]}
    files.write_json(path, {**content, "sha256": digest(content)})
    return len(records)


def read_records(path: Path) -> list[LatencyRecord]:
    """What ``write_records`` wrote. Raises ``FBNError`` when it is anything else, or altered."""
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise FBNError(f"{path} holds no latency records; fbn latency export writes them.")
    if value.get("schema") != SCHEMA:
        raise FBNError(f"{path} has the schema {value.get('schema')}; this version reads {SCHEMA}.")
    content = {key: part for key, part in value.items() if key != "sha256"}
    if digest(content) != value.get("sha256"):
        raise FBNError(f"{path} was altered after it was exported: its hash does not match.")
    return [LatencyRecord.from_json(each) for each in value["records"]]


def _shared(conditions: Conditions) -> Conditions:
    return dataclasses.replace(conditions, network="", inputs={}, process=0)


def _machine(conditions: Conditions) -> tuple[object, ...]:
    at, versions = conditions, conditions.versions.items()
    # Which cores a process was allowed is no matter of the machine.
    allowed = ("cores", "core_class")
    settings = [(name, value) for name, value in at.settings.items() if name not in allowed]
    return at.target, at.device, at.power, tuple(sorted(versions)), tuple(sorted(settings))


def _conditions_here() -> set[tuple[object, ...]]:
    return {
        (
            target.name,
            target.device(),
            target.power_state(),
            tuple(sorted(target.versions().items())),
            tuple(sorted(target.settings.items())),
        )
        for target in targets()
        if target.missing() is None
    }
