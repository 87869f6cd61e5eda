"""The options of the command line: one name each, so that every command says them alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fbn_deploy.errors import FBNError


def run_path(text: str) -> Path:
    """The path of a run. An empty text, which a shell makes of a variable that is not set, is
    refused: it would be the current directory."""
    if not text:
        raise FBNError("The name of the run directory is empty; the current one is '.'.")
    return Path(text)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Run = Annotated[
    Path | None,
    # torchrun takes --run for one of its own options, wherever it stands.
    typer.Option(
        "--run",
        "--run-dir",
        help="Run directory.",
        show_default="runs/<time>",
        parser=run_path,
        metavar="PATH",
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN", parser=run_path)]
Space = Annotated[
    str | None,
    typer.Option("--space", help="Search space or a .py file.", show_default="mobilenet"),
]
Resolution = Annotated[
    int | None, typer.Option("--resolution", help="Pixels a side.", show_default="the space's")
]
Width = Annotated[float | None, typer.Option("--width", help="The space's width.")]
Depth = Annotated[int | None, typer.Option("--depth", help="The space's layers a stage.")]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option("--space-option", "-o", help="Any option of the space, NAME=VALUE; repeats."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, a folder of images or tar shards, cifar10:DIR or cifar100:DIR.",
        show_default="digits",
    ),
]
MovedData = Annotated[
    str | None, typer.Option("--data", help="Where the run's images are now, if they moved.")
]
Download = Annotated[bool, typer.Option("--download", help="Fetch CIFAR if it is not there.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse images that cannot be read; else 1 % are left out.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of everything.", show_default="0")]
Bn = Annotated[str | None, typer.Option("--bn", help="fair or conv-only.", show_default="fair")]
TrainMode = Annotated[
    str | None, typer.Option("--train", help="bn, bn+classifier or all.", show_default="bn")
]
Sampler = Annotated[
    str | None, typer.Option("--sampler", help="uniform or fair.", show_default="uniform")
]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs",
        help="Supernet epochs; 0 trains nothing.",
        show_default="10, but 300 to 1,500 steps; 0 if no indicator reads training, as cpi",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Supernet batch.", show_default="64")
]
Optimizer = Annotated[
    str | None, typer.Option("--optimizer", help="adam or sgd.", show_default="adam")
]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="Supernet peak rate.")]
Schedule = Annotated[
    str | None, typer.Option("--schedule", help="cosine or linear.", show_default="cosine")
]
Smoothing = Annotated[
    float | None, typer.Option("--label-smoothing", help="Supernet.", show_default="0.1")
]
Shards = Annotated[
    int | None,
    typer.Option(
        "--shards",
        help="Parts of a supernet batch, each normalised on its own.",
        show_default="one a process",
    ),
]
LatencyBudget = Annotated[
    list[str] | None,
    typer.Option("--latency-budget", help="10ms or openvino-cpu:5ms; repeats."),
]
FlopsBudget = Annotated[str | None, typer.Option("--flops-budget", help="300M multiply-adds.")]
ParamsBudget = Annotated[str | None, typer.Option("--params-budget", help="4.2M parameters.")]
TargetName = Annotated[
    str | None, typer.Option("--target", help="See fbn targets.", show_default="the best ready one")
]
BuildOnly = Annotated[
    bool, typer.Option("--build-only", help="Build the engine without running it: needs no GPU.")
]
EngineBatch = Annotated[
    int | None,
    typer.Option("--batch", help="The engine's batch.", show_default="the search's"),
]
MaxBatch = Annotated[
    int | None, typer.Option("--max-batch", help="Let the engine take batches from 1 to this.")
]
OptimizationLevel = Annotated[
    int, typer.Option("--optimization-level", help="0 builds fastest, 5 looks longest.")
]
WorkspaceMb = Annotated[
    int | None, typer.Option("--workspace", help="MB of device memory a kernel may use.")
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", help="Let later TensorRT versions run the engine.")
]
Hardware = Annotated[
    str, typer.Option("--hardware", help="this GPU, same-capability or ampere-plus.")
]
Threads = Annotated[int, typer.Option("--threads", help="Threads on a CPU target.")]
Batch = Annotated[int, typer.Option("--batch", help="Images a run on the target.")]
Algorithm = Annotated[str, typer.Option("--algorithm", help="evolution or random.")]
Candidates = Annotated[int, typer.Option("--candidates", help="Architectures to score.")]
Finalists = Annotated[
    int,
    typer.Option(
        "--finalists",
        help="So many of the best, three at least and a tenth of all at most, are trained briefly "
        "and ordered anew.",
    ),
]
IndicatorName = Annotated[str, typer.Option("--indicator", help="cpi, or see fbn indicators.")]
ProbeBatches = Annotated[int, typer.Option("--probe-batches", help="Batches that score one.")]
ProbeSize = Annotated[int, typer.Option("--probe-size", help="Images in each of them.")]
Proxy = Annotated[
    bool,
    typer.Option(
        "--proxy/--no-proxy",
        help="Score untrained candidates in the small skeleton that the space names, if it does.",
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", help="How the subnet is trained.")]
PredictorName = Annotated[
    str,
    typer.Option(
        "--predictor",
        help="Latencies of candidates: table (from measured blocks), whole (each measured), auto.",
    ),
]
LatencyTables = Annotated[
    list[Path] | None,
    typer.Option("--latency-table", help="Table of fbn measure; searches for that device."),
]
RetrainEpochs = Annotated[
    float | None,
    typer.Option(
        "--retrain-epochs",
        help="Epochs of the subnet: few for a first result, 200 for all its accuracy.",
        show_default="the recipe's",
    ),
]
RetrainBatch = Annotated[
    int | None,
    typer.Option("--retrain-batch", help="Batch of the subnet.", show_default="the recipe's"),
]
RetrainRate = Annotated[
    float | None,
    typer.Option("--retrain-rate", help="Peak rate of the subnet.", show_default="the recipe's"),
]
KeepFairBn = Annotated[
    bool | None,
    typer.Option(
        "--keep-fair-bn/--drop-fair-bn",
        help="Train with the added BatchNorms or not.",
        show_default="the recipe's",
    ),
]
Table = Annotated[Path, typer.Option("--table", help="CSV or CSV.gz of trained architectures.")]
ArchitectureColumn = Annotated[
    str,
    typer.Option(
        "--architecture-column",
        help="Column of architectures, as the space writes them or JSON; A,B joins two.",
    ),
]
AccuracyColumn = Annotated[
    str, typer.Option("--accuracy-column", help="Column of trained accuracies.")
]
LatencyColumn = Annotated[
    str | None, typer.Option("--latency-column", help="Column of latencies in ms.")
]
LatencyBudgets = Annotated[
    str, typer.Option("--latency-budgets", help="Limits on that column: 4ms,5ms,6ms.")
]
IndicatorNames = Annotated[
    str, typer.Option("--indicators", help="cpi,gamma,…: see fbn indicators.")
]
Samples = Annotated[int, typer.Option("--samples", help="Architectures to score.")]
SupernetFile = Annotated[
    Path | None, typer.Option("--supernet", help="A trained supernet.safetensors; trains none.")
]
ArchitecturesFile = Annotated[
    Path | None,
    typer.Option("--architectures", help="Score exactly these: a line each, or a JSON list."),
]
MinAccuracy = Annotated[
    float | None, typer.Option("--min-accuracy", help="Leave out what reached less.")
]
Plots = Annotated[
    Path | None, typer.Option("--plots", help="Directory for plots; needs matplotlib.")
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="fp16, bf16 or int8, beside fp32.", show_default="fp32 only"),
]
DeployedPrecision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="fp16, bf16 or int8: that of the networks that are measured.",
        show_default="fp32",
    ),
]
Calibration = Annotated[
    str, typer.Option("--calibration", help="int8 ranges: mse, minmax, percentile or entropy.")
]
CalibrationImages = Annotated[
    int, typer.Option("--calibration-images", help="Training images that calibrate int8.")
]
CalibrationBatch = Annotated[
    int, typer.Option("--calibration-batch", help="Images calibrated at a time.")
]
CalibrationSeed = Annotated[
    int | None,
    typer.Option("--calibration-seed", help="Draws the images.", show_default="the run's"),
]
MaxDrop = Annotated[
    float, typer.Option("--max-drop", help="Points of top-1 accuracy that may be lost.")
]
KeepFp32 = Annotated[
    list[str] | None,
    typer.Option("--keep-fp32", help="A layer, module or pattern that int8 leaves; repeats."),
]
Equalize = Annotated[bool, typer.Option("--equalize", help="Equalise ranges before int8 or fp16.")]
WeightsByMse = Annotated[
    bool,
    typer.Option("--weights-by-mse", help="Weight ranges of least error, not the largest weight."),
]
Analyze = Annotated[bool, typer.Option("--analyze", help="Which layers int8 costs most.")]
