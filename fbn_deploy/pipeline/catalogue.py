"""Lists of what exists: name → one line."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

from fbn_deploy import plugins


def spaces() -> dict[str, str]:
    """Search spaces and the first line of their file, which is read but not run."""
    from fbn_deploy.supernet.definition import PACKAGE

    found = {}
    for name in plugins.names(PACKAGE):
        spec = importlib.util.find_spec(f"{PACKAGE}.{name}")
        assert spec is not None, name
        assert spec.origin is not None, name
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
        found[name] = text.partition("\n")[0].rstrip(".")
    return found


def recipes() -> dict[str, str]:
    """Recipes of retraining, what each is for and its length."""
    from fbn_deploy.retrain.recipes import RECIPES

    return {
        name: f"{recipe.description}; {recipe.epochs:g} epochs" for name, recipe in RECIPES.items()
    }


def targets() -> dict[str, str]:
    """Targets with "ready", or what they lack."""
    from fbn_deploy.targets import targets as all_targets

    return {
        target.name: f"{target.description}; {target.missing() or 'ready'}"
        for target in all_targets()
    }


def indicators() -> dict[str, str]:
    """Indicators, composites first."""
    from fbn_deploy.indicators import COMPOSITES
    from fbn_deploy.indicators import indicators as all_indicators

    composites = {name: each.description for name, each in COMPOSITES.items()}
    single = {
        each.name: each.description + ("" if each.higher_is_better else " (lower is better)")
        for each in all_indicators()
    }
    return {**composites, **single}


CATALOGUES: dict[str, Callable[[], dict[str, str]]] = {
    "spaces": spaces,
    "recipes": recipes,
    "targets": targets,
    "indicators": indicators,
}
