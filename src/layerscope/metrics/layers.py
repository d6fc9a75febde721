"""Measures of several layers at once: how the representation moves, what it keeps, where it goes.

One function a measure, all on a `LayerStack`, which computes what they share once. A function gives
a `Between` for every place where the measure stands: a step from a layer to the next, a layer
against the final one, two layers of a matrix, or the model as a whole. Layers are the blocks' raw
outputs 0..L, so the final layer is block L before any norm.

Frenet, NRS and GFMI are named by Jiang, Yang, Tam 2026 ("Layer-wise Representation Dynamics"), of
which only the abstract could be read. The definitions are our choice, and every name says which
variant it is: `gfmi_edge`, `frenet_speed_k32`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics import filtration as filtration_module
from layerscope.metrics import neighbors, similarity, subspaces
from layerscope.metrics.filtration import Sign
from layerscope.metrics.geometry import LayerGeometry, half_paths, known, layer_geometry
from layerscope.metrics.neighbors import Neighbors, chance_retention
from layerscope.metrics.pairs import Pairs, half_sample_error, half_sample_limits, halvings
from layerscope.metrics.similarity import CkaMatrix, TokenCosines
from layerscope.metrics.spectrum import Estimate
from layerscope.metrics.subspaces import Frame, Frenet, Space

SUBSPACES = (32, 16, 64)
"""Dimensions k of the layer subspace, the default first."""

NEIGHBORHOODS = (10, 5, 20, 50)
"""Neighbors k of NRS, the default first."""

SCALES = (2, 4, 8, 16, 32)
"""Nearer of the two neighbors of GRIDE."""

Place = tuple[int, int | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Between:
    """One number of a stack of layers.

    Attributes:
        metric: name of the measure, with its variant.
        layer: the layer that it is told of; the later one of a step, L for a whole model.
        other_layer: the layer that it is compared with, None where there is none.
        value: None where it is undefined.
        contributions: (sample,) numbers whose mean is the value, where it is such a mean.
        error: standard error from halves of the samples, where there are no contributions.
        bounds: between what the value lies.
        null: value on layers without relation, where it is known.
        floor: value that estimation noise alone would give.
        reason: why the value is undefined.
        note: what a reader must know of this run.
        dimension: of the subspaces, where it is less than the k of the name.
    """

    metric: str
    layer: int
    other_layer: int | None
    value: float | None
    contributions: Tensor | None = None
    error: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    null: float | None = None
    floor: float | None = None
    reason: str = ""
    note: str = ""
    dimension: int | None = None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The 95 % limits that the error gives, kept inside the bounds."""
        if self.value is None or self.error is None:
            return None
        ends = half_sample_limits(torch.tensor(self.value), torch.tensor(self.error))
        low, high = (min(max(float(end), self.bounds[0]), self.bounds[1]) for end in ends)
        return low, high


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The pooled vectors of layers 0..L on one set of samples, and what measures share of them.

    Attributes:
        read: layer -> its vectors (sample, dim), in one order of samples.
        count: number of layers, L + 1.
        seed: of the halvings.
        components: prepare for GFMI by components, which costs a spanning tree a layer.
        crossed: layer -> the token cosines across the block that ends there; None where there are
            no tokens, only vectors.
        told: called after every layer that was prepared.
    """

    read: Callable[[int], Tensor]
    count: int
    seed: int = 0
    components: bool = True
    crossed: Callable[[int], TokenCosines] | None = None
    told: Callable[[], None] = lambda: None
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
    def steps(self) -> list[Place]:
        """Every layer but the first, with the one before it."""
        return [(layer, layer - 1) for layer in range(1, self.count)]

    @property
    def to_final(self) -> list[Place]:
        """Every layer but the final one, with that."""
        return [(layer, self.last) for layer in range(self.last)]

    @property
    def whole(self) -> list[Place]:
        """The place of what describes the model as a whole."""
        return [(self.last, 0)]

    @property
    def every_two(self) -> list[Place]:
        """All pairs of layers, the lower one first."""
        return [(one, two) for one in range(self.count) for two in range(one + 1, self.count)]

    @cached_property
    def vectors(self) -> list[Tensor]:
        """Vectors (sample, dim) of every layer, as they were read."""
        return [self.read(layer) for layer in range(self.count)]

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.vectors[0])

    @cached_property
    def geometry(self) -> list[LayerGeometry]:
        """What the measures need of every layer; the final one is made first."""
        final = self._prepared(self.last, None)
        return [*(self._prepared(layer, final) for layer in range(self.last)), final]

    def _prepared(self, layer: int, final: LayerGeometry | None) -> LayerGeometry:
        found = layer_geometry(
            self.vectors[layer], final, components=self.components, seed=self.seed
        )
        self.told()
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
        """Return the standard error of a number of the path, None where there is none."""
        try:
            found = [
                (torch.as_tensor(number(one)), torch.as_tensor(number(other)))
                for one, other in self.halves(k)
            ]
        except UndefinedError:
            return None
        return half_sample_error(found) if found else None

    def noise(self, k: int, layers: Iterable[int]) -> float:
        """Return the mean noise floor of some layers' subspaces, over the largest distance."""
        path = self.path(k)
        if not self.halves(k):
            return math.nan
        floors = [subspaces.noise_floor(self.geometry[layer].halves, path.k) for layer in layers]
        return sum(floors) / len(floors) / path.largest

    def lists(self, layer: int) -> Neighbors:
        """Return the nearest neighbors by cosine."""
        return known(self.geometry[layer].cosine)

    def distances(self, layer: int) -> Neighbors:
        """Return the nearest neighbors by distance."""
        return known(self.geometry[layer].euclidean)

    @cached_property
    def cka(self) -> CkaMatrix:
        """Linear CKA of every two layers."""
        return similarity.cka_matrix([layer.kernel for layer in self.geometry])

    def half_gfmi(self, layer: int, sign: Sign) -> Tensor:
        """Return GFMI by edges (halving, half) of halves of the samples; NaN where undefined."""
        if (layer, sign) not in self._half_gfmi:
            joints = known(self.geometry[layer].half_joint)
            self._half_gfmi[layer, sign] = filtration_module.gfmi_edge_halves(joints, sign)
        return self._half_gfmi[layer, sign]

    @cached_property
    def shuffled_gfmi(self) -> float:
        """GFMI by edges of the final layer against itself with its samples in another order."""
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed))
        final = self.geometry[-1].filtration
        assert final is not None, "the final layer is made first, against no other"  # noqa: S101
        other = filtration_module.filtration(
            Pairs(self.vectors[-1][order.to(self.vectors[-1].device)])
        )
        return filtration_module.gfmi_edge(filtration_module.joint_counts(other, known(final)))

    @cached_property
    def trust(self) -> dict[Place, Estimate | UndefinedError]:
        """By layer and a neighboring layer: how far that one's neighbor lists can be trusted in it.

        Each layer's pairs are made once.
        """
        found: dict[Place, Estimate | UndefinedError] = {}
        for layer in range(self.count):
            places = [(layer, other) for other in (layer - 1, layer + 1) if 0 <= other <= self.last]
            found.update(self._trusted(layer, places))
        return found

    def _trusted(
        self, layer: int, places: list[tuple[int, int]]
    ) -> dict[Place, Estimate | UndefinedError]:
        lists = {place: self.geometry[place[1]].cosine for place in places}
        known_lists = {p: part for p, part in lists.items() if isinstance(part, Neighbors)}
        found: dict[Place, Estimate | UndefinedError] = {
            place: part for place, part in lists.items() if isinstance(part, UndefinedError)
        }
        if not known_lists:
            return found
        try:
            scores = neighbors.trustworthiness(
                Pairs(self.vectors[layer]),
                self.lists(layer),
                list(known_lists.values()),
                NEIGHBORHOODS[0],
            )
            return found | dict(zip(known_lists, scores, strict=True))
        except UndefinedError as error:
            return found | dict.fromkeys(known_lists, error)

    @cached_property
    def _least_rank(self) -> int:
        """The least rank of a layer whose vectors are not all equal, 0 where there is none."""
        return min((layer.frame.width for layer in self.geometry if layer.frame.width), default=0)

    def lowered(self, k: int) -> int | None:
        """Return the dimension of subspaces where it is less than the k asked for."""
        return self._least_rank if 0 < self._least_rank < k else None

    @cached_property
    def subspace_note(self) -> str:
        """What is not as asked for in the subspaces of this run, "" if nothing."""
        rank = self._least_rank
        notes = []
        if lowered := [str(k) for k in sorted(SUBSPACES) if 0 < rank < k]:
            notes.append(f"k is {rank}, the least rank of a layer, instead of {', '.join(lowered)}")
        used = {min(k, rank) for k in SUBSPACES if rank}
        if noisy := [str(k) for k in sorted(used) if self.n < 4 * k]:
            notes.append(
                f"{self.n} texts are fewer than 4 k for k = {', '.join(noisy)}, so estimation noise "
                "rules those subspaces"
            )
        return f"Frenet: {'; '.join(notes)}." if notes else ""

    @property
    def neighbor_note(self) -> str:
        """Which neighborhoods are not small in this run, "" if all are."""
        wide = [str(k) for k in sorted(NEIGHBORHOODS) if self.n / 10 < k < self.n]
        return (
            f"NRS: k = {', '.join(wide)} is more than a tenth of {self.n} texts, so much is retained "
            "by chance; read the corrected score."
            if wide
            else ""
        )


