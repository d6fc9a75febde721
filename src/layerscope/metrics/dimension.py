"""The intrinsic dimension of a layer's vectors, from distances to nearest neighbors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import scipy
import torch
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.estimates import Estimate, half_samples, of_halves
from layerscope.metrics.measure import SCALES
from layerscope.metrics.neighbors import Neighbors, in_half, nearest, require_listed
from layerscope.metrics.pairs import Closeness, Pairs

_FAR: Final = 2 * SCALES[-1]
_LISTED: Final = 4 * _FAR  # neighbors among which half the samples usually have theirs

Estimator = Callable[[Neighbors, int], float]


def dimensions(pairs: Pairs) -> dict[str, Estimate | UndefinedError]:
    """Return every estimate of one layer, by the names of the measures; where undefined, the reason."""
    estimators: dict[str, tuple[Estimator, int]] = {
        "two_nn": (lambda lists, _: two_nn(lists), 1),
        "levina_bickel_k20": (levina_bickel, 20),
    }
    estimators |= {f"gride_n{scale}": (gride, scale) for scale in SCALES}
    try:
        lists = nearest(pairs, min(_LISTED, pairs.n - 1), Closeness.EUCLIDEAN)
    except UndefinedError as error:
        return dict.fromkeys(estimators, error)
    halves = [_inside(lists, half, pairs.vectors) for half in half_samples(pairs.n)]
    return {name: _estimate(lists, halves, *each) for name, each in estimators.items()}


def _estimate(
    lists: Neighbors, halves: list[Neighbors], estimator: Estimator, size: int
) -> Estimate | UndefinedError:
    """Return an estimate by neighbors up to a number, in halves by those that are equally far."""
    try:
        value = estimator(lists, size)
    except UndefinedError as error:
        return error
    try:
        found = [estimator(half, in_half(0, size, 4)) for half in halves]
    except UndefinedError:
        found = []
    return of_halves(value, found, lists.n, log=True)


def _inside(lists: Neighbors, half: Tensor, vectors: Tensor) -> Neighbors:
    """Return the neighbors of a half of the samples in that half."""
    n, k = lists.n, min(_FAR, len(half) - 1)
    members = torch.zeros(n, dtype=torch.bool).index_fill_(0, half, value=True)
    own = lists.indices[half]
    inside = members[own]
    counted = inside.cumsum(1)
    if bool((counted[:, -1] < k).any()):  # all neighbors of a sample are in the other half
        return nearest(Pairs(vectors[half]), k, lists.kind)
    chosen = inside & (counted <= k)
    numbers = torch.empty(n, dtype=torch.int64).index_copy_(0, half, torch.arange(len(half)))
    distances = lists.distances[half][chosen].view(len(half), k)
    return Neighbors(numbers[own[chosen]].view(len(half), k), distances, lists.kind)


def two_nn(neighbors: Neighbors) -> float:
    """Intrinsic dimension by the ratio of the two nearest distances, maximum likelihood.

    `(N - 1) / sum ln(r_2 / r_1)`; error about d / sqrt(N), too low in high dimension. Samples with
    a duplicate are left out. Facco, d'Errico, Rodriguez, Laio 2017.

    Raises:
        UndefinedError: more than 5 % of the ratios are exactly 1, as on a lattice.
    """
    logs = _log_ratios(neighbors, 1, 2)
    return float((len(logs) - 1) / logs.sum())


def gride(neighbors: Neighbors, near: int = 2) -> float:
    """Intrinsic dimension by the distances of neighbors `near` and `2 near`, maximum likelihood.

    The larger `near`, the larger the scale that it looks at; 1 is TwoNN. Maximizes
    `(N - 1) ln d + (n_2 - n_1 - 1) sum ln(mu^d - 1) - ((n_2 - 1) d + 1) sum ln mu`, where the paper
    has N: with N - 1, as scikit-dimension has it, scale 1 is the unbiased TwoNN.
    Denti, Doimo, Laio, Mira 2022.
    """
    far = 2 * near
    logs = _log_ratios(neighbors, near, far)
    n = len(logs)

    def terms(d: float) -> Tensor:
        """Derivative of every sample's log-likelihood."""
        return (
            (1 - 1 / n) / d + (far - near - 1) * logs / -torch.expm1(-d * logs) - (far - 1) * logs
        )

    logs = logs.clamp(min=torch.finfo(logs.dtype).tiny)
    root = scipy.optimize.brentq
    value: float = root(lambda d: float(terms(d).mean()), 1e-6, 1e6, xtol=1e-12, rtol=1e-14)
    return value


def levina_bickel(neighbors: Neighbors, k: int = 20) -> float:
    """Intrinsic dimension from the distances of k neighbors, maximum likelihood.

    `1 / mean_i[1 / (k - 1) sum_j ln(T_k / T_j)]`: Levina, Bickel 2005, averaged as MacKay and
    Ghahramani 2005 do. Samples with a duplicate are left out.
    """
    distances = _euclidean(neighbors, k)[:, :k]
    kept = distances[:, 0] > 0
    logs = distances[kept].log()
    inverse = (logs[:, -1:] - logs[:, :-1]).mean(1)
    if not inverse.numel() or not bool(inverse.mean() > 0):
        raise UndefinedError("all neighbors are equally far, so distances say nothing of dimension")
    return float(1 / inverse.mean())


def _euclidean(neighbors: Neighbors, k: int) -> Tensor:
    if neighbors.kind is not Closeness.EUCLIDEAN:
        raise InputError(f"intrinsic dimension needs Euclidean neighbors, got {neighbors.kind}")
    require_listed(k, neighbors.distances.shape[1])
    return neighbors.distances


def _log_ratios(neighbors: Neighbors, near: int, far: int) -> Tensor:
    """Return ln(r_far / r_near) of the samples (kept,) without a duplicate."""
    distances = _euclidean(neighbors, far)
    chosen = distances[distances[:, near - 1] > 0]
    if len(chosen) < 2:
        raise UndefinedError("needs at least 2 samples that are not duplicates")
    logs = (chosen[:, far - 1] / chosen[:, near - 1]).log()
    # Equal up to the rounding of float32: such ties are a lattice's, not those of a continuum.
    tied = float((logs < 1e-6).double().mean())
    if tied > 0.05:
        raise UndefinedError(
            f"{tied:.0%} of the samples have neighbors {near} and {far} equally far: "
            "lattice-like or quantized data has no dimension by distance ratios"
        )
    return logs
