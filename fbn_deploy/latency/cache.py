"""Measured latencies that runs and processes share: one SQLite file, keyed by all conditions.

The first record stored under its conditions stays (only a disturbed one gives way to one that is
not, and one of a crowd that was not seen to one that says so): a search that is run again finds the
numbers that it found before, whoever else measures meanwhile. A record counts as stored when
``put`` returns; from then on it survives a killed process (a transaction, flushed to the disk).
SQLite's rollback journal is used rather than WAL: it works on network drives too, and records are
few. Every call opens the file anew, so a cache may be used from any thread and after a fork.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.files import cache_folder
from fbn_deploy.latency.crowding import Pace
from fbn_deploy.latency.machine import arithmetic_work
from fbn_deploy.latency.record import Conditions, LatencyRecord

FILE = "latency.sqlite"
_SCHEMA = 1
_BUSY_TIMEOUT_S = 60.0
_TABLE = """
CREATE TABLE IF NOT EXISTS latency (
    key TEXT PRIMARY KEY, target TEXT NOT NULL, network TEXT NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID
"""
_SELECT = "SELECT record FROM latency WHERE key = ?"
_REFERENCES = """
SELECT json_extract(record, '$.reference_us') FROM latency WHERE target = ?
AND json_extract(record, '$.conditions.device') = ?
AND json_extract(record, '$.conditions.power') = ?
AND json_extract(record, '$.conditions.settings.core_class') IS ?
AND json_extract(record, '$.arithmetic') = ?
AND coalesce(json_extract(record, '$.crowded_out'), 0) = 0
"""
_DELETE = """
DELETE FROM latency WHERE key = ? AND json_extract(record, '$.date') = ?
AND json_extract(record, '$.value_ms') = ?
"""
_PACE = """
SELECT json_extract(record, '$.best_arithmetic_us') AS arithmetic_us,
json_extract(record, '$.best_reference_us') AS reference_us
FROM latency WHERE json_extract(record, '$.conditions.device') = ?
AND json_extract(record, '$.arithmetic') = ? AND arithmetic_us IS NOT NULL
ORDER BY arithmetic_us * reference_us LIMIT 1
"""


def default_cache_path() -> Path:
    """``latency.sqlite`` in the folder that all runs share (``files.cache_folder``)."""
    return cache_folder() / FILE


def known_pace(device: str) -> Pace | None:
    """The best pace of a device by the shared cache, for measurements that are not stored; None
    where there is no cache that can be read."""
    if default_cache_path().exists():
        with suppress(FBNError):
            return LatencyCache().best_pace(device)
    return None


class LatencyCache:
    """The cache in ``path`` (default: ``default_cache_path()``), created when it is not there.

    Every method raises ``FBNError`` when the file cannot be written or is damaged; a damaged file
    is left as it is.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = Path(path) if path is not None else default_cache_path()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with self._writing() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA):
                raise FBNError(
                    f"The latency cache {self.path} has the format {version}; this version of "
                    f"fbn_deploy uses {_SCHEMA}. Set FBN_CACHE_DIR to another directory."
                )
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {_SCHEMA}")

    def get(self, conditions: Conditions) -> LatencyRecord | None:
        """The record made under exactly these conditions."""
        with self._open() as database:
            row = database.execute(_SELECT, (conditions.key(),)).fetchone()
        return self._record(row[0]) if row else None

    def put(self, record: LatencyRecord, best: Pace | None = None) -> LatencyRecord:
        """Stores ``record`` and returns the one that is stored now: an older one stays, unless
        it was disturbed and this one is not, or was measured in a crowd by the ``best`` pace that
        is known of the device (``LatencyRecord.was_crowded``)."""
        with self._writing() as database:
            return self._put(database, record, best)

    def _put(
        self, database: sqlite3.Connection, record: LatencyRecord, best: Pace | None = None
    ) -> LatencyRecord:
        conditions = record.conditions
        text = json.dumps(record.as_json(), allow_nan=False)
        row = (conditions.key(), conditions.target, conditions.network, text)
        found = database.execute(_SELECT, (row[0],)).fetchone()
        stored = self._record(found[0]) if found else None
        if stored is None or stored.gives_way_to(record, best):
            database.execute("INSERT OR REPLACE INTO latency VALUES (?, ?, ?, ?)", row)
            stored = record
        return stored

    def add(self, records: Iterable[LatencyRecord]) -> int:
        """Stores all of ``records``, as ``put`` does, or none; how many are there now that were
        not before."""
        with self._writing() as database:
            return sum(self._put(database, record) is record for record in records)

    def records(self, target: str | None = None) -> list[LatencyRecord]:
        """Every record, or those of one target, oldest first."""
        query = "SELECT record FROM latency WHERE ? IS NULL OR target = ?"
        with self._open() as database:
            rows = database.execute(query, (target, target)).fetchall()
        return sorted((self._record(row[0]) for row in rows), key=lambda record: record.date)

    def references_us(self, conditions: Conditions) -> list[float]:
        """The machine's speed (``reference_us``) during every record of the same target, device,
        power state and class of cores, by the work that is timed here; whatever its network and
        protocol. Not of those in a crowd, which is no slow clock."""
        kind = conditions.settings.get("core_class")
        same = (conditions.target, conditions.device, conditions.power, kind, arithmetic_work())
        with self._open() as database:
            return [row[0] for row in database.execute(_REFERENCES, same)]

    def best_pace(self, device: str) -> Pace | None:
        """The best one (``crowding.py``) in all records of a device, by the work that is timed
        here."""
        with self._open() as database:
            found = database.execute(_PACE, (device, arithmetic_work())).fetchone()
        return Pace(*found) if found else None

    def remove(self, records: list[LatencyRecord]) -> int:
        """Removes ``records``; the number that was there. One that was replaced meanwhile stays."""
        rows = [(each.conditions.key(), each.date, each.value_ms) for each in records]
        with self._writing() as database:
            return database.executemany(_DELETE, rows).rowcount

    def _record(self, text: str) -> LatencyRecord:
        try:
            return LatencyRecord.from_json(json.loads(text))
        except ValueError as error:
            raise self._damaged(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed when the block ends; closing undoes one that failed."""
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database: sqlite3.Connection | None = None
        try:
            database = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            database.execute("PRAGMA synchronous = FULL")
            yield database
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        finally:
            if database is not None:
                database.close()

    def _unusable(self, error: Exception) -> FBNError:
        return FBNError(
            f"Cannot use the latency cache {self.path}: {error}. Set FBN_CACHE_DIR to a "
            "directory on a disk with free space that you can write to."
        )

    def _damaged(self, error: Exception) -> FBNError:
        return FBNError(
            f"The latency cache {self.path} is damaged ({error}). Move it away or delete it and "
            "latencies are measured again, or set FBN_CACHE_DIR to another directory."
        )
