"""What a search is told: budgets, targets, how it looks, and how it learns latencies."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbn_deploy.errors import FBNError, unknown
from fbn_deploy.indicators import indicators_of
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.pipeline.latency import PREDICTORS
from fbn_deploy.search import algorithms
from fbn_deploy.search.budgets import Budget, on_targets
from fbn_deploy.targets import (
    PRECISIONS,
    default_target,
    form_for,
    ready_target,
    refuse_form,
)

if TYPE_CHECKING:
    from fbn_deploy.export.precision.form import Form


@dataclass(frozen=True)
class SearchSettings:
    """What is searched for and how. ``probe_batches`` × ``probe_size`` images see a candidate."""

    budgets: tuple[Budget, ...]
    target: str | None = None
    threads: int = 1
    batch: int = 1
    algorithm: str = "evolution"
    candidates: int = 100
    indicator: str = "cpi"
    probe_batches: int = 4
    probe_size: int = 64
    predictor: str = "auto"
    """``table``: latencies predicted from measured blocks; ``whole``: every network measured;
    ``auto``: what takes fewer measurements."""
    latency_tables: tuple[str, ...] = ()
    """Files that fbn measure wrote on devices; their targets are predicted and not measured."""
    table_hashes: tuple[str, ...] = ()
    """What was in them: a table that was measured again is another search."""
    finalists: int = 0
    """So many of the best candidates, a tenth of all (rounded up) at most, are trained briefly and
    ordered anew (``finalists.py``)."""

    precision: str = "fp32"
    """That of the file that is deployed, in which latencies are measured."""
    keep_fp32: tuple[str, ...] = ()
    """Layers of an int8 file that stay fp32."""
    proxy: bool = True
    """Whether untrained candidates are scored in the small skeleton that the space names."""

    def _check_numbers(self) -> None:
        if min(self.threads, self.batch, self.candidates) < 1:
            raise FBNError(
                "Threads, batch and candidates are at least 1; asked: "
                f"{self.threads}, {self.batch}, {self.candidates}."
            )
        if self.probe_batches < 2 or self.probe_size < 4:
            raise FBNError(
                "Probe batches are at least 2, with at least 4 images each; asked: "
                f"{self.probe_batches} of {self.probe_size}."
            )
        if self.finalists < 0:
            raise FBNError(f"Finalists are 0 (no trial) or more, not {self.finalists}.")

    def resolved(self) -> SearchSettings:
        """With every latency budget on a target that exists and is ready; checked throughout."""
        if not self.budgets:
            raise FBNError(
                "A search needs a budget: --latency-budget 10ms, --flops-budget 300M or "
                "--params-budget 4M, in any combination."
            )
        self._check_numbers()
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.target is not None:
            refuse_form(self.target, self.precision)
        if self.predictor not in PREDICTORS:
            raise unknown("latency predictor", self.predictor, PREDICTORS)
        if self.keep_fp32 and self.precision != "int8":
            raise FBNError(f"--keep-fp32: only with --precision int8, not {self.precision}.")
        if self.keep_fp32 and self.latency_tables:
            raise FBNError(
                "--keep-fp32 and --latency-table do not go together: a bundle's blocks are in one "
                "precision throughout. Leave one of them out."
            )
        tables = {path: LatencyTable.load(Path(path)) for path in self.latency_tables}
        elsewhere = [table.target for table in tables.values()]
        if twice := {target for target in elsewhere if elsewhere.count(target) > 1}:
            raise FBNError(
                f"Two latency tables are of {', '.join(sorted(twice))}; a budget is held on one "
                "device of that name. Leave one of them out."
            )
        latencies = [budget for budget in self.budgets if budget.kind == "latency"]
        default = None
        if any(budget.target is None for budget in latencies):
            default = self.target or (
                elsewhere[0] if elsewhere else default_target(self.precision).name
            )
        budgets = on_targets(self.budgets, default)
        for target in {budget.target for budget in budgets} - {None, *elsewhere}:
            assert target is not None
            ready_target(target)
            refuse_form(target, self.precision)
        if not latencies and self.precision != "fp32":
            default_target(self.precision)  # where the file is verified and profiled
        if idle := set(elsewhere) - {budget.target for budget in budgets}:
            raise FBNError(
                f"A latency table is of {', '.join(sorted(idle))}, on which there is no budget; "
                "add one, or leave the table out."
            )
        algorithms.load(self.algorithm, self.candidates)
        indicators_of(self.indicator)
        hashes = tuple(table.as_json()["sha256"] for table in tables.values())
        first = next((budget.target for budget in latencies), None)
        # Where the winner is profiled and, if a budget is of it, held against that.
        profiled = self.target or default or first
        return replace(self, budgets=budgets, target=profiled, table_hashes=hashes)

    def form(self) -> Form:
        """How candidates are written: as the budgets' targets run them fastest; as bundles are
        where latencies come from a device's table."""
        named = {budget.target for budget in self.budgets if budget.target}
        return form_for(self.precision, named, self.keep_fp32, bundled=bool(self.latency_tables))

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "budgets": [budget.to_json() for budget in self.budgets],
            "latency_tables": list(self.latency_tables),
            "table_hashes": list(self.table_hashes),
            "keep_fp32": list(self.keep_fp32),
        }