Number = float | Estimate


def _between(
    metric: str,
    places: Sequence[Place],
    compute: Callable[[int, int], Number],
    *,
    error: Callable[[int, int], float | None] = lambda _layer, _other: None,
    floor: Callable[[int, int], float | None] = lambda _layer, _other: None,
    null: Callable[[], float] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    note: str = "",
) -> list[Between]:
    """Return a measure at its places; where it has no value, with the reason."""
    found = []
    for layer, other in places:
        row = partial(Between, metric=metric, layer=layer, other_layer=other, note=note)
        pair = (layer, layer if other is None else other)
        try:
            number = compute(*pair)
            found.append(
                row(
                    value=number.value if isinstance(number, Estimate) else number,
                    contributions=_contributions(number),
                    error=_finite(error(*pair)),
                    floor=_finite(floor(*pair)),
                    null=_finite(null()) if null else None,
                    bounds=bounds,
                )
            )
        except UndefinedError as reason:
            found.append(row(value=None, reason=str(reason)))
    return found


def _contributions(number: Number) -> Tensor | None:
    """Return the parts of the samples, None where no sample has one."""
    if not isinstance(number, Estimate) or bool(number.contributions.isnan().all()):
        return None
    return number.contributions


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number


def _each(
    variant: Callable[[LayerStack, int], list[Between]], stack: LayerStack, sizes: Sequence[int]
) -> tuple[Between, ...]:
    return tuple(row for size in sizes for row in variant(stack, size))


