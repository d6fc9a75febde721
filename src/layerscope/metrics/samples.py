"""Measures of a set of texts, on one pooled vector a text: how many directions they use.

Every function returns an `Estimate`: the value and each text's contribution to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Final

from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics import spectrum
from layerscope.metrics.estimates import Estimate, from_halves, spread
from layerscope.metrics.inputs import SampleInputs
from layerscope.metrics.spectrum import Formula, clamped_entropy, of_spectrum, smaller_gram
from layerscope.settings import Convention


def dataset_entropy(
    inputs: SampleInputs, convention: Convention, *, alpha: float = 1.0
) -> Estimate:
    """Matrix-based entropy of the pooled vectors, in nats; 0 to `ln min(N, D)`.

    `paper` is uncentered and dominated by the common mean direction: compare it with
    `dataset_entropy_centered`. `reference` is the authors' clamped form on vectors pooled as theirs.
    Skean et al. 2025, eq. 1.
    """
    if convention is Convention.REFERENCE:
        return from_halves(partial(_reference_entropy, alpha=alpha), inputs, log=True)
    return _spectral(
        partial(spectrum.renyi_entropy, alpha=alpha), _of(convention), inputs, log=True
    )


def _reference_entropy(inputs: SampleInputs, alpha: float) -> float:
    entropy = float(clamped_entropy(smaller_gram(inputs.reference()), alpha))
    if math.isnan(entropy):
        raise UndefinedError("all rows are zero or equal, so there is no direction to measure")
    return entropy


def dataset_entropy_centered(inputs: SampleInputs, *, alpha: float = 1.0) -> Estimate:
    """Matrix-based entropy of the vectors less their mean, in nats; 0 to `ln min(N - 1, D)`."""
    return _spectral(partial(spectrum.renyi_entropy, alpha=alpha), CENTERED, inputs, log=True)


def dataset_entropy_order2(inputs: SampleInputs) -> Estimate:
    """Order-2 entropy of the unit vectors, in nats, without eigenvalues; 0 to `ln min(N, D)`.

    Minus the log of the mean squared cosine over all pairs, self-pairs included. Compare it with
    `random_directions_entropy`. Zero vectors have no direction and are left out.
    """

    def entropy(texts: SampleInputs) -> float:
        rows = _directions(texts, least=1)
        return -math.log(_squared_cosines(rows) / len(rows) ** 2)

    return _of_directions(entropy, inputs)


def random_directions_entropy(n: int, d: int) -> float:
    """Order-2 entropy that n independent random directions in d dimensions have, in nats.

    From the exact mean of the exponential of minus that entropy, `(1 + (n - 1) / d) / n`.
    """
    return -math.log((1 + (n - 1) / d) / n)


def effective_rank(inputs: SampleInputs, convention: Convention) -> Estimate:
    """Effective rank of the vectors by singular values; 1 to `min(N, D)`. Roy, Vetterli 2007."""
    return _rank(spectrum.effective_rank, _of(convention), inputs)


def rankme(inputs: SampleInputs) -> Estimate:
    """RankMe of the uncentered vectors; 1 to `min(N, D)`. Garrido et al. 2023."""
    return _rank(spectrum.rankme, RAW, inputs)


def participation_ratio(inputs: SampleInputs) -> Estimate:
    """Participation ratio of the centered vectors; 1 to `min(N - 1, D)`. Gao et al. 2017."""
    return _rank(spectrum.participation_ratio, CENTERED, inputs)


def stable_rank(inputs: SampleInputs) -> Estimate:
    """Stable rank of the uncentered vectors; 1 to `min(N, D)`. Rudelson, Vershynin 2007."""
    return _rank(spectrum.stable_rank, RAW, inputs)


def nesum(inputs: SampleInputs) -> Estimate:
    """NESum, the stable rank of the centered vectors; 1 to `min(N - 1, D)`. He, Ozay 2022."""
    return _rank(spectrum.stable_rank, CENTERED, inputs)


def anisotropy_top_share(inputs: SampleInputs) -> Estimate:
    """Share of the variance on the first component; `1 / min(N - 1, D)` to 1.

    Razzhigaev et al. 2024; the inverse of NESum.
    """
    return _spectral(spectrum.top_share, CENTERED, inputs, log=True)


def anisotropy_mean_cosine(inputs: SampleInputs) -> Estimate:
    """Mean cosine over pairs of different vectors; `-1 / (N - 1)` to 1. Ethayarajh 2019.

    Zero vectors have no direction and are left out.
    """

    def mean(texts: SampleInputs) -> float:
        rows = _directions(texts, least=3)
        n = len(rows)
        return (float(rows.sum(0).square().sum()) - n) / (n * (n - 1))

    return _of_directions(mean, inputs)


def self_cluster(inputs: SampleInputs) -> Estimate:
    """Self-Cluster: mean squared cosine over pairs, from 0 for uniform directions to 1.

    `(|U U^T|^2 - E) / (N^2 - E)` with `E = N + N (N - 1) / D`. At least
    `-1 / (max(N, D) - 1)`. Zero vectors are left out. Tsitsulin, Munkhoeva, Perozzi 2023.
    """

    def cluster(texts: SampleInputs) -> float:
        rows = _directions(texts, least=3)
        n, d = rows.shape
        if d < 2:
            raise UndefinedError("Self-Cluster compares with random directions, so it needs D >= 2")
        mean = (_squared_cosines(rows) - n) / (n * (n - 1))
        return (mean - 1 / d) / (1 - 1 / d)

    return _of_directions(cluster, inputs)


def alpha_req(inputs: SampleInputs) -> Estimate:
    """Decay exponent of the centered spectrum over ranks 11 to 100. Agrawal et al. 2022."""
    if min(inputs.n - 1, inputs.vectors.shape[1]) < 15:
        raise UndefinedError("alpha-ReQ fits a slope to ranks 11 to 100 and needs a rank of 15")
    return _spectral(spectrum.alpha_req, CENTERED, inputs)


def log_det_entropy(inputs: SampleInputs) -> Estimate:
    """Coding rate of the centered vectors scaled to mean square 1, in nats. Yu et al. 2020."""
    d = inputs.vectors.shape[1]

    def rate(texts: SampleInputs) -> float:
        formula = partial(spectrum.log_det_entropy, n=texts.n, d=d)
        return of_spectrum(formula, texts.centered_spectrum)

    def most(texts: SampleInputs) -> float:
        rank = _full_rank(texts, CENTERED)
        return rank / 2 * math.log1p(4 * d / rank)

    return from_halves(rate, inputs, log=True, most=most)


SpectrumOf = Callable[[SampleInputs], Tensor]

RAW: Final[SpectrumOf] = attrgetter("raw_spectrum")
CENTERED: Final[SpectrumOf] = attrgetter("centered_spectrum")
NORMALIZED: Final[SpectrumOf] = attrgetter("normalized_spectrum")


def _spectral(
    formula: Formula, spectrum_of: SpectrumOf, inputs: SampleInputs, *, log: bool = False
) -> Estimate:
    """Return a formula's value on the texts' spectrum."""
    return from_halves(lambda texts: of_spectrum(formula, spectrum_of(texts)), inputs, log=log)


def _rank(formula: Formula, spectrum_of: SpectrumOf, inputs: SampleInputs) -> Estimate:
    """Return a kind of rank of the texts' spectrum."""
    return from_halves(
        lambda texts: of_spectrum(formula, spectrum_of(texts)),
        inputs,
        log=True,
        most=lambda texts: _full_rank(texts, spectrum_of),
    )


