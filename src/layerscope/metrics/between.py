"""The numbers of a measure of several layers: one for each place, with its limits or its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics.estimates import Estimate
from layerscope.metrics.pairs import half_sample_limits

Place = tuple[int, int | None]  # a layer, and the one that it is compared with


@dataclass(frozen=True, kw_only=True, eq=False)
class Between:
    """One number of a stack of layers.

    Attributes:
        metric: name of the measure, with its variant.
        layer: the layer index at which the value is reported: the later one of a step, L for a model.
        other_layer: the layer it is compared with, None where there is none.
        value: None where it is undefined.
        contributions: (sample,) numbers whose mean is the value, where it is such a mean.
        error: standard error from halves of the samples, where there are no contributions.
        bounds: the least and the greatest possible value.
        null: value on unrelated layers, where it is known.
        floor: value that estimation noise alone would give.
        reason: why the value is undefined.
        note: a sentence on how to read the value in this run.
        dimension: of the subspaces, where it is lower than the k of the name.
    """

    metric: str
    layer: int
    other_layer: int | None
    value: float | None
    contributions: Tensor | None = None
    error: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    null: float | None = None
    floor: float | None = None
    reason: str = ""
    note: str = ""
    dimension: int | None = None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The 95 % limits that the error gives, kept inside the bounds."""
        if self.value is None or self.error is None:
            return None
        ends = half_sample_limits(torch.tensor(self.value), torch.tensor(self.error))
        low, high = (min(max(float(end), self.bounds[0]), self.bounds[1]) for end in ends)
        return low, high


Number = float | Estimate


def between(
    metric: str,
    places: Sequence[Place],
    compute: Callable[[int, int], Number],
    *,
    error: Callable[[int, int], float | None] = lambda _layer, _other: None,
    floor: Callable[[int, int], float | None] = lambda _layer, _other: None,
    null: float | Callable[[], float] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    note: str = "",
) -> tuple[Between, ...]:
    """Return a measure at its places; where it has no value, the reason.

    Args:
        metric: name of the measure, with its variant.
        places: (layer, other layer) for each row.
        compute: (layer, other layer) -> the value; the layer twice where there is no other.
        error: the same -> standard error, where there are no contributions.
        floor: the same -> value that estimation noise alone would give.
        null: value on unrelated layers.
        bounds: the least and the greatest possible value.
        note: of every row.
    """
    found = []
    for layer, other in places:
        row = partial(Between, metric=metric, layer=layer, other_layer=other, note=note)
        pair = (layer, layer if other is None else other)
        try:
            number = compute(*pair)
            found.append(
                row(
                    value=number.value if isinstance(number, Estimate) else number,
                    contributions=_contributions(number),
                    error=_finite(error(*pair)),
                    floor=_finite(floor(*pair)),
                    null=_finite(null() if callable(null) else null),
                    bounds=bounds,
                )
            )
        except UndefinedError as reason:
            found.append(row(value=None, reason=str(reason)))
    return tuple(found)


def _contributions(number: Number) -> Tensor | None:
    """Return the contributions of the samples, None where no sample has one."""
    if not isinstance(number, Estimate) or bool(number.contributions.isnan().all()):
        return None
    return number.contributions


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number
