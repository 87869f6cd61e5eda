"""``fbn export``."""

from __future__ import annotations

from fbn_deploy import summary
from fbn_deploy.commands._flat import flat
from fbn_deploy.commands._groups import EngineBuildOptions
from fbn_deploy.commands._options import Json, RunArgument, TargetName
from fbn_deploy.commands._shared import existing, show


@flat
def command(
    run: RunArgument,
    engine: EngineBuildOptions,
    target: TargetName = None,
    json_output: Json = False,
) -> None:
    """Folds, writes model.onnx, and verifies it against the trained subnet on real images."""
    from fbn_deploy.files import read_json
    from fbn_deploy.pipeline.deploy import verification_targets
    from fbn_deploy.pipeline.engine import EngineSettings, export_engine
    from fbn_deploy.pipeline.export import export_subnet
    from fbn_deploy.pipeline.retrain import load_subnet
    from fbn_deploy.targets import ready_target

    builder = engine.builder(target)
    engine.options(batch=1)  # what is wrong is said before long work
    chosen = [ready_target(target)] if target and not engine.build_only else []
    context = existing(run, quiet=json_output)
    network, _ = load_subnet(context)
    names = {each.name for each in chosen}
    found = read_json(context.run.search)
    others = [each for each in verification_targets(found) if each.name not in names]
    content = export_subnet(context, network, chosen + others)
    text = f"Verified model in {context.run.model}"
    if builder is not None:
        options = engine.options(batch=found["settings"]["batch"])
        settings = EngineSettings(builder, options, engine.build_only)
        content |= {"engine": export_engine(context, network, context.run.model, settings)}
        text += f"\n{summary.engine(content['engine'], builder.engine_path(context.run.model))}"
    show(json_output, content, text)
