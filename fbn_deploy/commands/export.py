"""``fbn export``."""

from __future__ import annotations

from fbn_deploy import summary
from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import EngineBuildOptions, PrecisionOptions
from fbn_deploy.commands._options import Json, MovedData, RunArgument, TargetName
from fbn_deploy.commands._shared import existing, show


@flat
def command(
    run: RunArgument,
    lower: PrecisionOptions,
    engine: EngineBuildOptions,
    target: TargetName = None,
    data: MovedData = None,
    json_output: Json = False,
) -> None:
    """Folds, writes model.onnx or model.PRECISION.onnx, verified on real images."""
    from fbn_deploy.pipeline.engine import EngineSettings, export_engine
    from fbn_deploy.pipeline.export import export_subnet
    from fbn_deploy.pipeline.forms import precision_file, run_form, verification_targets
    from fbn_deploy.pipeline.precision import export_precision
    from fbn_deploy.pipeline.precision_settings import as_searched
    from fbn_deploy.pipeline.retrain import load_subnet
    from fbn_deploy.pipeline.stored_search import stored_search
    from fbn_deploy.targets import ready_target

    builder = engine.builder(target)
    precision = lower.settings()
    chosen = [ready_target(target)] if target and not engine.build_only else []
    context = existing(run, data, quiet=json_output)
    network, _ = load_subnet(context)
    found = stored_search(context.run)
    engine.options(batch=found["settings"]["batch"])  # what is wrong is said before long work
    if precision is None:
        model = context.run.model
        names = {each.name for each in chosen}
        ready = verification_targets(found, context.reporter.say)
        others = [each for each in ready if each.name not in names]
        form = run_form(found, "fp32", [target] if target else [])
        content = export_subnet(
            context, network, chosen + others, as_convolution=form.as_convolution
        )
        text = f"Verified model in {model}"
    else:
        precision = as_searched(precision, found["settings"])
        file = precision_file(found, precision.precision, target, build_only=engine.build_only)
        model = context.run.precision_model(file.name)
        content = export_precision(context, network, precision, file)
        text = summary.precision(content, context.run.path)
    if builder is not None:
        settings = EngineSettings(
            builder,
            engine.options(batch=found["settings"]["batch"]),
            engine.build_only,
            precision.precision if precision else "fp32",
            precision.max_drop if precision else 0.0,
        )
        content |= {"engine": export_engine(context, network, model, settings)}
        text += f"\n{summary.engine(content['engine'], builder.engine_path(model))}"
    show(json_output, content, text)
