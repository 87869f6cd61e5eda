"""``fbn retrain``."""

from __future__ import annotations

from fbn_deploy import summary
from fbn_deploy.commands._options import (
    Json,
    KeepFairBn,
    RetrainBatch,
    RetrainEpochs,
    RetrainRate,
    RunArgument,
)
from fbn_deploy.commands._shared import existing, show


def command(
    run: RunArgument,
    epochs: RetrainEpochs = 12.0,
    batch_size: RetrainBatch = 32,
    learning_rate: RetrainRate = 0.05,
    keep_fair_bn: KeepFairBn = True,
    json_output: Json = False,
) -> None:
    """Trains the chosen subnet to its real accuracy."""
    from fbn_deploy.pipeline.retrain import retrained_subnet
    from fbn_deploy.retrain import RetrainSettings

    context = existing(run, quiet=json_output)
    settings = RetrainSettings(
        epochs, batch_size, learning_rate, fair_bn=keep_fair_bn, seed=context.seed
    )
    _, results = retrained_subnet(context, settings)
    show(json_output, results, summary.accuracy(results))
