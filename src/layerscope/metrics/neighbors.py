"""Measures on nearest neighbors: what a layer keeps of another's, and the intrinsic dimension.

Neighbor lists are found once per layer, exactly and in blocks of rows, and every measure takes
them as an argument. Ties go to the lower sample index, in all layers alike.

The Neighborhood Retention Score (NRS) is named by Jiang, Yang, Tam 2026 ("Layer-wise Representation
Dynamics"), of which only the abstract could be read. That it is the neighborhood overlap of Doimo
et al. 2020, with k = 10 and the cosine of uncentered vectors, is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.inputs import unit_rows
from layerscope.metrics.pairs import Closeness, Pairs, blocks


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest other samples of every sample.

    Attributes:
        indices: (sample, k) int64, nearest first; ties by ascending index.
        distances: (sample, k) float64, Euclidean; for cosines that of the unit vectors.
        kind: by what they are nearest.
    """

    indices: Tensor
    distances: Tensor
    kind: Closeness

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.indices)


def nearest(pairs: Pairs, k: int, kind: Closeness = Closeness.COSINE) -> Neighbors:
    """Return the k nearest other samples of every sample, exactly.

    Raises:
        UndefinedError: there are fewer than k other samples, or distances mean nothing.
    """
    if not 1 <= k <= pairs.n - 1:
        raise UndefinedError(f"{k} neighbors need at least {k + 1} samples, got {pairs.n}")
    found = [_nearest_in_block(pairs, k, kind, start, stop) for start, stop in pairs.ranges()]
    squared = torch.cat([block for _, block in found])
    if kind is not Closeness.EUCLIDEAN:
        squared = 2 * squared  # of unit vectors, from 1 less the cosine
    return Neighbors(torch.cat([block for block, _ in found]), squared.sqrt(), kind)


def _nearest_in_block(
    pairs: Pairs, k: int, kind: Closeness, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    exact = pairs.distances(kind, start, stop)
    # float32 keeps exact ties together and is twice as fast to search.
    block = exact.float()
    rows = torch.arange(stop - start, device=block.device)
    block[rows, rows + start] = torch.inf
    values, indices = block.topk(k, dim=1, largest=False)
    crowded = (block <= values[:, -1:]).sum(1) > k  # more samples tie for the last place than fit
    if bool(crowded.any()):
        order = block[crowded].sort(dim=1, stable=True)
        values[crowded], indices[crowded] = order.values[:, :k], order.indices[:, :k]
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).sort(dim=1, stable=True).indices
    indices = indices.gather(1, by_value)
    return indices, exact.gather(1, indices)


