"""Measures of a set of texts, on one pooled vector a text: how many directions they use.

Every function returns an `Estimate`: the value and each text's contribution to it.
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics import spectrum
from layerscope.metrics.inputs import SampleInputs
from layerscope.metrics.spectrum import (
    Estimate,
    Spectrum,
    clamped_entropy,
    jackknife_estimate,
    smaller_gram,
    spectral_estimate,
    spread,
    too_narrow,
    weighted_estimate,
)
from layerscope.settings import Convention

FEW_TEXTS = 5  # a dimension, below which the limits of a normalized effective rank are too narrow


def dataset_entropy(
    inputs: SampleInputs, convention: Convention, *, alpha: float = 1.0
) -> Estimate:
    """Matrix-based entropy of the pooled vectors, in nats; 0 to `ln min(N, D)`.

    `paper` is uncentered and dominated by the common mean direction: compare it with
    `dataset_entropy_centered`. `reference` is the authors' clamped form on vectors pooled as theirs.
    Skean et al. 2025, eq. 1.
    """
    if convention is Convention.REFERENCE:
        rows = inputs.reference()

        def functional(weights: Tensor) -> Tensor:
            scaled = rows * (len(rows) * weights).sqrt()[:, None]
            return clamped_entropy(smaller_gram(scaled), alpha)

        return weighted_estimate(functional, len(rows), rows)
    return spectral_estimate(
        partial(spectrum.renyi_entropy, alpha=alpha), _spectrum(inputs, convention)
    )


def dataset_entropy_centered(inputs: SampleInputs, *, alpha: float = 1.0) -> Estimate:
    """Matrix-based entropy of the vectors less their mean, in nats; 0 to `ln min(N - 1, D)`."""
    formula = partial(spectrum.renyi_entropy, alpha=alpha)
    return spectral_estimate(formula, inputs.centered_spectrum)


def dataset_entropy_order2(inputs: SampleInputs) -> Estimate:
    """Order-2 entropy of the unit vectors, in nats, without eigenvalues; 0 to `ln min(N, D)`.

    Minus the log of the mean squared cosine over all pairs, self-pairs included. Compare it with
    `random_directions_entropy`. Zero vectors have no direction and are left out.
    """
    rows, kept = _directions(inputs, least=1)
    sums = _squared_cosine_sums(rows)
    mean = sums.mean() / len(rows)
    value = float(-mean.log())
    return Estimate(value, spread(value - 2 * (sums / len(rows) / mean - 1), kept))


def random_directions_entropy(n: int, d: int) -> float:
    """Order-2 entropy that n independent random directions in d dimensions have, in nats.

    From the exact mean of the exponential of minus that entropy, `(1 + (n - 1) / d) / n`.
    """
    return -math.log((1 + (n - 1) / d) / n)


def effective_rank(inputs: SampleInputs, convention: Convention) -> Estimate:
    """Effective rank of the vectors by singular values; 1 to `min(N, D)`. Roy, Vetterli 2007.

    Unit rows of few texts use nearly all directions that they can, whatever the texts, so that
    `normalized` hardly depends on any one of them: see `spectrum.too_narrow`.
    """
    estimate = spectral_estimate(spectrum.effective_rank, _spectrum(inputs, convention))
    n, d = inputs.vectors.shape
    if convention is Convention.NORMALIZED and n < FEW_TEXTS * d:
        return too_narrow(estimate, "effective_rank (normalized)", n, d)
    return estimate


def rankme(inputs: SampleInputs) -> Estimate:
    """RankMe of the uncentered vectors; 1 to `min(N, D)`. Garrido et al. 2023."""
    return spectral_estimate(spectrum.rankme, inputs.raw_spectrum)


def participation_ratio(inputs: SampleInputs) -> Estimate:
    """Participation ratio of the centered vectors; 1 to `min(N - 1, D)`. Gao et al. 2017."""
    return spectral_estimate(spectrum.participation_ratio, inputs.centered_spectrum)


def stable_rank(inputs: SampleInputs) -> Estimate:
    """Stable rank of the uncentered vectors; 1 to `min(N, D)`. Rudelson, Vershynin 2007."""
    return spectral_estimate(spectrum.stable_rank, inputs.raw_spectrum)


def nesum(inputs: SampleInputs) -> Estimate:
    """NESum, the stable rank of the centered vectors; 1 to `min(N - 1, D)`. He, Ozay 2022."""
    return spectral_estimate(spectrum.stable_rank, inputs.centered_spectrum)


def anisotropy_top_share(inputs: SampleInputs) -> Estimate:
    """Share of the variance on the first component; `1 / min(N - 1, D)` to 1.

    Razzhigaev et al. 2024; the inverse of NESum.
    """
    return spectral_estimate(spectrum.top_share, inputs.centered_spectrum)


def anisotropy_mean_cosine(inputs: SampleInputs) -> Estimate:
    """Mean cosine over pairs of different vectors; `-1 / (N - 1)` to 1. Ethayarajh 2019.

    Zero vectors have no direction and are left out.
    """
    rows, kept = _directions(inputs, least=3)
    n = len(rows)
    sums = rows @ rows.sum(0) - 1
    return _pair_mean_estimate(sums / (n - 1), kept)


def self_cluster(inputs: SampleInputs) -> Estimate:
    """Self-Cluster: mean squared cosine over pairs, from 0 for uniform directions to 1.

    `(|U U^T|^2 - E) / (N^2 - E)` with `E = N + N (N - 1) / D`. At least
    `-1 / (max(N, D) - 1)`. Zero vectors are left out. Tsitsulin, Munkhoeva, Perozzi 2023.
    """
    rows, kept = _directions(inputs, least=3)
    n, d = rows.shape
    if d < 2:
        raise UndefinedError("Self-Cluster compares with random directions, so it needs D >= 2")
    means = (_squared_cosine_sums(rows) - 1) / (n - 1)
    return _pair_mean_estimate((means - 1 / d) / (1 - 1 / d), kept)


def alpha_req(inputs: SampleInputs) -> Estimate:
    """Decay exponent of the centered spectrum over ranks 11 to 100. Agrawal et al. 2022."""
    if min(inputs.n - 1, inputs.vectors.shape[1]) < 15:
        raise UndefinedError("alpha-ReQ fits a slope to ranks 11 to 100 and needs a rank of 15")
    return spectral_estimate(spectrum.alpha_req, inputs.centered_spectrum)


def log_det_entropy(inputs: SampleInputs) -> Estimate:
    """Coding rate of the centered vectors scaled to mean square 1, in nats. Yu et al. 2020."""
    n, d = inputs.vectors.shape
    return spectral_estimate(partial(spectrum.log_det_entropy, n=n, d=d), inputs.centered_spectrum)


def _spectrum(inputs: SampleInputs, convention: Convention) -> Spectrum:
    match convention:
        case Convention.PAPER:
            return inputs.raw_spectrum
        case Convention.NORMALIZED:
            return inputs.normalized_spectrum
        case Convention.REFERENCE:
            raise UndefinedError("the authors' code does not compute this measure")


def _directions(inputs: SampleInputs, least: int) -> tuple[Tensor, Tensor]:
    """Return the unit rows (kept, dim) of the nonzero vectors, and which they are (sample,)."""
    kept = inputs.unit.any(-1)
    if int(kept.sum()) < least:
        raise UndefinedError(f"needs at least {least} nonzero vectors, got {int(kept.sum())}")
    return inputs.unit[kept], kept


def _squared_cosine_sums(rows: Tensor) -> Tensor:
    """Return, for every unit row, the sum of its squared cosines with all rows, itself included."""
    n, d = rows.shape
    if n <= d:
        return (rows @ rows.T).square().sum(1)
    return ((rows @ (rows.T @ rows)) * rows).sum(1)


def _pair_mean_estimate(means: Tensor, kept: Tensor) -> Estimate:
    """Return the mean over pairs from each row's mean over the other rows, by exact jackknife."""
    n = len(means)
    value = means.mean()
    without = (n * value - 2 * means) / (n - 2)
    estimate = jackknife_estimate(float(value), without)
    return Estimate(estimate.value, spread(estimate.contributions, kept))