def _full_rank(inputs: SampleInputs, spectrum_of: SpectrumOf) -> int:
    """Return the greatest possible rank of so many vectors, which is one less if they are centered."""
    return min(inputs.n - (spectrum_of is not RAW), inputs.vectors.shape[1])


def _of(convention: Convention) -> SpectrumOf:
    if convention is Convention.REFERENCE:
        raise UndefinedError("the authors' code does not compute this measure")
    return RAW if convention is Convention.PAPER else NORMALIZED


def _of_directions(compute: Callable[[SampleInputs], float], inputs: SampleInputs) -> Estimate:
    """Return a value of the nonzero vectors, the others left out of the contributions."""
    estimate = from_halves(compute, inputs)
    kept = inputs.unit.any(-1).cpu()
    return replace(estimate, contributions=spread(estimate.contributions[kept], kept))


def _directions(inputs: SampleInputs, least: int) -> Tensor:
    """Return the unit rows (kept, dim) of the nonzero vectors."""
    kept = inputs.unit.any(-1)
    if int(kept.sum()) < least:
        raise UndefinedError(f"needs at least {least} nonzero vectors, got {int(kept.sum())}")
    return inputs.unit[kept]


def _squared_cosines(rows: Tensor) -> float:
    """Return the sum over all pairs of unit rows of their squared cosine, self-pairs included."""
    return float(smaller_gram(rows).square().sum())
