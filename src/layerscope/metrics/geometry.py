"""What the measures between layers share: `LayerGeometry` of one layer, `LayerStack` of all.

`layer_geometry` makes one pass over a layer's pooled vectors and keeps what is small: leading
directions, neighbor lists, a kernel, and the joint counts of its pairs of samples with those of the
final layer. The matrix over pairs of samples is freed when it returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final, TypeVar

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics import similarity, subspaces
from layerscope.metrics.between import Place
from layerscope.metrics.components import Tree, spanning_tree
from layerscope.metrics.dimension import dimensions
from layerscope.metrics.estimates import Estimate, half_samples, of_halves
from layerscope.metrics.filtration import (
    Filtration,
    Sign,
    filtration,
    gfmi_edge,
    gfmi_edge_halves,
    half_joint_counts,
    joint_counts,
)
from layerscope.metrics.measure import NEIGHBORHOODS, SUBSPACES
from layerscope.metrics.neighborhoods import Neighborhoods, neighborhoods
from layerscope.metrics.neighbors import Neighbors
from layerscope.metrics.pairs import COUNT, Closeness, Pairs, halvings, path_error
from layerscope.metrics.similarity import CkaMatrix, TokenCosines
from layerscope.metrics.subspaces import Frame, Frenet, Space, frame, half_bases, trajectory

T = TypeVar("T")

_SAMPLES_A_DIMENSION: Final = 2  # of a subspace, in each half: of fewer, halves spread too little


@dataclass(frozen=True, eq=False)
class LayerGeometry:
    """What the measures between layers need of one layer.

    A part that has no value on these vectors is the `UndefinedError` that says why: take parts with
    `known`, which raises it.

    Attributes:
        frame: leading directions; none where all vectors are equal.
        halves: feature bases of pairs of halves of the samples, for noise and error.
        dimensions: estimates of the intrinsic dimension, by the names of the measures.
        filtration: levels of all pairs, one byte a pair. Only of the final layer, None of others.
        joint: pairs by their level here and in the final layer, for GFMI by edges.
        half_joint: the same of pairs inside halves of the samples, for its error.
        thresholds: (level,) of the filtration, for GFMI by components.
        tree: spanning tree, for GFMI by components; None unless requested.
    """

    frame: Frame
    halves: list[tuple[Tensor, Tensor]]
    dimensions: dict[str, Estimate | UndefinedError]
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
    splits = halvings(pairs.n, COUNT, seed)
    return LayerGeometry(
        frame=whole,
        halves=half_bases(pairs.vectors, whole, splits),
        dimensions=dimensions(pairs),
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


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The pooled vectors of layers 0..L on one set of samples, and what measures share of them.

    Attributes:
        read: layer -> its vectors (sample, dim), in one order of samples.
        count: number of layers, L + 1.
        seed: of the halvings.
        components: whether to prepare GFMI by components, which costs a spanning tree per layer.
        crossed: layer -> the token cosines across the block that ends there; None where there are
            no tokens, only vectors.
        prepared: called after each layer whose geometry is ready.
    """

    read: Callable[[int], Tensor]
    count: int
    seed: int = 0
    components: bool = True
    crossed: Callable[[int], TokenCosines] | None = None
    prepared: Callable[[], None] = lambda: None
    _paths: dict[tuple[int, Space], Frenet] = field(default_factory=dict, init=False, repr=False)
    _halves: dict[int, list[tuple[Frenet, Frenet]]] = field(
        default_factory=dict, init=False, repr=False
    )
    _half_gfmi: dict[tuple[int, Sign], Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def last(self) -> int:
        """L, the number of the final layer."""
        return self.count - 1

    @property
    def steps(self) -> list[tuple[int, int]]:
        """Every layer but the first, with the one before it."""
        return [(layer, layer - 1) for layer in range(1, self.count)]

    @property
    def inner(self) -> list[Place]:
        """Every layer but the first and the final one."""
        return [(layer, None) for layer in range(1, self.last)]

    @property
    def to_final(self) -> list[Place]:
        """Every layer but the final one, with the final one."""
        return [(layer, self.last) for layer in range(self.last)]

    @property
    def whole(self) -> list[Place]:
        """The one place of a number that describes the whole model."""
        return [(self.last, 0)]

    @property
    def every_two(self) -> list[Place]:
        """All pairs of layers, the lower one first."""
        return [(one, two) for one in range(self.count) for two in range(one + 1, self.count)]

    @cached_property
    def vectors(self) -> list[Tensor]:
        """Vectors (sample, dim) of every layer."""
        return [self.read(layer) for layer in range(self.count)]

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.vectors[0])

    @cached_property
    def geometry(self) -> list[LayerGeometry]:
        """The geometry of every layer; that of the final layer is made first."""
        final = self._geometry(self.last, None)
        return [*(self._geometry(layer, final) for layer in range(self.last)), final]

    def _geometry(self, layer: int, final: LayerGeometry | None) -> LayerGeometry:
        found = layer_geometry(
            self.vectors[layer], final, components=self.components, seed=self.seed
        )
        self.prepared()
        return found

    def path(self, k: int, space: Space = Space.FEATURE) -> Frenet:
        """Return the path of the layers' k-dimensional subspaces.

        Raises:
            UndefinedError: no layer has a subspace, or it is the whole space.
        """
        if (k, space) not in self._paths:
            frames = [layer.frame for layer in self.geometry]
            self._paths[k, space] = subspaces.frenet(frames, k, space)
        path = self._paths[k, space]
        if not path.k:
            raise UndefinedError("all vectors are equal in every layer")
        # Centered columns are orthogonal to the constant one: samples have a dimension less.
        room = path.ambient - (space is Space.SAMPLE)
        if path.k >= room:
            raise UndefinedError(
                f"subspaces of dimension {path.k} fill all {room} of the {space} space"
            )
        return path

    def halves(self, k: int) -> list[tuple[Frenet, Frenet]]:
        """Return the paths of pairs of halves; none where a half has too few directions."""
        size = self.path(k).k
        if size not in self._halves:
            widths = [
                basis.shape[1]
                for layer in self.geometry
                if layer.frame.width
                for split in layer.halves
                for basis in split
            ]
            fits = min(widths, default=0) >= size
            self._halves[size] = half_paths(self.geometry, size) if fits else []
        return self._halves[size]

    @cached_property
    def end_halves(self) -> list[tuple[list[Frame], list[Frame]]]:
        """Frames of the first and final layer in both halves of the samples, for each halving."""
        ends = (self.vectors[0], self.vectors[-1])
        return [
            (
                [subspaces.frame(end[one]) for end in ends],
                [subspaces.frame(end[two]) for end in ends],
            )
            for one, two in halvings(self.n, seed=self.seed)
        ]

    def path_error(self, k: int, number: Callable[[Frenet], Tensor | float]) -> Tensor | None:
        """Return the standard error of a number of the path, None where halves have too few samples."""
        if self.n // 2 < _SAMPLES_A_DIMENSION * k:
            return None
        try:
            found = [
                (torch.as_tensor(number(one)), torch.as_tensor(number(other)))
                for one, other in self.halves(k)
            ]
        except UndefinedError:
            return None
        return path_error(found) if found else None

    def noise(self, k: int, layers: Iterable[int]) -> float:
        """Return the mean noise floor of some layers' subspaces, over the largest distance."""
        path = self.path(k)
        if not self.halves(k):
            return math.nan
        floors = [subspaces.noise_floor(self.geometry[layer].halves, path.k) for layer in layers]
        return sum(floors) / len(floors) / path.largest

    @cached_property
    def _directions(self) -> dict[int, UndefinedError]:
        """Layers whose samples have no neighbors by cosine, with the reason."""
        found = {}
        for layer, vectors in enumerate(self.vectors):
            try:
                Pairs(vectors).lengths(Closeness.COSINE)
            except UndefinedError as error:
                found[layer] = error
        return found

    @cached_property
    def _neighborhoods(self) -> tuple[dict[int, Neighbors], tuple[Neighborhoods, ...]]:
        layers = [layer for layer in range(self.count) if layer not in self._directions]
        return neighborhoods(
            {at: partial(self.vectors.__getitem__, at) for at in layers}, self.last
        )

    def lists(self, layer: int) -> Neighbors:
        """Return the nearest neighbors by cosine, of all samples."""
        self._require_directions(layer)
        return self._neighborhoods[0][layer]

    def around(self, half: int | None, *layers: int) -> Neighborhoods:
        """Return what the layers' neighborhoods share, in all samples or inside one of their halves."""
        self._require_directions(*layers)
        return self._neighborhoods[1][0 if half is None else 1 + half]

    def _require_directions(self, *layers: int) -> None:
        for layer in layers:
            if layer in self._directions:
                raise self._directions[layer]

    def of_halves(self, number: Callable[[int | None], float], *, log: bool = False) -> Estimate:
        """Return `estimates.of_halves` of a number of a half, or of all samples for None."""
        value = number(None)
        try:
            found = [number(half) for half in range(len(half_samples(self.n)))]
        except UndefinedError:
            found = []
        return of_halves(value, found, self.n, log=log)

    @cached_property
    def cka(self) -> CkaMatrix:
        """Linear CKA of every two layers."""
        return similarity.cka_matrix([similarity.kernel(vectors) for vectors in self.vectors])

    def half_gfmi(self, layer: int, sign: Sign) -> Tensor:
        """Return GFMI by edges (halving, half) of halves of the samples; NaN where undefined."""
        if (layer, sign) not in self._half_gfmi:
            joints = known(self.geometry[layer].half_joint)
            self._half_gfmi[layer, sign] = gfmi_edge_halves(joints, sign)
        return self._half_gfmi[layer, sign]

    @cached_property
    def shuffled_gfmi(self) -> float:
        """GFMI by edges of the final layer against itself with its samples in another order."""
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))
        final = self.geometry[-1].filtration
        assert final is not None, "the final layer is made first, against no other"  # noqa: S101
        other = filtration(Pairs(self.vectors[-1][order.to(self.vectors[-1].device)]))
        return gfmi_edge(joint_counts(other, known(final)))

    @cached_property
    def _least_rank(self) -> int:
        """The least rank of a layer whose vectors are not all equal, 0 where there is none."""
        return min((layer.frame.width for layer in self.geometry if layer.frame.width), default=0)

    def lowered(self, k: int) -> int | None:
        """Return the dimension of subspaces where it is lower than the requested k, else None."""
        return self._least_rank if 0 < self._least_rank < k else None

    @cached_property
    def subspace_note(self) -> str:
        """How the subspaces of this run differ from the requested ones, "" if they do not."""
        rank = self._least_rank
        notes = []
        if lowered := [str(k) for k in sorted(SUBSPACES) if 0 < rank < k]:
            notes.append(f"k is {rank}, the least rank of a layer, instead of {', '.join(lowered)}")
        used = {min(k, rank) for k in SUBSPACES if rank}
        if noisy := [str(k) for k in sorted(used) if self.n < 4 * k]:
            notes.append(
                f"{self.n} texts are fewer than 4 k for k = {', '.join(noisy)}, so estimation noise "
                "rules those subspaces; their paths have no limits"
            )
        return f"Frenet: {'; '.join(notes)}." if notes else ""

    @property
    def neighbor_note(self) -> str:
        """Which neighborhoods are large in this run, "" if none is."""
        wide = [str(k) for k in sorted(NEIGHBORHOODS) if self.n / 10 < k < self.n]
        return (
            f"NRS: k = {', '.join(wide)} is more than a tenth of {self.n} texts, so much is retained "
            "by chance; read the corrected score."
            if wide
            else ""
        )
