"""``fbn retrain``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fbn_deploy import summary
from fbn_deploy.commands._options import Json, KeepFairBn, MovedData, RecipeName, RunArgument
from fbn_deploy.commands._shared import existing, show
from fbn_deploy.errors import FBNError

RECIPES = "the recipe's"
Epochs = Annotated[
    float | None, typer.Option("--epochs", "--retrain-epochs", help="Epochs.", show_default=RECIPES)
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "--retrain-batch",
        help="Images of one step, over all processes.",
        show_default=RECIPES,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option("--learning-rate", "--retrain-rate", help="Peak rate.", show_default=RECIPES),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="auto, fp32, bf16 or fp16.", show_default=RECIPES),
]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", help="Parts of a batch, one by one.", show_default=RECIPES),
]
Ema = Annotated[
    float | None, typer.Option("--ema", help="Decay of averaged weights.", show_default=RECIPES)
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        help="last weights, or those of the epoch best on validation.",
        show_default=RECIPES,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option("--patience", help="Epochs without a better one.", show_default=RECIPES),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any number of a recipe, NAME=VALUE; repeats."),
]
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help="timm:NAME:FILE.safetensors, or FILE.pt2 of torch.export."),
]
WarmStart = Annotated[
    bool, typer.Option("--warm-start", help="Begin with the supernet's weights, not fresh ones.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Processes that make batches.",
        show_default="one a core, shared among torchrun's processes, where images are decoded",
    ),
]
SyncBn = Annotated[bool, typer.Option("--sync-bn", help="BatchNorm statistics over all processes.")]


def command(
    run: RunArgument,
    recipe: RecipeName = "quick",
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: Rate = None,
    precision: Precision = None,
    accumulate: Accumulate = None,
    ema: Ema = None,
    keep: Keep = None,
    patience: Patience = None,
    keep_fair_bn: KeepFairBn = None,
    changes: Changes = None,
    teacher: Teacher = None,
    warm_start: WarmStart = False,
    sync_bn: SyncBn = False,
    workers: Workers = None,
    data: MovedData = None,
    json_output: Json = False,
) -> None:
    """Trains the chosen subnet to its real accuracy, by a recipe: fbn recipes lists them."""
    from fbn_deploy.retrain.recipes import recipe as recipe_named

    named: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "accumulate": accumulate,
        "ema": ema,
        "keep": keep,
        "patience": patience,
        "fair_bn": keep_fair_bn,
    }
    for text in changes or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise FBNError(f"--set is NAME=VALUE, not {text!r}.")
        named[name] = value
    chosen = recipe_named(recipe, named)

    from fbn_deploy.pipeline.retrain import retrained_subnet
    from fbn_deploy.retrain.training import RetrainSettings

    context = existing(run, data, quiet=json_output, together=True)
    settings = RetrainSettings(chosen, context.seed, teacher, warm_start, sync_bn)
    _, results = retrained_subnet(context, settings, workers)
    show(json_output, results, summary.accuracy(results))
