"""Where a search's latencies come from: each network measured whole, or predicted from blocks.

Predicting pays where a search looks at more networks than a table needs measurements. Spaces that
build their subnets themselves have no graph to cut, so theirs are measured whole, as are those of
a search too small for a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.blocktable import LatencyTable, measured_table
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.predictor import Prediction
from fbn_deploy.latency.record import LatencyRecord
from fbn_deploy.progress import Reporter
from fbn_deploy.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from fbn_deploy.latency.composition import Composition
    from fbn_deploy.latency.counting import Deployed
    from fbn_deploy.pipeline.parts import Parts

    Composed = Callable[[Architecture], Composition]

PREDICTORS = ("auto", "table", "whole")
UNKNOWN_MS = 1e30
"""What stands for the latency of a network that a table from elsewhere does not predict: it meets
no budget, and can be written as JSON."""


class Latency(Protocol):
    """The latencies of a space's networks on one target."""

    def cost_ms(self, architecture: Architecture) -> float:
        """What a search holds against its budget."""

    def prediction(self, architecture: Architecture) -> Prediction | None:
        """The predicted latency; None where latencies are measured, a block is not known, or the
        prediction is no latency (below zero)."""

    def measured(self, architecture: Architecture) -> LatencyRecord:
        """The latency of the whole network, measured quickly or known from before; measured again
        where only a calmer moment since then told that it was in a crowd."""

    def known_ms(self, architecture: Architecture) -> float | None:
        """The latency of ``measured`` if it was asked for before; nothing is measured."""

    @property
    def meter(self) -> LatencyMeter | None:
        """What measures on this target; None where the target is elsewhere."""

    @property
    def seconds(self) -> float:
        """Spent on measuring and predicting so far."""

    @property
    def doubt(self) -> str:
        """Why costs so far may be too large, in a sentence; empty where nothing says so."""

    def about(self) -> dict[str, Any]:
        """How latencies were found, for ``search.json``."""


class Whole:
    """Every network measured whole."""

    def __init__(self, meter: LatencyMeter, space: SearchSpace, deployed: Deployed) -> None:
        self._meter, self._space, self._deployed = meter, space, deployed
        self._known: dict[str, LatencyRecord] = {}

    @property
    def meter(self) -> LatencyMeter:
        return self._meter

    def cost_ms(self, architecture: Architecture) -> float:
        return self.measured(architecture).value_ms

    def prediction(self, architecture: Architecture) -> None:
        return None

    def measured(self, architecture: Architecture) -> LatencyRecord:
        key = self._space.canonical(architecture)
        known = self._known.get(key)
        if known is None or known.was_crowded(self._meter.pace):
            model = self._deployed(architecture)
            known = self._known[key] = self._meter.settled(model, self._meter.measure(model))
        return known

    def known_ms(self, architecture: Architecture) -> float | None:
        known = self._known.get(self._space.canonical(architecture))
        return known.value_ms if known else None

    @property
    def seconds(self) -> float:
        return self._meter.seconds

    @property
    def doubt(self) -> str:
        if not (crowded := self._num_crowded):
            return ""
        return (
            f"{crowded} of {len(self._known)} networks were measured on {self._meter.target.name} "
            "while somebody else computed on the same core to the end. They take less than that "
            "alone, and some may have been refused for it: search again on a quieter machine, with "
            "another --run."
        )

    def about(self) -> dict[str, Any]:
        return {
            "predictor": "whole",
            "networks": len(self._known),
            "crowded": self._num_crowded,
        }

    @property
    def _num_crowded(self) -> int:
        return sum(record.timing.crowded_out for record in self._known.values())


