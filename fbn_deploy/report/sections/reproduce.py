"""How long each phase took, and everything that is needed to do it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any

from fbn_deploy.report.amounts import seconds
from fbn_deploy.report.exported import Engine, Precision
from fbn_deploy.report.fields import shown
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.pieces import Bar, bars, command, folded, heading, note, pairs
from fbn_deploy.report.run import Run
from fbn_deploy.report.searched import FP32, Search
from fbn_deploy.retrain.recipes import RECIPES, as_json
from fbn_deploy.search.budgets import Budget

TITLE = "Reproduce it"
PHASES = {
    "train": "training the supernet",
    "table": "measuring blocks",
    "survey": "survey of the space",
    "search": "scoring candidates",
    "trial": "training finalists",
    "confirm": "confirming the best",
}
_SHORTEST_S = 0.001  # of what is drawn: a phase that was left out takes nothing
# Settings of a search that are options of the same name, and those of the supernet.
_SEARCH = ("target", "threads", "batch", "algorithm", "candidates", "finalists", "indicator",
           "probe_batches", "probe_size", "predictor")  # fmt: skip
_SUPERNET = ("epochs", "train", "sampler", "batch_size", "optimizer", "learning_rate", "schedule",
             "label_smoothing", "shards")  # fmt: skip
_ENGINE = {
    "--batch": "batch",
    "--max-batch": "max_batch",
    "--optimization-level": "optimization_level",
    "--workspace": "workspace_mb",
    "--hardware": "hardware",
}
# Settings of ``pipeline/precision_settings.py``, which needs PyTorch, that are options of the same
# name, and their defaults.
PRECISION = {"max_drop": 0.5, "calibration": "mse", "calibration_images": 500,
             "calibration_batch": 8, "calibration_seed": None, "equalize": False,
             "weights_by_mse": False, "analyze": False}  # fmt: skip
_AS_WRITTEN = "as written"  # what is no target (``export/precision/as_written.py``)
_RETRAIN = frozenset({"seed", "teacher", "warm_start", "sync_bn"})  # beside the recipe's numbers


def section(run: Run) -> Markup:
    return escaped([*_timing(run), *_commands(run), *_conditions(run), *_files(run)])


def _timing(run: Run) -> Iterator[Child]:
    rows = []
    if run.search:
        timing = run.search.timing
        rows = [
            Bar(PHASES.get(name, name), value, seconds(value))
            for name, value in timing.items()
            if name != "latency" and value >= _SHORTEST_S
        ]
    if run.training and run.training.seconds is not None:
        rows.append(
            Bar("training the network", run.training.seconds, seconds(run.training.seconds))
        )
    rows += [
        Bar(f"building {engine.name}", engine.seconds, seconds(engine.seconds))
        for engine in run.engines
        if engine.seconds is not None
    ]
    if not rows:
        return
    yield heading("Time by phase")
    yield bars(rows)
    if run.search and run.search.timing.get("latency"):
        measuring = seconds(run.search.timing["latency"])
        yield note(f"{measuring} of the search went to measuring and predicting latencies.")


def _commands(run: Run) -> Iterator[Child]:
    yield heading("Commands")
    lines = [_search_command(run, run.search)] if run.search else []
    if run.training:
        lines.append(_retrain_command(run.training.settings))
    if run.export:
        lines.append("fbn export again")
    budgeted = {budget.target for budget in run.search.budgets} if run.search else set()
    built = {engine.model for engine in run.engines}  # by commands that write the file as well
    lines += [
        _precision_command(each, budgeted) for each in run.precisions if each.model not in built
    ]
    lines += [_engine_command(each, run.precisions) for each in run.engines]
    for each in run.profiles.values():
        precision = _precision(each.record.conditions.precision)
        lines.append(shlex.join(["fbn", "profile", "again", *precision]))
    lines.append("fbn report again")
    yield command("\n".join(lines))
    yield note(
        "They do the same in another directory. The seed makes the same draws; latencies are "
        "measured anew. Images and tables of latencies have to lie where they are named."
    )


def _search_command(run: Run, search: Search) -> str:
    told, settings = run.configuration, search.settings
    groups = [
        ["--space", told.space, *_said("--resolution", told.resolution)],
        [word for name, value in told.options.items() for word in ("-o", f"{name}={value}")],
        ["--data", told.data, "--seed", str(told.seed), *_said("--bn", told.bn)],
        [word for name in _SUPERNET for word in _said(_option(name), told.supernet.get(name))],
        [word for budget in search.budgets for word in _budget(budget)],
        *(
            [word for name in names for word in _said(_option(name), settings.get(name))]
            for names in (_SEARCH[:5], _SEARCH[5:])
        ),
        ["--proxy" if settings.get("proxy") else "--no-proxy", *_precision(search.precision)],
        [word for layer in search.kept_fp32 for word in ("--keep-fp32", layer)],
        [word for file in search.tables for word in ("--latency-table", file)],
    ]
    lines = [shlex.join(group) for group in groups if group]
    return " \\\n  ".join(["fbn search --run again", *lines])


def _retrain_command(settings: Mapping[str, Any]) -> str:
    numbers = {name: value for name, value in settings.items() if name not in _RETRAIN}

    def changes(name: str) -> dict[str, Any]:
        recipe = as_json(RECIPES[name])
        return {key: value for key, value in numbers.items() if recipe.get(key) != value}

    nearest = min(RECIPES, key=lambda name: len(changes(name)))
    words = ["fbn", "retrain", "again", "--recipe", nearest]
    for name, value in changes(nearest).items():
        words += ["--set", f"{name}={shown(value)}"]
    words += _said("--teacher", settings.get("teacher"))
    words += [_option(name) for name in ("warm_start", "sync_bn") if settings.get(name)]
    return shlex.join(words)


def _precision_command(each: Precision, budgeted: Set[str | None]) -> str:
    words = ["fbn", "export", "again", "--precision", each.name]
    targets = {check.target for check in each.checks} - {_AS_WRITTEN}
    if each.target:
        words += ["--target", each.target]
    elif len(targets) == 1 and not targets & budgeted:
        words += ["--target", *targets]
    return shlex.join([*words, *_precision_options(each)])


def _precision_options(each: Precision) -> Iterator[str]:
    """What the file was told beside the defaults, and every layer that stayed in fp32 in the end,
    so that the gate need not find them again."""
    for name, default in PRECISION.items():
        value = each.settings.get(name, shown(default))
        if value == "true":
            yield _option(name)
        elif value != shown(default):
            yield from _said(_option(name), value)
    for layer in each.kept_fp32:
        yield from ("--keep-fp32", layer)


def _engine_command(engine: Engine, precisions: Sequence[Precision]) -> str:
    """It exports the model anew, so it is told all that the model was told."""
    words = ["fbn", "export", "again", "--target", engine.target]
    words += _precision(engine.precision)
    for each in precisions:
        words += _precision_options(each) if each.model == engine.model else []
    words += [] if engine.check else ["--build-only"]
    for option, name in _ENGINE.items():
        words += _said(option, engine.options.get(name))
    words += ["--version-compatible"] if engine.options.get("version_compatible") == "true" else []
    return shlex.join(words)


def _budget(budget: Budget) -> list[str]:
    if budget.kind == "latency":
        amount = f"{_decimal(budget.limit)}ms"
        return ["--latency-budget", f"{budget.target}:{amount}" if budget.target else amount]
    return [f"--{budget.kind}-budget", f"{_decimal(budget.limit, 6)}M"]


def _decimal(value: float, power: int = 0) -> str:
    return format(Decimal(repr(float(value))).scaleb(-power).normalize(), "f")


def _precision(name: str) -> list[str]:
    return [] if name == FP32 else ["--precision", name]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _said(option: str, value: Any) -> list[str]:
    return [] if value in (None, "", "none") else [option, shown(value)]


def _conditions(run: Run) -> Iterator[Child]:
    told = run.configuration
    yield heading("Where it ran, and with what")
    rows: list[tuple[Child, Child]] = [
        ("device", told.device),
        ("seed", str(told.seed)),
        ("data", [told.data, " ", tag("code", told.fingerprint)]),
        *told.versions.items(),
    ]
    yield pairs(rows)
    rows = [("space", told.space), ("resolution", shown(told.resolution)), ("bn", told.bn)]
    rows += [(f"option {name}", value) for name, value in told.options.items()]
    rows += [(f"supernet {name}", value) for name, value in told.supernet.items()]
    if run.search:
        rows += [
            (f"search {name}", shown(value))
            for name, value in run.search.settings.items()
            if name != "budgets"
        ]
    yield folded("Configuration", pairs(rows))


def _files(run: Run) -> Iterator[Child]:
    hashes: list[tuple[Child, Child]] = [
        (file.name, tag("code", file.sha256)) for file in run.files if file.sha256
    ]
    if hashes:
        yield folded("SHA-256 of what is handed over", pairs(hashes))
