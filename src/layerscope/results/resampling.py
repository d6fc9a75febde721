"""Bootstrap limits of a mean over texts.

The contributions of texts are resampled: numbers whose mean is the value (see
`metrics.estimates.Estimate`). An undefined contribution is NaN and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import InputError, UndefinedError

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


def sign_flip_lows(
    contributions: Floats,
    reference: int,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Floats:
    """Return lower limits of the gains over one row, as `simultaneous_lows`, that hold for few texts.

    Where no row is better, each text's difference is as likely positive as negative. All signs are drawn
    anew, those of a text for all rows together, and the limit of a row is its gain less the quantile of
    the greatest standardized sum of all rows (Westfall, Young 1993). A bootstrap
    of 50 right or wrong answers finds gains by chance too often.

    Args:
        contributions: (row, text) float64, none undefined.
        reference: the row to compare with; its own limit is 0.
        seed: of the signs.
        resamples: number of draws.
        level: share of both tails that lies between the limits, of which this is the lower.
    """
    differences = contributions - contributions[reference]
    texts = differences.shape[1]
    errors: Floats = np.sqrt(np.square(differences).sum(1)) / texts
    varies = errors > 0
    gains: Floats = differences.mean(1)
    if not varies.any():
        return gains
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (texts, resamples))
    greatest = ((differences[varies] @ signs) / texts / errors[varies, None]).max(0)
    lows: Floats = gains - np.quantile(greatest, (1 + level) / 2) * errors
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


def percentile_limits(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return the lower and upper percentile limits of resampled values (draw,); NaN is left out."""
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[str],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return percentile limits of the median of values when whole clusters are resampled.

    All values of a cluster are drawn together: the tasks of one model are not independent. The same
    seed and number of clusters draw the same clusters, so measures are compared on equal terms.

    Args:
        values: (unit,)
        clusters: the cluster of each unit.
        resamples: number of draws.
        seed: of the draws.
        level: share of the draws between the limits.

    Raises:
        UndefinedError: for fewer than 2 clusters.
    """
    numbers = np.asarray(values, dtype=float)
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    if count < 2:
        raise UndefinedError(f"an interval needs at least 2 to draw from, got {count}")
    order = np.argsort(numbers, kind="stable")
    generator = np.random.default_rng(seed)
    medians = np.empty(resamples)
    block = max(1, BLOCK // len(numbers))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size)
        medians[start : start + size] = _weighted_medians(numbers[order], drawn[:, place[order]])
    return percentile_limits(medians, level)


def _weighted_medians(ascending: Floats, counts: NDArray[np.int64]) -> Floats:
    """Return the median of values (unit,), each repeated counts (draw, unit) times, (draw,)."""
    ranks = counts.cumsum(1)
    total = ranks[:, -1:]
    lower = (ranks > (total - 1) // 2).argmax(1)
    upper = (ranks > total // 2).argmax(1)
    medians: Floats = (ascending[lower] + ascending[upper]) / 2
    return medians


def p_value(reached: int, tried: int, *, complete: bool = False) -> float:
    """Return how likely chance reaches an observed value, from the number of draws that did.

    Args:
        reached: number of draws at least as extreme as the observation.
        tried: number of draws.
        complete: whether these are all possible draws, the observation included; otherwise it counts
            as one more, so that p is never 0.
    """
    return reached / tried if complete else (1 + reached) / (1 + tried)


@dataclass(frozen=True)
class Against:
    """A value compared with those of random draws.

    Attributes:
        value: the observed one.
        mean: of the draws.
        median: of the draws.
        low: their 10 % quantile.
        high: their 90 % quantile.
        p: see `p_value`: how likely a draw is at least as good.
        subsets: number of draws.
        exhaustive: whether these are all possible draws.
        lower: whether less is better.
    """

    value: float
    mean: float
    median: float
    low: float
    high: float
    p: float
    subsets: int
    exhaustive: bool
    lower: bool = False

    @property
    def beats_random(self) -> bool:
        """Whether it is better than the mean of the draws."""
        return self.value < self.mean if self.lower else self.value > self.mean


def against(
    value: float, others: Sequence[float], *, exhaustive: bool, lower: bool = False
) -> Against:
    """Compare a value with those of random draws; `lower` says that less is better.

    >>> losses = [5, 1, 2, 9, 3]
    >>> pairs = [losses[a] + losses[b] for a in range(5) for b in range(a)]
    >>> found = against(1 + 2, pairs, exhaustive=True, lower=True)
    >>> found.mean, found.p
    (8.0, 0.1)
    """
    draws = np.asarray(others, dtype=np.float64)
    good = int((draws <= value).sum() if lower else (draws >= value).sum())
    return Against(
        value,
        float(draws.mean()),
        float(np.median(draws)),
        *percentile_limits(draws, 0.8),
        p_value(good, len(draws), complete=exhaustive),
        len(draws),
        exhaustive,
        lower,
    )
