"""Curves in pairs -> associations -> summaries over models and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from layerscope import dependence
from layerscope.correlation import words
from layerscope.correlation.pairing import (
    measure_curves,
    rows_at,
    score_curves,
    texts_for,
)
from layerscope.correlation.records import (
    Association,
    Curve,
    Findings,
    LeftOut,
    MeasureKey,
    ScoreKey,
    Summary,
)
from layerscope.dependence import Floats, ShiftTest, Unit
from layerscope.errors import InputError, UndefinedError
from layerscope.table import BLOCK

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
    """Return how the measures in some tables go with the scores in them.

    Args:
        tables: results as `layerscope.table` has them; those of one model are taken together.
        data: the texts whose measures are compared with every task; "own" for those of each task.
            None takes the only data set there is, else the tasks' own.
        scores: tasks, or names of scores; None takes all.
        measures: their names; None takes the catalogue's main ones and those it does not know,
            "all" every one.
        conventions: which; None takes all.
        stage: of both curves. "final_norm" takes the blocks' outputs, but of the last layer what
            the model gives after its final norm.
        resamples: number of draws behind limits and p values.
        seed: of the draws.

    Raises:
        InputError: no measure meets a score, a name is unknown, or it is open which texts are meant.
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
        raise InputError(words.nothing(left_out, wanted, places))
    summaries = summarize(associations, resamples=resamples, seed=seed)
    notes = words.notes(associations, summaries, left_out, resamples)
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
    except UndefinedError:  # such as a curve that only rises: it cannot be told from its depth
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
    """Return the test by shifts of each measure, and what walks reach in its place."""
    shifts, walks = [], []
    known: dict[tuple[object, ...], Floats] = {}  # most measures meet the same scores
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
    return float((1 + (walks >= observed - dependence.EQUAL).sum()) / (1 + len(walks)))


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
    low, high = dependence.cluster_bootstrap(values, clusters, resamples=resamples, seed=seed)
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
