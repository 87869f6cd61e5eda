"""``fbn search``."""

from __future__ import annotations

from fbn_deploy import summary
from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import RunOptions, SearchOptions
from fbn_deploy.commands._options import DeployedPrecision, Json, KeepFp32
from fbn_deploy.commands._shared import opened, show


@flat
def command(
    searched: SearchOptions,
    about: RunOptions,
    precision: DeployedPrecision = None,
    keep_fp32: KeepFp32 = None,
    json_output: Json = False,
) -> None:
    """Trains if needed, searches under the budgets, confirms the best on the target."""
    from fbn_deploy.pipeline.latency_sources import check_tables
    from fbn_deploy.pipeline.search import search

    settings = searched.settings(precision, keep_fp32 or ())
    context = opened(
        about.run,
        about.given(),
        quiet=json_output,
        together=True,
        check=lambda context, _: check_tables(context, settings),
    )
    found = search(context, settings)
    show(json_output, found, summary.winner(found, context.run.path))
