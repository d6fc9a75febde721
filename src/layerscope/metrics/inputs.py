"""Inputs of the measures: hidden states, checked once and preprocessed once per convention.

Axes are named text (or sample), view, token, dim. Three conventions say what happens to the states
before a formula: nothing (`paper`); mean removed, then rows of unit length (`normalized`); or what
the authors' code does (`reference`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from layerscope.errors import InputError, NonFiniteError, UndefinedError
from layerscope.metrics.estimates import half_samples
from layerscope.metrics.spectrum import eigenvalues
from layerscope.settings import Convention

T = TypeVar("T")


def unit_rows(rows: Tensor) -> Tensor:
    """Return rows (..., dim) divided by their lengths; zero rows stay zero."""
    lengths = rows.norm(dim=-1, keepdim=True)
    return torch.where(lengths > 0, rows / lengths, 0)


def centered(rows: Tensor, eps: float | None = None) -> Tensor:
    """Return rows (row, ..., dim) less their mean over all axes but the last.

    Rows that equal the mean up to rounding become exactly zero, so that no later scaling turns
    rounding into a direction. `eps` is that of the precision in which the rows were made, where it is
    less than theirs.
    """
    eps = eps or torch.finfo(rows.dtype).eps
    return _drop_rounding(rows - (mean := rows.flatten(0, -2).mean(0)), mean, eps)


def _drop_rounding(deviations: Tensor, mean: Tensor, eps: float) -> Tensor:
    """Return deviations with those that are mere rounding of the mean (..., dim) set to zero."""
    least = 16 * eps * mean.norm(dim=-1, keepdim=True)
    lengths = deviations.norm(dim=-1, keepdim=True)
    return torch.where(lengths > least, deviations, 0)


def _require_finite(states: Tensor, what: str) -> None:
    # One sum finds any NaN or infinity in a fraction of the time of a test of every entry.
    if not bool(torch.isfinite(states.sum(dtype=torch.float64))):
        bad = int((~torch.isfinite(states)).sum())
        raise NonFiniteError(
            f"{what} hold {bad} NaN or infinite of {states.numel()} numbers; "
            "run the model in float32, or leave out the texts that cause them"
        )


@dataclass(frozen=True, eq=False)
class TokenInputs:
    """Token states of a batch of texts at one layer.

    Attributes:
        states: (text, token, dim), any floating type; below float32 they are raised to float32.
            Float64 states are measured in float64 throughout.
        mask: (text, token) bool, True for the tokens that count. All others are removed, so that the
            tokens before and after a gap become neighbors.

    Raises:
        InputError: the shapes do not fit.
        NonFiniteError: a token that counts holds NaN or infinity.
    """

    states: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        states, mask = self.states, self.mask
        if states.ndim != 3 or mask.shape != states.shape[:2] or mask.dtype != torch.bool:
            raise InputError(
                "expected states (text, token, dim) and a boolean mask (text, token), got "
                f"{tuple(states.shape)} and {mask.dtype} {tuple(mask.shape)}"
            )
        if not states.is_floating_point():
            raise InputError(f"expected floating-point states, got {states.dtype}")
        states = states.detach()
        if states.dtype not in (torch.float32, torch.float64):
            states = states.float()
        if not bool((mask[:, :-1] | ~mask[:, 1:]).all()):  # a counting token after a skipped one
            order = torch.argsort((~mask).byte(), dim=1, stable=True)
            states, mask = states.take_along_dim(order[..., None], 1), mask.gather(1, order)
        if not bool(mask.all()):
            width = int(mask.sum(1).max()) if len(mask) else 0
            states, mask = states[:, :width], mask[:, :width]
            states = states.masked_fill(~mask[..., None], 0)
        _require_finite(states, "hidden states")
        object.__setattr__(self, "states", states)
        object.__setattr__(self, "mask", mask)

    @cached_property
    def lengths(self) -> Tensor:
        """Number of tokens that count, (text,) in the dtype of the states."""
        return self.mask.sum(1).to(self.states.dtype)

    def first(self, tokens: int, texts: Tensor) -> TokenInputs:
        """Return the first tokens that count of some of the texts; `texts` is (text,) bool."""
        return TokenInputs(self.states[texts, :tokens], self.mask[texts, :tokens])

    @cached_property
    def unit(self) -> Tensor:
        """Tokens less their text's mean, scaled to unit length; padding and zero rows are zero."""
        lengths = self.lengths.clamp(min=1)[:, None, None]
        mean = self.states.sum(1, keepdim=True) / lengths
        rows = self.states - mean
        norms = rows.norm(dim=-1, keepdim=True)
        # A row that equals the mean up to rounding has no direction: it stays zero.
        least = 16 * torch.finfo(rows.dtype).eps * mean.norm(dim=-1, keepdim=True)
        kept = self.mask[..., None] & (norms > least)
        return rows.mul_(torch.where(kept, norms, torch.inf).reciprocal())

    def prepared(self, convention: Convention) -> Tensor:
        """Return the rows (text, token, dim) that the formulas of a convention work on."""
        return self.states if convention is Convention.PAPER else self.unit

    def eigenvalues(self, convention: Convention) -> Tensor:
        """Return the Gram spectrum (text, min(token, dim)) of each text, largest first.

        In the dtype of the states; it is computed once for all measures of a convention.
        """
        if convention is Convention.REFERENCE:
            raise InputError("the reference convention clamps entries and has no Gram spectrum")
        return self._raw_values if convention is Convention.PAPER else self._unit_values

    @cached_property
    def _raw_values(self) -> Tensor:
        return self._values(self.states)

    @cached_property
    def _unit_values(self) -> Tensor:
        return self._values(self.unit)

    @staticmethod
    def _values(rows: Tensor) -> Tensor:
        # Float32 is within 1e-5 nats of float64, also where one raw token is 1000 times the
        # others: see the table of benchmarks/precision.py.
        return eigenvalues(rows, dtype=rows.dtype)


