"""Expressivity as the number of linear regions that tell images apart (FBN-NAS, section 5.3).

NASWOT (Mellor et al. 2021, equation 2): s = log |K|, K the kernel of binary activation codes, here
on the fair supernet's path and with its trained BatchNorms. Images of one code count once.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._codes import log_determinant
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def regions(candidate: Candidate) -> float:
    """log |K| of the images with distinct codes; NaN without activation modules."""
    kernel = candidate.observation.code_kernel
    if kernel is None:
        return float("nan")
    return log_determinant(kernel)


INDICATOR = Indicator(
    "expressivity-regions",
    "log-determinant of the kernel of activation codes (NASWOT)",
    regions,
    needs=frozenset({Need.CODES}),
)
