"""``fbn spaces``."""

from __future__ import annotations

from fbn_deploy.commands._catalogue import listing
from fbn_deploy.commands._options import Json


def command(json_output: Json = False) -> None:
    """Lists the search spaces."""
    listing("spaces", json_output)
