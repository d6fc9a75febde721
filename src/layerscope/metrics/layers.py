"""Measures of several layers at once: how the representation moves, what it keeps, where it goes.

One function per measure, all on a `LayerStack`, which computes once what they share. A function
returns a `Between` for every place of the measure: a step from a layer to the next, a layer against
the final one, two layers of a matrix, or the whole model. Layers are the blocks' raw outputs 0..L, so
the final layer is block L before any norm.

Frenet, NRS and GFMI are named by Jiang, Yang, Tam 2026 ("Layer-wise Representation Dynamics"), of
which only the abstract could be read. The definitions are our choice, and every name says which
variant it is: `gfmi_edge`, `frenet_speed_k32`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics import components, filtration, neighbors, similarity, subspaces
from layerscope.metrics.between import Between, Place, between
from layerscope.metrics.components import Tree
from layerscope.metrics.estimates import Estimate
from layerscope.metrics.filtration import Sign
from layerscope.metrics.geometry import LayerGeometry, LayerStack, known
from layerscope.metrics.measure import NEIGHBORHOODS, SCALES, SUBSPACES
from layerscope.metrics.neighbors import chance_retention, chance_trustworthiness, in_half
from layerscope.metrics.pairs import half_sample_error, path_error
from layerscope.metrics.subspaces import Frame, Frenet, Space

Rows = tuple[Between, ...]


# --- Frenet: where the subspace goes ---------------------------------------------------------------


def _frenet(
    stem: str,
    stack: LayerStack,
    places: Sequence[Place],
    number: Callable[[Frenet], Tensor | float],
    *,
    around: Sequence[int] = (),
    over_largest: bool = False,
    floor: Callable[[int, int, int], float] | None = None,
    null: Callable[[Frenet], float] | None = None,
    most: float = math.inf,
    note: str = "",
) -> Rows:
    """Return a number of the path at some places, for every dimension of the subspaces.

    Args:
        stem: name of the measure without its dimension.
        stack: the layers.
        places: layers 1, 2, ..., or the whole model.
        number: what is measured: of layers a tensor whose first entry belongs to layer 1.
        around: of layers, those that must have a subspace, relative to the layer.
        over_largest: whether the number is a distance, to be divided by the largest one.
        floor: noise floor, from k and the place.
        null: level of the path of random subspaces.
        most: upper bound of the value; the lower one is 0.
        note: of the rows.
    """

    def entry(numbers: Tensor | float, k: int, layer: int) -> float:
        at = torch.as_tensor(numbers, dtype=torch.float64).reshape(-1)[layer - 1 if around else 0]
        return float(at) / (stack.path(k).largest if over_largest else 1.0)

    def rows(k: int) -> Rows:
        def value(layer: int, _other: int) -> float:
            path = stack.path(k)
            _require_subspaces(path, [layer + offset for offset in around])
            found = entry(number(path), k, layer)
            if not math.isfinite(found):
                raise UndefinedError(
                    "the subspace is that of a neighboring layer, so it has no direction"
                )
            return found

        def error(layer: int, _other: int) -> float | None:
            errors = stack.path_error(k, number)
            return None if errors is None else entry(errors, k, layer)

        return between(
            f"{stem}_k{k}", places, value, error=error,
            floor=lambda *place: None if floor is None else floor(k, *place),
            null=None if null is None else lambda: null(stack.path(k)),
            bounds=(0, most), note=note,
        )  # fmt: skip

    return _each_subspace(stack, rows)


def _each_subspace(stack: LayerStack, rows: Callable[[int], Rows]) -> Rows:
    """Return the rows of every dimension; each says where it is less than the k of its name."""
    return tuple(replace(row, dimension=stack.lowered(k)) for k in SUBSPACES for row in rows(k))


def _require_subspaces(path: Frenet, layers: Iterable[int]) -> None:
    for layer in layers:
        if not path.dimensions[layer]:
            raise UndefinedError(
                "constant layer 0 (CLS/EOS pooling?)"
                if layer == 0
                else f"all vectors are equal in layer {layer}"
            )


def frenet_speed(stack: LayerStack) -> Rows:
    """Distance of a layer's subspace from the one before, over the largest; 0 to 1.

    The noise floor is the mean of both layers': a speed near it is no motion.
    """
    return _frenet(
        "frenet_speed", stack, stack.steps, lambda path: path.speed, around=(-1, 0),
        over_largest=True, floor=lambda k, *step: stack.noise(k, step),
        null=lambda path: path.random, most=1, note=stack.subspace_note,
    )  # fmt: skip


def frenet_turning(stack: LayerStack) -> Rows:
    """Angle between arriving at a layer and leaving it, in radians; 0 straight on, pi back."""
    return _frenet(
        "frenet_turning", stack, stack.inner, lambda path: path.turning, around=(-1, 0, 1),
        null=lambda _path: math.pi / 2, most=math.pi,
    )  # fmt: skip


def frenet_curvature(stack: LayerStack) -> Rows:
    """Turning over the mean length of the two steps, both in radians; at least 0."""
    return _frenet(
        "frenet_curvature", stack, stack.inner, lambda path: path.curvature, around=(-1, 0, 1)
    )


def frenet_displacement(stack: LayerStack) -> Rows:
    """Distance d_{0,L} of the first and final layer's subspace, over the largest; 0 to 1."""
    return _frenet(
        "frenet_displacement", stack, stack.whole, lambda path: path.displacement,
        over_largest=True, floor=lambda k, *ends: stack.noise(k, ends),
        null=lambda path: path.random, most=1,
    )  # fmt: skip


