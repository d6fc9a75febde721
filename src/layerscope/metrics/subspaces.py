"""Frenet measures: the motion of a layer's subspace, over depth, on a Grassmann manifold.

A layer's subspace is spanned by the k leading directions of its centered vectors. Two subspaces
differ by k principal angles; depth draws a path whose speed, turning and length are measured.

The name and the symbol d_{0,L} are those of Jiang, Yang, Tam 2026 ("Layer-wise Representation
Dynamics"), of which only the abstract could be read. Our choices: centered vectors, k = 32, the
geodesic distance, curvature as the angle between logarithms, and every distance reported with its
level for random subspaces, because distances in feature space grow with the hidden width alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.inputs import centered
from layerscope.metrics.spectrum import smaller_gram

WIDTH = 84
"""Directions kept of a layer: the largest k that is measured, 64, and 20 for iterations."""

EXACT_LIMIT = 4096
"""Order of the Gram matrix up to which its eigenvectors are found exactly."""

_OVERSAMPLING = 20


class Space(StrEnum):
    """Where a layer's subspace lies."""

    FEATURE = "feature"  # directions of the residual stream: layers of one model
    SAMPLE = "sample"  # patterns over samples: models of any width, layers rotated apart


@dataclass(frozen=True, eq=False)
class Frame:
    """The leading directions of one layer's centered vectors: a truncated singular decomposition.

    Attributes:
        feature: (dim, width) orthonormal columns, largest variance first; the first k span the
            layer's subspace for any k up to the width.
        sample: (sample, width) orthonormal columns, likewise.
        singular_values: (width,).
    """

    feature: Tensor
    sample: Tensor
    singular_values: Tensor

    @property
    def width(self) -> int:
        """Number of directions, at most the rank; 0 where all vectors are equal."""
        return len(self.singular_values)

    def basis(self, space: Space, k: int) -> Tensor:
        """Return an orthonormal basis (ambient, min(k, width)) of the layer's subspace."""
        return (self.feature if space is Space.FEATURE else self.sample)[:, :k]


def frame(vectors: Tensor, width: int = WIDTH, exact_limit: int = EXACT_LIMIT) -> Frame:
    """Return the leading directions of vectors (sample, dim), centered here, in float64.

    Exact eigenvectors of the smaller Gram matrix, or 10 power iterations on random directions where
    that is larger than `exact_limit`. A Gram matrix cannot tell a singular value below
    `2 sqrt(max(N, D) eps)` of the largest, about 1e-6, from rounding: those count as zero, which is
    stricter than the rank by singular values and on float32 states costs nothing.
    """
    rows = centered(vectors.double())
    n, d = rows.shape
    width = min(width, n, d)
    if min(n, d) <= exact_limit:
        values, directions = _leading(smaller_gram(rows), width)
    else:
        generator = torch.Generator(rows.device).manual_seed(0)
        start = torch.randn(
            d, width + _OVERSAMPLING, dtype=rows.dtype, device=rows.device, generator=generator
        )
        values, directions = _iterated(partial(_scattered, rows), start, 10, width)
    kept = values > 4 * max(n, d) * torch.finfo(values.dtype).eps * values[:1]
    values, directions = values[kept], directions[:, kept]
    roots = values.sqrt()
    if directions.shape[0] == d and not n <= d <= exact_limit:
        return Frame(directions, rows @ directions / roots, roots)
    return Frame(rows.T @ directions / roots, directions, roots)