def _each_subspace(
    variant: Callable[[LayerStack, int], list[Between]], stack: LayerStack
) -> tuple[Between, ...]:
    """Return the rows of every size of subspaces, which say where it is not what was asked for."""
    return tuple(
        replace(row, dimension=stack.lowered(k)) for k in SUBSPACES for row in variant(stack, k)
    )


def _at(errors: Tensor | None, index: int, scale: float = 1.0) -> float | None:
    return None if errors is None else float(errors.reshape(-1)[index]) / scale


# --- Frenet: where the subspace goes ---------------------------------------------------------------


def random_level(n: int, d: int, k: int = SUBSPACES[0]) -> float:
    """Return the distance of random subspaces over the largest, 0 where they fill the space."""
    size = min(k, n - 1, d)
    return 0.0 if size >= d else subspaces.random_distance(size, d)


def frenet_speed(stack: LayerStack) -> tuple[Between, ...]:
    """Distance of a layer's subspace from the one before, over the largest; 0 to 1.

    The noise floor is the mean of both layers': a speed near it is no motion.
    """
    return _each_subspace(_speed, stack)


def _speed(stack: LayerStack, k: int) -> list[Between]:
    def value(layer: int, before: int) -> float:
        path = stack.path(k)
        _require_subspaces(path, (before, layer))
        return float(path.speed[before]) / path.largest

    def error(_layer: int, before: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.speed), before, stack.path(k).largest)

    return _between(
        f"frenet_speed_k{k}", stack.steps, value, error=error,
        floor=lambda *step: stack.noise(k, step), null=lambda: stack.path(k).random,
        bounds=(0, 1), note=stack.subspace_note,
    )  # fmt: skip


