"""What ``search.json`` holds: budgets, survey, candidates, and the one that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError
from fbn_deploy.report.fields import UNKNOWN, Fields
from fbn_deploy.report.measured import Record, record_of
from fbn_deploy.search.budgets import Budget

SCHEMA = 1
FP32 = "fp32"
Choices = Mapping[str, str]  # decision → option


@dataclass(frozen=True)
class Latency:
    """What is known of a network's latency on one target, in milliseconds."""

    predicted: float | None
    interval: tuple[float, float] | None
    measured: float | None

    @property
    def value(self) -> float | None:
        """What was measured, else what was predicted."""
        return self.predicted if self.measured is None else self.measured


@dataclass(frozen=True)
class Candidate:
    """A scored architecture; ``rank`` is its composite rank, lower is better."""

    choices: Choices
    rank: float
    indicators: Mapping[str, float]
    flops: float | None
    params: float | None
    latencies: Mapping[str, Latency]  # target → latency

    def cost(self, budget: Budget) -> float | None:
        """What ``budget`` limits, in its unit; None where it is not known."""
        if budget.kind == "flops":
            return self.flops
        if budget.kind == "params":
            return self.params
        latency = self.latencies.get(budget.target or "")
        return latency.value if latency else None


@dataclass(frozen=True)
class Confirmation:
    """A network measured with care, in several processes."""

    value_ms: float
    upper_ms: float
    disturbed: bool
    records: tuple[Record, ...]

    @property
    def n(self) -> int:
        """Timed runs in all processes."""
        return sum(record.timing.n for record in self.records)


@dataclass(frozen=True)
class Range:
    """What sampled networks cost under one budget; None where a cost is not known."""

    budget: Budget
    least: float | None
    median: float | None
    most: float | None
    meeting: int


@dataclass(frozen=True)
class Survey:
    """A sample of the space against the budgets."""

    count: int
    fitting: int
    ranges: tuple[Range, ...]
    stretch: Mapping[str, float]
    """Cost → by how much a careful measurement was above it."""


@dataclass(frozen=True)
class Tally:
    """What became of the architectures that were drawn."""

    drawn: int
    duplicates: int
    over_budget: Mapping[str, float]
    fitting: int
    ending: str


@dataclass(frozen=True)
class Predictor:
    """How latencies on a target were found."""

    kind: str
    blocks: int | None
    probes: int | None
    quality: Mapping[str, float]
    unknown: int
    """Networks with a block that the table lacks."""
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Search:
    """A search that is done."""

    budgets: tuple[Budget, ...]
    settings: Mapping[str, Any]
    precision: str
    """That of the file that ships, in which latencies were measured and budgets hold."""
    survey: Survey | None
    tally: Tally | None
    candidates: tuple[Candidate, ...]  # best first
    front: Mapping[str, tuple[int, ...]]
    """Cost → positions of the candidates on the front of rank and cost."""
    best: Candidate
    text: str
    """The chosen architecture in the notation of its space."""
    meets_budget: bool | None
    """None: predicted for a target that is elsewhere, so not confirmed."""
    confirmed: Mapping[str, Confirmation]  # target → confirmation
    predictors: Mapping[str, Predictor]  # target → predictor
    data: str
    tables: tuple[str, ...]
    """Files of latencies that were measured elsewhere."""
    kept_fp32: tuple[str, ...]
    """Layers, modules or patterns that stayed fp32 where candidates were measured in int8."""
    scored_in: str
    """The smaller network in which candidates were scored, in words; empty for the whole one."""
    timing: Mapping[str, float]

    @cached_property
    def position(self) -> int | None:
        """Where the chosen one stands among the candidates: those before it broke a budget when
        their whole network was measured."""
        places = (n for n, each in enumerate(self.candidates) if each.choices == self.best.choices)
        return next(places, None)

    @property
    def in_precision(self) -> str:
        """What stands behind a latency: `` in int8``; nothing where it is one of fp32."""
        return "" if self.precision == FP32 else f" in {self.precision}"

    def budget_for(self, record: Record) -> Budget | None:
        """The latency budget that ``record`` can be held against (``Conditions.are_of``)."""
        found = record.conditions
        threads, batch = (self.settings.get(name, 1) for name in ("threads", "batch"))
        device = self._device(found.target)
        if not found.are_of(precision=self.precision, threads=threads, batch=batch, device=device):
            return None
        return next((budget for budget in self.budgets if budget.target == found.target), None)

    def _device(self, target: str) -> str:
        """The device that the latencies on ``target`` are of; empty where nothing says."""
        if (confirmed := self.confirmed.get(target)) and confirmed.records:
            return confirmed.records[0].conditions.device
        predictor = self.predictors.get(target)
        return predictor.device if predictor else ""


