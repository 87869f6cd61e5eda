"""Numbers as people read them, with their units behind a space that no line ends at."""

from __future__ import annotations

import math

from fbn_deploy.progress import duration

NONE = "–"
SPACE = "\N{NO-BREAK SPACE}"
_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def digits(value: float | None, significant: int = 4) -> str:
    """To so many significant digits, without exponent where that is short."""
    if value is None or not math.isfinite(value):
        return NONE
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return powered(value, significant)
    places = significant - 1 - (math.floor(math.log10(abs(value))) if value else 0)
    return f"{value:.{max(0, places)}f}".replace("-", "−") if value else "0"


def plain(value: float) -> str:
    """All digits that were said of it: ``2``, ``1.203``."""
    return f"{value:.10g}"


def powered(value: float, significant: int = 2) -> str:
    """``5.4·10⁻⁷``."""
    mantissa, _, power = f"{value:.{significant - 1}e}".partition("e")
    return f"{mantissa}·10{str(int(power)).translate(_RAISED)}".replace("-", "−")


def milliseconds(value: float | None) -> str:
    """``1.166 ms``."""
    return NONE if value is None or not math.isfinite(value) else f"{digits(value)}{SPACE}ms"


def count(value: float | None) -> str:
    """``32.2 M``; below a thousand all of it."""
    if value is None or not math.isfinite(value):
        return NONE
    for scale, suffix in _SUFFIXES:
        if abs(value) >= scale:
            return f"{digits(value / scale, 3)}{SPACE}{suffix}"
    return f"{value:g}"


def large(value: float) -> str:
    """A number of things with all its digits, or as a power of ten."""
    return f"{value:,.0f}" if value < 1e9 else powered(value)


def percent(share: float | None, places: int = 2) -> str:
    """``99.72 %`` of a share between 0 and 1."""
    if share is None or not math.isfinite(share):
        return NONE
    return f"{100 * share:.{places}f}{SPACE}%"


def speedup(factor: float) -> str:
    """``1.8 times as fast as``, ``3.1 times as slow as``; of a speed as a multiple of another."""
    if factor >= 1 or factor <= 0:
        return f"{digits(factor, 3)} times as fast as"
    return f"{digits(1 / factor, 3)} times as slow as"


def points(share: float) -> str:
    """A difference of accuracies in points, with its sign."""
    return f"{100 * share:+.2f}".replace("-", "−") if round(100 * share, 2) else "±0.00"


def relative(error: float | None) -> str:
    """A relative error: ``5.4·10⁻⁷``."""
    if error is None or not math.isfinite(error):
        return NONE
    return powered(error) if error else "0"


def size(num_bytes: int) -> str:
    """``2.71 MB`` (10⁶ bytes)."""
    if num_bytes < 1000:
        return f"{num_bytes}{SPACE}B"
    scale, suffix = next((s, n) for s, n in _SUFFIXES if num_bytes >= s)
    return f"{digits(num_bytes / scale, 3)}{SPACE}{suffix}B"


def seconds(value: float | None) -> str:
    """``3 min 20 s``."""
    if value is None or not math.isfinite(value):
        return NONE
    return duration(value) if value >= 0.05 else f"{1000 * value:.0f} ms"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 candidate``, ``3 candidates``; ``many`` where it is not ``one`` and an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
