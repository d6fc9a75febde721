"""Measures of augmented copies of each text: does the representation stay with the text?

Every function returns an `Estimate`: the value and each text's contribution to it. InfoNCE and DiME
compare the first two views; LiDAR uses all; retrieval averages over the pairs of views (the first and
second, the third and fourth, ...).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics.estimates import Estimate, from_halves, spread
from layerscope.metrics.inputs import ViewInputs, centered, unit_rows
from layerscope.metrics.spectrum import (
    gram_eigenvalues,
    of_spectrum,
    renyi_entropy,
    shortcut_entropy,
)
from layerscope.settings import Convention

BLOCK = 512  # rows of a Gram matrix that exist at a time
TIE = 1e-12  # cosines that differ by less are equal: rounding must not rank them
TIE_FLOAT32 = 5e-7  # the same for cosines computed in float32
DIME_LIMIT = 1000  # texts up to which DiME's 11 N x N eigenvector problems are affordable


def infonce(inputs: ViewInputs, convention: Convention, *, temperature: float = 0.1) -> Estimate:
    """SimCLR's loss of finding a text's other view among all 2N - 1 vectors, in nats.

    Chance is `ln(2N - 1)`; compare only at equal N. Cosines, except that `reference` takes dot
    products of vectors that are far shorter than 1, which puts it at chance. Pairs with a zero
    vector are left out. Oord et al. 2018; Chen et al. 2020.
    """
    first, second, kept = _pairs(inputs, convention)
    rows = torch.cat([first, second])
    places = torch.arange(len(rows), device=rows.device).roll(len(first))
    totals, shares = _search(rows / temperature, rows, places, themselves=False)
    losses = totals.view(2, -1).mean(0) - (first * second).sum(-1) / temperature
    return _loss_estimate(losses, shares.view(2, -1).sum(0) / 2, kept)


def infonce_cross(
    inputs: ViewInputs, convention: Convention, *, temperature: float = 0.1
) -> Estimate:
    """Loss of finding a text's other view among the N other views, in nats; chance is `ln N`.

    The mean of both directions; the form whose `ln N - loss` bounds mutual information.
    """
    first, second, kept = _pairs(inputs, convention)
    places = torch.arange(len(first), device=first.device)
    one, as_second = _search(first / temperature, second, places)
    other, as_first = _search(second / temperature, first, places)
    losses = (one + other) / 2 - (first * second).sum(-1) / temperature
    return _loss_estimate(losses, (as_first + as_second) / 2, kept)


def _search(
    queries: Tensor, keys: Tensor, places: Tensor, *, themselves: bool = True
) -> tuple[Tensor, Tensor]:
    """Return how the queries (query, dim) find their own among the keys (key, dim).

    Args:
        queries: divided by the temperature.
        keys: candidates.
        places: (query,) which key is the query's own.
        themselves: whether query i may find key i; not where they are the same vector.

    Returns:
        The log-sum-exp over the candidates of every query (query,), and the share of every key in
        the sums of the queries that are not its own (key,): what it weighs as a negative.
    """
    totals, shares = [], torch.zeros_like(keys[:, 0])
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK] @ keys.T
        if not themselves:
            block.diagonal(start).fill_(-torch.inf)
        total = block.logsumexp(1, keepdim=True)
        share = (block - total).exp_()
        shares += share.scatter_(1, places[start : start + BLOCK, None], 0).sum(0)
        totals.append(total[:, 0])
    return torch.cat(totals), shares


def _loss_estimate(losses: Tensor, shares: Tensor, kept: Tensor) -> Estimate:
    """Return the mean loss (text,); a text moves it by its own and as the others' negative."""
    return Estimate(float(losses.mean()), spread(losses + shares - shares.mean(), kept))


def infonce_mi_bound(
    inputs: ViewInputs, convention: Convention, *, temperature: float = 0.1
) -> Estimate:
    """`ln N - infonce_cross`, a lower bound on mutual information in nats; at most `ln N`.

    Skean et al. 2025, theorem 3.
    """
    loss = infonce_cross(inputs, convention, temperature=temperature)
    most = math.log(int(loss.contributions.isfinite().sum()))
    return Estimate(most - loss.value, most - loss.contributions)


