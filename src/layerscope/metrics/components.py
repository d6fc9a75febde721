"""Graph Filtration Mutual Information by connected components, from minimum spanning trees.

The components of the graph at any threshold are those of the tree's edges up to it, so a tree per
layer is all that is kept. `filtration` has the two other readings of GFMI.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaln
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.pairs import Closeness, Pairs


@dataclass(frozen=True, eq=False)
class Tree:
    """The minimum spanning tree of a layer's samples, shortest edge first.

    Its first edges are the connected components of the graph at any threshold.

    Attributes:
        edges: (n - 1, 2) int64 samples.
        lengths: (n - 1,) float64 distances, as the thresholds of `Filtration`.
    """

    edges: NDArray[np.int64]
    lengths: NDArray[np.float64]


def spanning_tree(pairs: Pairs, kind: Closeness = Closeness.CENTERED_COSINE) -> Tree:
    """Return the minimum spanning tree by Boruvka's rounds over blocks of rows.

    In each round every component takes its nearest other sample; at most log2 N rounds, about 5 in
    practice, each one pass over the pairs. Gower, Ross 1969 relate it to single linkage.
    """
    n = pairs.n
    fits = 4 * n * n <= pairs.budget
    kept = list(_distance_blocks(pairs, kind)) if fits else None
    labels = np.arange(n)
    edges: list[tuple[float, int, int]] = []
    while len(edges) < n - 1:
        found_blocks = _distance_blocks(pairs, kind) if kept is None else kept
        lengths, partners = _nearest_outside(found_blocks, labels)
        low = np.minimum(np.arange(n), partners)
        high = np.maximum(np.arange(n), partners)
        # One total order on edges (length, then samples) keeps ties from closing cycles.
        order = np.lexsort((high, low, lengths))
        first = order[np.unique(labels[order], return_index=True)[1]]
        found = sorted((float(lengths[i]), int(low[i]), int(high[i])) for i in first)
        labels, joined = _unite(labels, found)
        edges += joined
    edges.sort()
    return Tree(
        np.array([edge[1:] for edge in edges], dtype=np.int64).reshape(-1, 2),
        np.array([edge[0] for edge in edges]),
    )


def _distance_blocks(pairs: Pairs, kind: Closeness) -> Iterator[Tensor]:
    for start, stop in pairs.ranges():
        yield pairs.distances(kind, start, stop).float()


def _nearest_outside(
    distances: Iterable[Tensor], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distance and index (sample,) of the nearest sample of another component."""
    component = torch.from_numpy(labels)
    lengths, partners = [], []
    start = 0
    for block in distances:
        own = component[start : start + len(block), None]
        outside = block.masked_fill((own == component).to(block.device), torch.inf)
        nearest = outside.amin(1, keepdim=True)
        # Of several nearest the total order needs the first, which min does not promise.
        partners.append((outside == nearest).byte().argmax(1).cpu())
        lengths.append(nearest[:, 0].double().cpu())
        start += len(block)
    return torch.cat(lengths).numpy(), torch.cat(partners).numpy()


def _unite(
    labels: NDArray[np.int64], edges: Sequence[tuple[float, int, int]]
) -> tuple[NDArray[np.int64], list[tuple[float, int, int]]]:
    """Return the labels after joining along edges, and the edges that joined two components."""
    parent = {int(label): int(label) for label in np.unique(labels)}

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    joined = []
    for edge in edges:
        one, other = root(int(labels[edge[1]])), root(int(labels[edge[2]]))
        if one != other:
            parent[max(one, other)] = min(one, other)
            joined.append(edge)
    names, inverse = np.unique(labels, return_inverse=True)
    roots = np.array([root(int(name)) for name in names])
    return roots[inverse], joined


def components(tree: Tree, count: int) -> NDArray[np.int64]:
    """Return the component (sample,) of every sample after the first `count` edges of the tree."""
    i, j = tree.edges[:count].T
    n = len(tree.edges) + 1
    graph = coo_array((np.ones(count, dtype=np.int8), (i, j)), shape=(n, n))
    labels: NDArray[np.int64] = connected_components(graph, directed=False)[1]
    return labels


