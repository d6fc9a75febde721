"""A number that describes a set of texts, with the spread that it has from one draw of texts to the next.

A mean of numbers that the texts have by themselves carries these numbers. Any other measure is made
again on halves of the texts, drawn without replacement: a half has no repeated row, which would lower a
rank, and the spread of its value around the whole one is that of the whole value from one draw of texts
to the next. The halves are balanced: 16 groups of texts, each half made of 8 of them, so that 15 halves
say of a mean all that the 16 groups do (McCarthy 1969). They depend on the number of texts alone, so
that layers, measures and models of the same texts are compared on the same halves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, Self, TypeVar

import numpy as np
import torch
from scipy.linalg import hadamard
from scipy.special import ndtri, stdtrit
from torch import Tensor

from layerscope.errors import UndefinedError

GROUPS: Final = 16
"""Groups of texts, a power of 2; there is one half fewer."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number that describes a set of texts, and the part of each text in it.

    Attributes:
        value: the number.
        contributions: (text,) float64; their mean is the value, and resampling them gives its 95 %
            limits. For an average over texts they are the texts' own values; otherwise the value plus
            what the halves with the text have more than those without it, the same for the texts of a
            group. NaN for a text that is left out, and for all where there are no limits. Empty
            for a number that is not about the texts, such as an error of the computation.
        note: a sentence on how to read it on these texts, or "".
    """

    value: float
    contributions: Tensor
    note: str = ""


class Halved(Protocol):
    """What a measure takes: it knows its texts and can be made of a half of them."""

    @property
    def n(self) -> int:
        """Number of texts."""
        ...

    @property
    def halves(self) -> Iterable[Self]:
        """The same of each of the `half_samples`."""
        ...


T = TypeVar("T", bound=Halved)


@cache
def half_samples(n: int) -> tuple[Tensor, ...]:
    """Return the texts of each half, as sorted indices; no half where n is less than 16.

    All halves are equally large, because most measures depend on the number of texts: the up to 15 texts
    that the groups do not hold are in none.
    """
    groups = _groups(n)
    return (
        tuple(groups[signs > 0].flatten().sort().values for signs in _signs())
        if n >= GROUPS
        else ()
    )


def _groups(n: int) -> Tensor:
    """Return the texts of each group, (group, text)."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(n))
    return order[: n - n % GROUPS].view(GROUPS, -1)


def _signs() -> Tensor:
    """Return (half, group) 1 where a half holds a group, else -1; rows are orthogonal and sum to 0."""
    return torch.from_numpy(hadamard(GROUPS)[1:].astype(np.float64))


def from_halves(
    compute: Callable[[T], float],
    inputs: T,
    *,
    log: bool = False,
    most: Callable[[T], float] | None = None,
) -> Estimate:
    """Return a value with contributions from the same value on halves of the texts.

    Args:
        compute: from the inputs to the value.
        inputs: of all texts.
        log: see `of_halves`.
        most: from the inputs to the greatest possible value, likewise.
    """
    value = compute(inputs)
    try:
        found = [compute(half) for half in inputs.halves]
    except UndefinedError:
        found = []
    ends = (most(inputs), most(next(iter(inputs.halves)))) if most and found else None
    return of_halves(value, found, inputs.n, log=log, most=ends)


def of_halves(
    value: float,
    found: Sequence[float],
    n: int,
    *,
    log: bool = False,
    most: tuple[float, float] | None = None,
) -> Estimate:
    """Return a value with contributions from those on the halves of n texts.

    Args:
        value: on all texts.
        found: on each of the `half_samples`; without them, or with one undefined, there are no limits.
        n: number of texts.
        log: whether the spread is taken on the log scale: for a number, greater than 0, that grows with
            the number of texts as a rank does.
        most: the greatest possible value of all texts and of a half, where the number of texts bounds
            it: the spread is then taken of the logit of the share of it. A half's rank crowds more
            under its bound than that of all texts, which hides some of its spread.
    """
    halves = torch.tensor(found, dtype=torch.float64)
    if not len(halves) or not bool(halves.isfinite().all()):
        note = f"with {n} texts only means over texts have limits: others need {GROUPS}."
        unknown = torch.full((n,), torch.nan, dtype=torch.float64)
        return Estimate(value, unknown, note if n < GROUPS else "")
    halves = _on_scale(value, halves, log, most)
    known = len(halves) - 1  # degrees of freedom: the mean over halves is another than the value
    student = float(stdtrit(known, 0.975) / ndtri(0.975))
    scale = student * math.sqrt(n / known)
    by_group = (halves - halves.mean()) @ _signs()
    contributions = torch.full((n,), value, dtype=torch.float64)
    groups = _groups(n)
    contributions[groups] += scale * by_group[:, None].expand(groups.shape)
    return Estimate(value, contributions)


def _on_scale(value: float, halves: Tensor, log: bool, most: tuple[float, float] | None) -> Tensor:
    """Return values of halves on the scale of their spread, in units of the value of all texts."""
    if most is not None and 0 < value < most[0] and bool(((halves > 0) & (halves < most[1])).all()):
        return (halves / most[1]).logit() * (value * (1 - value / most[0]))
    if log and value > 0 and bool((halves > 0).all()):
        return halves.log() * value
    return halves


def spread(contributions: Tensor, kept: Tensor) -> Tensor:
    """Return contributions (kept text,) on the axis of all texts (text,), NaN for those left out."""
    everywhere = torch.full(kept.shape, torch.nan, dtype=torch.float64, device=kept.device)
    everywhere[kept] = contributions
    return everywhere
