"""File name → plugin: what lies as a file in a package is an entry of its registry.

``searchspaces/mobilenet.py`` is the search space ``mobilenet``; ``fbn_deploy/targets/``
``openvino_cpu.py`` is the target ``openvino-cpu``. Adding a file adds an entry; nothing is
registered by hand. Files that start with an underscore are shared parts, not entries.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from fbn_deploy.errors import FBNError, unknown


def names(package: str) -> list[str]:
    """The entries of ``package``, sorted, with dashes as users type them."""
    folder = importlib.import_module(package).__path__
    return sorted(
        module.name.replace("_", "-") if package.startswith("fbn_deploy.") else module.name
        for module in pkgutil.iter_modules(folder)
        if not module.name.startswith("_")
    )


def load(package: str, name: str, kind: str) -> ModuleType:
    """The module behind ``name``. Raises ``FBNError`` that lists what exists."""
    known = names(package)
    if name not in known:
        raise unknown(kind, name, known)
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")


def load_file(path: Path, kind: str) -> ModuleType:
    """The module in a user's own file (``--space ./mine.py``), run once as Python code."""
    path = Path(path)
    if not path.is_file():
        raise FBNError(f"There is no file {path} to read a {kind} from.")
    place = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    name = f"fbn_user_{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FBNError(f"{path} is no Python file; a {kind} is read from a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise FBNError(f"{path} failed to run: {type(error).__name__}: {error}") from error
    return module
