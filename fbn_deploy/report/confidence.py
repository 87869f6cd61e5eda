"""How sure a share is that was counted on so many images. Wilson 1927, with 95 % confidence:

(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)
"""

from __future__ import annotations

import math

_Z = 1.96  # 97.5 % quantile of the normal distribution


def interval(share: float, count: int) -> tuple[float, float]:
    """Where a share of 0 to 1 lies, if it was found on ``count`` things."""
    p, n, z = share, max(1, count), _Z
    middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return (middle - width) / scale, (middle + width) / scale
