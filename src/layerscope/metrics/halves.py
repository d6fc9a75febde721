"""Error from random halves of the samples, for measures that are no average over samples.

Resampling with replacement repeats samples, and a repeated sample is its own nearest neighbor and
lowers a rank. Two disjoint halves have neither fault: for a value that varies like `s^2 / n` with
the number of samples n, their difference has variance `4 s^2 / N`, whatever bias they share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor

from layerscope.errors import UndefinedError

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


def half_sample_limits(
    value: Tensor, error: Tensor, count: int = COUNT, level: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Return the limits `value -+ t error`, t the quantile of Student's law for `count` halvings."""
    reach = float(t.ppf((1 + level) / 2, count)) * error
    return value - reach, value + reach
