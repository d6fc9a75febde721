"""Correlation of two curves over layers, and tests that respect the order of the layers.

Layers are not independent draws: two curves that merely drift over depth look associated. The null
distributions therefore keep the order of the layers: circular shifts and random walks. Curves are
plain arrays of one number per layer. The package dcor has the same coefficients (tests compare
them), but its import takes seconds for compilation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from layerscope.errors import InputError, UndefinedError
from layerscope.results.resampling import p_value

Floats = NDArray[np.float64]

FEWEST: Final = 4  # points: below, ranks say nothing and the bias correction divides by 0
NOTHING_LEFT: Final = 1e-9  # a residual this small relative to the whole is rounding
EQUAL: Final = 1e-12  # shifts of equal value differ in the order of their sums
BLOCK: Final = 4_000_000  # numbers that exist at a time: 32 MB


# --- coefficients ---------------------------------------------------------------------------------


def distance_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Return the distance correlation, 0 to 1, of the V-statistic (Szekely, Rizzo, Bakirov 2007).

    It is 0 only without any dependence, but biased upward: unrelated noise over 25 points gives 0.26
    to 0.43.

    >>> round(distance_correlation([-1, 0, 1], [1, 0, 1]), 6)  # 10 ** -1/4, where Pearson's r is 0
    0.562341

    Raises:
        UndefinedError: if either is the same everywhere, or not finite.
    """
    a, b = (_centered_distances(curve) for curve in _curves(x, y, 2))
    return math.sqrt(max(0.0, _cosine(a, b)))


def bias_corrected(x: ArrayLike, y: ArrayLike) -> float:
    """Return the bias-corrected squared distance correlation (Szekely, Rizzo 2014).

    Its mean is 0 where nothing depends, so that it may be negative; 1 at most.

    Raises:
        UndefinedError: for fewer than 4 points, or if either varies too little.
    """
    a, b = (_u_centered_distances(curve) for curve in _curves(x, y))
    if not a.any() or not b.any():
        raise UndefinedError("a curve differs at too few points for the bias correction")
    return _cosine(a, b)


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation, -1 to 1.

    Raises:
        UndefinedError: for fewer than 4 points, or if either is the same everywhere.
    """
    one, other = (_ranks(curve) for curve in _curves(x, y))
    return _cosine(one - one.mean(), other - other.mean())


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's tau-b, -1 to 1.

    Raises:
        UndefinedError: for fewer than 4 points, or if either is the same everywhere.
    """
    one, other = (np.sign(curve[:, None] - curve) for curve in _curves(x, y))
    return _cosine(one, other)


@dataclass(frozen=True)
class Partial:
    """A correlation of what covariates leave, and the p value it has if points are independent."""

    value: float
    p: float


def partial_correlation(x: ArrayLike, y: ArrayLike, covariates: ArrayLike) -> Partial:
    """Return the correlation of what is left of both after a linear fit on the covariates.

    Args:
        x: (point,)
        y: (point,)
        covariates: (point, covariate)

    Returns:
        The correlation, and its two-sided p from t with n - 2 - g degrees of freedom, g covariates.

    Raises:
        UndefinedError: for too few points, or where the covariates explain either completely.
    """
    x, y = _curves(x, y)
    columns = np.asarray(covariates, dtype=float).reshape(len(x), -1)
    freedom = len(x) - 2 - columns.shape[1]
    if freedom < 1:
        raise UndefinedError(f"{len(x)} points are too few for {columns.shape[1]} covariates")
    design = np.column_stack([np.ones(len(x)), columns])
    value = float(np.dot(*(_residual(curve, design) for curve in (x, y))))
    value = min(1.0, max(-1.0, value))
    t = math.inf if abs(value) == 1 else value * math.sqrt(freedom / (1 - value**2))
    return Partial(value, float(2 * scipy.stats.t.sf(abs(t), freedom)))


def partial_spearman(x: ArrayLike, y: ArrayLike, covariates: ArrayLike) -> Partial:
    """Return `partial_correlation` of the ranks of x and y, given covariates as they are.

    Raises:
        UndefinedError: as there; a curve that only rises or falls is its depth, and nothing is left.
    """
    one, other = (_ranks(curve) for curve in _curves(x, y))
    return partial_correlation(one, other, covariates)


