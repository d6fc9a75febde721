"""Candidates in order of one predictor, and which of them the texts cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layerscope.ranking.predictors import Predictor
from layerscope.ranking.reading import Candidate, Value
from layerscope.statistics import bootstrap_limits


@dataclass(frozen=True)
class Place:
    """A model's place by one predictor.

    Attributes:
        model: its name.
        rank: 1 for the first; equals share the better rank. None without a value.
        value: oriented as measured, not by direction.
        low: its lower 95 % limit, None where there is none.
        high: the upper limit.
        raw: before it was put over what it can be at most.
        tied: models that these texts cannot tell it from, in their order.
        unsure: models against which nothing is known, for want of limits.
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

    Two models are told apart if the 95 % interval of their difference does not hold 0. Where both
    have numbers for each text, the same resampled texts serve both; else the limits of each are
    taken as independent, which on the same texts is cautious.

    Args:
        models: with their values.
        by: the predictor.
        seed: of the resampling of texts.
        resamples: their number.
    """
    known = [model for model in models if model.values[by.name].value is not None]
    known.sort(key=lambda model: -by.oriented(_known(model, by)))
    places = []
    for model in known:
        own = model.values[by.name]
        others = [(other.name, other.values[by.name]) for other in known if other is not model]
        apart = {
            name: told_apart(own, value, sized=by.kind == "size", seed=seed, resamples=resamples)
            for name, value in others
        }
        better = sum(
            by.oriented(_known(each, by)) > by.oriented(_known(model, by)) for each in known
        )
        places.append(
            Place(
                model=model.name, rank=better + 1, value=own.value, low=own.low, high=own.high,
                raw=own.raw,
                tied=tuple(name for name, found in apart.items() if found is False),
                unsure=tuple(name for name, found in apart.items() if found is None),
            )
        )  # fmt: skip
    rest = [model for model in models if model.values[by.name].value is None]
    return (
        *places,
        *(
            Place(each.name, None, None, None, None, own.raw, reason=own.reason)
            for each in rest
            for own in (each.values[by.name],)
        ),
    )


def _known(model: Candidate, by: Predictor) -> float:
    value = model.values[by.name].value
    return math.nan if value is None else value


def told_apart(
    one: Value, other: Value, *, sized: bool = False, seed: int = 0, resamples: int = 1000
) -> bool | None:
    """Return whether the texts tell two values apart, None where nothing says how sure they are.

    Args:
        one: of a model.
        other: of another, on the same texts.
        sized: whether they are sizes, which no text makes uncertain.
        seed: of the resampling.
        resamples: their number.
    """
    difference = (one.value or 0.0) - (other.value or 0.0)
    if sized:
        return difference != 0
    if one.contributions is not None and other.contributions is not None:
        both = pd.concat([one.contributions, other.contributions], axis=1, join="inner")
        columns = both.to_numpy(dtype=np.float64)
        low, high = bootstrap_limits(columns[:, 0] - columns[:, 1], seed, resamples)
        return None if np.isnan(low) else bool(low > 0 or high < 0)
    reaches = _reach(one), _reach(other)
    if None in reaches:
        return None
    return abs(difference) > math.hypot(*(reach or 0.0 for reach in reaches))


def _reach(value: Value) -> float | None:
    """Return how far the limits reach, to the farther side where a bound cuts the other."""
    if value.value is None or value.low is None or value.high is None:
        return None
    return max(value.high - value.value, value.value - value.low)
