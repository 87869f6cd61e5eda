"""Expressivity as the number of linear regions that tell images apart (FBN-NAS, section 5.3).

NASWOT (Mellor et al. 2021, equation 2): s = log |K|, K the kernel of binary activation codes, here
on the fair supernet's path and with its trained BatchNorms.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._codes import log_determinant
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def regions(candidate: Candidate) -> float:
    """log |K|; −∞ when two images have the same code."""
    kernel = candidate.observation.code_kernel
    if kernel is None:
        return float("nan")  # the network has no activation module to read codes from
    return log_determinant(kernel)


INDICATOR = Indicator(
    "expressivity-regions",
    "log-determinant of the kernel of activation codes (NASWOT)",
    regions,
    needs=frozenset({Need.CODES}),
)