def frenet_displacement_sample(stack: LayerStack) -> Rows:
    """The same distance between patterns over samples, so that widths may differ; 0 to 1."""

    def rows(k: int) -> Rows:
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
            return float(path_error(halves))

        return between(
            f"frenet_displacement_sample_k{k}", stack.whole,
            lambda *_: path().displacement / path().largest, error=error,
            null=lambda: path().random, bounds=(0, 1),
        )  # fmt: skip

    return _each_subspace(stack, rows)


def frenet_arc_length(stack: LayerStack) -> Rows:
    """Sum of the speeds, each over the largest distance; 0 to L."""
    return _frenet(
        "frenet_arc_length", stack, stack.whole, lambda path: path.arc_length, over_largest=True,
        floor=lambda k, *_: sum(stack.noise(k, step) for step in stack.steps),
        null=lambda path: stack.last * path.random, most=stack.last,
    )  # fmt: skip


def frenet_straightness(stack: LayerStack) -> Rows:
    """Displacement over arc length, 0 to 1, and the bound that bounded distances put on it."""
    ratios = _frenet(
        "frenet_straightness", stack, stack.whole, lambda path: path.straightness,
        null=lambda _path: 1 / stack.last, most=1,
    )  # fmt: skip
    bounds = _each_subspace(
        stack,
        lambda k: between(
            f"frenet_straightness_k{k}_bound", stack.whole,
            lambda *_: stack.path(k).straightness_bound,
        ),
    )  # fmt: skip
    return tuple(row for pair in zip(ratios, bounds, strict=True) for row in pair)


def frenet_mean_turning(stack: LayerStack) -> Rows:
    """Mean turning of the inner layers, in radians; 0 to pi."""
    return _frenet(
        "frenet_mean_turning", stack, stack.whole, lambda path: path.mean_turning,
        null=lambda _path: math.pi / 2, most=math.pi,
    )  # fmt: skip


def grassmann_matrix(stack: LayerStack) -> Rows:
    """Distance of the subspaces of every two layers, over the largest."""
    k = SUBSPACES[0]

    def value(one: int, other: int) -> float:
        path = stack.path(k)
        _require_subspaces(path, (one, other))
        bases = (stack.geometry[at].frame.basis(Space.FEATURE, path.k) for at in (one, other))
        return subspaces.geodesic_distance(*bases) / path.largest

    return between(f"grassmann_matrix_k{k}", stack.every_two, value)


# --- neighborhoods: what is kept -------------------------------------------------------------------


