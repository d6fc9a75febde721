"""What the layers' neighborhoods have in common: of all samples, and inside halves of them.

One pass over rows of samples orders, in every layer, all other samples by cosine. From those orders come
the neighbor lists, what two layers share of them at every size, and how far off new neighbors were. A
half needs no order of its own, because its samples stand in that of all. Of pairs of samples nothing
is kept but a block of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics.estimates import half_samples
from layerscope.metrics.measure import NEIGHBORHOODS
from layerscope.metrics.neighbors import Neighbors, octaves, order_of_rows, require_listed
from layerscope.metrics.pairs import Closeness, Pairs, blocks

BLOCKS: Final = 64
"""Most blocks of rows, as every layer is prepared again for each; more rows than `pairs.BLOCK` allows."""

LISTED: Final = 64
"""Length of the neighbor lists, at least the largest k of NRS."""

TRUSTED: Final = NEIGHBORHOODS[0]
"""Neighbors whose trustworthiness is measured."""

Layers = Mapping[int, Callable[[], Tensor]]
"""Layer -> how to get its vectors (sample, dim); in order, each with a direction in every row."""


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """What neighborhoods have in common in a set of samples, as sums over them.

    Attributes:
        n: number of samples.
        shared: layer -> (size,) neighbors shared with the final layer, at the sizes of `octaves`.
        kept: (layer, other) -> (k,) neighbors shared with the layer before or the final one, k from 1.
        excess: (layer, other) -> how much farther than the nearest the other's nearest are in the layer.
    """

    n: int
    shared: dict[int, Tensor] = field(default_factory=dict)
    kept: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    excess: dict[tuple[int, int], int] = field(default_factory=dict)

    def retention(self, layer: int, other: int, k: int) -> float:
        """Neighborhood Retention Score: mean share of the k nearest neighbors kept; 0 to 1."""
        kept = self.kept[layer, other]
        require_listed(k, len(kept))
        return int(kept[k - 1]) / (self.n * k)

    def shares(self, layer: int) -> Tensor:
        """Return (size,) the mean share of neighbors shared with the final layer; 0 to 1."""
        if self.n < 4:
            raise UndefinedError(f"needs at least 4 samples, got {self.n}")
        return self.shared[layer].double() / self.n / torch.tensor(octaves(self.n))

    def trustworthiness(self, layer: int, other: int) -> float:
        """Trustworthiness in a layer of another's neighbors: 1 less a penalty for far ones; 0 to 1.

        `1 - 2 / (N k (2N - 3k - 1)) sum_i sum_j max(0, r_i(j) - k)` over the other's k nearest j, r their
        rank in the layer, k = 10. Continuity is the same with the layers swapped. Venna, Kaski 2001.
        """
        n, k = self.n, TRUSTED
        if not 2 * k < n:
            raise UndefinedError(
                f"trustworthiness needs more than {2 * k} samples for k = {k}, got {n}"
            )
        return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * self.excess[layer, other]


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The neighborhoods of some samples of a set in one layer.

    Attributes:
        ranks: (row, sample) how many members are nearer than this one. A sample itself is last; what is
            no member has n or more.
        listed: (row, k) the nearest members, nearest first.
    """

    ranks: Tensor
    listed: Tensor


