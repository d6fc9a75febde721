"""Results made elsewhere as a run: any long table with our columns, or the published one.

A long table has a row for each value and columns that say what it is a value of, those of
`table.COLUMNS`. Only metric, layer and value must be there; what else is missing gets its usual
meaning. The authors' published results come in their own columns and are recognized by them.

>>> frame = pd.DataFrame({"metric": "curvature", "layer": [0, 1, 2], "value": [2.1, 1.7, 1.9]})
>>> table = from_long(frame).table
>>> table["level"][0], table["depth"].tolist(), table["stage"][0]
('prompt', [0.0, 0.5, 1.0], 'block')
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.results.table import BLOCK, TASK, Run, conform, no_contributions

UNNAMED: Final = "unnamed"
TASK_FAMILIES: Final = ("mteb/", "probe/")
SUFFIXES: Final = (".parquet", ".csv")

_PUBLISHED: Final = frozenset({"data", "task_type", "split", "layer", "metric", "value"})
_SCORED_SPLIT: Final = "test"
# What their code calls LiDAR is the logarithm of what Thilak et al. 2024 do.
_PUBLISHED_NAMES: Final = {"lidar": "lidar_log"}
_PUBLISHED_VIEWS: Final = "characters, the authors'"
_LEVELS: Final = {measure.name: measure.level for measure in CATALOGUE}


def read_long(path: str | Path) -> Run:
    """Read a long table from a .parquet or .csv file, as a run.

    Raises:
        InputError: another kind of file, one that cannot be read, or not such a table.
    """
    place = Path(path)
    if place.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"expected a run's folder or a .parquet or .csv table, got {str(place)!r}."
        )
    try:
        frame = (pd.read_csv if place.suffix.lower() == ".csv" else pd.read_parquet)(place)
    except (OSError, ValueError) as error:
        raise InputError(f"the table {str(place)!r} cannot be read: {error}") from error
    return from_long(frame)


def from_long(frame: pd.DataFrame) -> Run:
    """Return a long table as a run; it has no per-text numbers, so its choices have no stability.

    Missing columns: level follows from the measure's name ("mteb/..." and "probe/..." are tasks'
    scores; names that the catalogue lacks count as dataset measures), depth from the greatest layer
    of the model, stage is block, views are "given", model and data "unnamed". Rows whose value
    is NaN are left out and recorded as undefined.

    The published table (columns task_type and split) becomes: task scores, of metric
    mteb/<task>/main_score; measures in the convention reference, whose data is the task's name for
    the test texts, which are those scored, and "<task> (train)" for the others. Their LiDAR is our
    lidar_log.

    Raises:
        InputError: metric, layer or value is missing, or a column has the wrong type.
    """
    missing = [name for name in ("metric", "layer", "value") if name not in frame]
    if missing:
        found = ", ".join(map(str, frame.columns))
        raise InputError(
            f"expected a long table with metric, layer and value; {', '.join(missing)} missing "
            f"among the columns {found}."
        )
    published = set(frame.columns) >= _PUBLISHED and "level" not in frame
    tasks = _published_tasks(frame) if published else {}
    filled = _filled(_from_published(frame) if published else frame)
    table = conform(filled)
    undefined = table["value"].isna()
    record = {
        "model": _models(table),
        "data": {"name": ", ".join(table["data"].unique()[:3])},
        "tasks": tasks,
        "undefined": _undefined(table[undefined]),
    }
    return Run(table[~undefined].reset_index(drop=True), no_contributions(), record)


def _from_published(frame: pd.DataFrame) -> pd.DataFrame:
    scores = frame["metric"] == "main_score"
    renamed = frame["metric"].replace(_PUBLISHED_NAMES)
    tested = frame["split"] == _SCORED_SPLIT
    return frame.assign(
        metric=renamed.where(~scores, "mteb/" + frame["data"] + "/main_score"),
        convention=scores.map({True: "", False: "reference"}),
        data=frame["data"].where(tested, frame["data"] + " (" + frame["split"] + ")"),
        perturbation=[
            _PUBLISHED_VIEWS if _LEVELS.get(name) == "view" else "none" for name in renamed
        ],
    )


def _published_tasks(frame: pd.DataFrame) -> dict[str, dict[str, str]]:
    scores = frame[frame["metric"] == "main_score"].drop_duplicates("data")
    return {
        str(row.data): {"type": str(row.task_type), "metric": "main_score", "split": str(row.split)}
        for row in scores.itertuples()
    }


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    filled = frame.copy()
    defaults: dict[str, Any] = {
        "model": UNNAMED, "revision": "", "data": UNNAMED, "stage": BLOCK, "convention": "",
    }  # fmt: skip
    for name, value in defaults.items():
        filled[name] = filled[name].fillna(value) if name in filled else value
    if "level" not in filled:
        filled["level"] = [_level(str(metric)) for metric in filled["metric"]]
    if "perturbation" not in filled:
        filled["perturbation"] = filled["level"].map({"view": "given"}).fillna("none")
    if "depth" not in filled:
        layers = pd.to_numeric(filled["layer"], errors="coerce")
        deepest = layers.groupby(filled["model"]).transform("max")
        filled["depth"] = (layers / deepest.where(deepest > 0)).fillna(0.0)
    return filled


def _level(metric: str) -> str:
    return TASK if metric.startswith(TASK_FAMILIES) else _LEVELS.get(metric, "dataset")


def _models(table: pd.DataFrame) -> dict[str, Any]:
    names = table["model"].unique()
    known = {"name": ", ".join(names)}
    return known | ({"revision": str(table["revision"].iloc[0])} if len(names) == 1 else {})


def _undefined(rows: pd.DataFrame) -> list[dict[str, Any]]:
    names = ["metric", "convention", "data", "layer", "stage"]
    plain = rows[names].astype(object)
    plain = plain.where(plain.notna(), None)
    reason = {"reason": "the table given has no number here"}
    return [
        dict(zip(names, row, strict=True)) | reason
        for row in plain.itertuples(index=False, name=None)
    ]