class Predicted:
    """Latencies predicted from a table; ``whole`` measures, and is None for a device elsewhere."""

    def __init__(
        self, table: LatencyTable, space: SearchSpace, composed: Composed, whole: Whole | None
    ) -> None:
        self._table, self._space, self._composed, self._whole = table, space, composed, whole
        self.predictor = table.predictor()
        self._known: dict[str, Prediction | None] = {}
        self._seconds = 0.0

    @property
    def meter(self) -> LatencyMeter | None:
        return self._whole.meter if self._whole else None

    def cost_ms(self, architecture: Architecture) -> float:
        prediction = self.prediction(architecture)
        if prediction is not None:
            return prediction.value_ms
        return self._whole.measured(architecture).value_ms if self._whole else UNKNOWN_MS

    def prediction(self, architecture: Architecture) -> Prediction | None:
        key = self._space.canonical(architecture)
        if key not in self._known:
            started = time.perf_counter()
            composition = self._composed(architecture)
            known = composition.blocks.keys() <= self._table.inventory.blocks.keys()
            prediction = self.predictor(composition) if known else None
            if prediction is not None and prediction.value_ms <= 0:
                prediction = None  # the fit reaches no further than this, and says nothing
            self._known[key] = prediction
            self._seconds += time.perf_counter() - started
        return self._known[key]

    def measured(self, architecture: Architecture) -> LatencyRecord:
        if self._whole is None:
            raise FBNError(
                f"The target {self._table.target} of the latency table is not here; "
                "a network is measured on it with fbn profile model.onnx."
            )
        return self._whole.measured(architecture)

    def known_ms(self, architecture: Architecture) -> float | None:
        return self._whole.known_ms(architecture) if self._whole else None

    @property
    def seconds(self) -> float:
        return self._seconds + (self._whole.seconds if self._whole else 0.0)

    @property
    def doubt(self) -> str:
        return ""  # the predictor's error says how far off predictions are

    def about(self) -> dict[str, Any]:
        unknown = sum(prediction is None for prediction in self._known.values())
        return {
            "predictor": "table",
            "blocks": len(self._table.inventory.blocks),
            "probes": len(self._table.inventory.probes),
            "measurements": self._table.measurements,
            "seconds": round(self._table.seconds, 3),
            "quality": asdict(self.predictor.quality),
            "networks_with_unknown_blocks": unknown,
            "conditions": next(iter(self._table.records.values())).conditions.as_json(),
        }


def whole_or_predicted(
    meter: LatencyMeter,
    space: SearchSpace,
    deployed: Deployed,
    parts: Parts | None,
    reporter: Reporter,
) -> Latency:
    """The latencies on a target that is here: predicted where there are ``parts``."""
    whole = Whole(meter, space, deployed)
    if parts is None:
        return whole
    table = measured_table(parts.inventory, parts.network, meter, reporter)
    reporter.say(f"Latency table: {table.cost_text()}.")
    return _predicted(table, space, parts.composition, whole, reporter)


def predicted_elsewhere(
    table: LatencyTable, space: SearchSpace, composed: Composed, reporter: Reporter
) -> Latency:
    """The latencies on a target that is known by ``table`` only."""
    reporter.say(f"Latency table: {table.cost_text(now=False)}.")
    return _predicted(table, space, composed, None, reporter)


def _predicted(
    table: LatencyTable,
    space: SearchSpace,
    composed: Composed,
    whole: Whole | None,
    reporter: Reporter,
) -> Predicted:
    """By a predictor whose error is said."""
    predicted = Predicted(table, space, composed, whole)
    reporter.say(predicted.predictor.quality.text())
    return predicted


def table_for(
    path: Path, inventory_asked: tuple[Mapping[str, Any], int, int, str, str], threads: int
) -> LatencyTable:
    """The table in ``path``, which must be of that space, number of classes, batch, precision and
    ``bn``."""
    table = LatencyTable.load(path)
    if differing := table.inventory.mismatch(*inventory_asked):
        raise FBNError(
            f"{path} was measured for other networks ({differing}). Make a bundle of this space "
            "with fbn bundle, and measure that."
        )
    if table.threads != threads:
        raise FBNError(
            f"{path} was measured with {table.threads} threads; asked: {threads}. "
            f"Pass --threads {table.threads}, or measure the bundle again."
        )
    return table


def pays(measurements: int, candidates: int) -> bool:
    """Whether a table of so many measurements needs fewer than a search of that many candidates,
    which draws about twice as many networks as it scores."""
    return measurements < 2 * candidates
