"""``fbn recipes``."""

from __future__ import annotations

from fbn_deploy.commands._catalogue import listing
from fbn_deploy.commands._options import Json


def command(json_output: Json = False) -> None:
    """Lists the recipes of retraining."""
    listing("recipes", json_output)
