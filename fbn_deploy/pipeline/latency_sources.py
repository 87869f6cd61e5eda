"""Where a search's latencies on each target come from: a table, blocks, or whole networks."""

from __future__ import annotations

from pathlib import Path

from fbn_deploy.errors import FBNError
from fbn_deploy.latency.blocktable import LatencyTable
from fbn_deploy.latency.cache import LatencyCache
from fbn_deploy.latency.counting import Counting
from fbn_deploy.latency.meter import LatencyMeter
from fbn_deploy.latency.predictor import MIN_PROBES
from fbn_deploy.pipeline.answers import Coster
from fbn_deploy.pipeline.context import Context
from fbn_deploy.pipeline.latency import (
    Latency,
    pays,
    predicted_elsewhere,
    table_for,
    whole_or_predicted,
)
from fbn_deploy.pipeline.parts import PROBES, Parts, parts_of
from fbn_deploy.pipeline.search_settings import SearchSettings
from fbn_deploy.space import SearchSpace
from fbn_deploy.supernet.choice import decisions_of_choices
from fbn_deploy.supernet.supernet import Supernet
from fbn_deploy.targets import ready_target

FEW_BLOCKS = 20  # no space has fewer


def latency_sources(
    context: Context, settings: SearchSettings, supernet: Supernet, coster: Coster
) -> dict[str, Latency]:
    """Where the latencies on each budgeted target come from."""
    targets = [budget.target for budget in settings.budgets if budget.target]
    counting = Counting(decisions_of_choices(supernet.network), coster.folded)
    tables: dict[str, LatencyTable] = {}
    for path in settings.latency_tables:
        table = _table(Path(path), settings, context)
        if table.inventory.space.get("sha256") != supernet.definition.as_json()["sha256"]:
            refuse_other_blocks(path, table, supernet.space, counting)
        tables[table.target] = table
    here = [target for target in targets if target not in tables]
    parts = _parts(settings, supernet, coster, context) if here else None
    cache = LatencyCache() if here else None
    found: dict[str, Latency] = {}
    for target in targets:
        if target in tables:
            found[target] = predicted_elsewhere(
                tables[target], supernet.space, counting, context.reporter
            )
            continue
        meter = LatencyMeter(
            ready_target(target),
            batch=settings.batch,
            threads=settings.threads,
            precision=settings.precision,
            cache=cache,
        )
        found[target] = whole_or_predicted(
            meter, supernet.space, coster.deployed, parts, context.reporter
        )
    return found


def check_tables(context: Context, settings: SearchSettings) -> None:
    """``FBNError`` where a latency table is of another space, or of other conditions."""
    for path in settings.latency_tables:
        _table(Path(path), settings, context)


def _table(path: Path, settings: SearchSettings, context: Context) -> LatencyTable:
    space, classes = context.definition.as_json(), len(context.data.classes)
    asked = (space, classes, settings.batch, settings.precision, context.bn)
    return table_for(path, asked, settings.threads)


def refuse_other_blocks(
    path: str, table: LatencyTable, space: SearchSpace, counting: Counting
) -> None:
    """``FBNError`` where the networks that were measured whole consist of other blocks now."""
    try:
        same = all(
            counting(space.parse(probe.text)).blocks == probe.composition.blocks
            for probe in table.inventory.probes
        )
    except FBNError:  # no network of the space any more
        same = False
    if not same:
        raise FBNError(
            f"The file of the search space {space.name} changed since the bundle of {path} was "
            "made, and its networks consist of other blocks now. Make the bundle anew with "
            "fbn bundle, and measure it."
        )


def _parts(
    settings: SearchSettings, supernet: Supernet, coster: Coster, context: Context
) -> Parts | None:
    """The space cut into blocks, where latencies are to be predicted from them."""
    if settings.predictor == "whole":
        return None
    if supernet.definition.builds_subnets:
        if settings.predictor == "table":
            raise FBNError(
                f"The space {supernet.space.name} builds its networks by itself, so there are no "
                "blocks to measure. Leave --predictor table out; its networks are measured whole."
            )
        return None
    if settings.predictor == "auto" and not pays(PROBES + FEW_BLOCKS, settings.candidates):
        return None  # no table pays, so the space need not be cut to find out
    parts = parts_of(supernet, coster.folded, settings.batch, context.reporter, form=coster.form)
    worth = settings.predictor == "table" or pays(len(parts.inventory.graphs), settings.candidates)
    enough = len(parts.inventory.probes) >= MIN_PROBES
    if settings.predictor == "table" and not enough:
        raise FBNError(
            f"The space {supernet.space.name} has only {len(parts.inventory.probes)} networks, and "
            f"a predictor is fitted on {MIN_PROBES} at least. Leave --predictor table out; they "
            "are measured whole."
        )
    return parts if worth and enough else None
