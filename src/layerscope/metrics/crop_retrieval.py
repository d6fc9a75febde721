"""How well a readout finds a text's other crop, on texts that its map was not fitted on.

The texts are split in two folds. A readout is fitted on all crops of one fold and scored on the other,
and the reverse: crop against crop by cosine, less the mean of the fitting fold. A text's contribution
is the mean of its two reciprocal ranks among the other crops of its fold. Vectors are float32 here, so
that hundreds of readouts take seconds; `readouts.fit` is float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch

from layerscope.errors import InputError, NonFiniteError
from layerscope.metrics.readouts import (
    SHRINKAGE,
    Floats,
    Moments,
    Readout,
    Rows,
    apply_matrix,
    map_matrix,
    mean_deviation,
)
from layerscope.metrics.views import chance_of_retrieval, reciprocal_ranks

LEAST_TEXTS = 8  # 4 a fold: with fewer nothing can be fitted or found


class CropRetrieval:
    """Scores of readouts by crop retrieval in two folds, on the vectors of one model.

    Attributes:
        texts: number of texts.
        galleries: number of texts in each fold; scores are comparable at equal galleries only.
        chance: score of a guess.
    """

    def __init__(
        self,
        vectors: Mapping[int, Rows],
        *,
        seed: int = 0,
        shrinkage: float = SHRINKAGE,
        as_served: bool = False,
    ) -> None:
        """Split the texts and take the mean of each site away.

        Args:
            vectors: site -> pooled vectors of two disjoint crops of each text (2, text, dim).
            seed: of the split.
            shrinkage: see `readouts.map_matrix`.
            as_served: leave a readout without a map uncentered, as it would be served; by default
                all are centered, so that `none` and `center` score the same.

        Raises:
            InputError: the shapes do not fit, or there are fewer than 8 texts.
            NonFiniteError: NaN or infinity in the vectors.
        """
        shape = _checked_shape(vectors)
        self.texts, self._dim = shape[1], shape[2]
        self._shrinkage, self._as_served = shrinkage, as_served
        order = np.random.default_rng(seed).permutation(self.texts)
        self._folds = np.sort(order[: self.texts // 2]), np.sort(order[self.texts // 2 :])
        self.galleries = len(self._folds[0]), len(self._folds[1])
        shares = [size * chance_of_retrieval(size) for size in self.galleries]
        self.chance = sum(shares) / self.texts
        self._means: dict[int, Floats] = {}
        self._rows: dict[int, tuple[Rows, Rows]] = {}
        self._lengths: dict[int, tuple[float, float]] = {}
        for site, given in vectors.items():
            self._add(site, given)

    def _add(self, site: int, given: Rows) -> None:
        # Centered in float64 first: float32 loses small deviations from a large mean.
        double = given.astype(np.float64)
        self._means[site] = mean = double.mean((0, 1))
        rows = [double[:, fold] for fold in self._folds]
        lengths = [mean_deviation(each.reshape(-1, self._dim)) for each in rows]
        self._lengths[site] = lengths[0], lengths[1]
        one, other = ((each - mean).astype(np.float32) for each in rows)
        self._rows[site] = one, other

    @property
    def sites(self) -> tuple[int, ...]:
        """The sites there are, as given."""
        return tuple(self._rows)

    def contributions(self, readout: Readout, maps: Iterable[str] = ()) -> dict[str, Floats]:
        """Return a readout's contribution of each text (text,), by map.

        Readouts of the same layers and weights share a sum and its moments, so give their maps at once.

        Args:
            readout: layers and weights.
            maps: in place of its own.

        Returns:
            A contribution is NaN where one of the text's vectors has no direction.
        """
        wanted = tuple(maps) or (readout.map,)
        found = {name: np.full(self.texts, np.nan) for name in wanted}
        for fitting, scoring in ((0, 1), (1, 0)):
            weights = self._weights(readout, fitting)
            moments = Moments.of(self._sum(weights, fitting).reshape(-1, self._dim))
            rows = self._sum(weights, scoring) - moments.mean
            offset = sum(weight * self._means[site] for site, weight in weights.items())
            for name in wanted:
                given = rows
                if name == "none" and self._as_served:
                    given = rows + (moments.mean + offset).astype(np.float32)
                matrix = map_matrix(name, moments, self._shrinkage)
                found[name][self._folds[scoring]] = _found(apply_matrix(matrix, given))
        return found

    def of_layers(self, change: Callable[[Mapping[int, Rows]], Rows]) -> Floats:
        """Return the contributions (text,) of any vectors made of the centered ones.

        Args:
            change: site -> rows (2, text, dim) less the mean of the fitting fold, to (2, text, dim').
        """
        found = np.full(self.texts, np.nan)
        for fitting, scoring in ((0, 1), (1, 0)):
            means = {site: rows[fitting].mean((0, 1)) for site, rows in self._rows.items()}
            rows = {site: rows[scoring] - means[site] for site, rows in self._rows.items()}
            found[self._folds[scoring]] = _found(change(rows))
        return found

    def fitting_rows(self) -> dict[int, Rows]:
        """Return all crops of every site (crop, dim), in float64 and uncentered again."""
        return {
            site: np.concatenate([rows.reshape(-1, self._dim) for rows in both]) + self._means[site]
            for site, both in self._rows.items()
        }

    def _weights(self, readout: Readout, fold: int) -> dict[int, float]:
        if absent := [layer for layer in readout.layers if layer not in self._rows]:
            raise InputError(
                f"the readout {readout} reads layer {absent[0]}, of which there are no crop vectors."
            )
        if readout.weighting == "equal":
            return dict.fromkeys(readout.layers, 1.0)
        lengths = {layer: self._lengths[layer][fold] for layer in readout.layers}
        return {layer: 1 / length if length else 0.0 for layer, length in lengths.items()}

    def _sum(self, weights: Mapping[int, float], fold: int) -> Rows:
        (site, weight), *others = weights.items()
        total: Rows = self._rows[site][fold] * np.float32(weight)
        for site, weight in others:
            total += self._rows[site][fold] * np.float32(weight)
        return total


def _checked_shape(vectors: Mapping[int, Rows]) -> tuple[int, ...]:
    shapes = {each.shape for each in vectors.values()}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 3 or shape[0] != 2:
        raise InputError(
            "expected crop vectors (2, text, dim), two of each text and alike at every layer, got "
            f"{sorted(shapes)}."
        )
    if shape[1] < LEAST_TEXTS:
        raise InputError(
            f"expected at least {LEAST_TEXTS} texts to fit readouts and score them on others, got "
            f"{shape[1]}."
        )
    for site, each in vectors.items():
        if not np.isfinite(each).all():
            raise NonFiniteError(f"the crop vectors of layer {site} hold NaN or infinity.")
    return shape


def _found(rows: Rows) -> Floats:
    """Return (text,) the reciprocal ranks of rows (2, text, dim), NaN where a row is zero."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    kept = (lengths[..., 0] > 0).all(0)
    contributions = np.full(len(kept), np.nan)
    if kept.sum() > 1:
        first, second = torch.from_numpy(rows[:, kept] / lengths[:, kept])
        contributions[kept] = reciprocal_ranks(first, second).numpy()
    return contributions
