"""Subsets of blocks: drawn at random, or runs whose summed error is least."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from layerscope.errors import InputError
from layerscope.settings import DRAWS

_Partial = dict[tuple[int, bool], tuple[float, tuple[int, ...]]]


def least_error(
    errors: Mapping[tuple[int, int], float], depth: int, eligible: Collection[int], count: int
) -> tuple[int, ...]:
    """Return the blocks of runs that do not touch, `count` blocks in all, of the least summed error.

    Two runs that touch would be one run, which has an error of its own. Exact, block by block.

    >>> least_error({(2, 1): 0.1, (3, 1): 0.3, (4, 1): 0.2, (2, 2): 0.25}, 4, [2, 3, 4], 2)
    (2, 3)

    Args:
        errors: (first block, blocks) -> error of a run; runs without a finite one are not chosen.
        depth: blocks of the model.
        eligible: those that may go.
        count: how many go.

    Raises:
        InputError: no such runs have that many blocks.
    """
    # After each block: (blocks gone so far, whether this one is) -> (error, blocks).
    history: list[_Partial] = [{(0, False): (0.0, ())}]
    for block in range(1, depth + 1):
        now: _Partial = {}
        for (done, _), found in history[-1].items():
            now[done, False] = min(found, now.get((done, False), found))
        for length in range(1, min(count, block) + 1):
            run = tuple(range(block - length + 1, block + 1))
            error = errors.get((run[0], length), math.nan)
            if not math.isfinite(error) or not set(run) <= set(eligible):
                continue
            for (done, gone), (before, blocks) in history[block - length].items():
                found, place = (before + error, (*blocks, *run)), (done + length, True)
                if not gone and done + length <= count:
                    now[place] = min(found, now.get(place, found))
        history.append(now)
    ends = [history[-1][key] for key in ((count, False), (count, True)) if key in history[-1]]
    if not ends:
        raise InputError(
            f"the rule 'healing' finds no {count} blocks in whose place maps could stand; choose another "
            "rule, lower --budget, or lower --protect."
        )
    return min(ends)[1]


@dataclass(frozen=True)
class Subsets:
    """Subsets of the eligible blocks, all of one size.

    Attributes:
        subsets: each in ascending order.
        total: number of all subsets of this size.
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
    if (total := math.comb(len(ordered), count)) <= draws:
        return Subsets(tuple(combinations(ordered, count)), total)
    generator = np.random.default_rng(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < draws:
        picks = generator.choice(ordered, size=count, replace=False)
        found[tuple(sorted(int(pick) for pick in picks))] = None
    return Subsets(tuple(found), total)
