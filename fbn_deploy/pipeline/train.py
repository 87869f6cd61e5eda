"""The stage that ends with a trained supernet."""

from __future__ import annotations

from fbn_deploy.checkpoint import load_tensors, load_weights, save_tensors
from fbn_deploy.loop import refuse_other_run
from fbn_deploy.pipeline.context import Context
from fbn_deploy.supernet.supernet import Supernet
from fbn_deploy.supernet.training import train_supernet


def trained_supernet(context: Context) -> tuple[Supernet, float]:
    """The supernet of the run and the seconds that its training took.

    Read from ``supernet.safetensors`` if it is there, else trained, going on from the checkpoint
    of a killed run.
    """
    run, supernet = context.run, context.supernet()
    about = {**context.identity, "supernet": context.supernet_settings.as_json()}
    if run.supernet.exists():
        tensors, found = load_tensors(run.supernet)
        seconds = float(found.pop("seconds", 0.0))
        refuse_other_run(run.supernet, found, about)
        load_weights(supernet.network, tensors, run.supernet)
        context.reporter.say(f"Supernet: {run.supernet}, trained before")
    else:
        seconds = train_supernet(
            supernet,
            context.data,
            context.supernet_settings,
            checkpoint=run.supernet_checkpoint,
            about=about,
            reporter=context.reporter,
        )
        save_tensors(run.supernet, supernet.network.state_dict(), {**about, "seconds": seconds})
    run.supernet_checkpoint.unlink(missing_ok=True)
    for parameter in supernet.network.parameters():
        parameter.requires_grad_(False)
    return supernet, seconds