def retrieval(inputs: ViewInputs) -> Estimate:
    """Mean reciprocal rank of a text's other view among all texts' other views, in (0, 1].

    By cosine after the mean of the pair's views is removed, over both directions; equal cosines share
    their mean rank. Chance is `H_N / N`, the mean of 1 to 1 / N; compare only at equal N. Pairs with
    a vector that equals the mean are left out. A contribution is the text's own mean reciprocal rank:
    that it stands in the way of others, and moves the mean, is left out of its influence.
    """
    pairs = inputs.vectors.shape[1] // 2
    found = [_pairs(inputs, Convention.NORMALIZED, 2 * pair) for pair in range(max(1, pairs))]
    ranked = [spread(reciprocal_ranks(one, other), kept) for one, other, kept in found]
    contributions = torch.stack(ranked).mean(0)  # NaN where a text is left out of any pair
    if bool(contributions.isnan().all()):
        raise UndefinedError("no text has nonzero vectors in all of its views")
    return Estimate(float(contributions.nanmean()), contributions)


def reciprocal_ranks(first: Tensor, second: Tensor) -> Tensor:
    """Return (text,) the mean over both directions of 1 / the rank of the text's own other view.

    Args:
        first: (text, dim) unit vectors of one view; float64, or float32 where speed matters more
            than ties closer than its rounding.
        second: (text, dim) those of the other view.
    """
    tie = TIE if first.dtype == torch.float64 else TIE_FLOAT32
    own = (first * second).sum(-1)
    forth, back = torch.empty_like(own), torch.full_like(own, 0.5)
    for start in range(0, len(first), BLOCK):
        rows = slice(start, start + BLOCK)
        cosines = first[rows] @ second.T
        cosines.diagonal(start).copy_(own[rows])  # the same number whatever computed it
        forth[rows] = 0.5 + _beaten(cosines, own[rows, None], tie).sum(1)
        back += _beaten(cosines, own, tie).sum(0)
    return (1 / forth + 1 / back) / 2


def _beaten(cosines: Tensor, own: Tensor, tie: float) -> Tensor:
    """Return 1 where a cosine is greater than one's own, 1/2 where it is equal, else 0."""
    return ((cosines > own + tie).to(own.dtype) + (cosines >= own - tie)) / 2


def chance_of_retrieval(n: int) -> float:
    """Return H_n / n: the mean reciprocal rank of a guess among n."""
    return sum(1 / rank for rank in range(1, n + 1)) / n


def lidar(inputs: ViewInputs, convention: Convention, *, delta: float = 1e-4) -> Estimate:
    """LiDAR: effective number of directions that tell texts apart; 1 to `min(N - 1, D)`.

    The exponential of the entropy of the eigenvalues of the scatter between texts whitened by the
    scatter within texts. `delta` is added to the latter's diagonal: as it is for `paper` and
    `reference`, times its mean diagonal entry for `normalized`. With `N (views - 1) < D` the
    within-scatter is singular and delta rules. Thilak et al. 2024.
    """
    estimate = lidar_log(inputs, convention, delta=delta)
    value = math.exp(estimate.value)
    return replace(
        estimate, value=value, contributions=value * (1 + estimate.contributions - estimate.value)
    )


def lidar_log(inputs: ViewInputs, convention: Convention, *, delta: float = 1e-4) -> Estimate:
    """The logarithm of LiDAR, in nats: what the authors' code returns; 0 to `ln min(N - 1, D)`."""

    def entropy(texts: ViewInputs) -> float:
        return of_spectrum(renyi_entropy, _lidar_spectrum(texts, convention, delta))

    n, views, d = inputs.vectors.shape
    enough = n // 2 * (views - 1) >= d
    if enough or convention is Convention.REFERENCE:  # whose delta is absolute and always rules
        return from_halves(entropy, inputs)
    # Delta rules in halves and spreads them less than all texts, in which it rules less.
    found = f"with {n} texts of {views} views in {d} dimensions"
    more = f"give more texts, or at least {1 + math.ceil(2 * d / n)} views."
    ruled = n * (views - 1) < d
    said = "LiDAR is ruled by its regularizer" if ruled else "LiDAR has no limits"
    unknown = torch.full((n,), torch.nan, dtype=torch.float64)
    return Estimate(entropy(inputs), unknown, f"{said} {found}: {more}")


def lidar_log_normalized(
    inputs: ViewInputs, convention: Convention, *, delta: float = 1e-4
) -> Estimate:
    """The logarithm of LiDAR over `min(ln N, ln D)`, the form in the paper's figures; 0 to 1."""
    most = math.log(min(inputs.n, inputs.vectors.shape[2]))
    if most == 0:
        raise UndefinedError("one dimension has no entropy to normalize by")
    estimate = lidar_log(inputs, convention, delta=delta)
    return Estimate(estimate.value / most, estimate.contributions / most, estimate.note)