def read_search(path: Path) -> Search:
    """Raises ``FBNError`` when ``path`` is no search result that this version reads."""
    content = Fields.read(path, SCHEMA)
    budgets = tuple(_budget(each) for each in content.parts("budgets"))
    best = content.part("best")
    chosen = _candidate(best, budgets)
    candidates = tuple(_candidate(each, budgets) for each in content.parts("candidates"))
    settings = content.part("settings")
    precision = settings.text("precision", FP32)
    return Search(
        budgets=budgets,
        settings=settings.content,
        precision=precision,
        survey=_survey(content.part("survey")) if "survey" in content else None,
        tally=_tally(content.part("tally")) if "tally" in content else None,
        candidates=candidates,
        front=_fronts(content.part("pareto"), len(candidates)),
        best=chosen,
        text=best.text("text", ",".join(f"{d}={option}" for d, option in chosen.choices.items())),
        meets_budget=best.flag("meets_budget"),
        confirmed={
            target: _confirmation(each, precision)
            for target, each in best.part("confirmed").items()
        },
        predictors={target: _predictor(each) for target, each in content.part("latency").items()},
        data=content.part("data").text("name", ""),
        tables=settings.texts("latency_tables"),
        kept_fp32=settings.texts("keep_fp32"),
        scored_in=_scored_in(content),
        timing=content.named_numbers("timing"),
    )


def _budget(content: Fields) -> Budget:
    try:
        return Budget.from_json(content.content)
    except FBNError as error:
        raise FBNError(f"{content.path}: {content.place}: {error}") from None


def _candidate(content: Fields, budgets: tuple[Budget, ...]) -> Candidate:
    costs = content.part("costs")
    if "latency_ms_by_target" in costs:
        latencies = {
            target: _latency(each) for target, each in costs.part("latency_ms_by_target").items()
        }
    else:  # older files know one target only
        targets = [budget.target for budget in budgets if budget.target]
        known = isinstance(costs.content.get("latency_ms"), dict)
        latencies = {target: _latency(costs.part("latency_ms")) for target in targets[:1] if known}
    return Candidate(
        choices=content.choices("architecture"),
        rank=content.number("rank"),
        indicators=content.named_numbers("indicators"),
        flops=costs.number_or_none("flops"),
        params=costs.number_or_none("params"),
        latencies=latencies,
    )


def _latency(content: Fields) -> Latency:
    ends = content.numbers("interval")
    return Latency(
        predicted=content.number_or_none("predicted"),
        interval=(ends[0], ends[1]) if len(ends) == 2 and max(ends) < UNKNOWN else None,
        measured=content.number_or_none("measured"),
    )


def _confirmation(content: Fields, precision: str) -> Confirmation:
    """Raises ``FBNError`` where it is of another precision than the search."""
    value_ms = content.number("value_ms")
    records = tuple(record_of(each) for each in content.parts("records"))
    for record in records:
        if record.conditions.precision != precision:
            raise FBNError(
                f"{content.path}: {content.place} is in {record.conditions.precision}, and the "
                f"search in {precision}. Search again."
            )
    return Confirmation(
        value_ms=value_ms,
        upper_ms=content.number("upper_ms") if "upper_ms" in content else value_ms,  # older files
        disturbed=bool(content.flag("disturbed")),
        records=records,
    )


def _survey(content: Fields) -> Survey:
    return Survey(
        count=content.count("count"),
        fitting=content.count("fitting"),
        ranges=tuple(
            Range(
                budget=_budget(each.part("budget")),
                least=each.number_or_none("least"),
                median=each.number_or_none("median"),
                most=each.number_or_none("most"),
                meeting=each.count("meeting"),
            )
            for each in content.parts("ranges")
        ),
        stretch=content.named_numbers("stretch"),
    )


def _tally(content: Fields) -> Tally:
    return Tally(
        drawn=content.count("drawn"),
        duplicates=content.count("duplicates"),
        over_budget=content.named_numbers("over_budget"),
        fitting=content.count("fitting"),
        ending=content.text("ending", ""),
    )


def _fronts(content: Fields, candidates: int) -> dict[str, tuple[int, ...]]:
    return {
        cost: tuple(int(each) for each in content.numbers(cost) if 0 <= each < candidates)
        for cost in content.content
    }


def _predictor(content: Fields) -> Predictor:
    conditions = content.part("conditions")
    return Predictor(
        kind=content.text("predictor", ""),
        blocks=content.count_or_none("blocks"),
        probes=content.count_or_none("probes"),
        quality=content.named_numbers("quality"),
        unknown=content.count_or_none("networks_with_unknown_blocks") or 0,
        device=conditions.text("device", ""),
        versions=conditions.named_texts("versions"),
    )


def _scored_in(content: Fields) -> str:
    """How the network in which candidates were scored differs from the searched one."""
    whole, small = content.part("space"), content.part("scored_in")
    options, before = small.named_texts("options"), whole.named_texts("options")
    changed = [f"{name}={value}" for name, value in options.items() if before.get(name) != value]
    if small.content.get("resolution") != whole.content.get("resolution") and small.content:
        pixels = small.count("resolution")
        changed.append(f"{pixels}×{pixels} pixels")
    return ", ".join(changed)