def _require_subspaces(path: Frenet, layers: Iterable[int]) -> None:
    for layer in layers:
        if not path.dimensions[layer]:
            raise UndefinedError(
                "constant layer 0 (CLS/EOS pooling?)"
                if layer == 0
                else f"all vectors are equal in layer {layer}"
            )


def frenet_turning(stack: LayerStack) -> tuple[Between, ...]:
    """Angle between arriving at a layer and leaving it, in radians; 0 straight on, pi back."""
    return _each_subspace(_turning, stack)


def _turning(stack: LayerStack, k: int) -> list[Between]:
    def value(layer: int, _other: int) -> float:
        return _of_inner(stack.path(k), stack.path(k).turning, layer)

    def error(layer: int, _other: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.turning), layer - 1)

    return _between(
        f"frenet_turning_k{k}", _inner(stack), value, error=error,
        null=lambda: math.pi / 2, bounds=(0, math.pi),
    )  # fmt: skip


def _inner(stack: LayerStack) -> list[Place]:
    return [(layer, None) for layer in range(1, stack.last)]


def _of_inner(path: Frenet, numbers: Tensor, layer: int) -> float:
    _require_subspaces(path, (layer - 1, layer, layer + 1))
    value = float(numbers[layer - 1])
    if not math.isfinite(value):
        raise UndefinedError("the subspace is that of a neighboring layer, so it has no direction")
    return value


def frenet_curvature(stack: LayerStack) -> tuple[Between, ...]:
    """Turning over the mean length of the two steps, both in radians; at least 0."""
    return _each_subspace(_curvature, stack)


def _curvature(stack: LayerStack, k: int) -> list[Between]:
    def value(layer: int, _other: int) -> float:
        return _of_inner(stack.path(k), stack.path(k).curvature, layer)

    def error(layer: int, _other: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.curvature), layer - 1)

    return _between(
        f"frenet_curvature_k{k}", _inner(stack), value, error=error, bounds=(0, math.inf)
    )


def frenet_displacement(stack: LayerStack) -> tuple[Between, ...]:
    """Distance d_{0,L} of the first and final layer's subspace, over the largest; 0 to 1."""
    return _each_subspace(_displacement, stack)


def _displacement(stack: LayerStack, k: int) -> list[Between]:
    def error(_last: int, _first: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.end_distance), 0, stack.path(k).largest)

    return _between(
        f"frenet_displacement_k{k}", stack.whole,
        lambda *_: stack.path(k).displacement / stack.path(k).largest, error=error,
        floor=lambda *ends: stack.noise(k, ends), null=lambda: stack.path(k).random, bounds=(0, 1),
    )  # fmt: skip


def frenet_displacement_sample(stack: LayerStack) -> tuple[Between, ...]:
    """The same distance between patterns over samples, so that widths may differ; 0 to 1."""
    return _each_subspace(_sample_displacement, stack)