def _leading(gram: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvalues (width,) and their eigenvectors (n, width), largest first."""
    n = len(gram)
    if width == 0:  # two samples have one direction, and a half of them none
        return gram.new_empty(0), gram.new_empty(n, 0)
    # A third of the time of all eigenvectors; there is no such routine in torch.
    values, vectors = eigh(gram.cpu().numpy(), subset_by_index=[n - width, n - 1])
    largest, leading = (torch.from_numpy(array).flip(-1) for array in (values, vectors))
    return largest.to(gram.device), leading.to(gram.device)


def _iterated(
    apply: Callable[[Tensor], Tensor], start: Tensor, iterations: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return `_leading` of a symmetric operator by power iterations (Halko et al. 2011)."""
    for _ in range(iterations):
        start = torch.linalg.qr(apply(start)).Q
    values, turn = _leading(start.T @ apply(start), width)
    return values, start @ turn


def half_bases(
    vectors: Tensor,
    whole: Frame,
    splits: Sequence[tuple[Tensor, Tensor]],
    iterations: int = 3,
) -> list[tuple[Tensor, Tensor]]:
    """Return feature bases (dim, width) of pairs of halves of the samples, largest variance first.

    By power iterations from the directions of all samples, from which a half's differ little: at
    k = 32 the distance of two halves is right to a part in a thousand, at 64 to 2 in a hundred, both
    below its own spread.

    Args:
        vectors: (sample, dim).
        whole: their frame.
        splits: pairs of indices, from `pairs.halvings`.
        iterations: power iterations.
    """
    rows = centered(vectors.double())
    n, d = rows.shape
    width = min(whole.width, n // 2 - 1)
    total = rows.T @ rows if d <= n // 2 else None
    found = []
    for split in splits:
        operators = _operators(rows, split) if total is None else _grams(rows, split, total)
        one, other = (_iterated(x, whole.feature, iterations, width)[1] for x in operators)
        found.append((one, other))
    return found


_Operator = Callable[[Tensor], Tensor]


def _operators(rows: Tensor, split: tuple[Tensor, Tensor]) -> list[_Operator]:
    """Return what multiplies by the scatter matrix of each half, without making the matrix."""
    parts = [rows[half] - rows[half].mean(0) for half in split]
    return [partial(_scattered, part) for part in parts]


def _scattered(rows: Tensor, x: Tensor) -> Tensor:
    return rows.T @ (rows @ x)


def _grams(rows: Tensor, split: tuple[Tensor, Tensor], total: Tensor) -> list[_Operator]:
    """Return what multiplies by the scatter matrix of each half: one product serves both."""
    one, other = (rows[half] for half in split)
    first = one.T @ one
    second = total - first
    if 2 * len(one) < len(rows):  # of an odd number of samples one is in neither half
        left_out = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        left_out[torch.cat(split)] = False
        second -= rows[left_out].T @ rows[left_out]
    scatters = [
        gram - len(part) * torch.outer(part.mean(0), part.mean(0))
        for gram, part in ((first, one), (second, other))
    ]
    return [scatter.matmul for scatter in scatters]


def noise_floor(bases: Sequence[tuple[Tensor, Tensor]], k: int) -> float:
    """Return how far two subspaces of one layer are by estimation noise alone, in radians.

    Mean distance of the subspaces of two halves of the samples, over 2: each half has twice the
    variance, and the two add. A speed near it is no motion.

    Args:
        bases: from `half_bases`.
        k: dimension of the subspaces.
    """
    distances = [geodesic_distance(one[:, :k], other[:, :k]) for one, other in bases]
    return sum(distances) / len(distances) / 2


@dataclass(frozen=True, eq=False)
class PrincipalAngles:
    """The principal angles of two subspaces, and the tangents from each towards the other.

    Attributes:
        angles: (m,) in radians, smallest first, m the smaller dimension.
        vectors: (ambient, m) principal vectors of the first subspace.
        other_vectors: (ambient, m) those of the second.
        turn: (k, m) takes the first basis to its principal vectors.
        other_turn: (k', m) takes the second basis to its principal vectors.
    """

    angles: Tensor
    vectors: Tensor
    other_vectors: Tensor
    turn: Tensor
    other_turn: Tensor

    def there(self) -> Tensor:
        """Return the tangent (ambient, k) at the first subspace towards the second: its logarithm.

        Orthogonal to the first basis, with the geodesic distance as its Frobenius norm, whatever the
        second basis. Needs no inverse (Bendokat, Zimmermann, Absil 2024). Where an angle is pi / 2
        there are several shortest paths, and this is one of them.
        """
        return _tangent(self.vectors, self.other_vectors, self.angles) @ self.turn.mT

    def back(self) -> Tensor:
        """Return the tangent (ambient, k) at the second subspace towards the first."""
        return _tangent(self.other_vectors, self.vectors, self.angles) @ self.other_turn.mT


def principal_angles(one: Tensor, other: Tensor) -> PrincipalAngles:
    """Return the principal angles of two subspaces.

    `atan2(sine, cosine)` is accurate at both ends; the arc cosine loses all angles below 1e-8.

    Args:
        one: (ambient, k) orthonormal columns.
        other: (ambient, k') orthonormal columns.

    Raises:
        InputError: the subspaces have different numbers of coordinates.
    """
    if one.shape[0] != other.shape[0]:
        raise InputError(
            f"subspaces of {one.shape[0]} and {other.shape[0]} coordinates cannot be compared; "
            "use the sample space between layers of different widths"
        )
    turn, cosines, other_turn = torch.linalg.svd(one.mT @ other, full_matrices=False)
    vectors, other_vectors = one @ turn, other @ other_turn.mT
    sines = (other_vectors - vectors * cosines).norm(dim=0)
    sines = torch.where(sines > 1e-13, sines, 0)  # equal subspaces differ by rounding
    angles = torch.atan2(sines, cosines.clamp(min=0))
    return PrincipalAngles(angles, vectors, other_vectors, turn, other_turn.mT)


def _tangent(vectors: Tensor, towards: Tensor, angles: Tensor) -> Tensor:
    """Return the tangents (ambient, m) of length `angles` from principal vectors to others."""
    residual = towards - vectors * angles.cos()
    lengths = torch.where(angles > 0, residual.norm(dim=0), math.inf)
    return residual / lengths * angles


def geodesic_distance(one: Tensor, other: Tensor) -> float:
    """Return the root of the sum of squared principal angles, in radians.

    Each dimension that one has more than the other adds `pi / 2` squared (Ye, Lim 2016). NaN where
    one has no dimension, because its layer's vectors are all equal.
    """
    return _length(principal_angles(one, other))


def _length(step: PrincipalAngles) -> float:
    dimensions = len(step.turn), len(step.other_turn)
    if not all(dimensions):
        return math.nan
    missing = abs(dimensions[0] - dimensions[1])
    return math.sqrt(float(step.angles.square().sum()) + missing * math.pi**2 / 4)


def largest_distance(k: int, ambient: int) -> float:
    """Return the largest geodesic distance of two k-dimensional subspaces, in radians."""
    return math.pi / 2 * math.sqrt(min(k, ambient - k))


def random_distance(k: int, ambient: int) -> float:
    """Return the distance of two random k-dimensional subspaces, over the largest; 0 to 1.

    From the law of Wachter 1980 for large ambient dimension, of density
    `sqrt(x (b - x)) / (2 pi p x (1 - x))` for the squared cosines on [0, b], with p = k / ambient
    and b = 4 p (1 - p). It rises with the ambient dimension: compare distances of models with it.
    """
    if not 0 < k < ambient:
        raise UndefinedError(f"all subspaces of dimension {k} in {ambient} dimensions are equal")
    p = min(k, ambient - k) / ambient  # complements have the same angles
    bound = 4 * p * (1 - p)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    half_angle = math.pi / 4 * (nodes + 1)  # x = b sin^2 makes the integrand smooth
    squared_cosines = bound * np.sin(half_angle) ** 2
    mass = bound * np.cos(half_angle) ** 2 / (math.pi * p * (1 - squared_cosines))
    angles = np.arccos(np.sqrt(squared_cosines))
    mean = float((weights * mass * angles**2).sum()) * math.pi / 4
    return math.sqrt(mean) / (math.pi / 2)


def random_level(n: int, d: int, k: int = 32) -> float:
    """Return `random_distance` in feature space for n samples, 0 where subspaces fill the space."""
    size = min(k, n - 1, d)
    return 0.0 if size >= d else random_distance(size, d)


def vector_angle(one: Tensor, other: Tensor) -> float:
    """Return the angle of two tensors of one shape, in radians, in Kahan's form; NaN for zeros."""
    lengths = one.norm(), other.norm()
    if not (lengths[0] > 0 and lengths[1] > 0):
        return math.nan
    first, second = one / lengths[0], other / lengths[1]
    return 2 * math.atan2(float((first - second).norm()), float((first + second).norm()))


@dataclass(frozen=True, eq=False)
class Frenet:
    """The path of the layer subspace over depth. Angles and distances are in radians.

    Undefined values are NaN: those next to a layer whose vectors are all equal, and the turning where
    a neighboring layer has the same subspace or one of another dimension.

    Attributes:
        dimensions: (layer,) dimension of each subspace; 0 for an invalid layer.
        ambient: number of coordinates.
        speed: (layer - 1,) distance of each layer to the next.
        turning: (layer - 2,) angle between arriving and leaving at each inner layer: 0 straight on,
            pi back; pi / 2 for unrelated subspaces, 2 pi / 3 for noise about one subspace.
        curvature: (layer - 2,) turning over the mean of the two speeds; where the turning is near
            pi / 2 everywhere, it is little more than the inverse of the speed.
        end_distance: distance of the first and last layer, NaN where undefined.
    """

    dimensions: tuple[int, ...]
    ambient: int
    speed: Tensor
    turning: Tensor
    curvature: Tensor
    end_distance: float

    @property
    def k(self) -> int:
        """Largest dimension of the subspaces."""
        return max(self.dimensions)

    @property
    def largest(self) -> float:
        """Largest possible distance, by which speeds and displacements are normalized."""
        return largest_distance(self.k, self.ambient)

    @property
    def random(self) -> float:
        """Distance of random subspaces, over the largest."""
        return random_distance(self.k, self.ambient)

    @property
    def displacement(self) -> float:
        """Distance d_{0,L} of the first and the last layer's subspace."""
        if not self.dimensions[0]:
            raise UndefinedError("constant layer 0 (CLS/EOS pooling?)")
        if not self.dimensions[-1]:
            raise UndefinedError("all vectors of the last layer are equal")
        return self.end_distance

    @property
    def arc_length(self) -> float:
        """Sum of the speeds."""
        self._require_all_layers()
        return float(self.speed.sum())

    @property
    def straightness(self) -> float:
        """Displacement over arc length; 1 for a shortest path."""
        if not self.arc_length > 0:
            raise UndefinedError("the subspace is the same in every layer, so it goes nowhere")
        return self.displacement / self.arc_length

    @property
    def straightness_bound(self) -> float:
        """Largest straightness that a path of this length can have: distances are bounded."""
        if not self.arc_length > 0:
            raise UndefinedError("the subspace is the same in every layer, so it goes nowhere")
        return min(1.0, self.largest / self.arc_length)

    @property
    def mean_turning(self) -> float:
        """Mean turning angle of the inner layers where it is defined."""
        known = self.turning[~self.turning.isnan()]
        if not known.numel():
            raise UndefinedError("no inner layer has a turning angle")
        return float(known.mean())

    def _require_all_layers(self) -> None:
        constant = [layer for layer, k in enumerate(self.dimensions) if not k]
        if constant == [0]:
            raise UndefinedError("constant layer 0 (CLS/EOS pooling?)")
        if constant:
            raise UndefinedError(f"all vectors are equal in layers {constant}")


def frenet(frames: Sequence[Frame], k: int = 32, space: Space = Space.FEATURE) -> Frenet:
    """Return the motion of the k-dimensional layer subspace over depth.

    Args:
        frames: of the layers in order, of one set of samples.
        k: dimension of the subspaces. A layer of lower rank lowers it for the whole model, so that
            layers stay comparable.
        space: of the subspaces.

    Raises:
        InputError: fewer than 2 layers, or k is not from 1 to `WIDTH`.
    """
    if not 1 <= k <= WIDTH or len(frames) < 2:
        raise InputError(
            f"expected 2 or more layers and k from 1 to {WIDTH}, got {len(frames)} and {k}"
        )
    common = min([k, *(frame.width for frame in frames if frame.width)])
    return trajectory([frame.basis(space, common) for frame in frames])


def trajectory(bases: Sequence[Tensor]) -> Frenet:
    """Return the motion along subspaces given by orthonormal bases (ambient, k) in layer order."""
    steps = [principal_angles(*pair) for pair in pairwise(bases)]
    speed = [_length(step) for step in steps]
    turning = _numbers(_turning(*pair) for pair in pairwise(steps))
    return Frenet(
        dimensions=tuple(basis.shape[1] for basis in bases),
        ambient=len(bases[0]),
        speed=_numbers(speed),
        turning=turning,
        curvature=turning * 2 / _numbers(map(sum, pairwise(speed))),
        end_distance=geodesic_distance(bases[0], bases[-1]),
    )


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _turning(arriving: PrincipalAngles, leaving: PrincipalAngles) -> float:
    sizes = {len(arriving.turn), len(arriving.other_turn), len(leaving.other_turn)}
    if len(sizes) > 1 or not all(sizes):
        return math.nan
    return vector_angle(-arriving.back(), leaving.there())
