"""The range that loses least information (Kullback-Leibler), as TensorRT's calibrators chose it.

Migacz 2017 (8-bit inference with TensorRT). For i = G … 2048 the reference P is the first i of
2048 bins, with everything above added to the last of them; Q has the same bins, merged into G
groups and spread evenly over the group's bins that are not empty. G is how many magnitudes the
type holds: 128 in int8, as there, and 256 in uint8 that begins at 0. Chosen is the i with the least

    KL(P ‖ Q) = Σ_j P_j log(P_j / Q_j)        P_j = p_j / N     Q_j = (S_g / n_g) / N_i

where S_g is the sum and n_g the number of non-empty bins of j's group g, N all values and N_i
those in the first i bins. Where bin i is empty, Q would be 0 where P holds the outliers, infinitely
far apart; one value is put there then. Few values give 0 for many i, up to rounding; the widest of
equals is taken, which clips least. Summed over groups this needs only running sums of p,
p log p and the non-empty bins, so that all i are computed at once.

It takes a spike for information: where a channel hardly varies, one bin holds its values, and a
group of it with others diverges more than clipping does. Behind the first depthwise layer of a
MobileNet (``benchmarks/precision.py``) the least divergence lay at 23 % of the range, with 12 % of
the values above; the network lost 14 points by it, where ``mse`` lost none.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from fbn_deploy.export.histogram import Histogram

SAME = 1e-9
"""Divergences that differ by less are equal: the running sums round at 1e-14 or so."""


def amax(histogram: Histogram) -> float:
    """The upper edge of the chosen i-th bin; amax where there is nothing to compare."""
    p = histogram.counts
    if np.count_nonzero(p) < 2:
        return histogram.amax
    bins = len(p)
    groups = histogram.levels + 1
    i = np.arange(groups, bins + 1)
    edges = (i[:, None] * np.arange(groups + 1)) // groups  # of the groups, one row for each i
    total, filled, p_log_p = (
        np.concatenate([[0.0], np.cumsum(each)]) for each in (p, p > 0, xlogy(p, p))
    )
    group_sum = np.diff(total[edges], axis=1)
    group_filled = np.diff(filled[edges], axis=1)
    n, n_inside = total[-1], total[i]
    outliers, last = n - n_inside, p[i - 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q = np.log(group_sum / group_filled)
        # Σ p log p with the outliers in the last bin, less Σ p log q, both unnormalised
        p_sum = p_log_p[i] - xlogy(last, last) + xlogy(last + outliers, last + outliers)
        q_sum = np.where(group_sum > 0, group_sum * log_q, 0.0).sum(axis=1)
        log_q_last = np.where(last > 0, log_q[:, -1], 0.0)  # log 1
        q_sum += np.where(outliers > 0, outliers * log_q_last, 0.0)
        divergence = (p_sum - q_sum) / n - np.log(n / n_inside)
    divergence[n_inside == 0] = np.inf
    best = np.flatnonzero(divergence <= divergence.min() + SAME)[-1]
    return float(histogram.amax * i[best] / bins)
