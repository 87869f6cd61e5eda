"""Expressivity as the number of directions that normalised features take.

The effective rank (Roy and Vetterli 2007) of features is exp(H), H = −Σ p log p the entropy of the
eigenvalues λ of the correlations between their channels, p = λ / Σλ: C when all C channels are
uncorrelated, 1 when they repeat one another. A path's score is the sum over its BatchNorms of
exp(H) / C. AZ-NAS (Lee and Ham 2024) sums H over blocks; behind BatchNorm, scale is no matter, and
behind fair BatchNorm every op counts: a pooling or an identity adds what it keeps apart.
"""

from __future__ import annotations

from fbn_deploy.indicators._candidate import Candidate
from fbn_deploy.indicators._needs import Need
from fbn_deploy.indicators._protocol import Indicator


def effective_rank(candidate: Candidate) -> float:
    """Σ over BatchNorms of exp(H) / C, each from 1/C to 1; one that does not vary adds nothing."""
    total = 0.0
    for norm in candidate.observation.norms:
        if norm.spectrum is not None:
            p = norm.spectrum / norm.spectrum.sum()
            entropy = -(p * p.clamp(min=1e-12).log()).sum()
            total += float(entropy.exp()) / len(p)
    return total


INDICATOR = Indicator(
    "expressivity-rank",
    "effective rank of normalised features, summed over BatchNorms",
    effective_rank,
    needs=frozenset({Need.SPECTRA}),
)
