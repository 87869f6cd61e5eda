"""The stage that ends with indicators judged by a table of trained accuracies."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fbn_deploy import ranking
from fbn_deploy.bench.choose import chosen
from fbn_deploy.bench.settings import Asked
from fbn_deploy.bench.trained import REASONS, trained_table
from fbn_deploy.bench.trained import Trained as TrainedRow
from fbn_deploy.files import sha256_of, write_json
from fbn_deploy.indicators import (
    composite_rank,
    indicators_of,
    needs_skeleton,
    needs_training,
)
from fbn_deploy.pipeline.answers import LAST, placed, scorers
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.train import (
    Trained,
    loaded_supernet,
    trained_supernet,
    untrained_supernet,
)
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
    values: Sequence[Mapping[str, float]]
    """Indicator → value; of a composite those of its parts."""
    seconds: Sequence[float]
    """For each architecture whose scoring was timed, in this process or an earlier one."""
    not_finite: int
    """Architectures with a value that is not finite; by that indicator they rank last."""

    @property
    def quality(self) -> list[float]:
        """Higher is better, as the statistics want it."""
        return [-rank for rank in self.ranks]


def bench(context: Context, asked: Asked) -> dict[str, Any]:
    """The content of ``bench.json``, which is written.

    A killed bench goes on: its supernet and its scores are found in the run directory. Raises
    ``FBNError`` for a table that this space cannot use, before anything is trained.
    """
    context.refuse_changed_space()
    settings, reporter = asked.settings, context.reporter
    untrained = context.supernet()
    rows, skipped, first_unreadable = _rows(asked, untrained.space, context.seed)
    reporter.say(_said(asked, rows, skipped, first_unreadable))
    costs = cost_table(untrained)
    flops = [costs.flops(untrained.space.pruned(row.architecture)) for row in rows]

    homes, story = _homes(context, asked)
    scored = _scored(context, asked, homes, rows)
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
        "results": [
            _result(each, accuracies, flops, context.seed) | homes[each.name].as_json()
            for each in scored
        ],
        "regret": _regrets(scored, rows, asked.limits_ms),
        "architectures": [
            {
                "architecture": dict(row.architecture),
                "text": untrained.space.text(row.architecture),
                "accuracy": row.accuracy,
                "flops": flops[number],
                "latency_ms": row.latency_ms,
                "ranks": {each.name: each.ranks[number] for each in scored},
                "values": {
                    indicator: value if abs(value) < LAST else None
                    for each in scored
                    for indicator, value in each.values[number].items()
                    if len(each.values[number]) == 1
                },
                "parts": {
                    each.name: dict(each.values[number])
                    for each in scored
                    if len(each.values[number]) > 1
                },
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


def check_rows(asked: Asked, space: SearchSpace, seed: int) -> None:
    """``FBNError`` where ``space`` cannot use the table, or lacks what is listed."""
    _rows(asked, space, seed)


def _rows(
    asked: Asked, space: SearchSpace, seed: int
) -> tuple[list[TrainedRow], dict[str, int], str | None]:
    """What is scored, the reasons why other rows are not, and why the first unreadable one is."""
    settings = asked.settings
    table = trained_table(
        asked.file,
        space,
        asked.architecture_columns,
        settings.accuracy_column,
        settings.latency_column,
    )
    rows, skipped = chosen(
        table,
        space,
        samples=settings.samples,
        seed=seed,
        listed=asked.listed,
        min_accuracy=settings.min_accuracy,
    )
    return rows, skipped, table.first_unreadable


def _said(
    asked: Asked,
    rows: Sequence[TrainedRow],
    skipped: Mapping[str, int],
    first_unreadable: str | None,
) -> str:
    left_out = [f"{n} {REASONS[reason]}" for reason, n in skipped.items() if n]
    of = "listed" if asked.listed is not None else f"of {len(asked.file.rows)} rows"
    return (
        f"Table {asked.settings.table}: {len(rows)} architectures {of}; left out: "
        f"{'; '.join(left_out) or 'none'}"
        + (f". The first unreadable row: {first_unreadable}" if first_unreadable else "")
    )


@dataclass(frozen=True)
class _Home:
    """Where an indicator or composite is read, and what identifies that in ``scores.jsonl``."""

    supernet: Supernet
    identity: Any
    epochs: float | None
    """Of the supernet's training; None stands for the default."""

    def as_json(self) -> dict[str, Any]:
        return {"scored_in": self.supernet.definition.as_json(), "epochs": self.epochs}


