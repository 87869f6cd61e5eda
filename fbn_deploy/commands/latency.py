"""``fbn latency``: the cache of measured latencies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.commands._options import Json
from fbn_deploy.commands._shared import show

app = typer.Typer(
    help="Looks after the cache of measured latencies.", no_args_is_help=True, rich_markup_mode=None
)

Target = Annotated[str | None, typer.Option("--target", help="Only this target's records.")]


def _known(target: str | None) -> str | None:
    """``target``; ``FBNError`` when no target has that name."""
    from fbn_deploy.targets import target_named

    return None if target is None else target_named(target).name


@app.command("show")
def show_(target: Target = None, json_output: Json = False) -> None:
    """Counts the records under each set of conditions."""
    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.latency.housekeeping import groups, groups_table

    cache = LatencyCache()
    found = groups(cache.records(_known(target)))
    value = {"cache": str(cache.path), "groups": [group.as_json() for group in found]}
    show(json_output, value, groups_table(cache.path, found))


@app.command()
def prune(
    target: Target = None,
    older_than: Annotated[
        int | None,
        typer.Option("--older-than", min=0, max=36_500, help="Records older than so many days."),
    ] = None,
    other_conditions: Annotated[
        bool,
        typer.Option("--other-conditions", help="Records of other devices, versions or settings."),
    ] = False,
    disturbed: Annotated[
        bool, typer.Option("--disturbed", help="Records that something disturbed.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All records.")] = False,
    json_output: Json = False,
) -> None:
    """Removes records that match all that is asked."""
    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.latency.housekeeping import Wanted, chosen

    wanted = Wanted(target, older_than, other_conditions, disturbed, everything)
    _known(target)
    cache = LatencyCache()
    removed = cache.remove(chosen(cache.records(), wanted))
    value = {"cache": str(cache.path), "removed": removed}
    show(json_output, value, f"{cache.path}: {removed} records removed.")


@app.command("export")
def export_(
    out: Annotated[Path, typer.Argument(help="JSON file to write.", metavar="FILE")],
    target: Target = None,
    json_output: Json = False,
) -> None:
    """Writes records to a file, for another machine of the same kind."""
    from fbn_deploy.files import refuse_to_overwrite
    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.latency.housekeeping import write_records

    cache = LatencyCache()
    refuse_to_overwrite(cache.path, out)
    count = write_records(out, cache.records(_known(target)))
    show(json_output, {"file": str(out), "records": count}, f"{out}: {count} records.")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="What export wrote.", metavar="FILE")],
    json_output: Json = False,
) -> None:
    """Adds the records of a file; those that are there stay."""
    from fbn_deploy.latency.cache import LatencyCache
    from fbn_deploy.latency.housekeeping import read_records

    cache = LatencyCache()
    records = read_records(source)
    added = cache.add(records)
    value = {"cache": str(cache.path), "read": len(records), "added": added}
    show(json_output, value, f"{cache.path}: {added} of {len(records)} records are new.")