def neighborhoods(
    layers: Layers, final: int
) -> tuple[dict[int, Neighbors], tuple[Neighborhoods, ...]]:
    """Return each layer's neighbor lists, and what neighborhoods share in all samples and their halves.

    Args:
        layers: those with neighborhoods.
        final: the last layer, with which every layer is compared; not so where it has no neighborhoods.

    Returns:
        The lists of all samples, and the sums of all samples and then of each of `half_samples`.

    Raises:
        UndefinedError: fewer than 2 samples.
    """
    n = len(next(iter(layers.values()))())
    members = [torch.ones(n, dtype=torch.bool)]
    for half in half_samples(n):
        members.append(torch.zeros(n, dtype=torch.bool).index_fill_(0, half, value=True))
    found = tuple(Neighborhoods(int(each.sum())) for each in members)
    # Made whole before the blocks: pieces that stay between large arrays that go would keep their memory.
    size = (n, min(LISTED, n - 1))
    lists = {
        layer: (torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.float64))
        for layer in layers
    }
    for start, stop in blocks(n, n, max(2**20, n * -(-n // BLOCKS))):
        last = _order(layers[final], start, stop) if final in layers else None
        ends = _ranked(last[0], start, members) if last else []
        before: tuple[int, list[_Ranked]] = (-2, [])
        for layer, read in layers.items():
            if layer == final and last:
                (_, exact), own = last, ends
            else:
                order, exact = _order(read, start, stop)
                own = _ranked(order, start, members)
            near = own[0].listed
            lists[layer][0][start:stop] = near
            torch.gather(exact, 1, near, out=lists[layer][1][start:stop])
            for sums, ranked, end in zip(found, own, ends, strict=False):
                _add_final(sums, layer, final, ranked, end)
            if before[0] == layer - 1:
                for sums, one, two in zip(found, before[1], own, strict=True):
                    _add_step(sums, layer, one, two)
            before = layer, own
    near_of = {
        layer: Neighbors(indices, away.mul_(2).sqrt_(), Closeness.COSINE)
        for layer, (indices, away) in lists.items()
    }
    return near_of, found


def _order(read: Callable[[], Tensor], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Return (row, sample) all samples, nearest first and the own last, and their distances."""
    order, exact = order_of_rows(Pairs(read(), budget=0), Closeness.COSINE, start, stop)
    return order.cpu(), exact.cpu()


def _ranked(order: Tensor, start: int, sets: Sequence[Tensor]) -> list[_Ranked]:
    """Return the neighborhoods of each set (sample,) bool around its samples in a block."""
    n = order.shape[1]
    small = torch.int16 if n < 2**14 else torch.int32
    found = []
    for members in sets:
        rows = order[members[start : start + len(order)]]
        inside = members.index_select(0, rows.flatten()).view(rows.shape)
        counted = inside.cumsum(1, dtype=small) - 1
        listed = min(LISTED, int(members.sum()) - 1)
        # numpy selects five times as fast as torch, and torch adds sooner than it fills by a mask.
        near = rows.numpy()[inside.numpy() & (counted < listed).numpy()].reshape(-1, listed)
        counted.add_((~inside).to(small), alpha=n)
        ranks = torch.empty_like(counted).scatter_(1, rows, counted)
        found.append(_Ranked(ranks, torch.from_numpy(near)))
    return found


def _add_final(sums: Neighborhoods, layer: int, final: int, own: _Ranked, end: _Ranked) -> None:
    """Add what the rows of a layer share with the final one."""
    later = torch.maximum(own.ranks, end.ranks)
    shared = [np.count_nonzero(later.numpy() < size) for size in octaves(sums.n)]
    sums.shared[layer] = sums.shared.get(layer, 0) + torch.tensor(shared)
    sums.kept[layer, final] = sums.kept.get((layer, final), 0) + _kept(own, end.ranks)


def _add_step(sums: Neighborhoods, layer: int, before: _Ranked, after: _Ranked) -> None:
    """Add what the rows of a layer share with those of the layer before it."""
    step = (layer, layer - 1)
    sums.kept[step] = sums.kept.get(step, 0) + _kept(after, before.ranks)
    for own, other, pair in (
        (before, after, step[::-1]),
        (after, before, step),
    ):
        ranks = own.ranks.gather(1, other.listed[:, :TRUSTED]).long()
        farther = int((ranks + 1 - TRUSTED).clamp(min=0).sum())
        sums.excess[pair] = sums.excess.get(pair, 0) + farther


def _kept(own: _Ranked, others: Tensor) -> Tensor:
    """Return (k,) how many of the k nearest are among the k nearest of another layer's ranks, in all."""
    k = own.listed.shape[1]
    later = torch.maximum(others.gather(1, own.listed).long(), torch.arange(k))
    return torch.bincount(later.flatten(), minlength=k)[:k].cumsum(0)