def _sample_displacement(stack: LayerStack, k: int) -> list[Between]:
    def path() -> Frenet:
        return stack.path(k, Space.SAMPLE)

    def of_half(frames: Sequence[Frame]) -> Tensor:
        size = path().k
        if min(frame.width for frame in frames) < size or size >= len(frames[0].sample) - 1:
            return torch.tensor(math.nan)  # too few samples for subspaces of this dimension
        found = subspaces.frenet(frames, size, Space.SAMPLE)
        return torch.tensor(found.displacement / found.largest)

    def error(_last: int, _first: int) -> float:
        halves = [(of_half(one), of_half(other)) for one, other in stack.end_halves]
        return float(half_sample_error(halves))

    return _between(
        f"frenet_displacement_sample_k{k}", stack.whole,
        lambda *_: path().displacement / path().largest, error=error, null=lambda: path().random,
        bounds=(0, 1),
    )  # fmt: skip


def frenet_arc_length(stack: LayerStack) -> tuple[Between, ...]:
    """Sum of the speeds, each over the largest distance; 0 to L."""
    return _each_subspace(_arc_length, stack)


def _arc_length(stack: LayerStack, k: int) -> list[Between]:
    def error(_last: int, _first: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.arc_length), 0, stack.path(k).largest)

    return _between(
        f"frenet_arc_length_k{k}", stack.whole,
        lambda *_: stack.path(k).arc_length / stack.path(k).largest, error=error,
        floor=lambda *_: sum(stack.noise(k, (layer, before or 0)) for layer, before in stack.steps),
        null=lambda: stack.last * stack.path(k).random, bounds=(0, stack.last),
    )  # fmt: skip


def frenet_straightness(stack: LayerStack) -> tuple[Between, ...]:
    """Displacement over arc length, 0 to 1, and the bound that bounded distances put on it."""
    return _each_subspace(_straightness, stack)


def _straightness(stack: LayerStack, k: int) -> list[Between]:
    def error(_last: int, _first: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.straightness), 0)

    name = f"frenet_straightness_k{k}"
    return [
        *_between(
            name, stack.whole, lambda *_: stack.path(k).straightness, error=error,
            null=lambda: 1 / stack.last, bounds=(0, 1),
        ),
        *_between(f"{name}_bound", stack.whole, lambda *_: stack.path(k).straightness_bound),
    ]  # fmt: skip


def frenet_mean_turning(stack: LayerStack) -> tuple[Between, ...]:
    """Mean turning of the inner layers, in radians; 0 to pi."""
    return _each_subspace(_mean_turning, stack)


def _mean_turning(stack: LayerStack, k: int) -> list[Between]:
    def error(_last: int, _first: int) -> float | None:
        return _at(stack.path_error(k, lambda path: path.mean_turning), 0)

    return _between(
        f"frenet_mean_turning_k{k}", stack.whole, lambda *_: stack.path(k).mean_turning,
        error=error, null=lambda: math.pi / 2, bounds=(0, math.pi),
    )  # fmt: skip


# --- neighborhoods: what is kept -------------------------------------------------------------------


def retention_level(n: int, k: int = NEIGHBORHOODS[0]) -> float:
    """Return the NRS of unrelated layers of n samples."""
    return min(1.0, chance_retention(n, k))


def nrs(stack: LayerStack) -> tuple[Between, ...]:
    """Share of the k nearest neighbors that a block keeps; 0 to 1."""
    return _each(_nrs, stack, NEIGHBORHOODS)


def _nrs(stack: LayerStack, k: int) -> list[Between]:
    return _between(
        f"nrs_k{k}", stack.steps,
        lambda layer, other: neighbors.retention(stack.lists(layer), stack.lists(other), k),
        null=lambda: retention_level(stack.n, k), note=stack.neighbor_note,
    )  # fmt: skip


def nrs_corrected(stack: LayerStack) -> tuple[Between, ...]:
    """The same above chance: 0 for unrelated layers, 1 for equal lists."""
    return _each(_nrs_corrected, stack, NEIGHBORHOODS)


def _nrs_corrected(stack: LayerStack, k: int) -> list[Between]:
    return _between(
        f"nrs_corrected_k{k}", stack.steps,
        lambda layer, other: _corrected(stack, layer, other, k), null=lambda: 0.0,
    )  # fmt: skip


def _corrected(stack: LayerStack, layer: int, other: int, k: int) -> Estimate:
    return neighbors.corrected_retention(stack.lists(layer), stack.lists(other), k)


