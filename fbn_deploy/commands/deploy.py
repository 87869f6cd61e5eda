"""``fbn deploy``."""

from __future__ import annotations

from fbn_deploy import summary
from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import PrecisionOptions, RunOptions, SearchOptions
from fbn_deploy.commands._options import (
    Json,
    KeepFairBn,
    RecipeName,
    RetrainBatch,
    RetrainEpochs,
    RetrainRate,
)
from fbn_deploy.commands._shared import opened, show


@flat
def command(
    searched: SearchOptions,
    about: RunOptions,
    lower: PrecisionOptions,
    recipe: RecipeName = "quick",
    retrain_epochs: RetrainEpochs = None,
    retrain_batch: RetrainBatch = None,
    retrain_rate: RetrainRate = None,
    keep_fair_bn: KeepFairBn = None,
    json_output: Json = False,
) -> None:
    """Search, retrain, export, verify, profile, report: all of it, in one go."""
    from fbn_deploy.latency.table import profile_table
    from fbn_deploy.pipeline.deploy import deploy
    from fbn_deploy.pipeline.latency_sources import check_tables
    from fbn_deploy.retrain.recipes import recipe as recipe_named
    from fbn_deploy.retrain.training import RetrainSettings

    precision = lower.settings()
    settings = searched.settings(lower.precision, lower.keep_fp32 or ())
    changes = {
        "epochs": retrain_epochs,
        "batch_size": retrain_batch,
        "learning_rate": retrain_rate,
        "fair_bn": keep_fair_bn,
    }
    chosen = recipe_named(recipe, changes)
    context = opened(
        about.run,
        about.given(),
        quiet=json_output,
        check=lambda context, _: check_tables(context, settings),
    )
    done = deploy(context, settings, RetrainSettings(chosen, seed=context.seed), precision)
    run = context.run
    model = run.model if precision is None else run.precision_model(precision.precision)
    if json_output:
        result = {
            "run": str(context.run.path),
            "best": done.search["best"],
            "training": done.training,
            "verification": done.verification,
            "profile": done.profile.as_json(),
            "precision": done.precision,
            "report": None if done.report is None else str(done.report),
        }
        return show(True, result, "")
    for part in (
        profile_table(done.profile),
        "",
        summary.winner(done.search, context.run.path),
        summary.accuracy(done.training),
        *(summary.verified(result) for result in done.verification["results"]),
        None if done.precision is None else summary.precision(done.precision, context.run.path),
        f"Report: {done.report}" if done.report else None,
        summary.latency(done.profile.record, model, done.search),
    ):
        if part is not None:
            show(False, None, part)