def spearman_limits(rho: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the limits of a Spearman correlation over n independent units (Bonett, Wright 2000).

    For models, never for layers.

    >>> [round(limit, 2) for limit in spearman_limits(0.6, 31)]
    [0.28, 0.8]
    """
    if n < FEWEST:
        raise UndefinedError(f"expected at least {FEWEST} units for limits, got {n}")
    margin = scipy.stats.norm.ppf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    center = math.atanh(rho)
    return math.tanh(center - margin), math.tanh(center + margin)


def _curves(x: ArrayLike, y: ArrayLike, fewest: int = FEWEST) -> tuple[Floats, Floats]:
    """Return both as float64, checked."""
    one, other = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if one.ndim != 1 or one.shape != other.shape:
        raise InputError(
            f"expected two curves of one length, got shapes {one.shape} and {other.shape}."
        )
    if len(one) < fewest:
        raise UndefinedError(f"{len(one)} points are too few, {fewest} are needed")
    for curve in (one, other):
        if not np.isfinite(curve).all():
            raise UndefinedError("a curve holds values that are not finite")
        if curve.min() == curve.max():
            raise UndefinedError("a curve is the same at every point")
    return one, other


def _ranks(curve: Floats) -> Floats:
    """Return the ranks from 1, ties at their mean: for a few layers, faster than sorting."""
    above = curve[:, None] > curve
    ranks: Floats = (above.sum(1) + (curve[:, None] >= curve).sum(1) + 1) / 2
    return ranks


def _distances(curve: Floats) -> Floats:
    distances: Floats = np.abs(curve[..., :, None] - curve[..., None, :])
    return distances


def _centered_distances(curve: Floats) -> Floats:
    """Return the distances (..., point, point) without their row and column means."""
    distances = _distances(curve)
    rows = distances.mean(-1, keepdims=True)
    centered: Floats = distances - rows - rows.swapaxes(-1, -2) + rows.mean(-2, keepdims=True)
    return centered


def _u_centered_distances(curve: Floats) -> Floats:
    """Return the distances, U-centered, with an empty diagonal; rounding is made a true 0."""
    n = len(curve)
    distances = _distances(curve)
    rows = distances.sum(1)
    centered: Floats = distances - (rows[:, None] + rows) / (n - 2)
    centered += rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centered, 0)
    centered[np.abs(centered) < EQUAL * distances.max()] = 0
    return centered


def _cosine(a: Floats, b: Floats) -> float:
    return float(np.vdot(a, b) / math.sqrt(np.vdot(a, a) * np.vdot(b, b)))


def _residual(curve: Floats, design: Floats) -> Floats:
    """Return what the columns of the design leave of a curve, of length 1."""
    rest = curve - design @ np.linalg.lstsq(design, curve, rcond=None)[0]
    length = float(np.linalg.norm(rest))
    if length < NOTHING_LEFT * np.linalg.norm(curve - curve.mean()):
        raise UndefinedError("the covariates explain a curve completely")
    return rest / length


# --- nulls that keep the order of the layers --------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """Two curves of one model on one task.

    Attributes:
        cluster: the model. All units of a cluster share the draws of a null: the tasks of one model
            rise and fall together, and separate draws would make noise look significant.
        layers: ascending layers, where both curves are defined.
        measure: (layer,) the curve that the null replaces.
        score: (layer,) the curve that stays fixed.
    """

    cluster: str
    layers: tuple[int, ...]
    measure: Floats
    score: Floats

    @cached_property
    def shifts(self) -> Floats:
        """The distance correlations with the measure shifted circularly by 0, 1, ... layers.

        Raises:
            UndefinedError: as `distance_correlation`.
        """
        a, b = (_centered_distances(curve) for curve in _curves(self.score, self.measure, 2))
        n = len(a)
        places = (np.arange(n) - np.arange(n)[:, None]) % n
        turned = b[places[:, :, None], places[:, None, :]]
        squares = np.einsum("ij,sij->s", a, turned) / math.sqrt(np.vdot(a, a) * np.vdot(b, b))
        found: Floats = np.sqrt(np.maximum(squares, 0))
        return found


@dataclass(frozen=True)
class ShiftTest:
    """A p value by circular shifts, and the smallest that these layers allow."""

    p: float
    smallest: float


def shift_test(units: Sequence[Unit], *, resamples: int = 10_000, seed: int = 0) -> ShiftTest:
    """Return how often circularly shifted measures correlate as closely with the scores.

    The statistic is the median over units of the distance correlation. All combinations of the
    clusters' shifts are tried where they are no more than `resamples`, else that many random ones. A
    cluster of n layers has n shifts, so that one model alone reaches no p below 1 / n.

    Args:
        units: at least one.
        resamples: most combinations tried.
        seed: of the random ones.

    Raises:
        UndefinedError: as `distance_correlation`.
    """
    lengths = _lengths(units)
    place = {cluster: index for index, cluster in enumerate(lengths)}
    sizes = list(lengths.values())
    combinations = math.prod(sizes)
    complete = combinations <= resamples
    draws = (
        np.indices(sizes).reshape(len(sizes), -1).T
        if complete
        else np.random.default_rng(seed).integers(sizes, size=(resamples, len(sizes)))
    )
    observed = np.median([unit.shifts[0] for unit in units])
    count = 0
    for start, stop in _parts(len(draws), len(units)):
        values = [
            # A unit with fewer layers than its cluster is shifted by the same share of them.
            unit.shifts[
                draws[start:stop, place[unit.cluster]] * len(unit.layers) // lengths[unit.cluster]
            ]
            for unit in units
        ]
        count += int((np.median(values, axis=0) >= observed - EQUAL).sum())
    smallest = p_value(int(complete), len(draws), complete=complete)
    return ShiftTest(p_value(count, len(draws), complete=complete), smallest)


def walk_null(units: Sequence[Unit], *, draws: int = 10_000, seed: int = 0) -> Floats:
    """Return the statistic (draw,) with the measures replaced by random walks over the layers.

    A walk of independent normal steps is the simplest curve that drifts over depth independently of
    the scores. The statistic is that of `shift_test`.

    Args:
        units: at least one; their measures are not used.
        draws: number of walks for each cluster.
        seed: of the walks.

    Raises:
        UndefinedError: a score is the same everywhere.
    """
    depths: dict[str, int] = {}
    for unit in units:
        depths[unit.cluster] = max(depths.get(unit.cluster, 0), 1 + max(unit.layers))
    streams = np.random.default_rng(seed).spawn(len(depths))
    generators = dict(zip(depths, streams, strict=True))
    found = []
    for start, stop in _parts(draws, max(len(units), *(depth**2 for depth in depths.values()))):
        values = []
        for cluster, depth in depths.items():
            walks = generators[cluster].standard_normal((stop - start, depth)).cumsum(1)
            values += _walk_correlations([u for u in units if u.cluster == cluster], walks)
        found.append(np.median(values, axis=0))
    return np.concatenate(found)


def _walk_correlations(units: Sequence[Unit], walks: Floats) -> list[Floats]:
    """Return the distance correlation of each unit's score with each of the walks (draw, layer)."""
    correlations = []
    for layers, group in groupby(sorted(units, key=_layers), key=_layers):
        distances, lengths = _flat_distances(walks[:, list(layers)])
        for unit in group:
            score, length = _flat_distances(_curves(unit.score, unit.score, 2)[0][None])
            squares = distances @ score[0] / (lengths * length[0])
            correlations.append(np.sqrt(np.maximum(squares, 0)))
    return correlations


def _flat_distances(curves: Floats) -> tuple[Floats, Floats]:
    """Return the centered distances of curves (curve, point) as rows, and their lengths."""
    rows = _centered_distances(curves).reshape(len(curves), -1)
    return rows, np.linalg.norm(rows, axis=1)


def _layers(unit: Unit) -> tuple[int, ...]:
    return unit.layers


def _lengths(units: Sequence[Unit]) -> dict[str, int]:
    """Return the most layers that a unit of each cluster has."""
    lengths: dict[str, int] = {}
    for unit in units:
        lengths[unit.cluster] = max(lengths.get(unit.cluster, 0), len(unit.layers))
    return lengths


def _parts(total: int, width: int) -> list[tuple[int, int]]:
    """Return (start, stop) of parts of all rows that hold no more than `BLOCK` numbers each."""
    size = max(1, BLOCK // width)
    return [(start, min(start + size, total)) for start in range(0, total, size)]


# --- signs and families -------------------------------------------------------------------------


@dataclass(frozen=True)
class SignTest:
    """The share of values above 0, zeros left out, and its two-sided p if both signs are alike."""

    share: float
    p: float


def sign_test(values: ArrayLike) -> SignTest:
    """Test whether values have one sign more often than by chance.

    Raises:
        UndefinedError: if no value differs from 0.
    """
    numbers = np.asarray(values, dtype=float)
    positive, negative = int((numbers > 0).sum()), int((numbers < 0).sum())
    if positive + negative == 0:
        raise UndefinedError("no value differs from 0")
    test = scipy.stats.binomtest(positive, positive + negative)
    return SignTest(positive / (positive + negative), float(test.pvalue))


def holm(p: ArrayLike) -> Floats:
    """Return p values adjusted for a handful of planned tests (Holm 1979), in the order given.

    >>> holm([0.01, 0.02, 0.03, 0.04]).round(2).tolist()
    [0.04, 0.06, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return p values adjusted for a screen of many tests (Benjamini, Hochberg 1995).

    >>> benjamini_hochberg([0.01, 0.02, 0.03, 0.04]).round(2).tolist()
    [0.04, 0.04, 0.04, 0.04]
    """
    values = np.asarray(p, dtype=float)
    if not len(values):
        return values
    adjusted: Floats = scipy.stats.false_discovery_control(values)
    return adjusted
