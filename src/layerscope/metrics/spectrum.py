"""Formulas on the eigenvalues of a Gram matrix.

Most measures of a hidden state look only at the eigenvalues of `Z Z^T`. Here a spectrum is
computed once, from the smaller of `Z Z^T` and `Z^T Z`, and every formula takes it as an argument:
the last axis holds the eigenvalues, any axes before it are a batch, zeros are allowed. A spectrum
that is zero everywhere has no direction at all, and every scale-free formula returns NaN for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import InputError, UndefinedError

Formula = Callable[[Tensor], Tensor]


def eigenvalues(rows: Tensor, *, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return the eigenvalues of `rows @ rows.T`, largest first, from the smaller Gram matrix.

    Args:
        rows: (..., row, dim); rows of zeros only add zero eigenvalues, so padding is harmless.
        dtype: precision of the products, of the eigenvalue problem and of the result.

    Returns:
        (..., min(row, dim)); rounding below zero is cut off, as a Gram matrix has none there.
    """
    return gram_eigenvalues(smaller_gram(rows.to(dtype)))


def smaller_gram(rows: Tensor) -> Tensor:
    """Return `rows @ rows.T` or `rows.T @ rows`, whichever is smaller, for (..., row, dim)."""
    return rows @ rows.mT if rows.shape[-2] <= rows.shape[-1] else rows.mT @ rows


def gram_eigenvalues(gram: Tensor) -> Tensor:
    """Return the eigenvalues (..., n) of Gram matrices (..., n, n), largest first, at least 0."""
    if gram.ndim == 2 and gram.device.type == "cpu":  # of one large matrix in half the time
        ascending = torch.from_numpy(np.linalg.eigvalsh(gram.detach().numpy()))
    else:
        ascending = torch.linalg.eigvalsh(gram)
    return ascending.flip(-1).clamp(min=0)


def of_spectrum(formula: Formula, values: Tensor) -> float:
    """Return a formula's value on a spectrum (eigenvalue,), largest first.

    Raises:
        UndefinedError: the spectrum is empty or zero, or the formula has no value on it.
    """
    if not len(values) or not values[0] > 0:
        raise UndefinedError("all rows are zero or equal, so there is no direction to measure")
    value = float(formula(values))
    if math.isnan(value):
        raise UndefinedError("the formula has no value on this spectrum")
    return value


def _tolerance(values: Tensor) -> Tensor:
    """Return (..., 1): the least eigenvalue above rounding."""
    size = values.shape[-1]
    return 4 * size * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)


def _proportions(values: Tensor) -> Tensor:
    """Return eigenvalues divided by their sum; NaN where all are zero."""
    values = values.clamp(min=0)
    total: Tensor = values.sum(-1, keepdim=True)
    return values / total


def _without_rounding(values: Tensor) -> Tensor:
    """Return eigenvalues with those within rounding of zero set to zero."""
    return torch.where(values > _tolerance(values), values, 0)


def renyi_entropy(eigenvalues: Tensor, alpha: float = 1.0) -> Tensor:
    """Matrix-based entropy of order alpha, in nats, of spectra (..., eigenvalue).

    `ln(sum p^alpha) / (1 - alpha)` with p the eigenvalues over their sum; order 1 is
    `-sum p ln p`, order infinity `-ln p_1`, order 0 the log of the rank. Between 0 and ln rank,
    never rising with alpha. Sanchez Giraldo, Rao, Principe 2014; Skean et al. 2025, eq. 1.

    >>> float(renyi_entropy(torch.tensor([4.0, 1.0], dtype=torch.float64)))
    0.50040242...
    """
    if not alpha >= 0:
        raise InputError(f"the order of an entropy is a number from 0 to infinity, not {alpha!r}")
    if alpha < 1:  # only here do the many eigenvalues near rounding matter
        eigenvalues = _without_rounding(eigenvalues)
    p = _proportions(eigenvalues)
    if alpha == 0:
        rank = (p > 0).sum(-1).to(p.dtype)
        return torch.where(rank > 0, rank.log(), torch.nan)
    if alpha == 1:
        entropy: Tensor = torch.special.entr(p).sum(-1)
        return entropy
    if math.isinf(alpha):
        return -p.amax(-1).log()
    return p.pow(alpha).sum(-1).log() / (1 - alpha)


