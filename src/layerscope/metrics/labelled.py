"""How well vectors say what a few labels say, without a classifier to be tuned: one number a row.

The mean of the numbers is the score, so that rows can be resampled and two vectors be compared on
the same rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy

from layerscope.errors import UndefinedError
from layerscope.metrics.readouts import Floats, Rows

_RIDGES: Final = (1e-3, 1e-2, 1e-1, 1.0)  # shares of the mean eigenvalue of the Gram matrix


def left_out_right(vectors: Rows, labels: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Floats:
    """Return for each text 1 where a ridge classifier that was not trained on it is right, else 0.

    Every text is left out once, in closed form: with the hat matrix `H = K (K + r I)^-1 + 1 1^T / n` of
    the centered Gram matrix K, the prediction without row i is `((H y)_i - H_ii y_i) / (1 - H_ii)`. The
    ridge r is that of the least squared error over all left-out rows, the same for every text.

    Args:
        vectors: (text, dim).
        labels: (text,) codes 0, 1, 2...

    Raises:
        UndefinedError: the vectors are all equal, or there is one label only.
    """
    rows = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    values, axes = np.linalg.eigh(rows @ rows.T)
    values = values.clip(0)
    if not values[-1] > 0:
        raise UndefinedError("all vectors are equal")
    if len(set(labels.tolist())) < 2:
        raise UndefinedError("all labels are equal")
    wanted = np.eye(int(labels.max()) + 1)[labels]
    turned = axes.T @ wanted
    best, found = np.inf, wanted
    for share in _RIDGES:
        kept = values / (values + share * values.mean())
        leverage = np.square(axes) @ kept + 1 / len(labels)
        fitted = (axes * kept) @ turned + wanted.mean(0)
        left = (fitted - leverage[:, None] * wanted) / (1 - leverage)[:, None]
        error = float(np.square(left - wanted).mean())
        if error < best:
            best, found = error, left
    right: Floats = (found.argmax(1) == labels).astype(np.float64)
    return right


def rank_agreement(first: Rows, second: Rows, scores: Floats) -> Floats:
    """Return for each pair its part of Spearman's correlation of the cosines with the scores.

    Args:
        first: (pair, dim) vectors of the first texts.
        second: of the second.
        scores: (pair,) how alike they are, or labels 0 and 1.

    Raises:
        UndefinedError: all cosines or all scores are equal, or a vector is zero.
    """
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    if not lengths.all():
        raise UndefinedError("a vector is zero")
    # Less than rounding of float32 tells no pairs apart.
    cosines = (np.einsum("ij,ij->i", first, second) / lengths).round(7)
    return _standard(cosines) * _standard(scores)


def _standard(values: Floats) -> Floats:
    ranks = scipy.stats.rankdata(values)
    spread = ranks.std()
    if not spread:
        raise UndefinedError("all values are equal")
    standard: Floats = (ranks - ranks.mean()) / spread
    return standard
