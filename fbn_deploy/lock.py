"""One process at a time writes into a directory.

The lock is advisory and the system's own (``fcntl``), of a file that stays: it ends with the
process that has it, however that ends, and no child inherits it. Nobody is refused where there is
no such lock, on Windows and on some network file systems.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import TextIO

from fbn_deploy.errors import FBNError

_TAKEN = frozenset({errno.EACCES, errno.EAGAIN})
_held: dict[Path, TextIO] = {}  # an open file each: closing it gives the lock back


def hold(path: Path) -> None:
    """Locks the file ``path``, made if need be, until this process ends.

    Raises ``FBNError`` when another process has it. Where the file cannot be made, nothing is
    locked: who then writes beside it is told why that fails.
    """
    place = path.absolute()
    if sys.platform == "win32" or place in _held:
        return
    import fcntl

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a+", encoding="utf-8")
    except OSError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        with file:
            file.seek(0)
            owner = file.read().strip()
        if error.errno in _TAKEN:
            raise FBNError(
                f"Another command writes in {path.parent} ({owner or 'it has just begun'}). Wait "
                "for its end, or choose another directory with --run."
            ) from None
        return
    _held[place] = file
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
