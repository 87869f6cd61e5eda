"""What a bench was asked for, with every mistake found before any long work."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fbn_deploy.bench.choose import LEAST, read_list
from fbn_deploy.bench.csvfile import CsvFile, read_csv
from fbn_deploy.errors import FBNError
from fbn_deploy.indicators import indicators_of
from fbn_deploy.search.budgets import latency_budget


@dataclass(frozen=True)
class BenchSettings:
    """``architecture_column`` may be several names with commas between, whose texts are joined by
    a space (NAS-Bench-101: matrix and ops). ``latency_column`` is in ms. ``architectures`` takes
    the place of a sample, ``supernet`` that of training. ``probe_batches`` × ``probe_size`` images
    see a candidate, in the small skeleton of the space (``proxy``) as long as none is trained."""

    table: Path
    architecture_column: str
    accuracy_column: str
    indicators: tuple[str, ...]
    samples: int = 300
    latency_column: str | None = None
    latency_budgets: tuple[str, ...] = ()
    supernet: Path | None = None
    architectures: Path | None = None
    min_accuracy: float | None = None
    plots: Path | None = None
    probe_batches: int = 4
    probe_size: int = 64
    proxy: bool = True

    def checked(self) -> Asked:
        """The files read and the texts understood; all mistakes in one ``FBNError``."""
        mistakes = self._mistakes()
        limits_ms = []
        for name in self.indicators:
            try:
                indicators_of(name)
            except FBNError as error:
                mistakes.append(str(error))
        for text in self.latency_budgets:
            try:
                budget = latency_budget(text)
            except FBNError as error:
                mistakes.append(str(error))
                continue
            if budget.target:
                mistakes.append(
                    f"{text!r} names a target, but a bench takes its latencies from "
                    "--latency-column; write the limit alone."
                )
            limits_ms.append(budget.limit)
        file = listed = None
        try:
            file = read_csv(self.table)
            columns = [("--architecture-column", name) for name in self._architecture(file)]
            columns += [("--accuracy-column", self.accuracy_column)]
            columns += [("--latency-column", self.latency_column)] if self.latency_column else []
            mistakes += file.mistakes(columns)
        except FBNError as error:
            mistakes.append(str(error))
        try:
            listed = read_list(self.architectures) if self.architectures else None
        except FBNError as error:
            mistakes.append(str(error))
        if mistakes:
            raise FBNError("\n".join(mistakes))
        assert file is not None
        return Asked(self, file, self._architecture(file), tuple(limits_ms), listed)

    def _architecture(self, file: CsvFile) -> tuple[str, ...]:
        """The column of that name, or those that its commas part."""
        column = self.architecture_column
        return (
            (column,)
            if column in file.columns
            else tuple(name.strip() for name in column.split(","))
        )

    def _mistakes(self) -> list[str]:
        mistakes = []
        if not self.indicators:
            mistakes.append("A bench needs an indicator: --indicators cpi; see fbn indicators.")
        if self.samples < LEAST:
            mistakes.append(f"A bench needs at least {LEAST} samples, not {self.samples}.")
        if self.probe_batches < 2 or self.probe_size < 4:
            mistakes.append(
                "Probe batches are at least 2, with at least 4 images each; asked: "
                f"{self.probe_batches} of {self.probe_size}."
            )
        if self.min_accuracy is not None and not math.isfinite(self.min_accuracy):
            mistakes.append(f"--min-accuracy is a number, not {self.min_accuracy}.")
        if bool(self.latency_column) != bool(self.latency_budgets):
            mistakes.append(
                "--latency-column and --latency-budgets go together: the column says how fast an "
                "architecture is, the budgets what is allowed."
            )
        if self.supernet is not None and not self.supernet.is_file():
            mistakes.append(f"There is no file {self.supernet} to read a supernet from.")
        if self.plots is not None:
            if importlib.util.find_spec("matplotlib") is None:
                mistakes.append(
                    "Plots need matplotlib, which is not installed. Install it with "
                    'pip install "fbn-deploy[bench]", or leave --plots out.'
                )
            if self.plots.exists() and not self.plots.is_dir():
                mistakes.append(f"{self.plots} is no directory to write plots into.")
        return mistakes


@dataclass(frozen=True)
class Asked:
    """Settings without mistakes, and what was read for them. ``listed``: texts, or ``None``."""

    settings: BenchSettings
    file: CsvFile
    architecture_columns: tuple[str, ...]
    limits_ms: tuple[float, ...]
    listed: Sequence[str] | None
