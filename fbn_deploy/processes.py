"""Processes that run a module of this package, and how they answer.

They see nothing of what lies in the user's directory, and nothing that libraries print comes
between their answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

_ROOT = Path(__file__).resolve().parents[1]
# Without this a statistics.py where the user stands would be Python's own.
_PROGRAM = (
    "import sys; sys.path = [path for path in sys.path if path]; "
    "from {module} import main; sys.exit(main(sys.argv[1:]))"
)


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs ``main(arguments)`` of ``module`` and exits with what it returns."""
    return [sys.executable, "-c", _PROGRAM.format(module=module), *arguments]


def environment(**more: str) -> Mapping[str, str]:
    """This process's environment, in which this package is found, and ``more``."""
    paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def answers() -> BinaryIO:
    """In such a process: its stdout, for answers alone; what others print goes to stderr."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return stream