def gfmi_component(one: Tree, other: Tree, thresholds: Tensor, other_thresholds: Tensor) -> float:
    """GFMI by connected components: mean adjusted mutual information over levels; about 0 to 1.

    Levels at which both graphs are connected say nothing and are left out; where one is, it counts
    0. A giant component swallows most samples early, so few levels carry information.

    Args:
        one: spanning tree of one layer.
        other: that of the other.
        thresholds: (level,) `Filtration.thresholds` of the first.
        other_thresholds: those of the second.
    """
    cuts = [
        np.searchsorted(tree.lengths, limits.cpu().numpy(), side="right")
        for tree, limits in ((one, thresholds), (other, other_thresholds))
    ]
    return _mean_agreement(one, other, list(zip(cuts[0], cuts[1], strict=True)))


def gfmi_component_counts(one: Tree, other: Tree) -> float:
    """GFMI by components of equal number: both trees cut to N/2, N/4, ... clusters, down to 2.

    The adjusted-information analogue of the curves of Fowlkes, Mallows 1983.
    """
    n = len(one.edges) + 1
    counts = [n >> halvings for halvings in range(1, n.bit_length()) if n >> halvings >= 2]
    return _mean_agreement(one, other, [(n - count, n - count) for count in counts])


def _mean_agreement(one: Tree, other: Tree, cuts: Sequence[tuple[int, int]]) -> float:
    if len(one.edges) != len(other.edges):
        raise InputError("expected trees of the same samples")
    whole = len(one.edges)
    scores = [
        adjusted_information(components(one, first), components(other, second))
        for first, second in cuts
        if not first == second == whole
    ]
    if not scores:
        raise UndefinedError("at every level both graphs are connected")
    return float(np.mean(scores))


def adjusted_information(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Adjusted mutual information of two partitions: 0 by chance, 1 if equal.

    `(MI - E MI) / ((H_u + H_v) / 2 - E MI)`. Vinh, Epps, Bailey 2010. The expectation runs over
    distinct sizes, as sparse graphs have thousands of components of one sample.
    """
    n = len(one)
    _, first, sizes = np.unique(one, return_inverse=True, return_counts=True)
    _, second, other_sizes = np.unique(other, return_inverse=True, return_counts=True)
    _, shared = np.unique(first * len(other_sizes) + second, return_counts=True)
    entropies = _entropy(sizes, n) + _entropy(other_sizes, n)
    if len(shared) == len(sizes) == len(other_sizes):
        return 1.0
    information = entropies - _entropy(shared, n)
    expected = _expected_information(sizes, other_sizes, n)
    attainable = entropies / 2 - expected
    # One component against any partition: no information is possible, and none is there.
    if min(len(sizes), len(other_sizes)) == 1:
        return 0.0
    return float((information - expected) / attainable)


def _entropy(sizes: NDArray[np.int64], n: int) -> float:
    return float(-(sizes / n * np.log(sizes / n)).sum())


def _expected_information(
    sizes: NDArray[np.int64], other_sizes: NDArray[np.int64], n: int
) -> float:
    """Return the mean mutual information, in nats, of partitions with these sizes at random."""
    first, times = np.unique(sizes, return_counts=True)
    second, other_times = np.unique(other_sizes, return_counts=True)
    total = 0.0
    for a, repeated in zip(first, times, strict=True):
        least, most = np.maximum(1, a + second - n), np.minimum(a, second)
        widths = most - least + 1
        owner = np.repeat(np.arange(len(second)), widths)
        starts = np.repeat(widths.cumsum() - widths, widths)
        shared = least[owner] + np.arange(len(owner)) - starts
        b = second[owner]
        log_chance = (
            gammaln(a + 1) + gammaln(b + 1) + gammaln(n - a + 1) + gammaln(n - b + 1)
            - gammaln(n + 1) - gammaln(shared + 1) - gammaln(a - shared + 1)
            - gammaln(b - shared + 1) - gammaln(n - a - b + shared + 1)
        )  # fmt: skip
        terms = shared / n * np.log(n * shared / (a * b)) * np.exp(log_chance)
        total += repeated * float((other_times[owner] * terms).sum())
    return total
