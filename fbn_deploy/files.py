"""Files that are written whole or not at all, and read with one clear error.

A file is written under a temporary name beside its own, flushed to the disk and renamed, so a
reader sees the old content or the new one, also after a crash or on a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fbn_deploy.errors import FBNError

_OWNER = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40]  # no dot: they part a name
_OLD_S = 86_400.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def refuse_to_overwrite(source: Path, *written: Path | None) -> None:
    """``FBNError`` where a file that will be written is ``source``, which is read, where two of
    ``written`` are the same file, or where one cannot be written."""
    named = [path for path in written if path is not None]
    for path in named:
        refuse_unwritable(path)
        # By whatever name: samefile sees through links of both kinds.
        if path.exists() and source.exists() and path.samefile(source):
            raise FBNError(f"{source} would overwrite itself; choose another name for the result.")
    if len({path.resolve() for path in named}) < len(named):
        raise FBNError(f"Two results would be written to {named[0]}; give each a name of its own.")


def refuse_unwritable(path: Path) -> None:
    """``FBNError`` where no file ``path`` can be written, said before the work for it."""
    if path.is_dir():
        raise FBNError(f"{path} is a directory; give the name of a file to write.")
    folder = next(each for each in path.absolute().parents if each.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise FBNError(f"{path} cannot be written: {folder} is no directory to write in.")


def sha256_of(path: Path) -> str:
    """Of a file's content, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while some := file.read(1 << 20):
            digest.update(some)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where all runs share what was measured: ``$FBN_CACHE_DIR``, else
    ``$XDG_CACHE_HOME/fbn_deploy``, else ``~/.cache/fbn_deploy``."""
    if folder := os.environ.get("FBN_CACHE_DIR"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "fbn_deploy"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends without an error.

    Raises ``FBNError`` when the directory cannot be written or the disk is full; then ``path``
    is what it was before. An ``OSError`` of another file in the block passes as it is.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name}.{_OWNER}-{os.getpid()}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _writing(path, temporary):
            yield temporary
        with _writing(path):
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path, only: Path | None = None) -> Iterator[None]:
    """Turns an ``OSError`` of the block into the ``FBNError`` that ``path`` cannot be written; with
    ``only``, one that names that file, or says without a name that the disk is full."""
    try:
        yield
    except OSError as error:
        names_it = str(error.filename) == str(only)
        is_full = error.filename is None and error.errno in _FULL
        if only is not None and not (names_it or is_full):
            raise
        raise FBNError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was changed there; "
            "free some space or choose another place (--run, --out)."
        ) from error


def remove_leftovers(directory: Path) -> None:
    """Removes temporary files of ``replacing`` that a killed process left in ``directory``: those
    of processes of this machine that are gone, and any that are older than a day."""
    for leftover in directory.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            owner, _, number = leftover.name.split(".")[-3].rpartition("-")
            gone = owner == _OWNER and number.isdigit() and not _runs(int(number))
            if gone or time.time() - leftover.stat().st_mtime > _OLD_S:
                leftover.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``content`` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as JSON, whole or not at all. NaN and infinities are our bug: refused.

    What stands for the bytes of a name that is not UTF-8 is read back as it was: JSON's own escape
    of it is what ``backslashreplace`` writes.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """The JSON value in ``path``; ``FBNError`` when it is missing, unreadable or damaged."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise FBNError(f"There is no file {path}.") from None
    except (OSError, ValueError) as error:
        raise FBNError(f"Cannot read {path}: {error}. It is damaged or not JSON.") from error
