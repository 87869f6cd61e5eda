"""``fbn export``."""

from __future__ import annotations

from fbn_deploy.commands._options import Json, RunArgument, TargetName
from fbn_deploy.commands._shared import existing, show


def command(run: RunArgument, target: TargetName = None, json_output: Json = False) -> None:
    """Folds, writes model.onnx, and verifies it against the trained subnet on real images."""
    from fbn_deploy.files import read_json
    from fbn_deploy.pipeline.deploy import verification_targets
    from fbn_deploy.pipeline.export import export_subnet
    from fbn_deploy.pipeline.retrain import load_subnet
    from fbn_deploy.targets import ready_target

    chosen = [ready_target(target)] if target else []
    context = existing(run, quiet=json_output)
    network, _ = load_subnet(context)
    names = {each.name for each in chosen}
    others = verification_targets(read_json(context.run.search))
    content = export_subnet(
        context, network, chosen + [each for each in others if each.name not in names]
    )
    show(json_output, content, f"Verified model in {context.run.model}")
