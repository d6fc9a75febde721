"""What the models of a ranking score on tasks, from their own runs or from a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from layerscope.errors import InputError
from layerscope.gains import scores_of
from layerscope.longtable import SUFFIXES, from_long
from layerscope.ranking.reading import Candidate
from layerscope.rules import Floats
from layerscope.table import RECORD_FILE, Run, load_run

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
