"""Rank models by a predictor, with the pairs that are within noise on these texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.decisions.agreement import (
    FEWEST,
    Agreement,
    Scored,
    TaskScores,
    agreement_of,
    known_scores,
)
from layerscope.decisions.predictors import (
    ALL,
    DEFAULT,
    PREDICTORS,
    RANDOM,
    TRIVIAL,
    Candidate,
    Predictor,
    Value,
    candidates,
    lacking,
    predictor,
)
from layerscope.errors import InputError
from layerscope.results.display import Displayed
from layerscope.results.resampling import percentile_limits, resampled_means
from layerscope.results.table import Run

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


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Displayed):
    """Result of `rank`.

    Attributes:
        by: the name of the predictor of the ranking.
        data: name, fingerprint and number of the texts.
        models: in order of the predictor.
        orders: by the name of each predictor, the models' places in its order.
        scores: of the models on tasks, if known.
        agreements: with scores, how well each predictor, and a random order, agrees with them.
        sentence: which model comes first, and how sure that is.
        notes: sentences on how to read it.
    """

    by: str
    data: Mapping[str, Any]
    models: tuple[Candidate, ...]
    orders: Mapping[str, tuple[Place, ...]]
    scores: TaskScores | None
    agreements: tuple[Agreement, ...]
    sentence: str
    notes: tuple[str, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """The models' places by the predictor of the ranking."""
        return self.orders[self.by]

    @property
    def first(self) -> str | None:
        """The model that comes first; None if none has a value."""
        first = self.places[0]
        return None if first.rank is None else first.model

    def place(self, model: str, by: str) -> Place:
        """Return a model's place by one predictor."""
        return next(place for place in self.orders[by] if place.model == model)

    def agreement(self, name: str) -> Agreement | None:
        """Return how well one predictor agrees with scores; None if that is not known."""
        return next((each for each in self.agreements if each.predictor == name), None)

    def summary(self) -> str:
        """Return which model comes first, and how sure that is."""
        return self.sentence

    def table(self) -> pd.DataFrame:
        """Return a row for each predictor and model, in the order of each (columns: `Place`)."""
        rows = [
            {"predictor": name} | asdict(place)
            for name, places in self.orders.items()
            for place in places
        ]
        return pd.DataFrame(rows).astype({"rank": "Int64"})

    def agreement_table(self) -> pd.DataFrame:
        """Return a row a predictor: how well it agrees with scores; empty without any."""
        return pd.DataFrame([_flat(each) for each in self.agreements])

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, for JSON."""
        return {
            "by": self.by,
            "first": self.first,
            "sentence": self.sentence,
            "data": dict(self.data),
            "models": [_facts(model) for model in self.models],
            "orders": {name: [asdict(each) for each in own] for name, own in self.orders.items()},
            "scores": _scores(self.scores),
            "agreements": [asdict(each) for each in self.agreements],
            "notes": list(self.notes),
        }


def _facts(model: Candidate) -> dict[str, Any]:
    sizes = {each.name: model.values[each.name].raw for each in TRIVIAL}
    own = {name: getattr(model, name) for name in ("name", "given", "architecture", "texts")}
    return own | {name: None if raw is None else int(raw) for name, raw in sizes.items()}


def _scores(scores: TaskScores | None) -> dict[str, Any] | None:
    if scores is None:
        return None
    rows = zip(scores.models, scores.values.tolist(), strict=True)
    return {model: dict(zip(scores.tasks, row, strict=True)) for model, row in rows}


def _flat(agreement: Agreement) -> dict[str, Any]:
    row = asdict(agreement)
    given = {f"given_{name}": value for name, value in row.pop("partial").items()}
    for name in ("spearman", "kendall"):
        found = row.pop(name) or {}
        row |= {name: found.get("value")}
        row |= {f"{name}_{end}": found.get(end) for end in ("low", "high")}
    return row | given


def rank_runs(
    runs: Sequence[tuple[str, Run]],
    by: str = DEFAULT,
    *,
    tables: Iterable[Scored] = (),
    seed: int = 0,
    resamples: int = 1000,
    draws: int = 10_000,
) -> Ranking:
    """Return the models of some runs in order.

    Args:
        runs: what the caller gave, and the run that it is or became, of the same texts.
        by: the predictor to order by.
        tables: scores besides those in the runs (`read_scores`).
        seed: of the resampling of texts and of models.
        resamples: of the texts.
        draws: of the models, behind limits and p values of correlations with scores.

    Raises:
        InputError: there is no run, runs cannot be compared, a run lacks the measure to order by, a
            model comes twice, or the scores are of other models.
    """
    chosen = predictor(by)
    if not runs:
        raise InputError("expected at least one model to rank, got none.")
    refuse_lacking(runs, chosen)
    models = candidates(runs)
    scores = known_scores(models, [run for _, run in runs], tables)
    orders = {each.name: order(models, each, seed=seed, resamples=resamples) for each in ALL}
    named = {model.name: model for model in models}
    ordered = tuple(named[place.model] for place in orders[chosen.name])
    agreements = () if scores is None else _agreements(named, scores, seed, draws)
    return Ranking(
        by=chosen.name,
        data={
            name: runs[0][1].record["data"].get(name) for name in ("name", "fingerprint", "texts")
        },
        models=ordered,
        orders=orders,
        scores=scores,
        agreements=agreements,
        sentence=_sentence(orders[chosen.name], chosen),
        notes=tuple(_notes(ordered, orders, chosen, scores)),
    )


def refuse_lacking(runs: Sequence[tuple[str, Run]], by: Predictor) -> None:
    """Refuse a run that lacks the measure to rank by.

    Raises:
        InputError: says which, and how to get it.
    """
    for given, run in runs:
        if lacking(run, by):
            raise InputError(
                f"the run {given!r} lacks {by.metric}, which {by.name} needs; scan the model again "
                "with it, or choose another --by."
            )


def _agreements(
    models: Mapping[str, Candidate], scores: TaskScores, seed: int, draws: int
) -> tuple[Agreement, ...]:
    """Return how each predictor agrees with the scores of the models that it has a value for."""
    found = []
    sizes = {each.name: _oriented(models, scores.models, each) for each in TRIVIAL}
    for each in ALL:
        values = _oriented(models, scores.models, each)
        known = ~np.isnan(values)
        if not known.any():
            continue
        covariates = {
            name: size[known]
            for name, size in sizes.items()
            if name != each.name and not np.isnan(size[known]).any()
        }
        found.append(
            agreement_of(
                each.name,
                values[known],
                scores.values[known],
                covariates,
                seed=seed,
                resamples=draws,
            )
        )
    lot = np.zeros(len(scores.models))
    return (*found, agreement_of(RANDOM, lot, scores.values, {}))


def _oriented(
    models: Mapping[str, Candidate], names: Sequence[str], by: Predictor
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return (model,) values that are greater for what should be better, NaN where undefined."""
    values = [models[name].values[by.name].value for name in names]
    return np.array([np.nan if value is None else by.oriented(value) for value in values])


