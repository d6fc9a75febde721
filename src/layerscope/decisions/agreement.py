"""Known task scores of models, and how well an order of models agrees with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import scipy

from layerscope.decisions import dependence
from layerscope.decisions.gains import scores_of
from layerscope.decisions.predictors import RANDOM, Candidate
from layerscope.decisions.rules import Floats
from layerscope.errors import InputError, UndefinedError
from layerscope.results.foreign import SUFFIXES, from_long
from layerscope.results.resampling import p_value, percentile_limits
from layerscope.results.table import RECORD_FILE, Run, load_run

ONLY: Final = "score"  # the task's name where a table names none

Scored = Mapping[str, Mapping[str, float]]  # model -> task -> score


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Scores of several models on the tasks that all of them have.

    Attributes:
        models: their names in the ranking.
        tasks: the tasks.
        values: (model, task).
        notes: what was left out.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    values: Floats
    notes: tuple[str, ...] = ()

    @property
    def means(self) -> Floats:
        """(model,) over the tasks."""
        found: Floats = self.values.mean(axis=1)
        return found


def read_scores(path: str | Path) -> Scored:
    """Read scores from a table or a run's folder.

    A .csv or .parquet file has the columns model, score and, if there are several, task; or it is a
    long table, of which what each model itself gives is taken: its last layer, after the final norm.

    Raises:
        InputError: it cannot be read, or a model has two scores on a task.
    """
    place = Path(path).expanduser()
    if (place / RECORD_FILE).is_file():
        return of_run(load_run(place))
    if place.suffix.lower() not in SUFFIXES or not place.is_file():
        raise InputError(
            f"expected scores in a .csv or .parquet table or in a run's folder, got {str(path)!r}."
        )
    try:
        frame = (pd.read_csv if place.suffix.lower() == ".csv" else pd.read_parquet)(place)
    except (OSError, ValueError) as error:
        raise InputError(f"the table {str(path)!r} cannot be read: {error}") from error
    return of_frame(frame, str(path))


def of_frame(frame: pd.DataFrame, named: str = "the table of scores") -> Scored:
    """Return the scores of a frame as `read_scores` does.

    Raises:
        InputError: as there.
    """
    if {"metric", "layer", "value"} <= set(frame):
        return of_run(from_long(frame))
    if not {"model", "score"} <= set(frame):
        found = ", ".join(map(str, frame.columns))
        raise InputError(
            f"expected the columns model and score (and task) in {named}, found: {found}."
        )
    rows = frame.assign(task=frame.get("task", ONLY))
    numbers = pd.to_numeric(rows["score"], errors="coerce")
    bad = rows[numbers.isna() | ~np.isfinite(numbers)]
    if len(bad):
        raise InputError(
            f"expected a number as the score of {bad['model'].iloc[0]!r} in {named}, got "
            f"{bad['score'].iloc[0]!r}."
        )
    if rows.duplicated(["model", "task"]).any():
        twice = rows[rows.duplicated(["model", "task"])].iloc[0]
        raise InputError(
            f"expected one score a model and task in {named}, got two of {twice['model']!r} on "
            f"{twice['task']!r}."
        )
    return {
        str(model): dict(zip(part["task"].astype(str), part["score"].astype(float), strict=True))
        for model, part in rows.groupby("model", sort=False)
    }


def of_run(run: Run) -> Scored:
    """Return what each model of a run scores as it is: at its last layer, after the final norm."""
    found: dict[str, dict[str, float]] = {}
    for scores in scores_of(run):
        given = zip(scores.tasks, scores.last.tolist(), strict=True)
        found[scores.model] = {task: score for task, score in given if not np.isnan(score)}
    return {model: tasks for model, tasks in found.items() if tasks}


def known_scores(
    models: Sequence[Candidate], runs: Sequence[Run], tables: Iterable[Scored] = ()
) -> TaskScores | None:
    """Return the scores of a ranking's models on the tasks that all scored models share.

    Args:
        models: of the ranking.
        runs: theirs, in the same order; the scores that they hold count.
        tables: more scores; of a task that a run has too, the table's count.

    Returns:
        None where nothing is scored.

    Raises:
        InputError: tables are given and none names a model of the ranking, or the scored models
            share no task.
    """
    found: dict[str, dict[str, float]] = {}
    given = list(tables)
    for model, run in zip(models, runs, strict=True):
        own = dict(of_run(run).get(model.called, {}))
        for table in given:
            own |= _of_model(model, table)
        if own:
            found[model.name] = own
    if not found:
        if given:
            names = sorted({name for table in given for name in table})
            raise InputError(
                f"the scores are of {_few(names)}, the models of the ranking are "
                f"{_few([model.called for model in models])}; call them alike."
            )
        return None
    shared = set.intersection(*(set(tasks) for tasks in found.values()))
    if not shared:
        raise InputError("expected a task that all scored models have, found none.")
    every = list(dict.fromkeys(task for tasks in found.values() for task in tasks))
    tasks = tuple(task for task in every if task in shared)
    values = np.array([[found[model][task] for task in tasks] for model in found])
    return TaskScores(tuple(found), tasks, values, tuple(_left_out(models, found, every, tasks)))


def _of_model(model: Candidate, table: Scored) -> Mapping[str, float]:
    for name in (model.name, model.called, model.given):
        if name in table:
            return table[name]
    return {}


def _left_out(
    models: Sequence[Candidate], found: Scored, every: Sequence[str], tasks: Sequence[str]
) -> list[str]:
    notes = []
    without = [model.name for model in models if model.name not in found]
    if without:
        notes.append(f"without scores, and so not compared with any: {_few(without)}")
    alone = [task for task in every if task not in tasks]
    if alone:
        notes.append(f"left out, as not every scored model has them: {_few(alone)}")
    return notes


def _few(names: Sequence[str]) -> str:
    """Return at most four names, and how many more there are."""
    more = len(names) - 4
    return f"{', '.join(names[:4])} and {more} more" if more > 0 else ", ".join(names)


FEWEST: Final = 5  # models: of four, 1 order in 12 is perfect or perfectly wrong
TOP: Final = 3
GIVEN_ALL: Final = "all"
_EXACT: Final = 8  # most models whose every order is tried: 40,320
_BLOCK: Final = 2_000_000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over models.

    Attributes:
        value: positive where the better by the predictor score higher.
        low: lower 95 % limit from drawing models again; None for a perfect order, whose resamples
            are perfect too and say nothing.
        high: the upper limit.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """How well the order by one predictor agrees with scores.

    Attributes:
        predictor: its name; "random" for a random order, whose numbers are expectations.
        models: number of models with a value and scores.
        spearman: with the mean score over the tasks; None with too few models, or where the
            predictor is the same for all.
        kendall: tau-b, the same.
        p: how often another order of the models goes with the scores as closely, in either
            direction.
        spearman_by_task: mean over tasks of the correlation with each.
        kendall_by_task: the same of tau-b.
        partial: Spearman's given the ranks of a trivial predictor, by its name, and given "all" of
            them; None where it cannot be had.
        regret: best mean score less that of the model that comes first.
        recall: share of the three best that are among its first three; None with three models or
            fewer, of whom it is 1.
        regret_by_task: mean over tasks of the regret in each.
        recall_by_task: the same of the recall.
        reason: why there is no correlation.
    """

    predictor: str
    models: int
    spearman: Correlation | None
    kendall: Correlation | None
    p: float | None
    spearman_by_task: float | None
    kendall_by_task: float | None
    partial: Mapping[str, float | None]
    regret: float
    recall: float | None
    regret_by_task: float
    recall_by_task: float | None
    reason: str = ""


def agreement_of(
    name: str,
    values: Floats,
    scores: Floats,
    covariates: Mapping[str, Floats],
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Agreement:
    """Return how well a predictor agrees with the scores of models.

    Args:
        name: of the predictor.
        values: (model,) of it, greater for what should be better; all equal for a random order.
        scores: (model, task).
        covariates: (model,) of each trivial predictor that is not this one.
        seed: of the draws.
        resamples: number of draws behind limits and, of more than eight models, p.
    """
    means = scores.mean(axis=1)
    columns = list(scores.T)
    one, other, p = None, None, None
    by_task: tuple[float | None, float | None] = None, None
    reason = _too_little(name, values, means)
    if not reason:
        drawn = _draws(len(values), seed, resamples)
        one = _correlation(dependence.spearman(values, means), _spearmans(values, means, drawn))
        other = _correlation(dependence.kendall(values, means), _kendalls(values, means, drawn))
        p = permutation_p(values, means, seed=seed, resamples=resamples)
        by_task = _over_tasks(values, columns)
    return Agreement(
        predictor=name,
        models=len(values),
        spearman=one,
        kendall=other,
        p=p,
        spearman_by_task=by_task[0],
        kendall_by_task=by_task[1],
        partial={} if reason else _partials(values, means, covariates),
        regret=top_regret(values, means),
        recall=top_recall(values, means),
        regret_by_task=float(np.mean([top_regret(values, task) for task in columns])),
        recall_by_task=_mean([top_recall(values, task) for task in columns]),
        reason=reason,
    )


def _too_little(name: str, values: Floats, means: Floats) -> str:
    if name == RANDOM:
        return "a random order agrees with nothing"
    if len(values) < FEWEST:
        return f"{len(values)} models are too few, {FEWEST} are needed"
    for what, numbers in (("value", values), ("score", means)):
        if numbers.min() == numbers.max():
            return f"all models have the same {what}"
    return ""


# --- regret and recall --------------------------------------------------------------------------


def top_weights(values: Floats, k: int) -> Floats:
    """Return with what probability each is among the k greatest, ties broken at random.

    >>> top_weights(np.array([3.0, 1.0, 1.0, 0.0]), 2).tolist()
    [1.0, 0.5, 0.5, 0.0]
    """
    edge = np.sort(values)[-k]
    above, level = values > edge, values == edge
    weights: Floats = above + level * (k - above.sum()) / level.sum()
    return weights


def top_regret(values: Floats, scores: Floats) -> float:
    """Return the best score less that of the model of the greatest value, ties at random: expected."""
    return float(scores.max() - top_weights(values, 1) @ scores)


def top_recall(values: Floats, scores: Floats, k: int = TOP) -> float | None:
    """Return the share of the k best models that are among the k of greatest value, ties at random.

    None with k models or fewer, which are all found by any order.
    """
    if len(values) <= k:
        return None
    return float(top_weights(values, k) @ top_weights(scores, k) / k)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# --- correlations -------------------------------------------------------------------------------


def _correlation(value: float, resampled: Floats) -> Correlation:
    if abs(value) > 1 - dependence.EQUAL:
        return Correlation(value, None, None)
    return Correlation(value, *percentile_limits(resampled))


def _draws(
    models: int, seed: int, resamples: int
) -> np.ndarray[tuple[int, int], np.dtype[np.intp]]:
    """Return models drawn again, (resample, model): the same for all predictors."""
    return np.random.default_rng(seed).integers(models, size=(resamples, models))


def _spearmans(
    x: Floats, y: Floats, drawn: np.ndarray[tuple[int, int], np.dtype[np.intp]]
) -> Floats:
    """Return Spearman's correlation of each draw, NaN where either is the same for all of it."""
    one, other = (scipy.stats.rankdata(values[drawn], axis=1) for values in (x, y))
    return _cosines(*(ranks - ranks.mean(axis=1, keepdims=True) for ranks in (one, other)))


