"""Measures that compare two layers as a whole: kernel alignment, Procrustes, block influence.

The baselines that Frenet, NRS and GFMI are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.estimates import Estimate, spread
from layerscope.metrics.inputs import centered, unit_rows
from layerscope.metrics.pairs import blocks


@dataclass(frozen=True, eq=False)
class Kernel:
    """One layer's part in linear CKA, computed once and shared by all pairs with it.

    Attributes:
        rows: (sample, dim) centered vectors, in float64.
    """

    rows: Tensor

    @cached_property
    def diagonal(self) -> Tensor:
        """Squared lengths of the rows."""
        return self.rows.square().sum(1)

    @cached_property
    def sums(self) -> Tensor:
        """Row sums (sample,) of the Gram matrix without its diagonal."""
        return self.times(torch.ones_like(self.diagonal[:, None]))[:, 0]

    def times(self, weights: Tensor) -> Tensor:
        """Return the Gram matrix without its diagonal times weights (sample, column)."""
        return self.rows @ (self.rows.T @ weights) - self.diagonal[:, None] * weights


def kernel(vectors: Tensor) -> Kernel:
    """Return the kernel of vectors (sample, dim), centered here."""
    return Kernel(centered(vectors.double()))


@dataclass(frozen=True, eq=False)
class Criteria:
    """The unbiased Hilbert-Schmidt independence criterion of every two layers.

    Attributes:
        values: (layer, layer).
        without: (layer, layer, sample) their values when each sample is left out; not finite for 4
            samples, of which 3 are too few.
    """

    values: Tensor
    without: Tensor


def criteria(layers: Sequence[Kernel]) -> Criteria:
    """Return the unbiased HSIC of every two linear kernels, with all leave-one-out values.

    `[tr(K L) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 / (n-2) 1'KL1] / (n (n-3))` with zero diagonals (Song et
    al. 2012): a mean over quadruples of different samples, so it is 0 on average for independent
    layers.

    Raises:
        UndefinedError: fewer than 4 samples.
    """
    n = len(layers[0].rows)
    if any(len(layer.rows) != n for layer in layers):
        raise InputError(
            f"layers hold {[len(layer.rows) for layer in layers]} samples; expected one number"
        )
    if n < 4:
        raise UndefinedError(f"the unbiased HSIC needs at least 4 samples, got {n}")
    traces = _row_traces(layers)
    sums = torch.stack([layer.sums for layer in layers])
    totals, products = sums.sum(1), sums @ sums.T
    # crossed[l, m] is the Gram matrix of layer m times the row sums of layer l.
    crossed = torch.stack([layer.times(sums.T).T for layer in layers], dim=1)
    values = _criterion(n, traces.sum(-1), totals[:, None], totals[None], products)
    less = totals[:, None] - 2 * sums
    without = _criterion(
        n - 1,
        traces.sum(-1, keepdim=True) - 2 * traces,
        less[:, None],
        less[None],
        products[..., None] - sums[:, None] * sums - crossed - crossed.transpose(0, 1) + traces,
    )
    return Criteria(values, without)


def _criterion(n: int, trace: Tensor, one: Tensor, other: Tensor, product: Tensor) -> Tensor:
    total = one * other / ((n - 1) * (n - 2))
    # Three samples have no criterion: infinity or NaN, which the caller reads as no error.
    return (trace + total - 2 / (n - 2) * product) / torch.tensor(n * (n - 3.0))


def _row_traces(layers: Sequence[Kernel]) -> Tensor:
    """Return inner products (layer, layer, sample) of rows of Gram matrices without diagonals.

    From products of features where there are many samples, else from blocks of rows of all Gram
    matrices at once, which costs one Gram matrix a layer and nothing a pair.
    """
    n = len(layers[0].rows)
    diagonals = torch.stack([layer.diagonal for layer in layers])
    traces = diagonals.new_empty(len(layers), len(layers), n)
    if n > (len(layers) + 1) * max(layer.rows.shape[1] for layer in layers):
        for row, one in enumerate(layers):
            for column, other in enumerate(layers[: row + 1]):
                inner = ((one.rows @ (one.rows.T @ other.rows)) * other.rows).sum(1)
                traces[row, column] = traces[column, row] = inner
    else:
        for start, stop in blocks(n * len(layers), n, 2**23):  # rows enough for a fast product
            grams = torch.stack([layer.rows[start:stop] @ layer.rows.T for layer in layers], dim=1)
            traces[..., start:stop] = (grams @ grams.mT).permute(1, 2, 0)
    return traces - diagonals[:, None] * diagonals


@dataclass(frozen=True, eq=False)
class CkaMatrix:
    """Linear CKA of every two layers, from unbiased criteria.

    Attributes:
        values: (layer, layer) float64, symmetric with diagonal 1; NaN for a layer whose vectors are
            all equal.
        contributions: (layer, layer, sample) by the exact jackknife; NaN where there is none (4
            samples, or all but one equal).
    """

    values: Tensor
    contributions: Tensor

    def estimate(self, one: int, other: int) -> Estimate:
        """Return the CKA of two layers, or raise UndefinedError."""
        value = float(self.values[one, other])
        if math.isnan(value):
            raise UndefinedError("all vectors of a layer are equal, so it has nothing to align")
        return Estimate(value, self.contributions[one, other])


def cka_matrix(layers: Sequence[Kernel]) -> CkaMatrix:
    """Return linear CKA of every two layers: 0 for unrelated ones (or just below), 1 for equal ones.

    `HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`. Unchanged by rotation, scaling and translation of
    either layer. Kornblith et al. 2019, Song et al. 2012.

    Raises:
        UndefinedError: fewer than 4 samples.
    """
    found = criteria(layers)
    values, without = _aligned(found.values), _aligned(found.without)
    n = without.shape[-1]
    return CkaMatrix(values, values[..., None] + (n - 1) * (without.mean(-1, True) - without))


def _aligned(criteria: Tensor) -> Tensor:
    """Return criteria (layer, layer, ...) over the roots of both layers' own, NaN where not > 0."""
    own = criteria.diagonal().movedim(-1, 0)
    scale = torch.where((own > 0) & own.isfinite(), own, torch.nan).sqrt()
    return criteria / scale[:, None] / scale


