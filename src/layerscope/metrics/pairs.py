"""How close every two samples of one layer are, in blocks of rows.

Neighbor lists, graph filtrations and kernel alignment all start from one product: the Gram matrix
of the centered vectors. It is held whole while it fits a budget and made again block by block
beyond it, so memory grows with the number of samples and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import torch
from torch import Tensor

from layerscope.errors import InputError, RunError, UndefinedError
from layerscope.metrics.inputs import centered

BUDGET = 256 * 2**20
"""Bytes above which a layer's (sample, sample) matrix is not held whole: 5,792 samples."""

BLOCK = 2**20
"""Entries of one block of rows."""


class Closeness(StrEnum):
    """By what two samples are near each other."""

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
        vectors: (sample, dim), one pooled vector a sample; computed with in float64.
        budget: bytes that the Gram matrix may take before it is made in blocks each time.
        block: entries of one block of rows.

    Raises:
        InputError: the vectors are not a floating-point matrix.
        RunError: they hold NaN or infinity.
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
            raise RunError("pooled vectors hold NaN or infinite numbers")
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

    def nearness(self, kind: Closeness, start: int, stop: int, first: int = 0) -> Tensor:
        """Return how near samples start..stop are to samples first..: (row, column), at most 0.

        Minus the squared distance, or cosine - 1. Both come from differences of the vectors, so
        that cosines that are all near 1 keep their order: `1 - cos = (|x - y|^2 - (|x| - |y|)^2) /
        (2 |x| |y|)`. Distances that are mere rounding are 0, so equal samples tie.

        Raises:
            UndefinedError: all vectors are equal, or one has no direction where one is needed.
        """
        lengths = self._lengths(kind)
        rows, columns = self.squares[start:stop, None], self.squares[None, first:]
        scale = rows + columns
        negative = torch.add(-scale, self.gram(start, stop, first), alpha=2)
        negative[negative > -64 * torch.finfo(negative.dtype).eps * scale] = 0
        if lengths is None:
            return negative
        left, right = lengths[start:stop, None], lengths[None, first:]
        negative.add_((left - right).square_()).div_(left * right).div_(2)
        # (|x| - |y|)^2 can only exceed the squared distance by rounding: then they are parallel.
        negative[negative > -64 * torch.finfo(negative.dtype).eps] = 0
        return negative

    def keys(self, kind: Closeness) -> Iterator[Tensor]:
        """Yield how far apart every unordered pair is, as int32 in its order, block by block.

        The bits of a float32 that is not negative order like the number itself. float32 is coarse
        enough that pairs that tie in exact arithmetic still tie.
        """
        for start, stop in self.ranges():
            block = self.nearness(kind, start, stop, start).neg_().float()
            upper = torch.ones(block.shape, dtype=torch.bool, device=block.device).triu_(1)
            # Adding 0 turns the float -0, whose bits are not those of 0, into 0.
            yield block[upper].add_(0.0).view(torch.int32)

    def _lengths(self, kind: Closeness) -> Tensor | None:
        if not bool(self.squares.any()):
            raise UndefinedError("all vectors are equal, so no two are nearer than others")
        if kind is Closeness.EUCLIDEAN:
            return None
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
