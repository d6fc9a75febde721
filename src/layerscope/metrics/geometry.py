"""What every measure of the dynamics family needs of one layer, computed once.

`layer_geometry` makes one pass over a layer's pooled vectors and keeps what is small: leading
directions, neighbor lists, a kernel, and how its pairs of samples stand to the final layer's. Every
measure between layers takes two of these. The matrix over pairs of samples is gone when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics.filtration import (
    Filtration,
    Tree,
    filtration,
    half_joint_counts,
    joint_counts,
    spanning_tree,
)
from layerscope.metrics.neighbors import (
    NeighborLevels,
    Neighbors,
    nearest,
    neighbor_levels,
    shared_neighbors,
)
from layerscope.metrics.pairs import COUNT, Closeness, Pairs, halvings
from layerscope.metrics.similarity import Kernel
from layerscope.metrics.subspaces import Frame, Frenet, frame, half_bases, trajectory

T = TypeVar("T")

NEIGHBORS = 64
"""Length of the neighbor lists: the largest k of NRS is 50, the largest scale of GRIDE 64."""


@dataclass(frozen=True, eq=False)
class LayerGeometry:
    """One layer, as the dynamics measures see it.

    A part that has no value on these vectors is the `UndefinedError` that says why: take parts with
    `known`, which raises it.

    Attributes:
        frame: leading directions; none where all vectors are equal.
        halves: feature bases of pairs of halves of the samples, for noise and error.
        cosine: nearest neighbors by cosine, for NRS.
        euclidean: nearest neighbors by distance, for the intrinsic dimension.
        levels: size of neighborhood at which each sample enters another's, by cosine, one byte an
            ordered pair. Only of the final layer, None of others.
        shared: (sample, size) neighbors shared with the final layer, for GFMI by neighbor lists.
        kernel: for CKA; it holds the centered vectors.
        filtration: levels of all pairs, one byte a pair. Only of the final layer, None of others.
        joint: pairs by their level here and in the final layer, for GFMI by edges.
        half_joint: the same of pairs inside halves of the samples, for its error.
        thresholds: (level,) of the filtration, for GFMI by components.
        tree: spanning tree, for the same; None unless asked for.
    """

    frame: Frame
    halves: list[tuple[Tensor, Tensor]]
    cosine: Neighbors | UndefinedError
    euclidean: Neighbors | UndefinedError
    levels: NeighborLevels | UndefinedError | None
    shared: Tensor | UndefinedError
    kernel: Kernel
    filtration: Filtration | UndefinedError | None
    joint: Tensor | UndefinedError
    half_joint: Tensor | UndefinedError
    thresholds: Tensor | UndefinedError
    tree: Tree | UndefinedError | None


def known(part: T | UndefinedError) -> T:
    """Return a part of a geometry, or raise the reason why it has no value."""
    if isinstance(part, UndefinedError):
        raise part
    return part


def layer_geometry(
    vectors: Tensor,
    final: LayerGeometry | None = None,
    *,
    components: bool = False,
    seed: int = 0,
) -> LayerGeometry:
    """Return the geometry of one layer's pooled vectors (sample, dim).

    Args:
        vectors: one a sample, in the order of all other layers.
        final: geometry of the final layer, which is therefore made first; None for that layer.
        components: find the spanning tree too.
        seed: of the halvings, one for all layers.
    """
    pairs = Pairs(vectors)
    whole = frame(pairs.vectors)
    graphs = _attempt(lambda: filtration(pairs))
    final_graphs = graphs if final is None else final.filtration
    levels = _attempt(lambda: neighbor_levels(pairs))
    final_levels = levels if final is None else final.levels
    splits = halvings(pairs.n, COUNT, seed)
    length = max(1, min(NEIGHBORS, pairs.n - 1))
    return LayerGeometry(
        frame=whole,
        halves=half_bases(pairs.vectors, whole, splits),
        cosine=_attempt(lambda: nearest(pairs, length)),
        euclidean=_attempt(lambda: nearest(pairs, length, Closeness.EUCLIDEAN)),
        levels=levels if final is None else None,
        shared=_attempt(lambda: shared_neighbors(known(levels), _required(final_levels))),
        kernel=Kernel(pairs.centered),
        filtration=graphs if final is None else None,
        joint=_attempt(lambda: joint_counts(known(graphs), _required(final_graphs))),
        half_joint=_attempt(
            lambda: half_joint_counts(known(graphs), _required(final_graphs), splits)
        ),
        thresholds=_attempt(lambda: known(graphs).thresholds),
        tree=_attempt(lambda: spanning_tree(pairs)) if components else None,
    )


def _attempt(compute: Callable[[], T]) -> T | UndefinedError:
    try:
        return compute()
    except UndefinedError as error:
        return error


def _required(part: T | UndefinedError | None) -> T:
    if part is None:
        raise ValueError("the final geometry was itself made against another layer")
    try:
        return known(part)
    except UndefinedError as error:
        raise UndefinedError(f"in the final layer {error}") from error


def half_paths(layers: Sequence[LayerGeometry], k: int) -> list[tuple[Frenet, Frenet]]:
    """Return, for each halving, the paths in feature space with one and with the other half.

    Args:
        layers: in order.
        k: dimension of the subspaces.
    """
    return [
        (
            trajectory([one[:, :k] for one, _ in split]),
            trajectory([other[:, :k] for _, other in split]),
        )
        for split in zip(*(layer.halves for layer in layers), strict=True)
    ]
