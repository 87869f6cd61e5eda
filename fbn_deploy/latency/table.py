"""A network's profile on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fbn_deploy.latency.profile import Layer, NetworkProfile
    from fbn_deploy.latency.record import LatencyRecord

_BAR_WIDTH = 24


def profile_table(profile: NetworkProfile) -> RenderableType:
    """The whole with its story, then a row and a bar for each layer, then sum against whole; or
    why there are no layers."""
    from rich.console import Group
    from rich.table import Table

    if profile.without_layers:
        return Group(*story(profile.record), "", profile.without_layers)

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    table.add_column("op")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", width=_BAR_WIDTH)
    longest_ms = max((layer.latency_ms for layer in profile.layers), default=0.0)
    for layer in profile.layers:
        table.add_row(*_cells(layer), _bar(layer.latency_ms, longest_ms))
    whole_ms = profile.record.value_ms
    closing = (
        f"Layers sum to {profile.sum_ms:.3f} ms, {profile.sum_ms / whole_ms:.0%} of the whole "
        f"({whole_ms:.3f} ms); the profiler's own time is in the layers, not in the whole."
    )
    return Group(*story(profile.record), *_memory(profile), "", table, "", closing)


def story(record: LatencyRecord) -> list[str]:
    """Lines that say what was measured, how, and what disturbed it."""
    timing, conditions = record.timing, record.conditions
    versions = ", ".join(f"{name} {version}" for name, version in conditions.versions.items())
    shapes = ", ".join("×".join(map(str, shape)) for shape in conditions.inputs.values())
    lines = [
        f"{timing.value_ms:.3f} ms  (median; 95 % interval {timing.low_ms:.3f} to "
        f"{timing.high_ms:.3f}; p90 {timing.p90_ms:.3f}, p99 {timing.p99_ms:.3f}, "
        f"min {timing.min_ms:.3f}; {timing.n} runs in {timing.rounds} rounds)",
        f"{conditions.target} on {conditions.device}, {versions}",
        f"opened as {conditions.precision}, input {shapes}, threads {conditions.threads}"
        + (f" on cores {', '.join(map(str, record.cores))}" if record.cores else "")
        + (f", {conditions.power}" if conditions.power else ""),
    ]
    if timing.disturbed:
        lines.append("Disturbed: " + "; ".join(timing.disturbed) + ".")
    else:
        lines.append(f"Undisturbed (load {timing.load:.2f}).")
    return lines


def _memory(profile: NetworkProfile) -> list[str]:
    """A line where the target knows it."""
    if profile.device_memory_bytes is None:
        return []
    return [
        f"{profile.device_memory_bytes / 1e6:.1f} MB of device memory for intermediate results, "
        "beside weights, inputs and outputs"
    ]


def _cells(layer: Layer) -> tuple[str, str, str, str]:
    from rich.markup import escape

    op = f"{layer.op} (added)" if layer.added else layer.op
    return escape(layer.name), escape(op), f"{layer.latency_ms:.4f}", f"{layer.share:.1%}"


def _bar(value: float, longest: float) -> RenderableType:
    from rich.bar import Bar

    return Bar(longest or 1.0, 0, value, width=_BAR_WIDTH, color="cyan")