def _homes(context: Context, asked: Asked) -> tuple[dict[str, _Home], dict[str, Any]]:
    """The home of every name, and the story of the supernet for the report.

    A name has the same home whatever else is asked for: the trained supernet if it reads what
    training writes, or if epochs or a supernet were asked for; else the untrained one, in the
    proxy of the space. What reads bare networks reads them in the space's own skeleton.
    """
    settings = asked.settings
    main, identity, story = _main(context, asked)
    untrained = main
    if main.settings.epochs != 0:
        untrained = untrained_supernet(context, main.supernet.seed)
    explicit = settings.supernet is not None or context.supernet_settings.epochs is not None
    homes: dict[str, _Home] = {}
    places: dict[tuple[bool, bool], Supernet] = {}  # built once for all names that share them
    for name in settings.indicators:
        bare = needs_skeleton([name])
        in_main = bare or explicit or needs_training([name])
        base, of = (main, identity) if in_main else (untrained, untrained.settings.as_json())
        if (in_main, bare) not in places:
            scored_in = base.scored_in(context, [name], proxy=settings.proxy)
            places[in_main, bare] = placed(scored_in)
        homes[name] = _Home(places[in_main, bare], of, base.settings.epochs)
    return homes, story


def _main(context: Context, asked: Asked) -> tuple[Trained, Any, dict[str, Any]]:
    """The supernet of the file that was given, or of this run, trained if a name reads that; what
    identifies it, and its story."""
    file = asked.settings.supernet
    if file is None:
        trained = trained_supernet(context, needed=needs_training(asked.settings.indicators))
        settings = trained.settings.as_json()
        return (
            trained,
            settings,
            {"settings": settings, "bn": context.bn, "seconds": trained.seconds},
        )
    supernet, about = loaded_supernet(context, file)
    context.reporter.say(f"Supernet: {file}")
    sha256 = sha256_of(file)
    story = {
        "file": str(file),
        "sha256": sha256,
        "settings": about.get("supernet"),
        "bn": context.bn,
        "data": about.get("data"),
        "seconds": about.get("seconds"),
    }
    epochs = (about.get("supernet") or {}).get("epochs")
    loaded = Trained(supernet, replace(context.supernet_settings, epochs=epochs), 0.0)
    return loaded, sha256, story


def _scored(
    context: Context, asked: Asked, homes: Mapping[str, _Home], rows: Sequence[TrainedRow]
) -> list[Scored]:
    """Every architecture by every name, each name with passes of its own so that its seconds are
    what it costs alone. The names take turns, so that a slow moment of the machine is shared."""
    settings = asked.settings
    each = {
        name: scorers(
            context,
            home.supernet,
            home.identity,
            [indicators_of(name)],
            batches=settings.probe_batches,
            size=settings.probe_size,
        )[0]
        for name, home in homes.items()
    }
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
            scores[name],
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
    scored: Sequence[Scored], rows: Sequence[TrainedRow], limits_ms: Sequence[float]
) -> list[dict[str, Any]]:
    """One entry for each name and limit; accuracies are ``None`` where nothing fits.

    What fits is ranked among itself, as a search ranks it.
    """
    if not limits_ms:
        return []
    accuracies = [row.accuracy for row in rows]
    costs_ms = [row.latency_ms for row in rows if row.latency_ms is not None]
    assert len(costs_ms) == len(rows), "A row without a latency was not left out."
    found = []
    for each in scored:
        for limit_ms in limits_ms:
            fits = [cost_ms <= limit_ms for cost_ms in costs_ms]
            among = composite_rank(each.name, list(itertools.compress(each.values, fits)))
            within = ranking.regret(
                [-rank for rank in among],
                list(itertools.compress(accuracies, fits)),
                list(itertools.compress(costs_ms, fits)),
                limit_ms,
            )
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