def _lidar_spectrum(inputs: ViewInputs, convention: Convention, delta: float) -> Tensor:
    n, views, _ = inputs.vectors.shape
    if n < 3 or views < 2:
        raise UndefinedError(f"LiDAR needs 3 texts and 2 views, got {n} and {views}")
    relative = convention is Convention.NORMALIZED
    return inputs.once(
        ("lidar", convention, delta),
        lambda: _whitened_spectrum(
            inputs.prepared(convention), delta, relative=relative, eps=inputs.eps
        ),
    )


def _whitened_spectrum(vectors: Tensor, delta: float, *, relative: bool, eps: float) -> Tensor:
    """Return the eigenvalues of `Sw^-1/2 Sb Sw^-1/2` for vectors (sample, view, dim)."""
    n, views, d = vectors.shape
    if d > n * views:  # coordinates in the span of the rows: never a D x D matrix
        factor: Tensor = torch.linalg.qr(vectors.flatten(0, 1).T, mode="r").R
        vectors = factor.T.reshape(n, views, -1)
    means = vectors.mean(1)
    between = centered(means, eps) / math.sqrt(n)
    within = (vectors - means[:, None]) / math.sqrt(n * views)
    energy = within.square().sum()
    rounding = 16 * torch.finfo(vectors.dtype).eps * vectors.norm() / math.sqrt(n * views)
    if relative and energy.sqrt() <= rounding:
        raise UndefinedError("the views of each text are identical, so nothing varies within texts")
    scatter = within.flatten(0, 1).T @ within.flatten(0, 1)
    scatter.diagonal().add_(delta * energy / d if relative else delta)
    lower, failed = torch.linalg.cholesky_ex(scatter)
    if bool(failed):
        raise UndefinedError("the scatter within texts is singular; LiDAR needs a larger delta")
    whitened = torch.linalg.solve_triangular(lower, between.T, upper=False)
    values: Tensor = torch.linalg.svdvals(whitened).square()
    return values


def _of_pairs(
    compute: Callable[[ViewInputs], float],
    inputs: ViewInputs,
    convention: Convention,
    *,
    log: bool = False,
) -> Estimate:
    """Return a value of two views; texts that it leaves out have no contribution."""
    estimate = from_halves(compute, inputs, log=log)
    kept = _pairs(inputs, convention)[2].cpu()
    return replace(estimate, contributions=spread(estimate.contributions[kept], kept))


def dime(
    inputs: ViewInputs,
    convention: Convention,
    *,
    alpha: float = 1.0,
    count: int = 10,
    limit: int = DIME_LIMIT,
) -> Estimate:
    """DiME: entropy of shuffled pairs of views less that of true pairs, in nats.

    `E[H(K_A o P K_B P^T)] - H(K_A o K_B)` over permutations P, with N x N Gram matrices of unit
    rows; about `-ln N` to `ln N`, larger when the views agree more than random pairs. All
    permutations for N up to 6, else `count` drawn by the inputs' seed, common to all layers.
    `reference` follows the authors' code: dot products, D x D covariances where N > D, whose columns
    it permutes, and an order 2 that takes every trace to be the size of its matrix.
    Skean, Osorio, Brockmeier, Sanchez Giraldo 2023.

    Raises:
        UndefinedError: more than `limit` texts (use `dip_order2`), or fewer than 2.
    """

    def difference(texts: ViewInputs) -> float:
        drawn = count if texts is inputs else 1  # which hardly adds to the spread of halves
        joint, shuffled = _dime(texts, convention, alpha, drawn, limit)
        return float(shuffled.mean()) - joint

    return _of_pairs(difference, inputs, convention, log=True)


def dime_standard_error(
    inputs: ViewInputs,
    convention: Convention,
    *,
    alpha: float = 1.0,
    count: int = 10,
    limit: int = DIME_LIMIT,
) -> Estimate:
    """Standard error of DiME that is due to the drawn permutations alone, in nats.

    0 where all permutations were taken. It is no mean over texts, so it has no contributions.
    """
    _, entropies = _dime(inputs, convention, alpha, count, limit)
    first, _, _ = _pairs(inputs, convention)
    rows = min(first.shape) if convention is Convention.REFERENCE else len(first)
    if inputs.permutations is None and rows <= _ENUMERATED:
        return Estimate(0.0, torch.empty(0, dtype=torch.float64))
    if len(entropies) < 2:
        raise UndefinedError("one permutation has no standard error")
    value = float(entropies.std() / math.sqrt(len(entropies)))
    return Estimate(value, torch.empty(0, dtype=torch.float64))


_ENUMERATED = 6  # rows whose permutations are all taken