def nrs_to_final(stack: LayerStack) -> tuple[Between, ...]:
    """Share of a layer's k nearest neighbors that are the final layer's too; 0 to 1."""
    return _each(_nrs_to_final, stack, NEIGHBORHOODS)


def _nrs_to_final(stack: LayerStack, k: int) -> list[Between]:
    return _between(
        f"nrs_to_final_k{k}", stack.to_final,
        lambda layer, other: neighbors.retention(stack.lists(layer), stack.lists(other), k),
        null=lambda: retention_level(stack.n, k),
    )  # fmt: skip


def nrs_corrected_to_final(stack: LayerStack) -> tuple[Between, ...]:
    """The same above chance."""
    return _each(_nrs_corrected_to_final, stack, NEIGHBORHOODS)


def _nrs_corrected_to_final(stack: LayerStack, k: int) -> list[Between]:
    return _between(
        f"nrs_corrected_to_final_k{k}", stack.to_final,
        lambda layer, other: _corrected(stack, layer, other, k), null=lambda: 0.0,
    )  # fmt: skip


def mean_nrs(stack: LayerStack) -> tuple[Between, ...]:
    """Mean NRS of all blocks: one number for the model."""
    return _each(_mean_nrs, stack, NEIGHBORHOODS)


def _mean_nrs(stack: LayerStack, k: int) -> list[Between]:
    def value(_last: int, _first: int) -> Estimate:
        return _mean(
            neighbors.retention(stack.lists(layer), stack.lists(layer - 1), k)
            for layer in range(1, stack.count)
        )

    return _between(f"mean_nrs_k{k}", stack.whole, value, null=lambda: retention_level(stack.n, k))


def mean_nrs_corrected(stack: LayerStack) -> tuple[Between, ...]:
    """The same above chance."""
    return _each(_mean_nrs_corrected, stack, NEIGHBORHOODS)


def _mean_nrs_corrected(stack: LayerStack, k: int) -> list[Between]:
    def value(_last: int, _first: int) -> Estimate:
        return _mean(_corrected(stack, layer, layer - 1, k) for layer in range(1, stack.count))

    return _between(f"mean_nrs_corrected_k{k}", stack.whole, value, null=lambda: 0.0)


def _mean(estimates: Iterable[Estimate]) -> Estimate:
    contributions = torch.stack([estimate.contributions for estimate in estimates]).mean(0)
    return Estimate(float(contributions.mean()), contributions)


def trust_level(n: int, k: int = NEIGHBORHOODS[0]) -> float:
    """Return the trustworthiness of unrelated layers: new neighbors of random rank."""
    return 1 - max(0, n - 1 - k) * (n - k) / ((n - 1) * (2 * n - 3 * k - 1))


def trustworthiness(stack: LayerStack) -> tuple[Between, ...]:
    """1 less a penalty for neighbors after a block that were far off before it; 0 to 1."""
    return tuple(
        _between(
            f"trustworthiness_k{NEIGHBORHOODS[0]}", stack.steps,
            lambda layer, before: known(stack.trust[before, layer]), null=lambda: trust_level(stack.n),
        )
    )  # fmt: skip


def continuity(stack: LayerStack) -> tuple[Between, ...]:
    """1 less a penalty for neighbors before a block that are far off after it; 0 to 1."""
    return tuple(
        _between(
            f"continuity_k{NEIGHBORHOODS[0]}", stack.steps,
            lambda layer, before: known(stack.trust[layer, before]), null=lambda: trust_level(stack.n),
        )
    )  # fmt: skip


# --- graphs: how far from the final order ----------------------------------------------------------


def gfmi_edge(stack: LayerStack) -> tuple[Between, ...]:
    """Do a layer's graphs connect the pairs that the final layer's do? 0 to 1.

    `gfmi_edge_signed` counts levels with fewer common edges than chance below 0.
    """
    names = {Sign.CLIP: "gfmi_edge", Sign.SIGNED: "gfmi_edge_signed"}
    return tuple(row for sign, name in names.items() for row in _gfmi_edge(stack, name, sign))