def in_half(half: int | None, size: int, least: int) -> int:
    """Return how many neighbors are as large a share of a half of the samples as `size` of all.

    They are as far away, so that both say the same but for their noise.

    Args:
        half: its number; None for all samples.
        size: of all samples.
        least: but not fewer (or than `size`), as few neighbors have much noise of their own.
    """
    return size if half is None else max(size // 2, min(size, least))


@dataclass(frozen=True, eq=False)
class NeighborLevels:
    """The size of neighborhood, of `octaves`, at which each sample enters that of every other.

    Attributes:
        codes: (sample, other sample) uint8, number of sizes at which the other is not yet a neighbor;
            a sample never is one of itself. One byte an ordered pair: 400 MB for 20,000 samples.
        kind: by what they are nearest.
    """

    codes: Tensor
    kind: Closeness


def octaves(n: int) -> tuple[int, ...]:
    """Return the sizes of neighborhoods 1, 2, 4, ... up to half of the other samples.

    >>> octaves(9)
    (1, 2, 4)
    """
    return tuple(2**power for power in range(n.bit_length()) if 2**power <= (n - 1) / 2)


def neighbor_levels(pairs: Pairs, kind: Closeness = Closeness.COSINE) -> NeighborLevels:
    """Return at which of the sizes of `octaves` samples become neighbors, exactly.

    The neighborhoods are those of `nearest`, ties by ascending index, but no list is held: of half
    the samples it would take eight bytes and more a pair.

    Raises:
        UndefinedError: fewer than 4 samples, or distances mean nothing.
    """
    if pairs.n < 4:
        raise UndefinedError(f"needs at least 4 samples, got {pairs.n}")
    codes = torch.empty(pairs.n, pairs.n, dtype=torch.uint8, device=pairs.vectors.device)
    for start, stop in pairs.ranges():
        block = pairs.distances(kind, start, stop).float()
        block.diagonal(start).fill_(torch.inf)
        codes[start:stop] = _levels_in_block(block, octaves(pairs.n))
    return NeighborLevels(codes, kind)


def _levels_in_block(block: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the codes (row, column) of rows of distances."""
    places = sorted({place for size in sizes for place in (size - 1, size)})
    parted = np.partition(block.cpu().numpy(), places, axis=1)
    nearest_of = {
        place: torch.from_numpy(parted[:, place, None]).to(block.device) for place in places
    }
    codes = torch.zeros(block.shape, dtype=torch.uint8, device=block.device)
    crowded = torch.zeros(len(block), dtype=torch.bool, device=block.device)
    for size in sizes:
        farthest = nearest_of[size - 1]
        codes += block > farthest
        crowded |= (nearest_of[size] == farthest)[:, 0]  # more tie for the last place than fit
    if bool(crowded.any()):
        order = block[crowded].argsort(dim=1, stable=True)
        ranks = torch.arange(1, block.shape[1] + 1, device=block.device)
        steps = torch.tensor(sizes, device=block.device)
        by_rank = torch.searchsorted(steps, ranks).to(torch.uint8).expand(order.shape)
        codes[crowded] = torch.empty_like(codes[crowded]).scatter_(1, order, by_rank)
    return codes


def shared_neighbors(one: NeighborLevels, other: NeighborLevels) -> Tensor:
    """Return how many neighbors two layers share at each size, (sample, size) int64."""
    n = len(one.codes)
    if n != len(other.codes) or one.kind is not other.kind:
        raise InputError(
            f"expected the neighbors of the same samples by one closeness, got {n} and "
            f"{len(other.codes)} samples, by {one.kind} and {other.kind}"
        )
    side = len(octaves(n)) + 1
    found = torch.empty(n, side, dtype=torch.int64, device=one.codes.device)
    for start, stop in blocks(n, n):
        later = torch.maximum(one.codes[start:stop], other.codes[start:stop])
        rows = side * torch.arange(stop - start, dtype=torch.int32, device=later.device)
        counts = torch.bincount((later + rows[:, None]).flatten(), minlength=side * len(rows))
        found[start:stop] = counts.view(-1, side)
    return found.cumsum(1)[:, :-1]


def overlap(one: Neighbors, other: Neighbors, k: int) -> Tensor:
    """Return how many of the k nearest neighbors two layers share, (sample,) float64."""
    first, second = _prefix(one, k), _prefix(other, k)
    if len(first) != len(second):
        raise InputError(
            f"layers hold {len(first)} and {len(second)} samples; "
            "compare neighbors of the same samples in the same order"
        )
    shared = torch.empty(len(first), dtype=torch.float64, device=first.device)
    for start, stop in blocks(len(first), len(first)):
        listed = first.new_zeros(stop - start, len(first), dtype=torch.bool)
        listed.scatter_(1, first[start:stop], torch.ones_like(first[start:stop], dtype=torch.bool))
        shared[start:stop] = listed.gather(1, second[start:stop]).sum(1)
    return shared


def _prefix(neighbors: Neighbors, k: int) -> Tensor:
    if not 1 <= k <= neighbors.indices.shape[1]:
        raise UndefinedError(f"needs {k} neighbors, the lists hold {neighbors.indices.shape[1]}")
    return neighbors.indices[:, :k]


def retention(one: Neighbors, other: Neighbors, k: int = 10) -> float:
    """Neighborhood Retention Score: mean share of the k nearest neighbors kept; 0 to 1.

    Two unrelated layers keep `chance_retention`. Between two models it is mutual kNN (Huh, Cheung,
    Wang, Isola 2024). It is not comparable between different k / (N - 1).
    """
    return float(overlap(one, other, k).mean()) / k


def corrected_retention(one: Neighbors, other: Neighbors, k: int = 10) -> float:
    """Chance-corrected NRS: 0 for unrelated layers, 1 for equal lists; at least -k / (N - 1 - k).

    `(NRS - c) / (1 - c)` with c the chance level; R_NX of Lee et al. 2013.

    Raises:
        UndefinedError: k is N - 1, where every list holds all samples.
    """
    chance = chance_retention(one.n, k)
    if chance >= 1:
        raise UndefinedError(f"all {one.n - 1} other samples are neighbors, so chance keeps all")
    return (retention(one, other, k) - chance) / (1 - chance)


def chance_retention(n: int, k: int = 10) -> float:
    """Return the share of k neighbors that two unrelated lists over n samples have in common."""
    return min(1.0, k / (n - 1))


def trustworthiness(
    pairs: Pairs, reference: Neighbors, news: Sequence[Neighbors], k: int = 10
) -> list[float]:
    """Trustworthiness: 1 less a penalty for new neighbors that were far off; 0 to 1.

    `1 - 2 / (N k (2N - 3k - 1)) sum_i sum_j max(0, r_i(j) - k)` over the new neighbors j, r their
    rank in the reference layer. Continuity is the same with the layers swapped. Venna, Kaski 2001.

    Args:
        pairs: the reference layer.
        reference: its neighbors.
        news: neighbors in each of some other layers, which share the reference's distances.
        k: neighbors that count; less than N / 2.
    """
    n = pairs.n
    if not 2 * k < n:
        raise UndefinedError(
            f"trustworthiness needs more than {2 * k} samples for k = {k}, got {n}"
        )
    _prefix(reference, k)
    candidates = torch.cat([_prefix(new, k) for new in news], dim=1)
    penalties = torch.empty(n, len(news), dtype=torch.float64, device=candidates.device)
    for start, stop in pairs.ranges():
        block = pairs.distances(reference.kind, start, stop).float()
        excess = (_ranks(block, candidates[start:stop], start) - k).clamp(min=0)
        penalties[start:stop] = excess.view(stop - start, len(news), k).sum(-1)
    scores = 1 - 2 / (k * (2 * n - 3 * k - 1)) * penalties
    return [float(score.mean()) for score in scores.unbind(1)]


def chance_trustworthiness(n: int, k: int = 10) -> float:
    """Return the trustworthiness of unrelated layers of n samples: new neighbors of random rank."""
    return 1 - max(0, n - 1 - k) * (n - k) / ((n - 1) * (2 * n - 3 * k - 1))


def _ranks(block: Tensor, candidates: Tensor, start: int) -> Tensor:
    """Return the rank (row, candidate), 1 = nearest, of candidates in rows of distances."""
    rows = torch.arange(len(block), device=block.device)
    block[rows, rows + start] = torch.inf
    columns = torch.arange(block.shape[1], device=block.device)
    ranks = torch.empty(candidates.shape, dtype=torch.float64, device=block.device)
    for place in range(candidates.shape[1]):
        candidate = candidates[:, place, None]
        value = block.gather(1, candidate)
        before = (block < value) | ((block == value) & (columns < candidate))
        ranks[:, place] = 1 + before.sum(1)
    return ranks


def cknna(
    vectors: Tensor, neighbors: Neighbors, others: Tensor, other_neighbors: Neighbors, k: int = 10
) -> float:
    """Centered kernel alignment restricted to shared neighbors (CKNNA); about 0 to 1.

    HSIC_u of two Gram matrices of unit vectors, each kept only where a sample is a neighbor in both
    layers, over the root of the same of each layer with itself. Huh, Cheung, Wang, Isola 2024.

    Args:
        vectors: (sample, dim) of one layer or model.
        neighbors: its nearest neighbors by cosine.
        others: (sample, other dim) of the other.
        other_neighbors: its nearest neighbors.
        k: neighbors that count.
    """
    one, other = _prefix(neighbors, k), _prefix(other_neighbors, k)
    first, second = unit_rows(vectors.double()), unit_rows(others.double())
    shared = (one[:, :, None] == other[:, None, :]).any(-1)
    everywhere = torch.ones_like(shared)
    across = _sparse_hsic(one, shared, first, second)
    own = _sparse_hsic(one, everywhere, first, first)
    others_own = _sparse_hsic(other, torch.ones_like(other, dtype=torch.bool), second, second)
    if not (own > 0 and others_own > 0):
        raise UndefinedError("a layer's alignment with itself is not positive")
    return across / math.sqrt(own * others_own)


def _sparse_hsic(lists: Tensor, kept: Tensor, first: Tensor, second: Tensor) -> float:
    """Return the unbiased HSIC of two Gram matrices that are zero but at listed entries."""
    n = len(lists)
    if n < 4:
        raise UndefinedError(f"the unbiased HSIC needs at least 4 samples, got {n}")
    rows = torch.arange(n, device=lists.device)[:, None].expand_as(lists)[kept]
    columns = lists[kept]
    k, m = (x[rows] * x[columns] for x in (first, second))
    k, m = k.sum(1), m.sum(1)
    here, there = rows * n + columns, columns * n + rows
    sums = [k.new_zeros(n).index_add_(0, at, x) for at, x in ((columns, k), (rows, m))]
    product = sums[0] @ sums[1]  # 1' K M 1
    mirrored = torch.isin(there, here)
    order = here.argsort()
    partner = order[torch.searchsorted(here[order], there[mirrored])]
    trace = k[mirrored] @ m[partner]  # tr(K M) meets entry (i, j) with (j, i)
    total = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return float((trace + total - 2 / (n - 2) * product) / (n * (n - 3)))


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
    value: float = brentq(lambda d: float(terms(d).mean()), 1e-6, 1e6, xtol=1e-12, rtol=1e-14)
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
    _prefix(neighbors, k)
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
