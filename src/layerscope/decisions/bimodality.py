"""Hartigan's dip: whether the texts fall into two groups at a layer (figure 4 of Skean et al. 2024).

The algorithm is that of Hartigan and Hartigan (1985), The dip test of unimodality, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from layerscope.decisions.dependence import holm
from layerscope.errors import UndefinedError, unknown_name
from layerscope.results.resampling import p_value
from layerscope.results.table import BLOCK

Floats = NDArray[np.float64]

FEWEST: Final = 20  # values: below, no sample is far from unimodal
DRAWS: Final = 2000
COLUMNS: Final = ("layer", "convention", "n", "dip", "p", "p_corrected")


@dataclass(frozen=True)
class Dip:
    """The dip of a sample.

    Attributes:
        statistic: the dip, from 1 / (2 n) to 1/4.
        p: share of uniform samples of the same size with a dip at least as large.
        n: size of the sample.
    """

    statistic: float
    p: float
    n: int


def dip(sample: ArrayLike) -> float:
    """Return the largest distance of a sample's distribution from the nearest unimodal one.

    1 / (2 n), which is returned at least, for evenly spaced values; 1/4 for two points of equal weight.
    Unchanged by shift and scale.

    >>> dip([0] * 50 + [1] * 50), dip(range(10))
    (0.25, 0.05)

    Raises:
        UndefinedError: no values, or not finite ones.
    """
    values = np.asarray(sample, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise UndefinedError("a dip needs one or more finite numbers in one dimension.")
    x, counts = np.unique(values, return_counts=True)
    high = np.cumsum(counts) / len(values)  # of the distribution function, at and just before x
    low = high - counts / len(values)
    convex, concave = _hull(x, low), _hull(-x[::-1], -high[::-1])
    last = len(x) - 1
    least, start, end = 1 / len(values), 0, last
    while start < end:  # at a single value the distribution may jump: the mode
        below = _walk(convex, end, start)[::-1]
        above = last - _walk(concave, last - start, last - end)[::-1][::-1]
        inside = slice(start, end + 1)
        minorant = np.interp(x[inside], x[below], low[below])
        majorant = np.interp(x[inside], x[above], high[above])
        at_below = majorant[below - start] - low[below]
        at_above = high[above] - minorant[above - start]
        if max(at_below.max(), at_above.max()) <= least:
            break
        if at_below.max() > at_above.max():
            from_ = below[at_below.argmax()]
            to = above[above >= from_].min()
        else:
            to = above[at_above.argmax()]
            from_ = below[below <= to].max()
        left = (high[inside] - minorant)[: from_ - start]
        right = (majorant - low[inside])[to - start + 1 :]
        least = max(least, left.max(initial=0), right.max(initial=0))
        start, end = from_, to
    return float(least / 2)


def dip_test(sample: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Dip:
    """Return the dip with its p: of all unimodal distributions the uniform has the largest dips.

    Raises:
        UndefinedError: see `dip`.
    """
    found, n = dip(sample), np.size(sample)
    # What is equal but for rounding counts as reached.
    reached = int((_null_of(n, draws, seed) >= found - 1e-12).sum())
    return Dip(found, p_value(reached, draws), n)


@cache
def _null_of(n: int, draws: int, seed: int) -> Floats:
    """Return the dips of uniform samples."""
    generator = np.random.default_rng(seed)
    return np.array([dip(generator.random(n)) for _ in range(draws)])


def bimodality(contributions: pd.DataFrame, metric: str = "prompt_entropy") -> pd.DataFrame:
    """Test at each layer whether a measure of single texts has two modes over the texts.

    Args:
        contributions: the per-text numbers of a scan.
        metric: a measure that has a value for each text, such as prompt_entropy or curvature.

    Returns:
        For each layer and convention (`COLUMNS`) the number of texts, the dip, its p by simulation, and
        p corrected over the layers (Holm). Layers with fewer than 20 texts are left out.

    Raises:
        InputError: the scan has no per-text numbers of that measure.
    """
    own = contributions[(contributions["stage"] == BLOCK) & (contributions["text"] >= 0)]
    if metric not in set(own["metric"]):
        raise unknown_name("measure of these texts", metric, sorted(set(map(str, own["metric"]))))
    own = own[own["metric"] == metric]
    rows = []
    for convention in own["convention"].astype("string").fillna("").unique():
        same = own[own["convention"].astype("string").fillna("") == convention]
        values = {layer: group["value"].to_numpy() for layer, group in same.groupby("layer")}
        tested = {layer: dip_test(each) for layer, each in values.items() if len(each) >= FEWEST}
        corrected = holm([each.p for each in tested.values()])
        for (layer, each), p in zip(tested.items(), corrected, strict=True):
            rows.append((layer, convention, each.n, each.statistic, each.p, p))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _hull(x: Floats, y: Floats) -> list[int]:
    """For each point, the one before it on the lower convex hull of the points up to it."""
    xs, ys = x.tolist(), y.tolist()
    before: list[int] = [0]
    for j in range(1, len(xs)):
        i = j - 1
        # i lies above the line from the point before it to j, so it is not on the hull.
        while i and (ys[i] - ys[before[i]]) * (xs[j] - xs[before[i]]) >= (ys[j] - ys[before[i]]) * (
            xs[i] - xs[before[i]]
        ):
            i = before[i]
        before.append(i)
    return before


def _walk(before: list[int], start: int, end: int) -> NDArray[np.intp]:
    """Return the points of a hull from one down to an earlier one of them."""
    found = [start]
    while found[-1] > end:
        found.append(before[found[-1]])
    return np.array(found)
