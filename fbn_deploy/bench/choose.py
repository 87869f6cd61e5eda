"""Which trained architectures are scored: a sample of the table, or exactly the listed ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from fbn_deploy.bench.trained import (
    REASONS,
    Trained,
    TrainedTable,
    architecture_of,
    distinct,
)
from fbn_deploy.errors import FBNError
from fbn_deploy.space import Architecture, SearchSpace

LEAST = 10  # architectures; below that a rank correlation says nothing
SHOWN = 5  # mistakes of a list that are spelt out


def chosen(
    table: TrainedTable,
    space: SearchSpace,
    *,
    samples: int,
    seed: int,
    listed: Sequence[str] | None = None,
    min_accuracy: float | None = None,
) -> tuple[list[Trained], dict[str, int]]:
    """What to score, and why other rows were skipped: reason → count.

    ``listed`` are texts of architectures, which all have to be in the table and are scored one by
    one; without it, a sample of at most ``samples`` networks, each once, is drawn from ``seed``.
    Raises ``FBNError`` for unknown architectures and when fewer than ``LEAST`` are left.
    """
    found = list(table.rows) if listed is None else _found(table, space, listed)
    once = distinct(found) if listed is None else list({r.architecture: r for r in found}.values())
    good = [row for row in once if min_accuracy is None or row.accuracy >= min_accuracy]
    skipped = {
        **table.skipped,
        "duplicate": len(found) - len(once),
        "below_min_accuracy": len(once) - len(good),
    }
    if listed is None and len(good) > samples:
        good = random.Random(seed).sample(good, samples)
    if len(good) < LEAST:
        counts = ", ".join(f"{n} {REASONS[reason]}" for reason, n in skipped.items() if n)
        raise FBNError(
            f"A bench needs at least {LEAST} different architectures, but only {len(good)} can be "
            f"used (skipped: {counts or 'none'})."
            + (
                f" The first unreadable row: {table.first_unreadable}"
                if table.first_unreadable
                else ""
            )
        )
    return good, skipped


def read_list(path: Path) -> list[str]:
    """The architectures in a text file, one a line (``#`` begins a comment line), or in a JSON
    list, whose items are texts or objects decision → option."""
    try:
        text = path.expanduser().read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FBNError(f"Cannot read the list of architectures {path}: {error}.") from error
    if text.startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            raise FBNError(f"{path} begins like a JSON list but is none: {error}.") from error
        found = [item if isinstance(item, str) else json.dumps(item) for item in items]
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise FBNError(f"{path} lists no architectures.")
    return found


def _found(table: TrainedTable, space: SearchSpace, listed: Sequence[str]) -> list[Trained]:
    """The row of each listed architecture: its own, else the first one of the same network."""
    own: dict[Architecture, Trained] = {}
    for row in table.rows:
        own.setdefault(row.architecture, row)
    same = {row.canonical: row for row in distinct(table.rows)}
    rows, mistakes = [], []
    for text in listed:
        try:
            architecture = architecture_of(space, text)
        except FBNError as error:
            mistakes.append(str(error))
            continue
        found = own.get(architecture) or same.get(space.canonical(architecture))
        if found is None:
            mistakes.append(f"The table has no usable row of {text}.")
        else:
            rows.append(found)
    if mistakes:
        more = f"\n… and {len(mistakes) - SHOWN} more." if len(mistakes) > SHOWN else ""
        raise FBNError(
            f"{len(mistakes)} of {len(listed)} listed architectures cannot be used:\n"
            + "\n".join(mistakes[:SHOWN])
            + more
        )
    return rows