def _kendalls(
    x: Floats, y: Floats, drawn: np.ndarray[tuple[int, int], np.dtype[np.intp]]
) -> Floats:
    """Return Kendall's tau-b of each draw, NaN where either is the same for all of it."""
    found = []
    size = max(1, _BLOCK // len(x) ** 2)
    for start in range(0, len(drawn), size):
        part = drawn[start : start + size]
        signs = (np.sign(v[part][:, :, None] - v[part][:, None, :]) for v in (x, y))
        found.append(_cosines(*(sign.reshape(len(part), -1) for sign in signs)))
    return np.concatenate(found)


def _cosines(a: Floats, b: Floats) -> Floats:
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found: Floats = np.full(len(a), math.nan)
    np.divide((a * b).sum(axis=1), lengths, out=found, where=lengths > 0)
    return found


def permutation_p(x: Floats, y: Floats, *, seed: int = 0, resamples: int = 10_000) -> float:
    """Return how often Spearman's correlation is as far from 0 with the models in another order.

    Every order of up to eight models is tried, of more that many random ones.

    >>> permutation_p(np.arange(5.0), np.arange(5.0))  # this order and its reverse, of 120
    0.016666666666666666
    """
    one, other = (scipy.stats.rankdata(values) - (len(x) + 1) / 2 for values in (x, y))
    reached = abs(one @ other) - dependence.EQUAL
    if len(x) <= _EXACT:
        orders = np.array(list(permutations(range(len(x)))))
        count = int((abs(one[orders] @ other) >= reached).sum())
        return p_value(count, len(orders), complete=True)
    generator = np.random.default_rng(seed)
    orders = generator.permuted(np.tile(np.arange(len(x)), (resamples, 1)), axis=1)
    return p_value(int((abs(one[orders] @ other) >= reached).sum()), resamples)


def _over_tasks(values: Floats, tasks: Sequence[Floats]) -> tuple[float | None, float | None]:
    """Return the means over tasks of both correlations; tasks on which all score alike have none."""
    kept = [task for task in tasks if task.min() < task.max()]
    return (
        _mean([dependence.spearman(values, task) for task in kept]),
        _mean([dependence.kendall(values, task) for task in kept]),
    )


def _partials(
    values: Floats, means: Floats, covariates: Mapping[str, Floats]
) -> dict[str, float | None]:
    """Return Spearman's correlation given each covariate's ranks, and given all of them.

    A covariate that is the same for all models is none.
    """
    varied = {name: c for name, c in covariates.items() if c.min() < c.max()}
    found = {name: _given(values, means, [varied[name]]) for name in varied}
    if len(varied) > 1:
        found[GIVEN_ALL] = _given(values, means, list(varied.values()))
    return found


def _given(values: Floats, means: Floats, covariates: Sequence[Floats]) -> float | None:
    ranks = np.column_stack([scipy.stats.rankdata(covariate) for covariate in covariates])
    try:
        return dependence.partial_spearman(values, means, ranks).value
    except UndefinedError:  # too few models, or the covariates explain the order completely
        return None
