"""Correlate the layer curves of measures with those of task scores, and word the notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from layerscope.decisions import dependence
from layerscope.decisions.curves import (
    Association,
    Curve,
    Findings,
    LeftOut,
    MeasureKey,
    Place,
    ScoreKey,
    Summary,
    measure_curves,
    rows_at,
    score_curves,
    texts_for,
)
from layerscope.decisions.dependence import Floats, ShiftTest, Unit
from layerscope.errors import InputError, UndefinedError
from layerscope.results.resampling import cluster_bootstrap, p_value
from layerscope.results.table import BLOCK

FEW_MODELS: Final = 5  # below, limits over models say little: whole models are what is drawn
NAMED: Final = 3


def reader_notes(
    associations: Sequence[Association],
    summaries: Sequence[Summary],
    left_out: Sequence[LeftOut],
    resamples: int,
) -> tuple[str, ...]:
    """Return sentences on how to read the summaries."""
    models = {association.score.cluster for association in associations}
    tasks = {association.score.name for association in associations}
    every = (
        _texts(associations),
        _scope(len(models), len(tasks)),
        _walks(summaries),
        _shifts(summaries, resamples),
        _family(summaries),
        *_missing(left_out),
    )
    return tuple(note for note in every if note)


def _texts(associations: Sequence[Association]) -> str:
    own = [association.data == association.score.task for association in associations]
    if all(own):
        return "the measures are of each task's own texts"
    names = sorted({association.data for association in associations})
    return f"the measures are of {_few(names)}, whatever the task"


def _scope(models: int, tasks: int) -> str:
    if models == 1 and tasks == 1:
        return "one model on one task: nothing to draw again, so no limits and no share of signs"
    if models == 1:
        return f"one model: the limits are over its {tasks} tasks and speak of this model only"
    if models < FEW_MODELS:
        return f"the limits draw whole models again, and {models} models are few"
    return "the limits draw whole models again, each with all its tasks"


def _walks(summaries: Sequence[Summary]) -> str:
    ends = sorted(f"{summary.walk:.2f}" for summary in summaries)
    reach = " to ".join(dict.fromkeys((ends[0], ends[-1])))
    return (
        f"layers are no independent points: random walks over them, which know nothing of the "
        f"scores, reach a dCor of {reach} in 1 of 20 draws; p walk is how often they reach the "
        "measure's"
    )


def _shifts(summaries: Sequence[Summary], resamples: int) -> str:
    least = min(summary.p_shift_least for summary in summaries)
    return "" if least < 1.5 / resamples else f"with these layers no p shift is below {least:.2g}"


def _family(summaries: Sequence[Summary]) -> str:
    count = len(summaries)
    return "" if count == 1 else f"p Holm: the larger of both p, corrected for {count} measures"


def _missing(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a sentence for each reason and measure that leaves something out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in left_out:
        groups.setdefault((each.measure, each.reason), []).append(each.task)
    return [
        f"left out: {f'{measure} on ' if measure else ''}{_few(sorted(set(tasks)))}: {reason}"
        for (measure, reason), tasks in groups.items()
    ]


def nothing(
    left_out: Sequence[LeftOut], wanted: Iterable[ScoreKey], places: Iterable[Place]
) -> str:
    """Return the reasons why no measure can be compared with a score."""
    reasons = list(dict.fromkeys(each.reason for each in left_out))
    if reasons == ["no measures of this model"]:
        scored = _few(sorted({score.cluster for score in wanted}))
        measured = _few(sorted({" @ ".join(filter(None, place[:2])) for place in places}))
        reasons = [f"the scores are of {scored}, the measures of {measured}"]
    return f"no measure can be compared with a score: {'; '.join(reasons)}."


def _few(names: Sequence[str]) -> str:
    """Return at most three names, and how many more there are."""
    if len(names) <= NAMED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"


NULL_LEVEL: Final = 0.95


def correlate(
    tables: Sequence[pd.DataFrame],
    *,
    data: str | None = None,
    scores: Sequence[str] | None = None,
    measures: Sequence[str] | None = None,
    conventions: Sequence[str] | None = None,
    stage: str = BLOCK,
    resamples: int = 10_000,
    seed: int = 0,
) -> Findings:
    """Return the correlations of the measures in some tables with the scores in them.

    Args:
        tables: long tables of `layerscope.results.table`; those of one model are combined.
        data: the texts whose measures are compared with every task; "own" for those of each task.
            None takes the only data set, or else the tasks' own.
        scores: tasks, or names of scores; None takes all.
        measures: their names; None takes the main ones of the catalogue and those not in it, "all"
            every one.
        conventions: which; None takes all.
        stage: of both curves. "final_norm" takes the blocks' outputs, but of the last layer what
            the model gives after its final norm.
        resamples: number of draws behind limits and p values.
        seed: of the draws.

    Raises:
        InputError: no measure shares layers with a score, a name is unknown, or `data` is needed.
    """
    if resamples < 1:
        raise InputError(f"expected at least 1 resample, got {resamples}.")
    rows = rows_at(tables, stage)
    wanted = score_curves(rows, scores)
    places = measure_curves(rows, measures, conventions)
    pairs, left_out = texts_for(wanted, places, data)
    associations: list[Association] = []
    for score, texts in pairs.items():
        for (model, revision, name, measure), curve in places.items():
            if (model, revision, name) != (score.model, score.revision, texts):
                continue
            try:
                associations.append(associate(measure, score, name, curve, wanted[score]))
            except UndefinedError as reason:
                left_out.append(LeftOut(score.cluster, score.name, measure.words, str(reason)))
    if not associations:
        raise InputError(nothing(left_out, wanted, places))
    summaries = summarize(associations, resamples=resamples, seed=seed)
    notes = reader_notes(associations, summaries, left_out, resamples)
    return Findings(tuple(associations), summaries, tuple(left_out), notes)


def associate(
    measure: MeasureKey, score: ScoreKey, data: str, curve: Curve, scores: Curve
) -> Association:
    """Return all coefficients over the layers that both curves have.

    Raises:
        UndefinedError: these are too few, or a curve is the same at all of them.
    """
    score_at = dict(zip(scores.layers, scores.values, strict=True))
    common = [
        (layer, depth, value, score_at[layer])
        for layer, depth, value in zip(curve.layers, curve.depths, curve.values, strict=True)
        if layer in score_at
    ]
    layers, depths, values, scored = zip(*common, strict=True) if common else ((), (), (), ())
    x, y = np.array(values), np.array(scored)
    unit = Unit(score.cluster, layers, x, y)
    return Association(
        measure=measure,
        score=score,
        data=data,
        curve=Curve(layers, depths, values),
        scores=scored,
        bias_corrected=dependence.bias_corrected(x, y),
        dcor=dependence.distance_correlation(x, y),
        spearman=dependence.spearman(x, y),
        kendall=dependence.kendall(x, y),
        partial=_given_depth(x, y, np.array(layers) / max(layers)),
        p_shift=dependence.shift_test([unit]).p,
        unit=unit,
    )


def _given_depth(x: Floats, y: Floats, depth: Floats) -> float | None:
    try:
        return dependence.partial_spearman(x, y, np.column_stack([depth, depth**2])).value
    except UndefinedError:  # such as a curve that only rises, and so equals its depth in ranks
        return None


def summarize(
    associations: Sequence[Association], *, resamples: int = 10_000, seed: int = 0
) -> tuple[Summary, ...]:
    """Return a summary for each measure, the closest first."""
    groups: dict[MeasureKey, list[Association]] = {}
    for association in associations:
        groups.setdefault(association.measure, []).append(association)
    shifts, walks = _nulls(list(groups.values()), resamples, seed)
    worse = [
        max(shift.p, _reached(walk, group))
        for group, shift, walk in zip(groups.values(), shifts, walks, strict=True)
    ]
    summaries = [
        _summary(group, shift, walk, resamples, seed, corrected=(float(holm), float(fdr)))
        for group, shift, walk, holm, fdr in zip(
            groups.values(),
            shifts,
            walks,
            dependence.holm(worse),
            dependence.benjamini_hochberg(worse),
            strict=True,
        )
    ]
    return tuple(sorted(summaries, key=lambda summary: (-summary.dcor, summary.measure)))


def _nulls(
    groups: Sequence[Sequence[Association]], resamples: int, seed: int
) -> tuple[list[ShiftTest], list[Floats]]:
    """Return each measure's test by circular shifts, and its null of random walks."""
    shifts, walks = [], []
    known: dict[tuple[object, ...], Floats] = {}  # most measures share the same scores
    for group in groups:
        units = [association.unit for association in group]
        scores = tuple((association.score, association.curve.layers) for association in group)
        if scores not in known:
            known[scores] = dependence.walk_null(units, draws=resamples, seed=seed)
        walks.append(known[scores])
        shifts.append(dependence.shift_test(units, resamples=resamples, seed=seed))
    return shifts, walks


