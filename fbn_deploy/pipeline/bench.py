"""The stage that ends with indicators judged by a table of trained accuracies."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fbn_deploy import ranking
from fbn_deploy.bench.choose import chosen
from fbn_deploy.bench.settings import Asked
from fbn_deploy.bench.trained import REASONS, Trained, trained_table
from fbn_deploy.files import write_json
from fbn_deploy.indicators import composite_rank, needs_training
from fbn_deploy.pipeline.answers import LAST, scorers
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.train import loaded_supernet, trained_supernet
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.costs import cost_table
from fbn_deploy.supernet.supernet import Supernet

SCHEMA = 1
FIRST = 10  # places of the ranking among which the best accuracy is looked for


@dataclass(frozen=True)
class Scored:
    """What one indicator or composite said of all architectures, in their order."""

    name: str
    ranks: Sequence[float]
    """1 is the best."""
    seconds: Sequence[float]
    """For each architecture whose scoring was timed, in this process or an earlier one."""
    not_finite: int
    """Architectures with a value that is not finite; they rank last."""

    @property
    def quality(self) -> list[float]:
        """Higher is better, as the statistics want it."""
        return [-rank for rank in self.ranks]


def bench(context: Context, asked: Asked) -> dict[str, Any]:
    """The content of ``bench.json``, which is written.

    A killed bench goes on: its supernet and its scores are found in the run directory. Raises
    ``FBNError`` for a table that this space cannot use, before anything is trained.
    """
    settings, reporter = asked.settings, context.reporter
    untrained = context.supernet()
    rows, skipped = _rows(asked, untrained.space, context.seed)
    reporter.say(_said(asked, rows, skipped))
    costs = cost_table(untrained)
    flops = [costs.flops(row.architecture) for row in rows]

    supernet, story, supernet_identity = _supernet(context, asked)
    scored = _scored(context, asked, supernet, supernet_identity, rows)
    accuracies = [row.accuracy for row in rows]
    content = {
        "schema": SCHEMA,
        "space": context.definition.name,
        "definition": context.definition.as_json(),
        "data": {"name": context.data.name, "fingerprint": context.data.fingerprint},
        "seed": context.seed,
        "supernet": story,
        "probe": {"batches": settings.probe_batches, "size": settings.probe_size},
        "table": {
            "file": str(settings.table),
            "sha256": asked.file.sha256,
            "rows": len(asked.file.rows),
            "architecture_column": settings.architecture_column,
            "accuracy_column": settings.accuracy_column,
            "latency_column": settings.latency_column,
        },
        "samples": len(rows),
        "best_accuracy": max(accuracies),
        "skipped": skipped,
        "results": [_result(each, accuracies, flops, context.seed) for each in scored],
        "regret": _regrets(scored, rows, asked.limits_ms),
        "architectures": [
            {
                "architecture": dict(row.architecture),
                "text": supernet.space.text(row.architecture),
                "accuracy": row.accuracy,
                "flops": flops[number],
                "latency_ms": row.latency_ms,
                "ranks": {each.name: each.ranks[number] for each in scored},
            }
            for number, row in enumerate(rows)
        ],
    }
    write_json(context.run.bench, content)
    if settings.plots is not None:
        from fbn_deploy.bench.plots import draw

        for path in draw(content, settings.plots):
            reporter.say(f"Plot: {path}")
    return content


def _rows(asked: Asked, space: SearchSpace, seed: int) -> tuple[list[Trained], dict[str, int]]:
    settings = asked.settings
    table = trained_table(
        asked.file,
        space,
        asked.architecture_columns,
        settings.accuracy_column,
        settings.latency_column,
    )
    return chosen(
        table,
        space,
        samples=settings.samples,
        seed=seed,
        listed=asked.listed,
        min_accuracy=settings.min_accuracy,
    )


def _said(asked: Asked, rows: Sequence[Trained], skipped: Mapping[str, int]) -> str:
    left_out = [f"{n} {REASONS[reason]}" for reason, n in skipped.items() if n]
    of = "listed" if asked.listed is not None else f"of {len(asked.file.rows)} rows"
    return (
        f"Table {asked.settings.table}: {len(rows)} architectures {of}; left out: "
        f"{'; '.join(left_out) or 'none'}"
    )


def _supernet(context: Context, asked: Asked) -> tuple[Supernet, dict[str, Any], Any]:
    """The supernet, its story for the report, and what identifies it in ``scores.jsonl``."""
    file = asked.settings.supernet
    if file is None:
        trained = trained_supernet(context, needed=needs_training(asked.settings.indicators))
        settings = trained.settings.as_json()
        supernet = trained.scored_in(context, proxy=asked.settings.proxy)
        story = {
            "settings": settings,
            "bn": context.bn,
            "seconds": trained.seconds,
            "scored_in": supernet.definition.as_json(),
        }
        return supernet, story, settings
    supernet, about = loaded_supernet(context, file)
    context.reporter.say(f"Supernet: {file}")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    story = {
        "file": str(file),
        "sha256": sha256,
        "settings": about.get("supernet"),
        "bn": context.bn,
        "data": about.get("data"),
        "seconds": about.get("seconds"),
    }
    return supernet, story, sha256


def _scored(
    context: Context,
    asked: Asked,
    supernet: Supernet,
    supernet_identity: Any,
    rows: Sequence[Trained],
) -> list[Scored]:
    """Every architecture by every name, each name with passes of its own so that its seconds are
    what it costs alone. The names take turns, so that a slow moment of the machine is shared."""
    settings = asked.settings
    each = scorers(
        context,
        supernet,
        supernet_identity,
        settings.indicators,
        batches=settings.probe_batches,
        size=settings.probe_size,
    )
    scores: dict[str, list[Mapping[str, float]]] = {name: [] for name in each}
    with context.reporter.task("Scoring", len(rows) * len(each), "scores") as task:
        for number, row in enumerate(rows):
            for turn, (name, scorer) in enumerate(each.items(), 1):
                scores[name] += scorer([row.architecture])
                task.update(number * len(each) + turn, name)
    return [
        Scored(
            name,
            composite_rank(name, scores[name]),
            [scorer.seconds[row.canonical] for row in rows if row.canonical in scorer.seconds],
            sum(any(abs(value) >= LAST for value in found.values()) for found in scores[name]),
        )
        for name, scorer in each.items()
    ]


def _result(
    scored: Scored, accuracies: Sequence[float], flops: Sequence[int], seed: int
) -> dict[str, Any]:
    quality = scored.quality
    interval = ranking.kendall_interval(quality, accuracies, seed=seed)
    return {
        "indicator": scored.name,
        "kendall": ranking.kendall(quality, accuracies),
        "interval": list(interval) if interval else None,
        "spearman": ranking.spearman(quality, accuracies),
        "kendall_top10": ranking.kendall_among_best(quality, accuracies),
        "partial_kendall_given_flops": ranking.partial_kendall(quality, accuracies, flops),
        "best_in_top10": ranking.expected_best(quality, accuracies, FIRST),
        "accuracy_of_pick": ranking.expected_best(quality, accuracies),
        "seconds_per_candidate": statistics.median(scored.seconds) if scored.seconds else None,
        "seconds_measured_on": len(scored.seconds),
        "not_finite": scored.not_finite,
    }


def _regrets(
    scored: Sequence[Scored], rows: Sequence[Trained], limits_ms: Sequence[float]
) -> list[dict[str, Any]]:
    """One entry for each name and limit; accuracies are ``None`` where nothing fits."""
    if not limits_ms:
        return []
    accuracies = [row.accuracy for row in rows]
    costs_ms = [row.latency_ms for row in rows if row.latency_ms is not None]
    assert len(costs_ms) == len(rows), "A row without a latency was not left out."
    found = []
    for each in scored:
        for limit_ms in limits_ms:
            within = ranking.regret(each.quality, accuracies, costs_ms, limit_ms)
            found.append(
                {
                    "indicator": each.name,
                    "budget_ms": limit_ms,
                    "fitting": within.fitting,
                    "accuracy": within.accuracy,
                    "best": within.best,
                    "regret": within.regret,
                }
            )
    return found
