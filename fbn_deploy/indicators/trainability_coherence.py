"""Trainability as the agreement of images about the gradients that would train the BatchNorms.

Each image b adds g_bc to the gradient of β of channel c (``uncertainty_signal.py``). Where images
push into few common directions, a step for one serves the others; where they push everywhere, it
undoes what others gained ("gradient confusion", Sankararaman et al. 2020, which depth adds to and
identity paths take from). With p the eigenvalues over their sum of the correlations between the
rows g_b, of which at most C are not zero, and H = −Σ p log p,

    s = mean over BatchNorms of log C − H,

0 where the gradients take all C directions evenly, log C where they are alike.

Among good candidates it sorts; among all it does not, as gradients of poor ones are alike too.
"""

from __future__ import annotations

import math
from statistics import fmean

import torch

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def coherence(candidate: Candidate) -> float:
    """Mean of log C − H in nats; NaN if no BatchNorm has a gradient that differs by channel."""
    facts = [n.gradients for n in candidate.observation.norms if n.gradients is not None]
    found = [_coherence(each.per_image) for each in facts]
    known = [each for each in found if each is not None]
    return fmean(known) if known else float("nan")


def _coherence(per_image: torch.Tensor) -> float | None:
    """log C − H of g (B, C); None where no row varies. A row that does not correlates with none."""
    g = per_image.double()
    rows = g - g.mean(1, keepdim=True)
    rows = rows[rows.norm(dim=1) > 1e-12 * g.norm(dim=1)]
    if not rows.numel():
        return None
    unit = rows / rows.norm(dim=1, keepdim=True)
    # Both products have the same eigenvalues but for zeros.
    gram = unit.T @ unit if unit.shape[1] < len(unit) else unit @ unit.T
    p = torch.linalg.eigvalsh(gram).clamp(min=0) / len(unit)
    entropy = -(p * p.clamp(min=1e-12).log()).sum()
    return math.log(g.shape[1]) - float(entropy)


INDICATOR = Indicator(
    "trainability-coherence",
    "how alike the images' gradients of β are, mean over BatchNorms",
    coherence,
    needs=frozenset({Need.GRADIENTS}),
)