def _reached(walks: Floats, group: Sequence[Association]) -> float:
    """Return the p value of the median distance correlation among those of random walks."""
    observed = np.median([association.dcor for association in group])
    return p_value(int((walks >= observed - dependence.EQUAL).sum()), len(walks))


def _summary(
    group: Sequence[Association],
    shift: ShiftTest,
    walks: Floats,
    resamples: int,
    seed: int,
    *,
    corrected: tuple[float, float],
) -> Summary:
    low, high, positive, p_sign = _over_clusters(group, resamples, seed)
    partials = [association.partial for association in group if association.partial is not None]
    return Summary(
        measure=group[0].measure,
        units=len(group),
        models=len({association.score.cluster for association in group}),
        tasks=len({association.score.name for association in group}),
        dcor=_median(association.dcor for association in group),
        bias_corrected=_median(association.bias_corrected for association in group),
        spearman=_median(association.spearman for association in group),
        low=low,
        high=high,
        kendall=_median(association.kendall for association in group),
        partial=_median(partials) if partials else None,
        positive=positive,
        p_sign=p_sign,
        p_shift=shift.p,
        p_shift_least=shift.smallest,
        p_walk=_reached(walks, group),
        walk=float(np.quantile(walks, NULL_LEVEL)),
        p_holm=corrected[0],
        p_fdr=corrected[1],
        dcor_of_means=_of_means(group),
    )


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _over_clusters(
    group: Sequence[Association], resamples: int, seed: int
) -> tuple[float | None, float | None, float | None, float | None]:
    """Return limits, share of positive signs and its p, over models or of one model its tasks."""
    one = len({association.score.cluster for association in group}) == 1
    clusters = [each.score.name if one else each.score.cluster for each in group]
    if len(set(clusters)) == 1:
        return None, None, None, None
    values = pd.Series([association.spearman for association in group])
    low, high = cluster_bootstrap(values, clusters, resamples=resamples, seed=seed)
    try:
        signs = dependence.sign_test(values.groupby(clusters).median())
    except UndefinedError:  # every median is 0
        return low, high, None, None
    return low, high, signs.share, signs.p


def _of_means(group: Sequence[Association]) -> float | None:
    """Return the distance correlation of each model's mean curves, the median over models.

    The mean is over the tasks, the same ones at every layer; None where no model has such curves.
    """
    found = []
    for model in {association.score.cluster for association in group}:
        own = [association for association in group if association.score.cluster == model]
        try:
            found.append(dependence.distance_correlation(*_mean_curves(own)))
        except UndefinedError:
            continue
    return _median(found) if found else None


def _mean_curves(group: Sequence[Association]) -> tuple[Floats, Floats]:
    """Return the means of measures and of scores, at the layers that all of the group have."""
    common = set.intersection(*(set(association.unit.layers) for association in group))
    units = [association.unit for association in group]
    kept = [[layer in common for layer in unit.layers] for unit in units]
    pairs = list(zip(units, kept, strict=True))
    measures = np.mean([unit.measure[own] for unit, own in pairs], axis=0)
    scores = np.mean([unit.score[own] for unit, own in pairs], axis=0)
    return measures, scores
