"""What removing as many blocks at random does: the baseline that a measured rule has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

DRAWS: Final = 20


@dataclass(frozen=True)
class Subsets:
    """Subsets of the blocks that may go, all of one size.

    Attributes:
        subsets: each in ascending order.
        total: how many there are of this size.
    """

    subsets: tuple[tuple[int, ...], ...]
    total: int

    @property
    def exhaustive(self) -> bool:
        """Whether these are all."""
        return len(self.subsets) == self.total


def random_subsets(
    eligible: Sequence[int], count: int, draws: int = DRAWS, seed: int = 0
) -> Subsets:
    """Return `draws` different subsets, uniformly, or all of them where there are no more.

    >>> random_subsets([2, 3, 4], 2).subsets
    ((2, 3), (2, 4), (3, 4))
    """
    ordered = sorted(eligible)
    total = math.comb(len(ordered), count)
    if total <= draws:
        return Subsets(tuple(combinations(ordered, count)), total)
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        picks = generator.choice(ordered, size=count, replace=False)
        found[tuple(sorted(int(pick) for pick in picks))] = None
    return Subsets(tuple(found), total)


@dataclass(frozen=True)
class Against:
    """A result beside those of random subsets.

    Attributes:
        value: of the blocks that a rule chose.
        mean: of the random subsets.
        median: likewise.
        low: their 10 % quantile.
        high: their 90 % quantile.
        p: share of subsets at least as good, exact if all were tried; with draws, (1 + number at
            least as good) / (1 + draws).
        subsets: how many were tried.
        exhaustive: whether those are all.
        lower: whether less is better.
    """

    value: float
    mean: float
    median: float
    low: float
    high: float
    p: float
    subsets: int
    exhaustive: bool
    lower: bool = False

    @property
    def beats_random(self) -> bool:
        """Whether it is better than the mean of the random subsets."""
        return self.value < self.mean if self.lower else self.value > self.mean


def against(
    value: float, others: Sequence[float], *, exhaustive: bool, lower: bool = False
) -> Against:
    """Place a result among those of random subsets; `lower` says that less is better.

    >>> losses = [5, 1, 2, 9, 3]
    >>> pairs = [losses[a] + losses[b] for a in range(5) for b in range(a)]
    >>> found = against(1 + 2, pairs, exhaustive=True, lower=True)
    >>> found.mean, found.p
    (8.0, 0.1)
    """
    values = np.asarray(others, dtype=np.float64)
    good = int((values <= value).sum() if lower else (values >= value).sum())
    p = good / len(values) if exhaustive else (1 + good) / (1 + len(values))
    low, high = (float(limit) for limit in np.quantile(values, [0.1, 0.9]))
    mean, median = float(values.mean()), float(np.median(values))
    return Against(value, mean, median, low, high, p, len(values), exhaustive, lower)
