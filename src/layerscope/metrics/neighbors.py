"""Measures on nearest neighbors: what a layer keeps of another's, and the intrinsic dimension.

Neighbor lists are found once per layer, exactly and in blocks of rows, and every measure takes
them as an argument. Ties go to the lower sample index, in all layers alike.

The Neighborhood Retention Score (NRS) is named by Jiang, Yang, Tam 2026 ("Layer-wise Representation
Dynamics"), of which only the abstract could be read. That it is the neighborhood overlap of Doimo
et al. 2020, with k = 10 and the cosine of uncentered vectors, is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
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
    order, exact = order_of_rows(pairs, kind, start, stop)
    indices = order[:, :k].clone()  # not a part of the whole order
    return indices, exact.gather(1, indices)


def order_of_rows(pairs: Pairs, kind: Closeness, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return (row, sample) all samples, nearest first and the own last, and their exact distances."""
    exact = pairs.distances(kind, start, stop)
    block = exact.float()
    block.diagonal(start).fill_(torch.inf)
    return ordered(block), exact


def ordered(block: Tensor) -> Tensor:
    """Return the columns (row, place) of float32 distances, nearest first, ties by ascending column.

    float32 keeps exact ties together. The bits of a number that is not negative order like the number, so
    that one integer holds distance and column, and numpy sorts integers three times as fast.
    """
    if block.device.type != "cpu":
        return block.argsort(dim=1, stable=True)
    keys = block.numpy().view(np.int32).astype(np.int64) << 32
    keys |= np.arange(block.shape[1])
    keys.sort(axis=1)
    return torch.from_numpy(keys & (2**32 - 1))


def in_half(half: int | None, size: int, least: int) -> int:
    """Return how many neighbors are as large a share of a half of the samples as `size` of all.

    They are as far away, so that both say the same but for their noise.

    Args:
        half: its number; None for all samples.
        size: of all samples.
        least: but not fewer (or than `size`), as few neighbors have much noise of their own.
    """
    return size if half is None else max(size // 2, min(size, least))


def octaves(n: int) -> tuple[int, ...]:
    """Return the sizes of neighborhoods 1, 2, 4, ... up to half of the other samples.

    >>> octaves(9)
    (1, 2, 4)
    """
    return tuple(2**power for power in range(n.bit_length()) if 2**power <= (n - 1) / 2)


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
    require_listed(k, neighbors.indices.shape[1])
    return neighbors.indices[:, :k]


def require_listed(k: int, held: int) -> None:
    """Raise an UndefinedError where lists hold fewer than k neighbors."""
    if not 1 <= k <= held:
        raise UndefinedError(f"needs {k} neighbors, the lists hold {held}")


def retention(one: Neighbors, other: Neighbors, k: int = 10) -> float:
    """Neighborhood Retention Score: mean share of the k nearest neighbors kept; 0 to 1.

    Two unrelated layers keep `chance_retention`. Between two models it is mutual kNN (Huh, Cheung,
    Wang, Isola 2024). It is not comparable between different k / (N - 1).
    """
    return float(overlap(one, other, k).mean()) / k


def above_chance(kept: float, n: int, k: int) -> float:
    """Chance-corrected NRS: 0 for unrelated layers, 1 for equal lists; at least -k / (N - 1 - k).

    `(NRS - c) / (1 - c)` with c the chance level; R_NX of Lee et al. 2013.

    Raises:
        UndefinedError: k is N - 1, where every list holds all samples.
    """
    chance = chance_retention(n, k)
    if chance >= 1:
        raise UndefinedError(f"all {n - 1} other samples are neighbors, so chance keeps all")
    return (kept - chance) / (1 - chance)


def chance_retention(n: int, k: int = 10) -> float:
    """Return the share of k neighbors that two unrelated lists over n samples have in common."""
    return min(1.0, k / (n - 1))


def chance_trustworthiness(n: int, k: int = 10) -> float:
    """Return the trustworthiness of unrelated layers of n samples: new neighbors of random rank."""
    return 1 - max(0, n - 1 - k) * (n - k) / ((n - 1) * (2 * n - 3 * k - 1))


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
