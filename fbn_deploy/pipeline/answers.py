"""The answers to a search's questions: scores from the supernet, costs from counts and meters.

Scores are remembered in ``scores.jsonl``, latencies in the cache that all runs share. A search
that was killed asks the same questions again and finds those answers there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.accelerator import compute_device
from fbn_deploy.errors import FBNError
from fbn_deploy.export.folding import fold_affine
from fbn_deploy.export.graph import candidate_graphs
from fbn_deploy.export.precision.form import Form
from fbn_deploy.indicators import Scoring, formulas, probe_batches
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.latency import Latency
from fbn_deploy.pipeline.sharing import SharedScoring
from fbn_deploy.progress import Reporter
from fbn_deploy.search.budgets import Budget
from fbn_deploy.space import Architecture, SearchSpace
from fbn_deploy.supernet.costs import CostTable, cost_table
from fbn_deploy.supernet.supernet import Supernet

if TYPE_CHECKING:
    import onnx_ir

AT_ONCE = 16  # candidates that a process scores between two gatherings
LAST = 1e30  # the size of what stands for a value that is not finite


class Scorer:
    """Values of architectures by one of the ``shared`` scorings, each computed once for a run
    directory; ``about`` identifies what they depend on."""

    def __init__(
        self, shared: SharedScoring, space: SearchSpace, about: Any, path: Path, number: int = 0
    ) -> None:
        self.shared, self._number, self._space = shared, number, space
        self._higher_is_better = shared.scorings[number].higher_is_better
        self._at_once = 1 if shared.job.size == 1 else AT_ONCE * shared.job.size
        self._key = hashlib.sha256(
            json.dumps([about, list(self._higher_is_better)], sort_keys=True).encode()
        ).hexdigest()[:16]
        self._path = path
        self._known: dict[str, dict[str, float]] = {}
        self.seconds: dict[str, float] = {}
        """Canonical form → how long it took, also if that was in an earlier process; a line of a
        version that did not write it down has none."""
        for line in _lines(path, self._key):
            self._known[line["of"]] = line["scores"]
            if "seconds" in line:
                self.seconds[line["of"]] = line["seconds"]

    def __call__(self, architectures: Sequence[Architecture]) -> list[Mapping[str, float]]:
        """Indicator → value for each architecture. A value that is not finite is −1e30 or 1e30,
        whichever ranks last, so that it can be written as JSON."""
        new = {self._space.canonical(each): self._space.pruned(each) for each in architectures}
        new = {canonical: each for canonical, each in new.items() if canonical not in self._known}
        names = list(new)
        for start in range(0, len(names), self._at_once):
            some = names[start : start + self._at_once]
            answers = self.shared([new[canonical] for canonical in some], self._number)
            for canonical, (values, seconds) in zip(some, answers, strict=True):
                self._remember(canonical, values, seconds)
        return [self._known[self._space.canonical(each)] for each in architectures]

    def known(self, canonical: str) -> Mapping[str, float]:
        """Values that were asked for; none for another architecture."""
        return self._known.get(canonical, {})

    def _remember(self, canonical: str, values: Mapping[str, float], seconds: float) -> None:
        scores = {
            name: _finite(values[name], higher) for name, higher in self._higher_is_better.items()
        }
        line = {"key": self._key, "of": canonical, "scores": scores, "seconds": seconds}
        _append(self._path, line)
        self._known[canonical], self.seconds[canonical] = scores, seconds


def scorers(
    context: Context,
    supernet: Supernet,
    trained: Any,
    groups: Sequence[Sequence[str]],
    *,
    batches: int,
    size: int,
) -> list[Scorer]:
    """A scorer for each of ``groups`` of indicators, for a supernet that ``trained`` (settings, or
    a hash) identifies. All see the same ``batches`` × ``size`` images, at the resolution of
    ``supernet``."""
    probe = probe_batches(context.data, batches=batches, batch_size=size, seed=context.seed)
    probe = probe.reduced(context.data.resolution // supernet.definition.resolution)
    supernet = placed(supernet)
    identity = {**context.identity, "supernet": trained, "probe": [batches, size]}
    identity["formulas"] = formulas()
    if supernet.definition != context.definition:
        identity["proxy"] = supernet.definition.as_json()
    scorings = [Scoring(supernet, probe, names) for names in groups]
    shared = SharedScoring(scorings, supernet.space, context.job)
    return [
        Scorer(shared, supernet.space, identity, context.run.scores, number)
        for number in range(len(groups))
    ]


def placed(supernet: Supernet) -> Supernet:
    """``supernet`` where networks are scored: itself if it is there, else a copy."""
    device = compute_device()
    if next(supernet.network.parameters()).device.type == device.type:
        return supernet
    return replace(supernet, network=copy.deepcopy(supernet.network).to(device))


def _finite(value: float, higher_is_better: bool) -> float:
    last = -LAST if higher_is_better else LAST
    return value if abs(value) < LAST else last  # False for NaN as well


def _lines(path: Path, key: str) -> list[dict[str, Any]]:
    """What was stored under ``key``; a line that a kill cut short is passed over."""
    found = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                value = json.loads(line)
                if value["key"] == key and value.keys() >= {"of", "scores"}:
                    found.append(value)
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _append(path: Path, value: Any) -> None:
    """Adds one line to ``path``, after the end of a line that a kill may have cut short."""
    try:
        with path.open("ab+") as file:
            cut = False
            if file.tell():
                file.seek(-1, os.SEEK_END)
                cut = file.read(1) != b"\n"
            file.write(b"\n" * cut + json.dumps(value).encode() + b"\n")
            file.flush()
    except OSError as error:
        raise FBNError(f"Cannot write {path}: {error.strerror or error}.") from error


class Coster:
    """Costs of architectures: FLOPs and parameters counted, latencies measured or predicted."""

    def __init__(self, supernet: Supernet, batch: int, reporter: Reporter, form: Form) -> None:
        self._supernet, self._batch, self._reporter = supernet, batch, reporter
        self.form = form
        self._table: CostTable = cost_table(supernet)
        self._graph: Callable[[Architecture], onnx_ir.Model] | None = None
        self.latencies: dict[str, Latency] = {}
        """Target → where its latencies come from; filled before a latency is asked for."""

    def __call__(self, architecture: Architecture, budget: Budget) -> float:
        """The cost that ``budget`` limits, in its unit."""
        if budget.kind == "flops":
            return self._table.flops(architecture)
        if budget.kind == "params":
            return self._table.params(architecture)
        assert budget.target is not None, "A latency budget without a target."
        return self.latencies[budget.target].cost_ms(architecture)

    @property
    def space(self) -> SearchSpace:
        return self._supernet.space

    @property
    def measures(self) -> bool:
        """Whether every budgeted target is here, so that a winner can be measured on it."""
        return all(latency.meter is not None for latency in self.latencies.values())

    def flops(self, architecture: Architecture) -> int:
        """Multiply-adds for one image."""
        return self._table.flops(architecture)

    def params(self, architecture: Architecture) -> int:
        """Weights and biases of the folded network."""
        return self._table.params(architecture)

    def folded(self, architecture: Architecture) -> onnx_ir.Model:
        """The folded fp32 graph of ``architecture``."""
        if self._graph is None:
            with self._reporter.task("Exporting the supernet once for all candidates", 1, "graphs"):
                self._graph = candidate_graphs(self._supernet, self._batch)
        graph = self._graph(architecture)
        return fold_affine(
            graph,
            as_convolution=self.form.as_convolution,
            gauge_limit=self.form.gauge_limit,
            copy=False,
        )[0]

    def deployed(self, architecture: Architecture) -> onnx_ir.Model:
        """The graph of ``architecture``, as it would be deployed but for its values."""
        return self.form.of(self.folded(architecture))
