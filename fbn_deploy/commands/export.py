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
    from fbn_deploy.pipeline.deploy import (
        precision_form,
        precision_targets,
        verification_targets,
    )
    from fbn_deploy.pipeline.engine import EngineSettings, export_engine
    from fbn_deploy.pipeline.export import export_subnet
    from fbn_deploy.pipeline.precision import as_searched, export_precision
    from fbn_deploy.pipeline.retrain import load_subnet
    from fbn_deploy.pipeline.stored_search import stored_search
    from fbn_deploy.targets import form_for, ready_target, shifts_as_convolution

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
        form = shifts_as_convolution([target] if target else found["best"]["confirmed"])
        content = export_subnet(context, network, chosen + others, as_convolution=form)
        text = f"Verified model in {model}"
    else:
        precision = as_searched(precision, found["settings"])
        model = context.run.precision_model(precision.precision)
        targets = chosen or precision_targets(found, precision.precision)
        written = (
            form_for(precision.precision, [target])
            if target
            else precision_form(found, precision.precision, targets)
        )
        content = export_precision(context, network, precision, targets, written)
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