def _gfmi_edge(stack: LayerStack, name: str, sign: Sign) -> list[Between]:
    def error(layer: int, _final: int) -> float:
        return float(_half_error(stack.half_gfmi(layer, sign)))

    return _between(
        name, stack.to_final,
        lambda layer, _: filtration_module.gfmi_edge(known(stack.geometry[layer].joint), sign),
        error=error, null=lambda: stack.shuffled_gfmi,
        bounds=(-1 if sign is Sign.SIGNED else 0, 1),
    )  # fmt: skip


def _half_error(values: Tensor) -> Tensor:
    """Return the error from values (halving, half)."""
    return half_sample_error([(one, other) for one, other in values])


def gfmi_knn(stack: LayerStack) -> tuple[Between, ...]:
    """The same of neighbor lists, at k = 1, 2, 4, ...; 0 to 1."""
    return tuple(
        _between("gfmi_knn", stack.to_final, lambda layer, _: _gfmi_knn(stack, layer), null=_zero)
    )


def _gfmi_knn(stack: LayerStack, layer: int) -> Estimate:
    return filtration_module.gfmi_knn(known(stack.geometry[layer].shared))


def gfmi_component(stack: LayerStack) -> tuple[Between, ...]:
    """The same of connected components: at equal densities, and at equal numbers (`_counts`)."""

    def parts(layer: int, final: int) -> tuple[LayerGeometry, LayerGeometry]:
        return stack.geometry[layer], stack.geometry[final]

    def by_density(layer: int, final: int) -> float:
        one, other = parts(layer, final)
        levels = known(one.thresholds), known(other.thresholds)
        return filtration_module.gfmi_component(_tree(one), _tree(other), *levels)

    def by_counts(layer: int, final: int) -> float:
        one, other = parts(layer, final)
        return filtration_module.gfmi_component_counts(_tree(one), _tree(other))

    return (
        *_between("gfmi_component", stack.to_final, by_density, null=_zero),
        *_between("gfmi_component_counts", stack.to_final, by_counts, null=_zero),
    )


def _zero() -> float:
    return 0.0


def _tree(layer: LayerGeometry) -> filtration_module.Tree:
    if layer.tree is None:
        raise UndefinedError("the stack was made without components")
    return known(layer.tree)


def mean_gfmi_edge(stack: LayerStack) -> tuple[Between, ...]:
    """Mean GFMI by edges of layers 0..L-1: one number for the model."""

    def value(_last: int, _first: int) -> float:
        joints = [known(layer.joint) for layer in stack.geometry[:-1]]
        return sum(map(filtration_module.gfmi_edge, joints)) / len(joints)

    def error(_last: int, _first: int) -> float:
        values = [stack.half_gfmi(layer, Sign.CLIP) for layer in range(stack.last)]
        return float(_half_error(torch.stack(values).mean(0)))

    return tuple(
        _between(
            "mean_gfmi_edge", stack.whole, value, error=error,
            null=lambda: stack.shuffled_gfmi, bounds=(0, 1),
        )
    )  # fmt: skip


def mean_gfmi_knn(stack: LayerStack) -> tuple[Between, ...]:
    """Mean GFMI by neighbor lists of layers 0..L-1."""

    def value(_last: int, _first: int) -> Estimate:
        return _mean(_gfmi_knn(stack, layer) for layer in range(stack.last))

    return tuple(_between("mean_gfmi_knn", stack.whole, value, null=_zero))


# --- what they are compared with -------------------------------------------------------------------


def cka(stack: LayerStack) -> tuple[Between, ...]:
    """Unbiased linear CKA of a layer with the one before; about 0 to 1."""
    return tuple(_between("cka_unbiased", stack.steps, stack_cka(stack), null=_zero))


def stack_cka(stack: LayerStack) -> Callable[[int, int], Estimate]:
    """Return the CKA of two layers of a stack as a function."""
    return lambda one, other: stack.cka.estimate(one, other)


