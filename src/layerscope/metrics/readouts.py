"""Readouts: layers, weights and a linear map fitted without labels -> one vector a text.

A readout of pooled vectors `x_l` (text, dim) of some sites l is `A (sum_l w_l x_l) + b`: linear after
pooling, so that stock modules can serve it. The maps and what they are fitted on:

    none            A = I, b = 0
    center          A = I
    z-score         A = diag(1 / (s + eps)), s the dimensions' standard deviations, eps = 1e-6 max s
    abtt-k          A = I - sum_{j<=k} v_j v_j^T: all but the top k components (Mu, Viswanath 2018)
    whitening-p     A = V diag((lambda_j + c mean(lambda))^(-p/2)) V^T, 0 < p <= 1 (Su et al. 2021, p = 1)

with the mean mu and the eigenpairs (v_j, lambda_j) of the covariance of the weighted sum, divided by the
number of texts, and `b = -A mu` but for none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from layerscope.config import parse_layers
from layerscope.errors import InputError, UndefinedError, unknown_name

Floats = NDArray[np.float64]
Rows = NDArray[Any]  # float64, or float32 where many readouts are compared
Weighting = Literal["equal", "unit"]

SHRINKAGE: Final = 0.1  # c: what is added to every eigenvalue, as a share of their mean
_MAPS: Final = ("none", "center", "z-score", "abtt-1", "whitening-0.5")
_LEAST_SPREAD: Final = 1e-6  # eps of the z-score, as a share of the greatest standard deviation
_RANGE: Final = 3  # layers in a row from which a name says 4-6 for 4+5+6
_ROUNDING: Final = 16 * np.finfo(np.float32).eps  # of a mean: less deviation than this is none


@dataclass(frozen=True)
class Readout:
    """Which layers are read, how they are weighted, and the kind of map that follows.

    Attributes:
        layers: site numbers as the caller counts them, each once.
        map: none, center, z-score, abtt-k (k a whole number) or whitening-p (p in (0, 1]).
        weighting: `equal`, every weight is 1; or `unit`, a layer's weight is 1 over the mean length
            of its vectors less their mean, so that every layer counts alike whatever its scale. Of a
            single layer the weight is a mere scale: it is always `equal`.

    Raises:
        InputError: no layer, a layer twice, an unknown map or weighting.
    """

    layers: tuple[int, ...]
    map: str = "none"
    weighting: Weighting = "equal"

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers) or min(self.layers) < 0:
            raise InputError(f"expected layers of a readout, each once, got {self.layers}.")
        if self.weighting not in ("equal", "unit"):
            raise unknown_name("weighting", self.weighting, ("equal", "unit"))
        split_map(self.map)
        if len(self.layers) == 1:
            object.__setattr__(self, "weighting", "equal")

    def __str__(self) -> str:
        """Return the short name, which `parse` reads.

        >>> str(Readout((24, 30, 6), "z-score")), str(Readout((0, 1, 2, 6), weighting="unit"))
        ('24+30+6, z-score', '0-2+6 unit')
        """
        parts = ["+".join(_ranges(self.layers)), " unit" if self.weighting == "unit" else ""]
        return "".join(parts) + (f", {self.map}" if self.map != "none" else "")

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a short name.

        >>> Readout.parse("0-2+6 unit, whitening-0.5")
        Readout(layers=(0, 1, 2, 6), map='whitening-0.5', weighting='unit')

        Raises:
            InputError: not such a name.
        """
        match = re.fullmatch(r"([\d+-]+)( unit)?(?:, *(\S+))?", name.strip())
        if match is None:
            raise InputError(
                f"expected a readout like '24+30+6, z-score' or '0-3 unit, whitening-0.5', got {name!r}."
            )
        layers = parse_layers(match[1].replace("+", ","))
        return cls(layers, match[3] or "none", "unit" if match[2] else "equal")

    @property
    def key(self) -> tuple[frozenset[int], str, Weighting]:
        """What two readouts that give the same vectors have in common."""
        return frozenset(self.layers), self.map, self.weighting


def _ranges(layers: tuple[int, ...]) -> list[str]:
    found: list[str] = []
    start = 0
    for end in range(1, len(layers) + 1):
        if end == len(layers) or layers[end] != layers[end - 1] + 1:
            run = layers[start:end]
            found += [f"{run[0]}-{run[-1]}"] if len(run) >= _RANGE else map(str, run)
            start = end
    return found


