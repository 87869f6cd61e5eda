"""What users catch: one class for a person's mistake, with the exit code that the CLI returns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FBNError(Exception):
    """A mistake of input or environment, said in one message: what was asked, what exists, what
    to do. The CLI prints it without a traceback and exits with ``exit_code``."""

    exit_code = 2


class NothingFitsError(FBNError):
    """No architecture meets the budget, where the message names the nearest one that was found; or
    the one network that was asked about does not."""

    exit_code = 3


def unknown(kind: str, asked: str, known: Iterable[str]) -> FBNError:
    """The error for a name that does not exist: ``No search space 'mobil'; there are: …``."""
    names = sorted(known)
    near = difflib.get_close_matches(asked, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return FBNError(f"No {kind} {asked!r}; there are: {', '.join(names) or 'none'}.{hint}")
