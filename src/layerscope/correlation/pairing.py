"""Tables -> the curves of measures and scores, and which measure is compared with which score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import pandas as pd

from layerscope.correlation.records import Curve, LeftOut, MeasureKey, ScoreKey
from layerscope.errors import InputError, unknown_name
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.table import BLOCK, FINAL_NORM, TASK, conform

OWN: Final = "own"  # in place of a data set: the texts of each task itself
ALL: Final = "all"  # in place of measures: every one that the runs hold
MAIN: Final = frozenset(measure.name for measure in CATALOGUE if measure.main)
LEVELS: Final = ("_null", "_floor")
WORDS: Final = (
    "model", "revision", "data", "perturbation", "level", "stage", "metric", "convention",
)  # fmt: skip

Place = tuple[str, str, str, MeasureKey]  # model, revision, data, measure


def rows_at(tables: Sequence[pd.DataFrame], stage: str) -> pd.DataFrame:
    """Return the defined rows of single layers at a stage, absent words made empty.

    Raises:
        InputError: there is no table, or no row at that stage.
    """
    if not tables:
        raise InputError("expected at least one run to correlate, got none.")
    rows = pd.concat([conform(table) for table in tables], ignore_index=True)
    rows = rows[rows["value"].notna() & rows["layer"].notna() & rows["other_layer"].isna()]
    rows = rows.fillna(dict.fromkeys(WORDS, ""))
    if stage == FINAL_NORM:
        return _last_layer_normed(rows)
    if stage not in set(rows["stage"]):
        raise unknown_name("stage", stage, sorted({*rows["stage"], FINAL_NORM} - {""}))
    return rows[rows["stage"] == stage]


def _last_layer_normed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the blocks' outputs, in place of the last one what the model gives after its norm."""
    keys = [*(name for name in WORDS if name != "stage"), "layer"]
    blocks, final = (rows[rows["stage"] == stage] for stage in (BLOCK, FINAL_NORM))
    normed = pd.MultiIndex.from_frame(blocks[keys]).isin(pd.MultiIndex.from_frame(final[keys]))
    return pd.concat([blocks[~normed], final])


def score_curves(rows: pd.DataFrame, scores: Sequence[str] | None) -> dict[ScoreKey, Curve]:
    """Return the tasks' scores over the layers.

    Raises:
        InputError: there are none, a name is unknown, or a layer has two values.
    """
    tasks = rows[rows["level"] == TASK]
    if tasks.empty:
        raise InputError(
            "expected runs with task scores, found only measures; make scores of the same model with "
            "`layerscope evaluate` and give that run too."
        )
    if scores is not None:
        _check("task", scores, {*tasks["data"], *tasks["metric"]})
        tasks = tasks[tasks["data"].isin(scores) | tasks["metric"].isin(scores)]
    several = {str(task) for task, group in tasks.groupby("data") if group["metric"].nunique() > 1}
    return {
        ScoreKey(model, revision, task, score, score if task in several else task): _curve(group)
        for (model, revision, task, score), group in _groups(
            tasks, "model", "revision", "data", "metric"
        )
    }


def measure_curves(
    rows: pd.DataFrame, measures: Sequence[str] | None, conventions: Sequence[str] | None
) -> dict[Place, Curve]:
    """Return the measures over the layers.

    Raises:
        InputError: there are none, a name is unknown, or a layer has two values.
    """
    found = rows[rows["level"] != TASK]
    if found.empty:
        raise InputError(
            "expected runs with measures, found only task scores; make measures of the same model "
            "with `layerscope scan` and give that run too."
        )
    found = found[found["metric"].isin(_chosen(set(found["metric"]), measures))]
    if conventions is not None:
        _check("convention", conventions, {*found["convention"]} - {""})
        found = found[found["convention"].isin([*conventions, ""])]
    return {
        (model, revision, data, MeasureKey(*names)): _curve(group)
        for (model, revision, data, *names), group in _groups(
            found, "model", "revision", "data", "metric", "convention", "perturbation"
        )
    }


def _chosen(known: set[str], measures: Sequence[str] | None) -> Iterable[str]:
    """Return the measures asked for, by default the main ones and those that no catalogue knows.

    Where a main one is missing, others of its family stand in: lidar_log for lidar. Levels to compare
    a measure with (its null, its noise floor) are no measures, unless asked for by name.
    """
    if measures is not None and ALL not in measures:
        _check("measure in these runs", measures, known)
        return measures
    every = {name for name in known if not name.endswith(LEVELS)}
    if measures is not None:
        return every
    side = {name for each in CATALOGUE for name in (each.name, *each.variants)} - MAIN
    absent = tuple(f"{name}_" for name in MAIN - known)
    return {name for name in every if name not in side or name.startswith(absent)} or every


def _check(kind: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, sorted(known))


def _groups(rows: pd.DataFrame, *names: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    for key, group in rows.groupby(list(names)):
        yield tuple(map(str, key)), group


def _curve(rows: pd.DataFrame) -> Curve:
    ordered = rows.sort_values("layer")
    layers = [int(layer) for layer in ordered["layer"]]
    if len(set(layers)) < len(layers):
        first = ordered.iloc[0]
        raise InputError(
            f"expected one value of {first['metric']!r} a layer for {first['model']} on "
            f"{first['data']}, got several: two runs hold the same; leave one out."
        )
    depths = ordered["depth"].astype(float)
    if depths.isna().any():  # a foreign table: its deepest layer is taken for the last
        depths = ordered["layer"].astype(float) / max(1, layers[-1])
    return Curve(tuple(layers), tuple(map(float, depths)), tuple(map(float, ordered["value"])))


def texts_for(
    scores: Iterable[ScoreKey], places: Iterable[Place], data: str | None
) -> tuple[dict[ScoreKey, str], list[LeftOut]]:
    """Return on which texts the measures were made that each score is compared with.

    Args:
        scores: all of them.
        places: where there are measures.
        data: the texts for all tasks, "own" for each task's, None for the only ones there can be.

    Returns:
        The texts for each score that has any, and the scores that have none.

    Raises:
        InputError: the data set is unknown, or several can be meant.
    """
    known: dict[tuple[str, str], set[str]] = {}
    for model, revision, name, _ in places:
        known.setdefault((model, revision), set()).add(name)
    if data is not None:
        _check("data set", [data], {OWN}.union(*known.values()))
    wanted, pairs, left_out = list(scores), {}, []
    for score in wanted:
        names = known.get((score.model, score.revision), set())
        tasks = {other.task for other in wanted if other.cluster == score.cluster}
        texts = data or (_only(names, tasks, score.cluster) if names else OWN)
        name = score.task if texts == OWN else texts
        if name in names:
            pairs[score] = name
        else:
            on = "the task's own texts" if texts == OWN else name
            reason = f"no measures on {on}" if names else "no measures of this model"
            left_out.append(LeftOut(score.cluster, score.name, "", reason))
    return pairs, left_out


def _only(names: set[str], tasks: set[str], model: str) -> str:
    """Return the one data set that there is, or "own" if any task's own texts were measured.

    Raises:
        InputError: several can be meant.
    """
    if len(names) == 1:
        return next(iter(names))
    if names & tasks:
        return OWN
    raise InputError(
        f"the measures of {model} were made on {len(names)} data sets: {', '.join(sorted(names))}; "
        "choose one with --data (data= in Python)."
    )