# --- words ----------------------------------------------------------------------------------------


def _sentence(places: Sequence[Place], by: Predictor) -> str:
    known = [place for place in places if place.rank is not None]
    if len(places) == 1:
        return f"One model only, {places[0].model}: there is nothing to rank it against."
    if not known:
        return f"No model has a value of {by.name}: {places[0].reason}."
    first = known[0]
    head = f"{first.model} comes first of {len(known)} by {by.name} ({by.direction} is better)"
    if first.tied:
        return f"{head}; within noise of it: {_listed(first.tied)}."
    if first.unsure:
        return f"{head}; the runs have no limits for it, so nobody knows how sure that is."
    if by.kind == "size":
        return f"{head}."
    return f"{head}, told apart from every other on these texts."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _notes(
    models: Sequence[Candidate],
    orders: Mapping[str, Sequence[Place]],
    by: Predictor,
    scores: TaskScores | None,
) -> Iterable[str]:
    yield f"{by.name}: {by.formula}; direction: {by.source}"
    yield (
        "within noise says what these texts can tell apart, not whether the order is right: that "
        "takes task scores"
    )
    for each in PREDICTORS:
        yield from _undefined(each, orders[each.name])
    if any(place.unsure for place in orders[by.name]):
        yield f"some runs hold no limits of {by.name}; a new scan of the model makes them"
    if len({model.texts for model in models}) > 1:
        counts = ", ".join(f"{model.name} {model.texts}" for model in models)
        yield f"not every model read every text: {counts}"
    yield from dict.fromkeys(f"{each.name}: {note}" for each in models for note in each.notes)
    if scores is not None:
        yield from _about_scores(models, scores)


def _undefined(by: Predictor, places: Sequence[Place]) -> Iterable[str]:
    reasons: dict[str, list[str]] = {}
    for place in places:
        if place.rank is None:
            reasons.setdefault(place.reason, []).append(place.model)
    for reason, names in reasons.items():
        yield f"{by.name} of {_listed(names)}: {reason}"


def _about_scores(models: Sequence[Candidate], scores: TaskScores) -> Iterable[str]:
    count = len(scores.models)
    yield f"scores: what each model itself gives, mean of {_listed(scores.tasks)}"
    if count < FEWEST:
        yield (
            f"no correlation with scores: {count} scored models, at least {FEWEST} are needed, for "
            "fewer fall into a perfect order by chance too often"
        )
    elif count < 4 * FEWEST:
        yield (
            f"{count} models are few: the limits are wide, a p below .05 among {len(ALL)} "
            "predictors is there by chance about every third time, and size cannot be ruled out as the "
            "reason"
        )
    if len({model.architecture for model in models}) > 1:
        yield (
            "the models are of several families, and a correlation over families can be absent or "
            "reversed within each"
        )
    yield from scores.notes
