"""Graph Filtration Mutual Information (GFMI): how alike two layers order the pairs of samples.

Connecting the m closest pairs of samples, for growing m, gives a nested family of graphs: a
filtration. A layer is aligned with the final layer when their graphs agree at every density.

The name is that of Jiang, Yang, Tam 2026 ("Layer-wise Representation Dynamics"), of which only the
abstract could be read. Three interpretations are offered, all ours, and results name the one used:
`gfmi_edge` (the default) compares whether pairs are connected, `gfmi_knn` neighbor lists, and
`components.gfmi_component` the connected components. Our choices are the centered cosine, levels by
mean degree 1, 2, 4, ... and mutual information normalized by the mean entropy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.neighbors import chance_retention, octaves
from layerscope.metrics.pairs import Closeness, Pairs, blocks

_LOW_BITS = 15
_BINS = 2**16


class Sign(StrEnum):
    """What a level counts where fewer edges are shared than by chance.

    Mutual information alone rewards a graph and its complement like two equal graphs.
    """

    CLIP = "clip"  # 0
    SIGNED = "signed"  # minus the normalized information
    NONE = "none"  # the normalized information


@dataclass(frozen=True, eq=False)
class Filtration:
    """The level at which every pair of samples becomes an edge, in one layer.

    Attributes:
        codes: (pair,) uint8, number of levels at which the pair is not yet an edge; pairs are in
            the order of `Pairs.keys`. One byte a pair: 200 MB for 20,000 samples.
        levels: requested number of edges at each level, rising. Pairs that tie for the last place
            all become edges, so there may be more.
        thresholds: (level,) float64, the largest distance of an edge: squared distance, or 1 less
            the cosine.
        n: number of samples.
        kind: by what pairs are ordered.
    """

    codes: Tensor
    levels: tuple[int, ...]
    thresholds: Tensor
    n: int
    kind: Closeness


def degree_levels(n: int) -> tuple[int, ...]:
    """Return the numbers of edges that make the mean degree 1, 2, 4, ... up to half of all pairs.

    >>> degree_levels(9)
    (5, 9, 18)
    """
    degrees = [2**power for power in range(n.bit_length()) if 2**power <= (n - 1) / 2]
    return tuple(math.floor(degree * n / 2 + 0.5) for degree in degrees)


def filtration(
    pairs: Pairs,
    kind: Closeness = Closeness.CENTERED_COSINE,
    levels: Sequence[int] | None = None,
) -> Filtration:
    """Return the level at which every pair becomes an edge, exactly.

    The m-th smallest of all distances is found by two counts, of the high bits and then of the low
    bits, so beyond the codes memory does not grow with the number of pairs.

    Args:
        pairs: the layer.
        kind: by what pairs are ordered.
        levels: numbers of edges, rising; by default those of `degree_levels`.

    Raises:
        UndefinedError: fewer than 4 samples, equal vectors, or one without a direction.
    """
    n = pairs.n
    if n < 4:
        raise UndefinedError(f"a graph filtration needs at least 4 samples, got {n}")
    levels = degree_levels(n) if levels is None else tuple(levels)
    total = n * (n - 1) // 2
    if (
        not levels
        or list(levels) != sorted(set(levels))
        or not 1 <= levels[0] <= levels[-1] <= total
    ):
        raise InputError(f"levels are rising numbers of edges from 1 to {total}, got {levels}")
    passes = _Blocks(pairs, kind)
    thresholds = _order_statistics(passes, levels)
    codes = torch.empty(total, dtype=torch.uint8, device=pairs.vectors.device)
    done = 0
    for keys in passes:
        part = codes[done : done + len(keys)].zero_()
        for threshold in thresholds.tolist():
            part += keys > threshold
        done += len(keys)
    distances = thresholds.to(torch.int32).view(torch.float32).double()
    return Filtration(codes, levels, distances, n, kind)


class _Blocks:
    """The distances of all pairs, to go over several times: kept where they fit the budget."""

    def __init__(self, pairs: Pairs, kind: Closeness) -> None:
        self._pairs, self._kind = pairs, kind
        self.device = pairs.vectors.device
        fits = 4 * (pairs.n * (pairs.n - 1) // 2) <= pairs.budget
        self._kept = list(pairs.keys(kind)) if fits else None

    def __iter__(self) -> Iterator[Tensor]:
        return self._pairs.keys(self._kind) if self._kept is None else iter(self._kept)


def _order_statistics(passes: _Blocks, ranks: Sequence[int]) -> Tensor:
    """Return the keys (rank,) int64 at the given ranks, 1 = smallest, of all pairs."""
    device = passes.device
    counts = torch.zeros(_BINS, dtype=torch.int64, device=device)
    for keys in passes:
        counts += torch.bincount(keys >> _LOW_BITS, minlength=_BINS)
    wanted = torch.tensor(ranks, device=device)
    ends = counts.cumsum(0)
    bins = torch.searchsorted(ends, wanted)
    distinct = sorted(set(bins.tolist()))
    slots = torch.tensor([distinct.index(bin_) for bin_ in bins.tolist()], device=device)
    fine = torch.zeros(len(distinct), 2**_LOW_BITS, dtype=torch.int64, device=device)
    for keys in passes:
        high = keys >> _LOW_BITS
        for slot, bin_ in enumerate(distinct):
            low = keys[high == bin_] & (2**_LOW_BITS - 1)
            fine[slot] += torch.bincount(low, minlength=2**_LOW_BITS)
    remaining = wanted - (ends - counts)[bins]
    low = torch.searchsorted(fine.cumsum(1)[slots], remaining[:, None])[:, 0]
    return (bins << _LOW_BITS) + low


def joint_counts(one: Filtration, other: Filtration) -> Tensor:
    """Return the number of pairs by their level in two layers, (level + 1, level + 1) int64.

    Entry (u, v) counts the pairs that are no edge at u levels of one and v levels of the other;
    every edge measure is a formula of it.
    """
    if one.n != other.n or one.levels != other.levels or one.kind is not other.kind:
        raise InputError(
            "expected two filtrations of the same samples with the same levels, got "
            f"{one.n} and {other.n} samples, {len(one.levels)} and {len(other.levels)} levels"
        )
    side = len(one.levels) + 1
    counts = torch.zeros(side * side, dtype=torch.int64, device=one.codes.device)
    for start in range(0, len(one.codes), 2**22):
        u, v = one.codes[start : start + 2**22], other.codes[start : start + 2**22]
        counts += torch.bincount(u.to(torch.int32).mul_(side).add_(v), minlength=side * side)
    return counts.view(side, side)


def level_scores(joint: Tensor, sign: Sign = Sign.CLIP) -> Tensor:
    """Return the normalized mutual information of being an edge, (level,) float64.

    `2 I / (h(a) + h(b))` of the indicators that a random pair is an edge in either layer; NaN at a
    level where both graphs are complete by ties.
    """
    counts = joint.double()
    total = counts.sum()
    common = counts.cumsum(0).cumsum(1).diagonal()[:-1]
    first = counts.sum(1).cumsum(0)[:-1]
    second = counts.sum(0).cumsum(0)[:-1]
    cells = torch.stack([common, first - common, second - common, total - first - second + common])
    a, b = first / total, second / total
    entropies = _binary_entropy(a) + _binary_entropy(b)
    information = entropies - torch.special.entr(cells / total).sum(0)
    # By subtraction of entropies independence is only right to rounding, which must not go below 0.
    scores: Tensor = 2 * information.clamp(min=0) / entropies
    below = common * total < first * second
    match sign:
        case Sign.CLIP:
            return torch.where(below & ~scores.isnan(), 0, scores)
        case Sign.SIGNED:
            return torch.where(below, -scores, scores)
        case Sign.NONE:
            return scores


def _binary_entropy(share: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(share) + torch.special.entr(1 - share)
    return entropy


def gfmi_edge(joint: Tensor, sign: Sign = Sign.CLIP) -> float:
    """GFMI by edges: mean over levels of the normalized mutual information; 0 to 1.

    1 if and only if the graphs are equal at every level; unrelated layers give 2e-4 at 300 samples
    and 3e-6 at 1,000. Unchanged by any monotone transformation of either layer's similarities.

    Args:
        joint: the table of `joint_counts`.
        sign: what levels with fewer common edges than chance count.
    """
    return _mean_level(level_scores(joint, sign))


def half_joint_counts(
    one: Filtration, other: Filtration, splits: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return `joint_counts` of the pairs inside each half, (split, half, level + 1, level + 1).

    The graphs are those of all samples, cut down to a half, so their densities are the same and no
    distance is computed again.

    Args:
        one: a layer.
        other: another one.
        splits: pairs of indices, from `halves.halvings`.
    """
    side = len(one.levels) + 1
    found = torch.zeros(len(splits), 3 * side * side, dtype=torch.int64, device=one.codes.device)
    halves = torch.full((len(splits), one.n), 2, dtype=torch.int32, device=one.codes.device)
    for labels, (first, second) in zip(halves, splits, strict=True):
        labels[first], labels[second] = 0, 1
    done = 0
    for start, stop in blocks(one.n, one.n):
        upper = torch.ones(stop - start, one.n - start, dtype=torch.bool, device=halves.device)
        upper.triu_(1)
        size = int(upper.sum())
        u, v = one.codes[done : done + size], other.codes[done : done + size]
        cells = u.to(torch.int32).mul_(side).add_(v)
        for counts, labels in zip(found, halves, strict=True):
            row, column = labels[start:stop, None], labels[None, start:]
            inside = torch.where(row == column, row, 2)[upper]
            counts += torch.bincount(cells + inside * side**2, minlength=3 * side * side)
        done += size
    return found.view(len(splits), 3, side, side)[:, :2]