def nrs(
    stack: LayerStack, place: Literal["step", "final", "model"] = "step", *, corrected: bool = False
) -> Rows:
    """Share of the k nearest neighbors that two layers have in common; 0 to 1.

    Args:
        stack: the layers.
        place: of a block, of a layer and the final one, or the mean over blocks.
        corrected: above chance: 0 for unrelated layers, 1 for equal lists.
    """
    whole = place == "model"
    places = stack.whole if whole else stack.to_final if place == "final" else stack.steps
    stem = f"{'mean_' * whole}nrs{'_corrected' * corrected}{'_to_final' * (place == 'final')}"

    def rows(k: int) -> Rows:
        def value(layer: int, other: int) -> Estimate:
            pairs = stack.steps if whole else [(layer, other)]

            def kept(half: int | None) -> float:
                around = [stack.around(half, *pair) for pair in pairs]
                size = k if half is None else min(in_half(half, k, 10), around[0].n // 4)
                scores = [
                    each.retention(*pair, size) for each, pair in zip(around, pairs, strict=True)
                ]
                if corrected:
                    scores = [neighbors.above_chance(score, around[0].n, size) for score in scores]
                return fmean(scores)

            return stack.of_halves(kept)

        null = 0.0 if corrected else chance_retention(stack.n, k)
        note = stack.neighbor_note if stem == "nrs" else ""
        return between(f"{stem}_k{k}", places, value, null=null, note=note)

    return tuple(row for k in NEIGHBORHOODS for row in rows(k))


def nrs_matrix(stack: LayerStack) -> Rows:
    """NRS at k = 10, or mutual kNN, of every two layers."""
    k = NEIGHBORHOODS[0]
    return between(
        f"nrs_matrix_k{k}", stack.every_two,
        lambda one, other: neighbors.retention(stack.lists(one), stack.lists(other), k),
    )  # fmt: skip


def trustworthiness(stack: LayerStack) -> Rows:
    """1 less a penalty for neighbors after a block that were far off before it; 0 to 1."""
    return _trust("trustworthiness", stack, lambda layer, before: (before, layer))


def continuity(stack: LayerStack) -> Rows:
    """1 less a penalty for neighbors before a block that are far off after it; 0 to 1."""
    return _trust("continuity", stack, lambda layer, before: (layer, before))


def _trust(stem: str, stack: LayerStack, order: Callable[[int, int], tuple[int, int]]) -> Rows:
    """Return the trustworthiness in one layer of a step of the neighbors in the other."""

    def value(layer: int, before: int) -> Estimate:
        pair = order(layer, before)
        lost = stack.of_halves(
            lambda half: 1 - stack.around(half, *pair).trustworthiness(*pair), log=True
        )
        return Estimate(1 - lost.value, 1 - lost.contributions)

    null = chance_trustworthiness(stack.n)
    return between(f"{stem}_k{NEIGHBORHOODS[0]}", stack.steps, value, null=null)


# --- graphs: how far from the final order ----------------------------------------------------------


def gfmi_edge(stack: LayerStack) -> Rows:
    """Agreement of a layer's graphs with the final layer's on which pairs are edges; 0 to 1.

    `gfmi_edge_signed` counts levels with fewer common edges than chance below 0.
    """
    signs = {"gfmi_edge": Sign.CLIP, "gfmi_edge_signed": Sign.SIGNED}
    rows = (_gfmi_edge(stack, name, stack.to_final, sign) for name, sign in signs.items())
    return tuple(row for own in rows for row in own)


def mean_gfmi_edge(stack: LayerStack) -> Rows:
    """Mean GFMI by edges of layers 0..L-1: one number for the model."""
    return _gfmi_edge(stack, "mean_gfmi_edge", stack.whole, Sign.CLIP)


def _gfmi_edge(stack: LayerStack, name: str, places: Sequence[Place], sign: Sign) -> Rows:
    """Return GFMI by edges with the final layer; of the whole model the mean over layers 0..L-1."""

    def layers(layer: int) -> Sequence[int]:
        return range(stack.last) if name.startswith("mean") else [layer]

    def value(layer: int, _other: int) -> float:
        joints = [known(stack.geometry[one].joint) for one in layers(layer)]
        return sum(filtration.gfmi_edge(joint, sign) for joint in joints) / len(joints)

    def error(layer: int, _other: int) -> float:
        halves = torch.stack([stack.half_gfmi(one, sign) for one in layers(layer)]).mean(0)
        return float(half_sample_error([(one, other) for one, other in halves]))

    bounds = (-1 if sign is Sign.SIGNED else 0, 1)
    return between(
        name, places, value, error=error, null=lambda: stack.shuffled_gfmi, bounds=bounds
    )


def gfmi_knn(stack: LayerStack) -> Rows:
    """The same agreement on neighbor lists, at k = 1, 2, 4, ...; 0 to 1."""
    return between("gfmi_knn", stack.to_final, lambda layer, _: _gfmi_knn(stack, [layer]), null=0.0)


def mean_gfmi_knn(stack: LayerStack) -> Rows:
    """Mean GFMI by neighbor lists of layers 0..L-1."""
    return between(
        "mean_gfmi_knn", stack.whole, lambda *_: _gfmi_knn(stack, range(stack.last)), null=0.0
    )


def _gfmi_knn(stack: LayerStack, layers: Sequence[int]) -> Estimate:
    def score(at: int, half: int | None) -> float:
        around = stack.around(half, at, stack.last)
        return filtration.gfmi_knn(around.shares(at), around.n)

    return stack.of_halves(lambda half: fmean(score(at, half) for at in layers))


def gfmi_component(stack: LayerStack) -> Rows:
    """The same agreement on connected components: at equal densities, and at equal numbers."""

    def by_density(layer: int, final: int) -> float:
        one, other = stack.geometry[layer], stack.geometry[final]
        levels = known(one.thresholds), known(other.thresholds)
        return components.gfmi_component(_tree(one), _tree(other), *levels)

    def by_counts(layer: int, final: int) -> float:
        trees = (_tree(stack.geometry[at]) for at in (layer, final))
        return components.gfmi_component_counts(*trees)

    return (
        *between("gfmi_component", stack.to_final, by_density, null=0.0),
        *between("gfmi_component_counts", stack.to_final, by_counts, null=0.0),
    )


def _tree(layer: LayerGeometry) -> Tree:
    if layer.tree is None:
        raise UndefinedError("the stack was made without components")
    return known(layer.tree)


# --- what they are compared with -------------------------------------------------------------------


def cka(stack: LayerStack) -> Rows:
    """Unbiased linear CKA of a layer with the one before; about 0 to 1."""
    return between("cka_unbiased", stack.steps, lambda *pair: stack.cka.estimate(*pair), null=0.0)


def cka_matrix(stack: LayerStack) -> Rows:
    """Unbiased linear CKA of every two layers."""
    return between("cka_matrix", stack.every_two, lambda *pair: stack.cka.estimate(*pair).value)


def procrustes_angle(stack: LayerStack) -> Rows:
    """Angle between a layer and the one before after the best rotation, in radians; 0 to pi / 2."""

    def angle(layer: int, before: int) -> float:
        return similarity.procrustes_angle(stack.vectors[before], stack.vectors[layer])

    return between("procrustes_angle", stack.steps, angle)


def angular_distance(stack: LayerStack) -> Rows:
    """Mean angle of a sample's vector before and after a block, over pi; 0 to 1."""
    return between("angular_distance", stack.steps, partial(_angle, stack), null=0.5)


def angular_matrix(stack: LayerStack) -> Rows:
    """Angular distance of every two layers: over any number of blocks."""
    return between("angular_matrix", stack.every_two, lambda *pair: _angle(stack, *pair).value)


def _angle(stack: LayerStack, one: int, other: int) -> Estimate:
    return similarity.angular_distance(stack.vectors[one], stack.vectors[other])


def block_influence(stack: LayerStack) -> Rows:
    """1 less the mean cosine of a token before and after a block; 0 to 2."""

    def value(layer: int, _before: int) -> Estimate:
        if stack.crossed is None:
            raise UndefinedError("block influence needs the tokens, and here are only vectors")
        return similarity.block_influence([stack.crossed(layer)])

    return between("block_influence", stack.steps, value, null=1.0)


# --- intrinsic dimension ---------------------------------------------------------------------------


def _dimension(metric: str, stack: LayerStack) -> Rows:
    return between(
        metric,
        [(layer, None) for layer in range(stack.count)],
        lambda layer, _: known(stack.geometry[layer].dimensions[metric]),
    )


def two_nn(stack: LayerStack) -> Rows:
    """Intrinsic dimension of a layer by the ratio of its two nearest distances."""
    return _dimension("two_nn", stack)


def gride(stack: LayerStack) -> Rows:
    """Intrinsic dimension by the distances of neighbors n and 2 n, at growing scales n."""
    rows = (_dimension(f"gride_n{n}", stack) for n in SCALES)
    return tuple(row for own in rows for row in own)


def levina_bickel(stack: LayerStack) -> Rows:
    """Intrinsic dimension by the distances of 20 neighbors."""
    return _dimension("levina_bickel_k20", stack)
