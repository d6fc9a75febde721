"""Limits for a mean over texts, and which layers cannot be told from the best one.

Both resample the contributions of texts: numbers whose mean is the value (see
`metrics.spectrum.Estimate`). A text left undefined is NaN and takes no part.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import InputError

Floats = NDArray[np.float64]

BLOCK = 4_000_000  # resampling weights that exist at a time: 32 MB


def bootstrap_limits(
    contributions: Floats, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Return the percentile bootstrap limits of the mean over texts.

    One matrix of multinomial weights serves every row, so what is compared between layers or
    measures was resampled from the same texts.

    Args:
        contributions: (..., text) float64, NaN where undefined.
        seed: of the weights; the same seed and number of texts give the same weights.
        resamples: number of resampled means.
        level: share of them between the limits.

    Returns:
        Lower and upper limits, each (...), NaN where fewer than 2 texts are defined.
    """
    shape = contributions.shape[:-1]
    rows = contributions.reshape(math.prod(shape), contributions.shape[-1])
    means = resampled_means(rows, seed, resamples)
    tail = (1 - level) / 2
    means[(~np.isnan(rows)).sum(-1) < 2] = np.nan
    low, high = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    known = ~np.isnan(means).all(-1)
    if known.any():
        low[known], high[known] = np.nanquantile(means[known], [tail, 1 - tail], axis=-1)
    return low.reshape(shape), high.reshape(shape)


def within_noise(
    contributions: Floats,
    best_index: int,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> NDArray[np.bool_]:
    """Return which layers cannot be told from the best one on these texts.

    Those whose paired difference from the best layer's mean has a bootstrap interval that contains
    0, and the best layer itself. A difference uses the texts that are defined in both layers; where
    there are fewer than 2, nothing tells the layers apart and the answer is True, except that a
    layer without any defined text is False.

    Args:
        contributions: (layer, text) float64, NaN where undefined.
        best_index: the layer to compare with.
        seed: of the resampling weights.
        resamples: number of resampled differences.
        level: confidence of the interval.

    Returns:
        (layer,) bool.
    """
    if not -len(contributions) <= best_index < len(contributions):
        raise InputError(f"layer {best_index} is not among the {len(contributions)} given")
    differences = contributions - contributions[best_index]
    low, high = bootstrap_limits(differences, seed, resamples, level)
    apart = (low > 0) | (high < 0)
    within: NDArray[np.bool_] = ~apart & (~np.isnan(contributions)).any(-1)
    within[best_index] = True
    return within


def simultaneous_lows(
    contributions: Floats,
    reference: int,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Floats:
    """Return lower limits of the gains over one row that hold for all rows together.

    The best of many rows looks better than it is. These limits allow for that: the gain of row k is
    at least `gain_k - q s_k`, where s_k is the bootstrap standard error of its paired difference and
    q the quantile of the greatest standardized deviation over all rows (Romano, Wolf 2005, Stepwise
    multiple testing as formalized data snooping). If no row is better than the reference, some limit
    is above 0 with a chance of at most (1 - level) / 2, whichever row is then chosen.

    Args:
        contributions: (row, text) float64, NaN where undefined.
        reference: the row to compare with; its own limit is 0.
        seed: of the resampling weights.
        resamples: number of resampled differences.
        level: share of both tails that lies between the limits, of which this is the lower.

    Returns:
        (row,) float64; NaN where fewer than 2 texts are defined in both rows.
    """
    differences = contributions - contributions[reference]
    counts = (~np.isnan(differences)).sum(-1)
    gains: Floats = np.nansum(differences, -1) / np.where(counts, counts, np.nan)
    deviations = resampled_means(differences, seed, resamples) - gains[:, None]
    deviations[counts < 2] = np.nan
    errors = np.full(len(gains), np.nan)
    known = ~np.isnan(deviations).all(-1)
    errors[known] = np.nanstd(deviations[known], -1)
    varies = known & (errors > 0)
    if not varies.any():
        return gains + np.where(known, 0.0, np.nan)
    greatest = np.nanmax(deviations[varies] / errors[varies, None], 0)
    lows: Floats = gains - np.nanquantile(greatest, (1 + level) / 2) * errors
    return lows


def resampled_means(rows: Floats, seed: int, resamples: int) -> Floats:
    """Return the mean of every row (row, text) under every resampling, (row, resample).

    The weights depend on the seed and the number of texts alone. NaN is a text left undefined; a
    resample without any defined text gives NaN.
    """
    if not rows.shape[-1]:
        return np.full((len(rows), resamples), np.nan)
    defined = ~np.isnan(rows)
    filled = np.where(defined, rows, 0.0)
    complete = bool(defined.all())
    generator = np.random.default_rng(seed)
    texts = rows.shape[-1]
    means = np.empty((len(rows), resamples))
    block = max(1, BLOCK // texts)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        weights = generator.multinomial(texts, np.full(texts, 1 / texts), size).astype(float)
        counts = texts if complete else defined @ weights.T
        with np.errstate(invalid="ignore"):  # a resample may miss every defined text: NaN
            means[:, start : start + size] = filled @ weights.T / counts
    return means
