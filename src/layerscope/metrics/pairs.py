"""Similarity of every two samples of one layer in blocks of rows, and errors from random halves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from layerscope.errors import InputError, NonFiniteError, UndefinedError
from layerscope.metrics.inputs import centered

BUDGET = 128 * 2**20
"""Bytes above which a layer's (sample, sample) matrix is not held whole: 4,096 samples."""

BLOCK = 2**20
"""Entries of one block of rows."""


class Closeness(StrEnum):
    """The measure of closeness of two samples."""

    COSINE = "cosine"
    CENTERED_COSINE = "centered_cosine"
    EUCLIDEAN = "euclidean"


def blocks(columns: int, rows: int, entries: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of blocks of at most `entries` numbers, one row at least."""
    height = max(1, entries // max(columns, 1))
    for start in range(0, rows, height):
        yield start, min(start + height, rows)


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of samples of one layer.

    Attributes:
        vectors: (sample, dim), one pooled vector per sample; converted to float64.
        budget: bytes that the Gram matrix may take before it is made in blocks each time.
        block: entries of one block of rows.

    Raises:
        InputError: the vectors are not a floating-point matrix.
        NonFiniteError: they hold NaN or infinity.
    """

    vectors: Tensor
    budget: int = BUDGET
    block: int = BLOCK

    def __post_init__(self) -> None:
        vectors = self.vectors
        if vectors.ndim != 2 or not vectors.is_floating_point():
            raise InputError(
                "expected floating-point vectors (sample, dim), "
                f"got {vectors.dtype} {tuple(vectors.shape)}"
            )
        if not bool(torch.isfinite(vectors).all()):
            raise NonFiniteError("pooled vectors hold NaN or infinite numbers")
        object.__setattr__(self, "vectors", vectors.detach().double())

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.vectors)

    @cached_property
    def centered(self) -> Tensor:
        """Vectors less their mean, (sample, dim)."""
        return centered(self.vectors)

    @cached_property
    def squares(self) -> Tensor:
        """Squared lengths of the centered vectors, (sample,)."""
        return self.centered.square().sum(-1)

    @cached_property
    def _whole(self) -> Tensor | None:
        """The Gram matrix of the centered vectors, exactly symmetric, where it fits the budget."""
        n = self.n
        if 8 * n * n > self.budget:
            return None
        gram = self.centered.new_empty(n, n)
        for start, stop in blocks(n, n, 2**19):  # small blocks, to compute little more than half
            part = self.centered[start:stop] @ self.centered[start:].T
            square = part[:, : stop - start]
            gram[start:stop, start:] = part
            gram[start:stop, start:stop] = (square + square.T) / 2
            gram[stop:, start:stop] = part[:, stop - start :].T
        return gram

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Return the first row and the end of every block of rows."""
        return blocks(self.n, self.n, self.block)

    def gram(self, start: int, stop: int, first: int = 0) -> Tensor:
        """Return inner products of centered vectors (stop - start, sample - first); do not edit."""
        if self._whole is not None:
            return self._whole[start:stop, first:]
        return self.centered[start:stop] @ self.centered[first:].T

    def distances(self, kind: Closeness, start: int, stop: int, first: int = 0) -> Tensor:
        """Return how far samples start..stop are from samples first..: (row, column), at least 0.

        The squared distance, or 1 less the cosine; 0 where it is mere rounding, so that equal
        samples tie. Cosines that are all near 1 keep their order, because they come from the
        differences of vectors: `1 - cos = (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|)`.

        Raises:
            UndefinedError: all vectors are equal, or one has no direction where one is needed.
        """
        gram = self.gram(start, stop, first)
        lengths = self.lengths(kind)
        if kind is Closeness.CENTERED_COSINE:
            return _without_rounding(1 - _over_lengths(gram, lengths, start, stop, first), 1)
        scale = self.squares[start:stop, None] + self.squares[first:]
        squared = _without_rounding(torch.add(scale, gram, alpha=-2), scale)
        if kind is Closeness.EUCLIDEAN:
            return squared
        squared -= (lengths[start:stop, None] - lengths[first:]).square_()
        return _without_rounding(_over_lengths(squared.div_(2), lengths, start, stop, first), 1)

    def keys(self, kind: Closeness) -> Iterator[Tensor]:
        """Yield how far apart every unordered pair is, as int32 in its order, block by block.

        The bits of a float32 that is not negative order like the number itself. float32 is coarse
        enough that pairs that tie in exact arithmetic still tie.
        """
        for start, stop in self.ranges():
            block = self.distances(kind, start, stop, start).float()
            upper = torch.ones(block.shape, dtype=torch.bool, device=block.device).triu_(1)
            yield block[upper].view(torch.int32)

    def lengths(self, kind: Closeness) -> Tensor:
        """Return the divisors (sample,) of the inner products."""
        if not bool(self.squares.any()):
            raise UndefinedError("all vectors are equal, so no two are nearer than others")
        if kind is Closeness.EUCLIDEAN:
            return torch.ones_like(self.squares)
        lengths = self._raw_lengths if kind is Closeness.COSINE else self.squares.sqrt()
        if bool((lengths == 0).any()):
            zero = "zero" if kind is Closeness.COSINE else "equal to the mean"
            raise UndefinedError(
                f"{int((lengths == 0).sum())} of {self.n} vectors are {zero} and have no "
                "direction; leave these samples out of every layer, or compare by distance"
            )
        return lengths

    @cached_property
    def _raw_lengths(self) -> Tensor:
        lengths: Tensor = self.vectors.norm(dim=-1)
        return lengths


def _over_lengths(block: Tensor, lengths: Tensor, start: int, stop: int, first: int) -> Tensor:
    """Return a block (row, column) over the lengths of both samples."""
    inverse = lengths.reciprocal()
    return (block * inverse[start:stop, None]).mul_(inverse[first:])


def _without_rounding(distances: Tensor, scale: Tensor | float) -> Tensor:
    """Set distances within rounding of 0 at this scale to 0, in place."""
    least = 64 * torch.finfo(distances.dtype).eps * scale
    return distances.masked_fill_(distances < least, 0)


COUNT = 5
"""Number of random halvings."""


def halvings(n: int, count: int = COUNT, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return `count` random splits of n samples into two halves of n // 2, as sorted indices.

    The same seed and n give the same halves, so all layers are split alike. Where n is odd, one
    sample is left out of each split.
    """
    if n < 2:
        raise UndefinedError(f"halving needs at least 2 samples, got {n}")
    generator = np.random.default_rng(seed)
    half = n // 2
    orders = [torch.from_numpy(generator.permutation(n)) for _ in range(count)]
    return [(order[:half].sort().values, order[half : 2 * half].sort().values) for order in orders]


def half_sample_error(values: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the standard error of a value on all samples, from its values on pairs of halves.

    `sqrt(mean (a - b)^2 / 4)`, for tensors of any one shape; NaN where a half has no value.
    """
    squares = torch.stack([(a - b).square() for a, b in values])
    return squares.mean(0).sqrt() / 2


PATH_ERROR: Final = 1.3
"""Error of a number of a path over what halves of the samples say.

On vectors of MiniLM halves said .65 to 1.1 of the spread from one set of texts to the next, .85 on
average, at all of k = 16, 32, 64 and 500 and 1,000 texts; with this factor limits held 91 to 99 % of it.
"""


def path_error(values: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the standard error of a number of a path from its values on pairs of halves."""
    return PATH_ERROR * half_sample_error(values)


def half_sample_limits(
    value: Tensor, error: Tensor, count: int = COUNT, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return the limits `value -+ t error`, t the quantile of Student's law.

    With a degree of freedom less than halvings: those of the same samples repeat each other (measured
    coverage: benchmarks/results/coverage.md).
    """
    reach = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return value - reach, value + reach