def _dime(
    inputs: ViewInputs, convention: Convention, alpha: float, count: int, limit: int
) -> tuple[float, Tensor]:
    """Return the entropy of the true pairs, and that under each permutation (permutation,)."""
    if inputs.n > limit:
        raise UndefinedError(
            f"DiME of {inputs.n} texts needs {count + 1} eigenvalue problems of that size and is "
            f"offered for at most {limit}; use dip_order2, its closed form of order 2"
        )

    def compute() -> tuple[float, Tensor]:
        first, second, _ = _pairs(inputs, convention)
        n, d = first.shape
        as_authors = convention is Convention.REFERENCE
        # The authors' code takes the smaller matrix of each view, and does not scale the covariances.
        if as_authors and n > d:
            one, two = ((rows.T / n) @ rows for rows in (first, second))
        else:
            one, two = first @ first.T, second @ second.T
        entropy = partial(_entropy_as_authors if as_authors else _entropy, alpha=alpha)
        shuffled = [
            entropy(one * two[order][:, order]) for order in _permutations(inputs, len(one), count)
        ]
        return entropy(one * two), torch.tensor(shuffled, dtype=torch.float64)

    return inputs.once(("dime", convention, alpha, count), compute)


def _entropy(matrix: Tensor, alpha: float) -> float:
    """Return the entropy of a product of Gram matrices (text, text)."""
    return of_spectrum(partial(renyi_entropy, alpha=alpha), gram_eigenvalues(matrix))


def _entropy_as_authors(matrix: Tensor, alpha: float) -> float:
    entropy = float(shortcut_entropy(matrix, alpha))
    if math.isnan(entropy):
        raise UndefinedError("all rows are zero or equal, so there is no direction to measure")
    return entropy


def _permutations(inputs: ViewInputs, size: int, count: int) -> Tensor:
    """Return permutations (permutation, size): the given ones, all of a few rows, or drawn ones."""
    device = inputs.vectors.device
    if inputs.permutations is not None:
        return inputs.permutations.to(device)
    if size <= _ENUMERATED:
        return torch.tensor(list(itertools.permutations(range(size))), device=device)
    generator = torch.Generator().manual_seed(inputs.seed)
    drawn = [torch.randperm(size, generator=generator) for _ in range(count)]
    return torch.stack(drawn).to(device)


def dip_order2(inputs: ViewInputs) -> Estimate:
    """DiP of order 2: DiME's closed form without permutations or eigenvalues, in nats.

    `ln |K_A o K_B|^2 - ln(N + a b / (N (N - 1)))`, with a and b the sums of the squared cosines of
    different texts in each view; at most DiME of order 2. Skean et al. 2023 for the quantity, the
    expectation is exact.
    """

    def difference(texts: ViewInputs) -> float:
        first, second, _ = _pairs(texts, Convention.PAPER)
        n = len(first)
        if n < 3:
            raise UndefinedError(f"needs at least 3 texts with nonzero views, got {n}")
        joint, one, two = torch.stack(list(_square_sums(first, second))).sum(0).tolist()
        return math.log(joint) - math.log(n + (one - n) * (two - n) / (n * (n - 1)))

    return _of_pairs(difference, inputs, Convention.PAPER)


def _square_sums(first: Tensor, second: Tensor) -> Iterator[Tensor]:
    """Yield, for blocks of rows, the sums (3,) of squares of K_A o K_B, K_A and K_B."""
    for start in range(0, len(first), BLOCK):
        one = (first[start : start + BLOCK] @ first.T).square()
        two = (second[start : start + BLOCK] @ second.T).square()
        yield torch.stack([(one * two).sum(), one.sum(), two.sum()])


def _pairs(
    inputs: ViewInputs, convention: Convention, start: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows (kept, dim) of two views, the first by default, and which texts (sample,).

    `normalized` takes away the mean of these two alone, so that further views change nothing. Rows
    have unit length, so texts with a zero vector are left out; under `reference` they stay as given.
    """
    if inputs.vectors.shape[1] < 2:
        raise UndefinedError("needs 2 views of each text, got 1")
    two = slice(start, start + 2)
    match convention:
        case Convention.PAPER:
            rows = inputs.unit[:, two]
        case Convention.NORMALIZED:
            rows = unit_rows(centered(inputs.vectors[:, two], inputs.eps))
        case Convention.REFERENCE:
            rows = inputs.reference()[:, two]
    kept = rows.any(-1).all(-1)
    if convention is Convention.REFERENCE:
        kept = torch.ones_like(kept)
    if int(kept.sum()) < 2:
        raise UndefinedError(f"needs 2 texts with nonzero views, got {int(kept.sum())}")
    return rows[kept, 0], rows[kept, 1], kept
