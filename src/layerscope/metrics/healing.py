"""Linear maps that stand in for removed blocks, fitted in closed form from second moments.

Blocks i + 1 to i + n are removed. Block i gives h_i = y + r m, where m is what its last linear map writes
to the residual stream. A map T = I + D (and an offset c, where that linear map has a bias) in place of m
brings this near to what the removed blocks would have given:

    D, c = argmin  sum_t w_t |m_t D + c - u_t|^2 + ridge |D|^2,    u_t = (h_{i+n,t} - h_{i,t}) / r

so that D = 0 is the model without these blocks, as it is. That a map can take the place of blocks and be
folded into weights that are there is the idea of ReplaceMe (arXiv 2505.02819); that tokens of massive
norm need care, of LinearPatch (arXiv 2505.24680). Here w_t = 1 / |h_{i+n,t}|^2 counts errors as shares of
a token's own length, since the next norm divides by it: an attention sink, a hundred times as long as
the other tokens, is then one token among many. It neither decides the fit nor is it left out of it.

Moments are summed in float64 and take k (k + dim) numbers, however many tokens there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from layerscope.errors import InputError

# Shares of the mean squared length of a dimension of m. The best is chosen on held-out tokens.
RIDGES: Final = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@dataclass(frozen=True)
class LinearMap:
    """A map m -> m + m D + c.

    Attributes:
        change: D, (dim, dim); or its diagonal, (dim,).
        offset: c, (dim,); None for a map without one.
        ridge: by which it was fitted.
    """

    change: Tensor
    offset: Tensor | None = None
    ridge: float = 0.0

    @property
    def diagonal(self) -> bool:
        """Whether the map scales each dimension by itself."""
        return self.change.ndim == 1

    @property
    def matrix(self) -> Tensor:
        """T = I + D, or its diagonal."""
        if self.diagonal:
            return 1 + self.change
        return torch.eye(len(self.change)).to(self.change) + self.change

    def stacked(self, rows: int) -> Tensor:
        """Return D, with c as one more row where it has that many rows, (rows, dim)."""
        full = torch.diag(self.change) if self.diagonal else self.change
        if rows == len(full):
            return full
        offset = torch.zeros_like(full[0]) if self.offset is None else self.offset
        return torch.cat((full, offset[None]))


class Moments:
    """Weighted second moments of written states m and of the changes u wanted of them.

    Attributes:
        dim: the dimensions of m.
        offset: whether a map may have an offset.
        gram: sum of w m^T m, (k, k); with an offset, m has a last entry of 1 and k = dim + 1.
        cross: sum of w m^T u, (k, dim of u).
        energy: sum of w u^2, (dim of u,).
        weight: sum of w.
        tokens: how many there were.
    """

    def __init__(
        self, dim: int, goals: int = 0, *, offset: bool = False, device: torch.device | str = "cpu"
    ) -> None:
        rows = dim + offset
        self.dim, self.offset = dim, offset
        self.gram = torch.zeros(rows, rows, dtype=torch.float64, device=device)
        self.cross = torch.zeros(rows, goals or dim, dtype=torch.float64, device=device)
        self.energy = torch.zeros(goals or dim, dtype=torch.float64, device=device)
        self.weight, self.tokens = 0.0, 0

    def add(self, written: Tensor, wanted: Tensor, weights: Tensor) -> None:
        """Add tokens: written (token, dim), wanted (token, dim of u), weights (token,)."""
        states, change, scale = (
            each.to(self.gram.device).double() for each in (written, wanted, weights)
        )
        if self.offset:
            states = torch.cat((states, states.new_ones(len(states), 1)), dim=1)
        weighted = states * scale[:, None]
        self.gram += weighted.T @ states
        self.cross += weighted.T @ change
        self.energy += scale @ change.square()
        self.weight += float(scale.sum())
        self.tokens += len(states)

    @property
    def finite(self) -> bool:
        """Whether no value was NaN or infinite."""
        return bool(self.gram.isfinite().all() and self.cross.isfinite().all())

    def errors(self, chosen: LinearMap) -> Tensor:
        """Return the weighted mean squared error that a map leaves of each dimension of u."""
        change = chosen.stacked(len(self.gram)).to(self.gram)
        gained = (change * (2 * self.cross - self.gram @ change)).sum(dim=0)
        found: Tensor = (self.energy - gained).clamp(min=0) / self.weight
        return found

    def left(self, chosen: LinearMap) -> float:
        """Return the share of the squared error of D = 0 that a map leaves; 0 where there is none."""
        whole = float(self.energy.sum()) / self.weight
        return float(self.errors(chosen).sum()) / whole if whole else 0.0


def fit(moments: Moments, ridge: float, *, diagonal: bool = False) -> LinearMap:
    """Return the map of the least error plus ridge |D|^2.

    Args:
        moments: of the tokens to fit on.
        ridge: as a share of the mean squared length of a dimension of m; above 0.
        diagonal: whether D is diagonal.

    Raises:
        InputError: there are fewer tokens than the map has rows.
    """
    refuse_few_tokens(moments.tokens, 2 if diagonal else len(moments.gram))
    dim = moments.dim
    penalty = ridge * float(moments.gram.diagonal()[:dim].mean())
    if diagonal:
        return _diagonal(moments, ridge, penalty)
    left = moments.gram.clone()
    left.diagonal()[:dim] += penalty
    found = torch.linalg.solve(left, moments.cross)
    return LinearMap(found[:dim], found[dim] if moments.offset else None, ridge)


def _diagonal(moments: Moments, ridge: float, penalty: float) -> LinearMap:
    dim = moments.dim
    squares = moments.gram.diagonal()[:dim] + penalty
    products = moments.cross.diagonal()[:dim]
    if not moments.offset:
        return LinearMap(products / squares, None, ridge)
    sums, wanted, weight = moments.gram[dim, :dim], moments.cross[dim], moments.gram[dim, dim]
    scale = (products - sums * wanted / weight) / (squares - sums.square() / weight)
    return LinearMap(scale, (wanted - scale * sums) / weight, ridge)


def best_fit(
    moments: Moments,
    held_out: Moments,
    *,
    diagonal: bool = False,
    ridges: Sequence[float] = RIDGES,
) -> LinearMap:
    """Return the map whose ridge leaves the least error on held-out tokens."""
    return min((fit(moments, each, diagonal=diagonal) for each in ridges), key=held_out.left)


def token_weights(states: Tensor) -> Tensor:
    """Return 1 over each token's squared length, (token,), of states (token, dim)."""
    return 1 / states.square().sum(dim=1).clamp(min=torch.finfo(torch.float32).tiny)


def refuse_few_tokens(tokens: int, rows: int) -> None:
    """Raise an InputError if there are fewer tokens than a map has rows."""
    if tokens < rows:
        raise InputError(
            f"expected at least {rows:,} tokens to fit a map of {rows:,} rows on, got {tokens:,}; give "
            "more texts, or pass --heal off."
        )