@dataclass(frozen=True, eq=False)
class PooledInputs:
    """Pooled vectors at one layer, a sample for each text.

    Attributes:
        vectors: (sample, ..., dim), computed with in float64.
        reference_vectors: the same of the centered unit tokens, which are what the authors' code pools;
            only the reference convention needs them.
        eps: relative rounding of the vectors in their original dtype.
    """

    AXES: ClassVar[tuple[str, ...]]

    vectors: Tensor
    reference_vectors: Tensor | None = None
    eps: float = field(init=False, repr=False)
    _computed: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        _check_vectors(self)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.vectors)

    @property
    def halves(self) -> Iterator[Self]:
        """The same of each of `estimates.half_samples`.

        Rows are copied when a half is asked for and are not kept, but what a half has computed `once` is.
        """
        for number, rows in enumerate(half_samples(self.n)):
            reference = None if self.reference_vectors is None else self.reference_vectors[rows]
            half = self._with(self.vectors[rows], reference)
            object.__setattr__(half, "eps", self.eps)
            object.__setattr__(half, "_computed", self.once(("half", number), dict))
            yield half

    def _with(self, vectors: Tensor, reference: Tensor | None) -> Self:
        return replace(self, vectors=vectors, reference_vectors=reference)

    def reference(self) -> Tensor:
        """Return the reference vectors, or raise UndefinedError where there are none."""
        return _reference(self.reference_vectors)

    @cached_property
    def unit(self) -> Tensor:
        """Vectors of unit length."""
        return unit_rows(self.vectors)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return `compute()`, called once per key."""
        if key not in self._computed:
            self._computed[key] = compute()
        found: T = self._computed[key]
        return found


@dataclass(frozen=True, eq=False)
class SampleInputs(PooledInputs):
    """One pooled vector per text at one layer: vectors (sample, dim)."""

    AXES: ClassVar[tuple[str, ...]] = ("sample", "dim")

    @cached_property
    def centered(self) -> Tensor:
        """Vectors less their mean."""
        return centered(self.vectors, self.eps)

    @property
    def raw_spectrum(self) -> Tensor:
        """Eigenvalues of the Gram matrix of the vectors as they are."""
        return self.once("raw", lambda: _spectrum(self.vectors))

    @property
    def centered_spectrum(self) -> Tensor:
        """Those of the vectors less their mean."""
        return self.once("centered", lambda: _spectrum(self.centered))

    @property
    def normalized_spectrum(self) -> Tensor:
        """Those of the vectors less their mean, then scaled to unit length."""
        return self.once("normalized", lambda: _spectrum(unit_rows(self.centered)))


@dataclass(frozen=True, eq=False)
class ViewInputs(PooledInputs):
    """Pooled vectors of augmented copies of each text at one layer: vectors (sample, view, dim).

    Attributes:
        seed: of the permutations that are drawn for DiME, the same in every layer.
        permutations: (permutation, row) to use instead of drawn ones; halves draw theirs.
    """

    AXES: ClassVar[tuple[str, ...]] = ("sample", "view", "dim")

    seed: int = 0
    permutations: Tensor | None = None

    def _with(self, vectors: Tensor, reference: Tensor | None) -> Self:
        return replace(self, vectors=vectors, reference_vectors=reference, permutations=None)

    @cached_property
    def normalized(self) -> Tensor:
        """Vectors less their mean over samples and views, then scaled to unit length."""
        return unit_rows(centered(self.vectors, self.eps))

    def prepared(self, convention: Convention) -> Tensor:
        """Return the vectors (sample, view, dim) that the formulas of a convention start from."""
        match convention:
            case Convention.PAPER:
                return self.vectors
            case Convention.NORMALIZED:
                return self.normalized
            case Convention.REFERENCE:
                return self.reference()


def _spectrum(rows: Tensor) -> Tensor:
    if not rows.numel():
        n, d = rows.shape
        raise UndefinedError(f"there are no vectors to measure: {n} rows of {d} dimensions")
    return eigenvalues(rows)


def _check_vectors(inputs: PooledInputs) -> None:
    vectors, reference, axes = inputs.vectors, inputs.reference_vectors, inputs.AXES
    if vectors.ndim != len(axes) or not vectors.is_floating_point():
        raise InputError(
            f"expected floating-point vectors ({', '.join(axes)}), "
            f"got {vectors.dtype} {tuple(vectors.shape)}"
        )
    if reference is not None and reference.shape != vectors.shape:
        raise InputError(
            f"expected reference vectors of shape {tuple(vectors.shape)} like the vectors, "
            f"got {tuple(reference.shape)}"
        )
    _require_finite(vectors, "pooled vectors")
    object.__setattr__(inputs, "eps", torch.finfo(vectors.dtype).eps)
    object.__setattr__(inputs, "vectors", vectors.detach().double())
    if reference is not None:
        _require_finite(reference, "reference vectors")
        object.__setattr__(inputs, "reference_vectors", reference.detach().double())


def _reference(vectors: Tensor | None) -> Tensor:
    if vectors is None:
        raise UndefinedError(
            "the reference convention needs vectors pooled from centered unit tokens; "
            "extract with that convention"
        )
    return vectors