def split_map(name: str) -> tuple[str, float]:
    """Return the kind of a map and its number, 0 where it has none.

    >>> split_map("whitening-0.5"), split_map("center")
    (('whitening', 0.5), ('center', 0.0))

    Raises:
        InputError: unknown, or a number that the kind cannot have.
    """
    if name in ("none", "center", "z-score"):
        return name, 0.0
    match = re.fullmatch(r"(abtt|whitening)-(\d+(?:\.\d+)?)", name)
    if match is None:
        raise unknown_name("map of a readout", name, _MAPS)
    kind, number = match[1], float(match[2])
    if kind == "abtt" and (number < 1 or "." in match[2]):
        raise InputError(
            f"expected abtt-k with a whole number of components, 1 or more, got {name!r}."
        )
    if kind == "whitening" and not 0 < number <= 1:
        raise InputError(f"expected whitening-p with a power p above 0, at most 1, got {name!r}.")
    return kind, number


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and spread of rows (text, dim), each computed when a map asks for it.

    Attributes:
        mean: (dim,).
        deviations: (text, dim) the rows less their mean.
    """

    mean: Rows
    deviations: Rows

    @classmethod
    def of(cls, rows: Rows) -> Self:
        """Return the moments of rows (text, dim)."""
        mean = rows.mean(0)
        return cls(mean, rows - mean)

    @cached_property
    def spreads(self) -> Rows:
        """(dim,) standard deviations; what is mere rounding of the mean is 0."""
        found: Rows = np.sqrt(np.square(self.deviations).mean(0))
        eps = np.finfo(self.mean.dtype).eps
        return np.where(found > 4 * eps * np.abs(self.mean), found, 0).astype(found.dtype)

    @cached_property
    def eigenpairs(self) -> tuple[Rows, Rows]:
        """Eigenpairs of the covariance, which is divided by the number of rows.

        Eigenvalues (known,), largest first and none negative, and eigenvectors (dim, known) as columns:
        all of them, or where there are fewer rows than dimensions those that the rows can span.
        """
        import torch  # not for a name alone: runs are read without it

        rows = torch.from_numpy(self.deviations)
        count, dim = rows.shape
        if count < dim:  # 4,096 dimensions and 1,000 rows: a tenth of the time
            _, lengths, directions = torch.linalg.svd(rows, full_matrices=False)
            return (lengths.square() / count).numpy(), directions.T.numpy()
        values, vectors = torch.linalg.eigh(rows.T @ rows / count)
        return values.clamp(min=0).numpy()[::-1].copy(), vectors.numpy()[:, ::-1].copy()

    @cached_property
    def rank(self) -> int:
        """Directions that the rows vary in: at most one less than their number."""
        values = self.eigenpairs[0]
        seen = values > len(self.mean) * np.finfo(np.float64).eps * values[0]
        return min(int(seen.sum()), len(self.deviations) - 1)


def map_matrix(name: str, moments: Moments, shrinkage: float = SHRINKAGE) -> Rows:
    """Return the matrix of a map: its diagonal (dim,), or (dim, dim).

    What a map cannot know is never enlarged: a dimension that is constant in the rows, and a
    direction outside their span, gets the smallest scale that any other gets.

    Args:
        name: of the map.
        moments: of the rows that it is fitted on.
        shrinkage: c of the whitening; it keeps the scales finite with fewer rows than dimensions.

    Raises:
        UndefinedError: the rows do not vary, or in no direction that the map keeps.
    """
    kind, number = split_map(name)
    ones: Rows = np.ones_like(moments.mean)
    if kind in ("none", "center"):
        return ones
    if not moments.spreads.any():
        raise UndefinedError(f"all vectors are equal, so there is nothing to fit {name} on")
    if kind == "z-score":
        spreads, most = moments.spreads, moments.spreads.max()
        known = np.where(spreads > 0, spreads, most)
        scales: Rows = (ones / (known + _LEAST_SPREAD * most)).astype(ones.dtype)
        return scales
    values, vectors = moments.eigenpairs
    if kind == "abtt":
        if number >= moments.rank:
            raise UndefinedError(
                f"{name} leaves nothing: the vectors vary in {moments.rank} directions only"
            )
        top = vectors[:, : int(number)]
        left: Rows = np.eye(len(ones), dtype=ones.dtype) - top @ top.T
        return left
    kept = slice(moments.rank)
    scales = (values[kept] + shrinkage * values.sum() / len(ones)) ** (-number / 2)
    least = scales[0]
    whitening: Rows = (vectors[:, kept] * (scales - least)) @ vectors[:, kept].T
    whitening[np.diag_indices_from(whitening)] += least
    return whitening


def apply_matrix(matrix: Rows, rows: Rows) -> Rows:
    """Return rows (..., dim) under a matrix (dim', dim) or its diagonal (dim,)."""
    if matrix.ndim == 1:
        scaled: Rows = rows * matrix
        return scaled
    flat: Rows = rows.reshape(-1, rows.shape[-1]) @ matrix.T  # one product, not one a view
    return flat.reshape(*rows.shape[:-1], len(matrix))


@dataclass(frozen=True, eq=False)
class Fitted:
    """A readout with its numbers: `A (sum_l w_l x_l) + b`.

    Attributes:
        readout: What was fitted.
        weights: One for each of its layers.
        matrix: A (dim', dim), or its diagonal (dim,).
        bias: b (dim',).
        texts: Number of vectors that it was fitted on.
        fitted_on: What they were, in words.
    """

    readout: Readout
    weights: tuple[float, ...]
    matrix: Floats
    bias: Floats
    texts: int
    fitted_on: str = ""

    def apply(self, vectors: Mapping[int, Rows]) -> Floats:
        """Return the readout (text, dim') of the sites' pooled vectors (text, dim).

        Raises:
            InputError: a layer of the readout is missing, or the shapes do not fit.
        """
        total = _weighted_sum(self.readout.layers, self.weights, vectors)
        if total.shape[1] != self.matrix.shape[-1]:
            raise InputError(
                f"expected {self.matrix.shape[-1]} dimensions, as the readout was fitted on, "
                f"got {total.shape[1]}."
            )
        return apply_matrix(self.matrix, total) + self.bias


def fit(
    readout: Readout,
    vectors: Mapping[int, Rows],
    *,
    fitted_on: str = "",
    shrinkage: float = SHRINKAGE,
) -> Fitted:
    """Return a readout with weights, matrix and bias, in float64.

    Args:
        readout: what to fit.
        vectors: site -> pooled vectors (text, dim).
        fitted_on: what they are, in words.
        shrinkage: see `map_matrix`.

    Raises:
        InputError: a layer is missing, the shapes do not fit, or there is no vector.
        UndefinedError: the vectors do not vary.
    """
    weights = layer_weights(readout, vectors)
    total = _weighted_sum(readout.layers, weights, vectors)
    moments = Moments.of(total)
    matrix = map_matrix(readout.map, moments, shrinkage)
    bias = -apply_matrix(matrix, moments.mean[None])[0]
    if readout.map == "none":
        bias = np.zeros_like(bias)
    return Fitted(readout, weights, matrix, bias, len(total), fitted_on)


def layer_weights(readout: Readout, vectors: Mapping[int, Rows]) -> tuple[float, ...]:
    """Return the weight of each layer of a readout; 0 for a layer whose vectors are all equal.

    Raises:
        UndefinedError: the vectors of all its layers are equal, so that `unit` has no weight.
    """
    if readout.weighting == "equal":
        return (1.0,) * len(readout.layers)
    lengths = [mean_deviation(_site(vectors, layer)) for layer in readout.layers]
    if not any(lengths):
        raise UndefinedError("all vectors of each layer are equal, so no layer has a unit weight")
    return tuple(1 / length if length else 0.0 for length in lengths)


def mean_deviation(rows: Rows) -> float:
    """Return the mean length of rows (text, dim) less their mean; 0 where it is mere rounding."""
    rows = rows.astype(np.float64, copy=False)
    mean = rows.mean(0)
    length = float(np.linalg.norm(rows - mean, axis=1).mean())
    return length if length > _ROUNDING * float(np.linalg.norm(mean)) else 0.0


def _weighted_sum(
    layers: tuple[int, ...], weights: tuple[float, ...], vectors: Mapping[int, Rows]
) -> Floats:
    rows = [_site(vectors, layer).astype(np.float64, copy=False) for layer in layers]
    shapes = {each.shape for each in rows}
    if len(shapes) > 1 or rows[0].ndim != 2 or not len(rows[0]):
        raise InputError(
            f"expected (text, dim) to be the same at every layer of a readout, got {sorted(shapes)}."
        )
    total: Floats = np.zeros_like(rows[0])
    for weight, each in zip(weights, rows, strict=True):
        total += weight * each
    return total


def _site(vectors: Mapping[int, Rows], layer: int) -> Rows:
    if layer not in vectors:
        raise InputError(
            f"the readout reads layer {layer}, whose vectors are missing; there are those of "
            f"{', '.join(map(str, sorted(vectors)))}."
        )
    return vectors[layer]


# --- baselines that are no readouts of this form ------------------------------------------------------


def loes_layers(
    vectors: Mapping[int, Rows], count: int = 4, *, alpha: float = 1.0, gamma: float = 0.5
) -> tuple[int, ...]:
    """Return the layers that label-free LOES takes, in the order in which it takes them.

    The next layer is that of the least `alpha (1 - isotropy) + gamma redundancy`. Isotropy is the mean
    over the standard deviation of the covariance's eigenvalues, and redundancy the greatest
    `||X^T Y||_F / (||X||_F ||Y||_F)` with a layer taken before, uncentered. Their vectors are
    concatenated. Batra et al. 2026, Uncovering the latent potential of deep intermediate
    representations (arXiv 2605.23033).

    Args:
        vectors: site -> pooled vectors (text, dim); a layer whose vectors are all equal is left out.
        count: layers to take, or all if there are fewer.
        alpha: weight of the lack of isotropy.
        gamma: weight of the redundancy.
    """
    rows = {site: each for site, each in vectors.items() if mean_deviation(each)}
    lack = {site: 1 - _isotropy(each) for site, each in rows.items()}
    sizes = {site: float(np.linalg.norm(each)) for site, each in rows.items()}
    overlap = dict.fromkeys(rows, 0.0)
    taken: list[int] = []
    while len(taken) < min(count, len(rows)):
        left = [site for site in rows if site not in taken]
        best = min(left, key=lambda site: alpha * lack[site] + gamma * overlap[site])
        taken.append(best)
        for site in left:
            shared = float(np.linalg.norm(rows[site].T @ rows[best])) / sizes[site] / sizes[best]
            overlap[site] = max(overlap[site], shared)
    return tuple(taken)


def _isotropy(rows: Rows) -> float:
    """Return mean over standard deviation of the covariance's eigenvalues, without computing them."""
    deviations = Moments.of(rows.astype(np.float64, copy=False)).deviations
    covariance = deviations.T @ deviations / len(rows)
    mean = float(np.trace(covariance)) / len(covariance)
    variance = float(np.square(covariance).sum()) / len(covariance) - mean**2
    return mean / math.sqrt(variance) if variance > 0 else math.inf


_EMBEDDED: Final = 2**13  # rows of an embedding in one product


def embedding_filter(embedding: Rows) -> Floats:
    """Return the matrix (dim / 2, dim) of EmbedFilter from an output embedding (token, dim).

    Its rows are the right singular vectors of the embedding but for the first and the last quarter:
    the first write frequent tokens. "Your unembedding matrix is secretly a feature lens for text
    embeddings" (arXiv 2606.07502).
    """
    if embedding.ndim != 2 or min(embedding.shape) < 4:
        raise InputError(
            f"expected an output embedding (token, dim) of 4 or more each, got {embedding.shape}."
        )
    gram, kind = np.zeros((embedding.shape[1],) * 2), np.result_type(embedding.dtype, np.float32)
    # In the embedding's own precision or float32, block by block: the float64 copy of a large vocabulary
    # and its product would take more than the rest of a comparison.
    for start in range(0, len(embedding), _EMBEDDED):
        block = embedding[start : start + _EMBEDDED].astype(kind, copy=False)
        gram += block.T @ block
    directions = np.linalg.eigh(gram)[1][:, ::-1].T
    start = len(directions) // 4
    return directions[start : start + len(directions) // 2].copy()
