"""Models in order of one predictor, with the pairs that are within noise on the same texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd

from layerscope.decisions.predictors import Candidate, Predictor, Value
from layerscope.results.resampling import percentile_limits, resampled_means

_FEWEST_TEXTS: Final = 2


@dataclass(frozen=True)
class Place:
    """The place of a model in the order by one predictor.

    Attributes:
        model: its name.
        rank: 1 for the first; equals share the better rank. None without a value.
        value: oriented as measured, not by direction.
        low: its lower 95 % limit, None where there is none.
        high: the upper limit.
        raw: before division by its maximum.
        tied: models within noise of it on these texts, in order.
        unsure: models without limits, so that the comparison is unknown.
        reason: why there is no value.
    """

    model: str
    rank: int | None
    value: float | None
    low: float | None
    high: float | None
    raw: float | None
    tied: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    reason: str = ""


def order(
    models: Sequence[Candidate], by: Predictor, *, seed: int = 0, resamples: int = 1000
) -> tuple[Place, ...]:
    """Return the models in order of a predictor, the better first; those without a value last.

    Two models differ if the 95 % interval of their difference does not contain 0. Where both have
    numbers for each text, both use the same resampled texts; otherwise their limits are treated as
    independent, which on the same texts is conservative.

    Args:
        models: with their values.
        by: the predictor.
        seed: of the resampling of texts.
        resamples: their number.
    """
    known = [model for model in models if model.values[by.name].value is not None]
    known.sort(key=lambda model: -by.oriented(_known(model, by)))
    values = [model.values[by.name] for model in known]
    apart = told_apart(values, sized=by.kind == "size", seed=seed, resamples=resamples)
    scores = [by.oriented(_known(model, by)) for model in known]
    places = [
        Place(
            model=model.name,
            rank=1 + sum(other > scores[i] for other in scores),
            value=values[i].value,
            low=values[i].low,
            high=values[i].high,
            raw=values[i].raw,
            tied=tuple(known[j].name for j in range(len(known)) if apart.get((i, j)) is False),
            unsure=tuple(known[j].name for j in range(len(known)) if apart.get((i, j), 0) is None),
        )
        for i, model in enumerate(known)
    ]
    rest = [(model.name, model.values[by.name]) for model in models if model not in known]
    return (
        *places,
        *(Place(name, None, None, None, None, own.raw, reason=own.reason) for name, own in rest),
    )


def _known(model: Candidate, by: Predictor) -> float:
    value = model.values[by.name].value
    return math.nan if value is None else value


def told_apart(
    values: Sequence[Value], *, sized: bool = False, seed: int = 0, resamples: int = 1000
) -> dict[tuple[int, int], bool | None]:
    """Return (index, other index) -> whether two values differ beyond noise, in both orders.

    None where a value has no limits.

    Args:
        values: of models, on the same texts.
        sized: whether they are sizes, which do not depend on texts.
        seed: of the resampling.
        resamples: their number.
    """
    if len(values) < 2:
        return {}
    means = {} if sized else _resampled(values, seed, resamples)
    found: dict[tuple[int, int], bool | None] = {}
    for i, j in combinations(range(len(values)), 2):
        if i in means and j in means:
            low, high = percentile_limits(means[i] - means[j])
            apart: bool | None = low > 0 or high < 0
        else:
            apart = _by_limits(values[i], values[j], sized=sized)
        found[i, j] = found[j, i] = apart
    return found


def _resampled(
    values: Sequence[Value], seed: int, resamples: int
) -> dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return the mean of each value under every resampling of the texts that all of them have."""
    given = {i: value.contributions for i, value in enumerate(values)}
    known = {i: numbers for i, numbers in given.items() if numbers is not None}
    if not known:
        return {}
    shared = pd.concat(known, axis=1, join="inner").to_numpy(dtype=np.float64)
    if len(shared) < _FEWEST_TEXTS:
        return {}
    means = resampled_means(np.ascontiguousarray(shared.T), seed, resamples)
    return dict(zip(known, means, strict=True))


def _by_limits(one: Value, other: Value, *, sized: bool) -> bool | None:
    difference = (one.value or 0.0) - (other.value or 0.0)
    if sized:
        return difference != 0
    reaches = _reach(one), _reach(other)
    if None in reaches:
        return None
    return abs(difference) > math.hypot(*(reach or 0.0 for reach in reaches))


def _reach(value: Value) -> float | None:
    """Return how far the limits reach, to the farther side where a bound cuts the other."""
    if value.value is None or value.low is None or value.high is None:
        return None
    return max(value.high - value.value, value.value - value.low)


def leaders(places: Sequence[Place]) -> tuple[str, ...]:
    """Return the best model and those not told apart from it, in order; none without values."""
    best = places[0]
    if best.rank is None:
        return ()
    near = {best.model, *best.tied, *best.unsure}
    return tuple(place.model for place in places if place.model in near)
