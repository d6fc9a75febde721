"""Rank models by a predictor, with the pairs that are within noise on these texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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
from layerscope.decisions.orders import Place, leaders, order
from layerscope.decisions.predictors import (
    ALL,
    RANDOM,
    TRIVIAL,
    Candidate,
    Predictor,
    candidates,
    lacking,
    predictor,
)
from layerscope.errors import InputError, few_models
from layerscope.results.display import Displayed, in_words_of
from layerscope.results.table import Run
from layerscope.settings import DEFAULT_PREDICTOR


@dataclass(frozen=True, eq=False, repr=False)
class Ranking(Displayed):
    """Result of `rank`.

    Attributes:
        by: the name of the predictor of the ranking.
        data: name, fingerprint and number of the texts, and their kind where they are images.
        models: in order of the predictor.
        orders: by the name of each predictor that a run has, the models' places in its order.
        scores: of the models on tasks, if known.
        agreements: with scores, how well each predictor, and a random order, agrees with them.
        sentence: which model comes first, or which cannot be told apart on these texts.
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
    def leaders(self) -> tuple[str, ...]:
        """The models of which any may come first: the best and those not told apart from it."""
        return leaders(self.places)

    @property
    def first(self) -> str | None:
        """The model that comes first; None if these texts do not tell it from another."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    def place(self, model: str, by: str) -> Place:
        """Return a model's place by one predictor."""
        return next(place for place in self.orders[by] if place.model == model)

    def agreement(self, name: str) -> Agreement | None:
        """Return how well one predictor agrees with scores; None if that is not known."""
        return next((each for each in self.agreements if each.predictor == name), None)

    def summary(self) -> str:
        """Return which model comes first, or which cannot be told apart on these texts."""
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
            "leaders": list(self.leaders),
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
    by: str = DEFAULT_PREDICTOR,
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
        InputError: there are fewer than two runs, runs cannot be compared, a run lacks the measure to
            order by, a model comes twice, or the scores are of other models.
    """
    chosen = predictor(by)
    if len(runs) < 2:
        raise few_models([given for given, _ in runs])
    refuse_lacking(runs, chosen)
    models = candidates(runs)
    scores = known_scores(models, [run for _, run in runs], tables)
    shown = [e for e in ALL if any(model.values[e.name].measured for model in models)]
    orders = {each.name: order(models, each, seed=seed, resamples=resamples) for each in shown}
    named = {model.name: model for model in models}
    ordered = tuple(named[place.model] for place in orders[chosen.name])
    agreements = () if scores is None else _agreements(named, scores, seed, draws)
    record = runs[0][1].record
    data = {name: record["data"].get(name) for name in ("name", "fingerprint", "texts")}
    if "kind" in record["data"]:
        data["kind"] = record["data"]["kind"]
    notes = _notes(ordered, orders, chosen, scores, len(agreements) - 1)
    return Ranking(
        by=chosen.name,
        data=data,
        models=ordered,
        orders=orders,
        scores=scores,
        agreements=agreements,
        sentence=in_words_of(record, _sentence(orders[chosen.name], chosen, data)),
        notes=in_words_of(record, tuple(notes)),
    )


def refuse_lacking(runs: Sequence[tuple[str, Run]], by: Predictor) -> None:
    """Refuse a run that lacks the measure to rank by.

    Raises:
        InputError: says which, and how to get it.
    """
    for given, run in runs:
        if lacking(run, by):
            raise InputError(
                f"the run {given!r} lacks {by.metric}, by which --by {by.name} orders; scan the "
                "model again with it, or choose another --by."
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


def _sentence(places: Sequence[Place], by: Predictor, data: Mapping[str, Any]) -> str:
    """Return which model comes first; where texts do not tell, only which ones may."""
    known = [place for place in places if place.rank is not None]
    if not known:
        return f"No model has a value of {by.title}: {places[0].reason}."
    if len(known) == 1:
        return f"Only {known[0].model} has a value of {by.title}: there is no order."
    best, may = known[0], leaders(places)
    of = f"of {len(known)} by {by.title} ({by.direction} is better)"
    if len(may) == 1:
        head = f"{best.model} comes first {of}"
        return (
            f"{head}." if by.kind == "size" else f"{head}, told apart from all others{_on(data)}."
        )
    if by.kind == "size":
        return f"No single model comes first {of}: {_listed(may)} are equal."
    if best.tied:
        if len(may) == 2:
            why = f"{_listed(may)} cannot be told apart{_on(data)}"
        else:  # two of those near the best may differ from each other
            why = f"which of {_listed(may)} is best cannot be told{_on(data)}"
        return f"No single model comes first {of}: {why}."
    return f"Nobody knows which model comes first {of}: the runs hold no limits of it."


def _on(data: Mapping[str, Any]) -> str:
    return f" on {data['texts']} texts of {data['name']}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _notes(
    models: Sequence[Candidate],
    orders: Mapping[str, Sequence[Place]],
    by: Predictor,
    scores: TaskScores | None,
    tried: int,
) -> Iterable[str]:
    yield f"{by.name}: {by.formula}; direction: {by.source}"
    yield (
        "within noise says what these texts can tell apart, not whether the order is right: that "
        "takes task scores"
    )
    for name, places in orders.items():
        if predictor(name).kind != "size":
            yield from _undefined(name, places)
    if any(place.unsure for place in orders[by.name]):
        yield f"some runs hold no limits of {by.name}; a new scan of the model makes them"
    if len({model.texts for model in models}) > 1:
        counts = ", ".join(f"{model.name} {model.texts}" for model in models)
        yield f"not every model read every text: {counts}"
    yield from dict.fromkeys(f"{each.name}: {note}" for each in models for note in each.notes)
    if scores is not None:
        yield from _about_scores(models, scores, tried)


def _undefined(by: str, places: Sequence[Place]) -> Iterable[str]:
    reasons: dict[str, list[str]] = {}
    for place in places:
        if place.rank is None:
            reasons.setdefault(place.reason, []).append(place.model)
    for reason, names in reasons.items():
        yield f"{by} of {_listed(names)}: {reason}"


def _about_scores(models: Sequence[Candidate], scores: TaskScores, tried: int) -> Iterable[str]:
    count = len(scores.models)
    yield f"scores: what each model itself gives, mean of {_listed(scores.tasks)}"
    if count < FEWEST:
        yield (
            f"no correlation with scores: {count} scored models, at least {FEWEST} are needed, for "
            "fewer fall into a perfect order by chance too often"
        )
    elif count < 4 * FEWEST:
        chance = 100 * (1 - 0.95**tried)
        yield (
            f"{count} models are few: the limits are wide, some p below .05 among {tried} "
            f"predictors is there by chance in {chance:.0f} % of such tables, and size cannot be ruled "
            "out as the reason"
        )
    if len({model.architecture for model in models}) > 1:
        yield (
            "the models are of several families, and a correlation over families can be absent or "
            "reversed within each"
        )
    yield from scores.notes
