"""Bootstrap limits of a mean over texts.

The contributions of texts are resampled: numbers whose mean is the value (see
`metrics.spectrum.Estimate`). An undefined contribution is NaN and is left out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

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