def gfmi_edge_halves(joints: Tensor, sign: Sign = Sign.CLIP) -> Tensor:
    """Return `gfmi_edge` (split, half) of halves of the samples; NaN where it has no value.

    GFMI is no mean over samples, so their contributions cannot be resampled: its error is
    `pairs.half_sample_error` of these.

    Args:
        joints: the tables of `half_joint_counts`.
        sign: what levels with fewer common edges than chance count.
    """
    values = [[_mean_or_nan(joint, sign) for joint in split] for split in joints]
    return torch.tensor(values, dtype=torch.float64)


def _mean_or_nan(joint: Tensor, sign: Sign) -> float:
    scores = level_scores(joint, sign)
    return float(scores[~scores.isnan()].mean())


def _mean_level(scores: Tensor) -> float:
    known = scores[~scores.isnan()]
    if not known.numel():
        raise UndefinedError("at every level both graphs connect all samples")
    return float(known.mean())


def gfmi_knn(shares: Tensor, n: int, sign: Sign = Sign.CLIP) -> float:
    """GFMI by neighbor lists: mean over k = 1, 2, 4, ... of the information on directed edges.

    Up to half the other samples. At each k a fixed increasing function of NRS, so it is NRS at many
    scales and no evidence beside it.

    Args:
        shares: (size,) the mean share of neighbors in common, at the sizes of `octaves`.
        n: number of samples.
        sign: what sizes with fewer shared neighbors than chance count.
    """
    sizes = zip(shares, octaves(n), strict=True)
    scores = [retention_information(kept, chance_retention(n, k), sign) for kept, k in sizes]
    return float(torch.stack(scores).mean())


def retention_information(kept: Tensor, density: float, sign: Sign = Sign.CLIP) -> Tensor:
    """Return the normalized information of neighbor lists that share `kept` of their entries.

    Args:
        kept: NRS of the two layers.
        density: k / (N - 1).
        sign: what a share below chance counts.
    """
    cells = [density * kept, density * (1 - kept), density * (1 - kept)]
    cells.append((1 - 2 * density + density * kept).clamp(min=0))
    entropy = _binary_entropy(torch.tensor(density, dtype=torch.float64, device=kept.device))
    joint = torch.stack([torch.special.entr(cell) for cell in cells]).sum()
    score = (2 * entropy - joint).clamp(min=0) / entropy
    if sign is Sign.NONE or kept >= density:
        return score
    return -score if sign is Sign.SIGNED else score * 0