def procrustes_angle(stack: LayerStack) -> tuple[Between, ...]:
    """Angle between a layer and the one before after the best rotation, in radians; 0 to pi / 2."""
    return tuple(
        _between(
            "procrustes_angle", stack.steps,
            lambda layer, other: similarity.procrustes_angle(
                stack.vectors[other], stack.vectors[layer]
            ),
        )
    )  # fmt: skip


def angular_distance(stack: LayerStack) -> tuple[Between, ...]:
    """Mean angle of a sample's vector before and after a block, over pi; 0 to 1."""
    return tuple(_between("angular_distance", stack.steps, _angle(stack), null=lambda: 0.5))


def _angle(stack: LayerStack) -> Callable[[int, int], Estimate]:
    def angle(layer: int, other: int) -> Estimate:
        return similarity.angular_distance(stack.vectors[layer], stack.vectors[other])

    return angle


def block_influence(stack: LayerStack) -> tuple[Between, ...]:
    """1 less the mean cosine of a token before and after a block; 0 to 2."""

    def value(layer: int, _before: int) -> Estimate:
        if stack.crossed is None:
            raise UndefinedError("block influence needs the tokens, and here are only vectors")
        return similarity.block_influence([stack.crossed(layer)])

    return tuple(_between("block_influence", stack.steps, value, null=lambda: 1.0))


# --- every two layers ------------------------------------------------------------------------------


def cka_matrix(stack: LayerStack) -> tuple[Between, ...]:
    """Unbiased linear CKA of every two layers."""
    found = stack_cka(stack)
    return tuple(_between("cka_matrix", stack.every_two, lambda *pair: found(*pair).value))


def nrs_matrix(stack: LayerStack) -> tuple[Between, ...]:
    """NRS at k = 10, or mutual kNN, of every two layers."""
    k = NEIGHBORHOODS[0]

    def value(one: int, other: int) -> float:
        return neighbors.retention(stack.lists(one), stack.lists(other), k).value

    return tuple(_between(f"nrs_matrix_k{k}", stack.every_two, value))


def grassmann_matrix(stack: LayerStack) -> tuple[Between, ...]:
    """Distance of the subspaces of every two layers, over the largest."""
    k = SUBSPACES[0]

    def value(one: int, other: int) -> float:
        path = stack.path(k)
        _require_subspaces(path, (one, other))
        bases = (stack.geometry[at].frame.basis(Space.FEATURE, path.k) for at in (one, other))
        return subspaces.geodesic_distance(*bases) / path.largest

    return tuple(_between(f"grassmann_matrix_k{k}", stack.every_two, value))


def angular_matrix(stack: LayerStack) -> tuple[Between, ...]:
    """Angular distance of every two layers: over any number of blocks."""
    angle = _angle(stack)
    return tuple(_between("angular_matrix", stack.every_two, lambda *pair: angle(*pair).value))


# --- intrinsic dimension ---------------------------------------------------------------------------


def _at_layers(
    metric: str, stack: LayerStack, compute: Callable[[Neighbors], Estimate]
) -> list[Between]:
    places: list[Place] = [(layer, None) for layer in range(stack.count)]
    return _between(metric, places, lambda layer, _: compute(stack.distances(layer)))


def two_nn(stack: LayerStack) -> tuple[Between, ...]:
    """Intrinsic dimension of a layer by the ratio of its two nearest distances."""
    return tuple(_at_layers("two_nn", stack, neighbors.two_nn))


def gride(stack: LayerStack) -> tuple[Between, ...]:
    """Intrinsic dimension by the distances of neighbors n and 2 n, at growing scales n."""

    def scale(stack: LayerStack, near: int) -> list[Between]:
        return _at_layers(f"gride_n{near}", stack, lambda lists: neighbors.gride(lists, near))

    return _each(scale, stack, SCALES)


def levina_bickel(stack: LayerStack) -> tuple[Between, ...]:
    """Intrinsic dimension by the distances of 20 neighbors."""
    return tuple(_at_layers("levina_bickel_k20", stack, neighbors.levina_bickel))