def cka(one: Kernel, other: Kernel) -> Estimate:
    """Linear CKA of two layers, as in `cka_matrix`; their widths may differ."""
    return cka_matrix([one, other]).estimate(0, 1)


def procrustes_angle(vectors: Tensor, others: Tensor) -> float:
    """Angle between two layers after the best rotation, in radians; 0 to pi / 2.

    `arccos |X'Y|_*` of centered vectors of Frobenius norm 1, |.|_* the sum of singular values; the
    squared distance `2 - 2 |X'Y|_*` is that of Ding, Denain, Steinhardt 2021. Unchanged by rotation,
    scaling and translation of either layer. Williams et al. 2021.
    """
    x, y = (_triangular(centered(rows.double())) for rows in (vectors, others))
    if len(vectors) != len(others):
        raise InputError(f"layers hold {len(vectors)} and {len(others)} samples")
    norms = x.norm() * y.norm()
    if not norms > 0:
        raise UndefinedError("all vectors of a layer are equal, so there is nothing to rotate")
    nuclear = float(torch.linalg.svdvals(x.T @ y).sum() / norms)
    # A sum of singular values is right to rounding; equal layers may exceed 1 by it.
    return math.acos(min(1.0, nuclear))


def _triangular(rows: Tensor) -> Tensor:
    """Return rows (sample, at most sample) with the same inner products, where D exceeds N."""
    if rows.shape[1] <= len(rows):
        return rows
    lower: Tensor = torch.linalg.qr(rows.T, mode="r").R.T
    return lower


@dataclass(frozen=True, eq=False)
class TokenCosines:
    """What a batch of texts adds to block influence.

    Attributes:
        sums: (text,) float64 sum over tokens of the cosine of a token before and after a block.
        counts: (text,) float64 number of tokens; zero states are not counted.
    """

    sums: Tensor
    counts: Tensor


def token_cosines(before: Tensor, after: Tensor, mask: Tensor) -> TokenCosines:
    """Return the cosines of token states (text, token, dim) across a block, summed by text.

    Args:
        before: states that enter the block.
        after: states that leave it.
        mask: (text, token) bool, True for the tokens that count.
    """
    if before.shape != after.shape or mask.shape != before.shape[:2]:
        raise InputError(
            "expected states (text, token, dim) before and after a block and a mask (text, token), "
            f"got {tuple(before.shape)}, {tuple(after.shape)} and {tuple(mask.shape)}"
        )
    before, after = before.detach(), after.detach()
    if before.dtype != torch.float64:
        before, after = before.float(), after.float()
    lengths = before.norm(dim=-1) * after.norm(dim=-1)
    kept = mask & (lengths > 0)
    cosines = torch.einsum("btd,btd->bt", before, after) / lengths
    sums = torch.where(kept, cosines, 0).sum(1, dtype=torch.float64)
    return TokenCosines(sums, kept.sum(1).double())


def block_influence(batches: Sequence[TokenCosines]) -> Estimate:
    """Block influence: 1 less the mean cosine of a token before and after a block; 0 to 2.

    Every token counts alike, so long texts count more; contributions are the ratio's pseudo-values.
    A block of low influence is pruned first. Men et al. 2024 (ShortGPT).
    """
    sums = torch.cat([batch.sums for batch in batches])
    counts = torch.cat([batch.counts for batch in batches])
    if not bool(counts.any()):
        raise UndefinedError("no token that counts has a direction before and after the block")
    value = float(1 - sums.sum() / counts.sum())
    return Estimate(value, value + ((1 - value) * counts - sums) / counts.mean())


def angular_distance(vectors: Tensor, others: Tensor) -> Estimate:
    """Mean angle between a sample's vector in two layers, over pi; 0 to 1.

    Gromov et al. 2024 take the last token's vector of layers n blocks apart, and remove the n blocks
    across which it is least. Samples with a zero vector are left out.

    Args:
        vectors: (sample, dim) of one layer.
        others: (sample, dim) of the other.
    """
    if vectors.shape != others.shape:
        raise InputError(
            f"expected vectors of one shape, got {tuple(vectors.shape)} and {tuple(others.shape)}"
        )
    one, other = unit_rows(vectors.double()), unit_rows(others.double())
    kept = one.any(-1) & other.any(-1)
    if not bool(kept.any()):
        raise UndefinedError("no sample has a nonzero vector in both layers")
    angles = 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))[kept]
    shares = angles / math.pi
    return Estimate(float(shares.mean()), spread(shares, kept))
