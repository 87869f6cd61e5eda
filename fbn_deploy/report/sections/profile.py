"""Where the time goes, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

from fbn_deploy.latency.profile import Layer
from fbn_deploy.report.amounts import digits, milliseconds, percent, plural
from fbn_deploy.report.markup import Child, Markup, escaped, tag
from fbn_deploy.report.measured import Profile
from fbn_deploy.report.pieces import Bar, bars, doubtful, folded, heading, not_done, note, text
from fbn_deploy.report.run import Run
from fbn_deploy.report.stages import missing

TITLE = "Time by layer"
SHOWN = 15


def section(run: Run) -> Markup:
    parts: list[Child] = [] if run.profile else [not_done(missing(run)["profile"])]
    for name in sorted(run.profiles, key=lambda name: name != run.model):  # what ships is first
        parts.append(heading(name))
        if run.profiles_another(name):
            parts.append(doubtful(name, "another file than lies here was profiled"))
        parts += _profile(run.profiles[name])
    return escaped(parts)


def _profile(profile: Profile) -> Iterator[Child]:
    layers = profile.layers
    if not layers:
        yield note(profile.without_layers or "The target told no layers.")
        return
    added = sum(layer.share for layer in layers if layer.added)
    yield text(
        f"{plural(len(layers), 'layer')} on {profile.record.conditions.target}, together "
        f"{milliseconds(profile.sum_ms)}; the whole network takes "
        f"{milliseconds(profile.record.value_ms)}."
        + (f" {percent(added, 0)} went to layers that the runtime added." if added else "")
    )
    longest = sorted(layers, key=lambda layer: -layer.latency_ms)[:SHOWN]
    yield bars([_bar(layer) for layer in longest])
    yield note(
        "The profiler's own time is in the layers, not in the whole. Faint: added by the runtime. "
        f"Means of {profile.runs:,} runs."
    )
    if len(layers) > SHOWN:
        everything = bars([_bar(layer) for layer in layers])
        summary = f"All {len(layers)} layers in the order in which they ran"
        yield folded(summary, everything, printed=False)


def _bar(layer: Layer) -> Bar:
    return Bar(
        tag("code", layer.name),
        layer.latency_ms,
        f"{digits(1000 * layer.latency_ms, 3)} µs",
        "faint" if layer.added else "plain",
        f"{layer.op}, {percent(layer.share, 1)}",
    )