def effective_rank(eigenvalues: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values over their sum; 1 to rank.

    Roy, Vetterli 2007. Singular values are roots of the Gram matrix's eigenvalues: in float64 one
    that is 1e-6 of the largest is still right to 4 digits, and adds 1e-5 to the entropy.
    """
    return renyi_entropy(_without_rounding(eigenvalues.clamp(min=0)).sqrt(), 1.0).exp()


def rankme(eigenvalues: Tensor, eps: float = 1e-7) -> Tensor:
    """RankMe of an uncentered spectrum: `exp(-sum p ln p)`, p = singular value share + eps.

    p is not divided by its sum again, as in Garrido, Balestriero, Najman, LeCun 2023.
    """
    roots = _without_rounding(eigenvalues.clamp(min=0)).sqrt()
    entropy: Tensor = torch.special.entr(_proportions(roots) + eps).sum(-1)
    return entropy.exp()


def participation_ratio(eigenvalues: Tensor) -> Tensor:
    """`(sum lambda)^2 / sum lambda^2`, the exponential of the order-2 entropy; 1 to rank.

    Gao et al. 2017, on a centered spectrum.
    """
    return _proportions(eigenvalues).square().sum(-1).reciprocal()


def stable_rank(eigenvalues: Tensor) -> Tensor:
    """`sum lambda / lambda_1`, the exponential of the order-infinity entropy; 1 to rank.

    Rudelson, Vershynin 2007; on a centered spectrum it is NESum (He, Ozay 2022).
    """
    return top_share(eigenvalues).reciprocal()


def top_share(eigenvalues: Tensor) -> Tensor:
    """Share of the largest eigenvalue in their sum; 1/rank to 1.

    On a centered spectrum the anisotropy of Razzhigaev et al. 2024.
    """
    return _proportions(eigenvalues).amax(-1)


def alpha_req(
    eigenvalues: Tensor, first: int = 11, last: int = 100, *, weighted: bool = True
) -> Tensor:
    """Decay exponent: minus the slope of ln lambda_i on ln i over ranks first..last.

    Weighted least squares with weights 1/i. One spectrum or a batch of equal length; NaN where
    fewer than 5 eigenvalues above rounding lie in that range. Agrawal et al. 2022.
    """
    values = _without_rounding(eigenvalues)[..., first - 1 : last]
    ranks = torch.arange(first, first + values.shape[-1], dtype=values.dtype, device=values.device)
    used = values > 0
    weights = used / ranks if weighted else used.to(values.dtype)
    x = ranks.log().expand_as(values)
    y = torch.where(used, values, 1).log()
    total = weights.sum(-1, keepdim=True)
    x = x - (weights * x).sum(-1, keepdim=True) / total
    slope = (weights * x * y).sum(-1) / (weights * x * x).sum(-1)
    return torch.where(used.sum(-1) >= 5, -slope, torch.nan)


def log_det_entropy(
    eigenvalues: Tensor, n: int, d: int, eps: float = 0.5, *, scaled: bool = True
) -> Tensor:
    """Coding rate `1/2 sum ln(1 + d / (n eps^2) lambda)`, in nats; 0 to infinity.

    The determinant of a singular Gram matrix is 0, hence the 1 + (Yu et al. 2020).

    Args:
        eigenvalues: (..., eigenvalue) of the Gram matrix of n centered rows.
        n: number of rows.
        d: number of columns.
        eps: distortion.
        scaled: make the eigenvalues sum to n first, without which it depends on the scale.
    """
    values = n * _proportions(eigenvalues) if scaled else eigenvalues
    return 0.5 * torch.log1p(d / (n * eps**2) * values).sum(-1)


def clamped_entropy(matrix: Tensor, alpha: float = 1.0) -> Tensor:
    """Entropy as the authors' code computes it from the smaller Gram matrix (n, n), in nats.

    Negative entries are set to 0, which makes the matrix indefinite; negative eigenvalues are then
    dropped. Order 2 divides the sum of squares by n^2, right only if the diagonal is 1, and turns
    negative elsewhere. Only for the `reference` convention.
    """
    return shortcut_entropy(matrix.clamp(min=0), alpha)


def shortcut_entropy(matrix: Tensor, alpha: float = 1.0) -> Tensor:
    """Entropy of a symmetric matrix (n, n) by the authors' code, in nats; NaN of a zero one.

    Eigenvalues that are not positive are dropped. Order 2 is `-ln(|K|^2 / n^2)`, which takes the trace
    to be n.
    """
    if not bool(matrix.any()):
        return matrix.new_tensor(math.nan)
    if alpha == 2:
        return -(matrix.square().sum() / len(matrix) ** 2).log()
    values: Tensor = torch.linalg.eigvalsh(matrix)
    positive = values[values > 0]
    return renyi_entropy(positive, alpha) if positive.numel() else matrix.new_tensor(math.nan)
