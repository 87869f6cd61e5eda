"""The listing that ``fbn spaces``, ``fbn targets`` and ``fbn indicators`` print."""

from __future__ import annotations

from fbn_deploy.commands._shared import show


def listing(kind: str, json_output: bool) -> None:
    """One line for each entry of a catalogue."""
    from fbn_deploy.pipeline.catalogue import CATALOGUES

    entries = CATALOGUES[kind]()
    width = max(len(name) for name in entries)
    lines = "\n".join(f"{name:<{width}}  {text}" for name, text in entries.items())
    show(json_output, entries, lines)
