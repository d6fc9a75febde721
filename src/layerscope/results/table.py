"""The results table and the run folder that holds it.

One long table serves measures, task scores, decisions and plots alike: a value, its limits, and what
it is a value of. Beside it stand the per-text contributions (numbers whose mean is the value, so that
every limit and every comparison of layers can be made again) and the record of how they were made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope.data.files import close_names, write_atomically, write_json
from layerscope.errors import InputError
from layerscope.results.readouts import ReadoutTable

SCHEMA_VERSION: Final = 2
RECORD_FILE: Final = "run.json"
TABLE_FILE: Final = "results.parquet"
CONTRIBUTIONS_FILE: Final = "prompts.parquet"
READOUTS_FILE: Final = "readouts.parquet"
# Where unfinished work lies, and what decides whether a later run may go on with it.
PARTS: Final = "parts"
PLAN_FILE: Final = "plan.json"
_LISTED: Final = 5  # runs named in a message

# What to say of a fingerprint of weights that came from a few values of each.

# Words that stand in the columns `stage` and `level`.
BLOCK: Final = "block"
FINAL_NORM: Final = "final_norm"
TASK: Final = "task"

COLUMNS: Final = {
    "model": "string",
    "revision": "string",
    "data": "string",
    "perturbation": "string",
    "level": "string",
    "layer": "Int64",
    "depth": "Float64",
    "stage": "string",
    "other_layer": "Int64",
    "metric": "string",
    "convention": "string",
    "value": "Float64",
    "low": "Float64",
    "high": "Float64",
    "n": "Int64",
    "seed": "Int64",
}
# A text below 0 is one of a corpus that served instead of the user's texts: -1 is the corpus's first.
CONTRIBUTION_COLUMNS: Final = {
    "text": "int32",
    "perturbation": "category",
    "layer": "int32",
    "stage": "category",
    "metric": "category",
    "convention": "category",
    "value": "float64",
}


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a scan found.

    Attributes:
        table: the long table, columns as `COLUMNS`.
        contributions: per-text numbers whose mean is the table's value, `CONTRIBUTION_COLUMNS`.
        record: how it was made: model, data, settings, versions, times, what is undefined and why.
        readouts: readouts compared by crop retrieval; None where they were not.
    """

    table: pd.DataFrame
    contributions: pd.DataFrame
    record: dict[str, Any]
    readouts: ReadoutTable | None = None

    def __repr__(self) -> str:
        """Return what the run is of, on one line."""
        model, data = (self.record.get(part, {}) for part in ("model", "data"))
        texts = f"{data.get('texts', '?')} texts of {data.get('name', '?')}"
        return f"<Run of {model.get('name', 'unnamed')} on {texts}: {len(self.table):,} rows>"


def conform(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with the table's columns, in their order and types; missing ones are empty.

    Raises:
        InputError: no value column, or a column that cannot take its type.
    """
    if "value" not in frame or "metric" not in frame:
        found = ", ".join(map(str, frame.columns))
        raise InputError(f"expected a results table with metric and value, found columns: {found}.")
    filled = frame.reindex(columns=list(COLUMNS))
    try:
        return filled.astype(COLUMNS)
    except (TypeError, ValueError) as error:
        raise InputError(f"the results table has a column of the wrong type: {error}") from error


def no_contributions() -> pd.DataFrame:
    """Return the contributions of a run that has none."""
    return pd.DataFrame(columns=list(CONTRIBUTION_COLUMNS)).astype(CONTRIBUTION_COLUMNS)


def save_run(run: Run, folder: Path) -> None:
    """Write a run; the record comes last, so that a folder with a record is whole.

    Raises:
        RunError: the disk is full.
        InputError: the folder cannot be written to.
    """
    write_atomically(folder / TABLE_FILE, run.table.to_parquet(index=False))
    write_atomically(folder / CONTRIBUTIONS_FILE, run.contributions.to_parquet(index=False))
    if run.readouts is None:
        (folder / READOUTS_FILE).unlink(missing_ok=True)
    else:
        frame = run.readouts.frame()
        write_atomically(folder / READOUTS_FILE, frame.to_parquet(index=False))
    write_json(folder / RECORD_FILE, {"schema_version": SCHEMA_VERSION, **run.record})


def is_interrupted(folder: Path) -> bool:
    """Whether a folder holds a run that was begun and not finished."""
    begun = (folder / PARTS / PLAN_FILE).is_file() or (folder / TABLE_FILE).is_file()
    return begun and not (folder / RECORD_FILE).is_file()


def _no_run(path: Path) -> InputError:
    """Return why there is no run in a folder, and what to do."""
    expected = f"expected a finished run in {str(path)!r}"
    if path.is_file():
        return InputError(f"expected the folder of a finished run, {str(path)!r} is a file.")
    if not path.is_dir():
        return InputError(f"{expected}, there is no such folder; {close_names(path)}")
    if is_interrupted(path):
        return InputError(
            f"{expected}, this one was interrupted before it was finished; run the same command again "
            f"with --out {path} to go on."
        )
    if inside := sorted(each.parent.name for each in path.glob(f"*/{RECORD_FILE}")):
        named = ", ".join(inside[:_LISTED]) + (", ..." if len(inside) > _LISTED else "")
        return InputError(
            f"{expected}, found no {RECORD_FILE} there, but in {named}; name one of these."
        )
    return InputError(
        f"{expected}, found no {RECORD_FILE} there; give the folder that a scan or an evaluation wrote."
    )


def load_run(folder: str | Path) -> Run:
    """Read a run folder of this or any older schema version.

    Raises:
        InputError: not a finished run, or one of a newer layerscope.
    """
    path = Path(folder)
    if not (path / RECORD_FILE).is_file():
        raise _no_run(path)
    try:
        record = json.loads((path / RECORD_FILE).read_text(encoding="utf-8"))
        table = pd.read_parquet(path / TABLE_FILE)
        contributions = pd.read_parquet(path / CONTRIBUTIONS_FILE)
        readouts = _read_readouts(path / READOUTS_FILE, record)
        version = int(record.get("schema_version", SCHEMA_VERSION))
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"the run in {str(path)!r} cannot be read: {error}") from error
    if version > SCHEMA_VERSION:
        raise InputError(
            f"the run in {str(path)!r} has schema version {version}, this layerscope reads up to "
            f"{SCHEMA_VERSION}; upgrade layerscope."
        )
    while version < SCHEMA_VERSION:
        table, contributions, record = UPGRADES[version]((table, contributions, record))
        version += 1
    record["schema_version"] = SCHEMA_VERSION
    if "subspace_dimensions" not in record:
        record["subspace_dimensions"] = _dimensions_in_notes(table, record)
    return Run(conform(table), _typed_contributions(contributions), record, readouts)


def load_table(folder: str | Path) -> pd.DataFrame:
    """Read only the table of a run folder, which is far smaller than its per-text numbers.

    Raises:
        InputError: not a finished run, or one of a newer layerscope.
    """
    path = Path(folder)
    with suppress(OSError, ValueError):
        record = json.loads((path / RECORD_FILE).read_text(encoding="utf-8"))
        if record.get("schema_version") == SCHEMA_VERSION:
            return conform(pd.read_parquet(path / TABLE_FILE))
    return load_run(path).table


def _read_readouts(path: Path, record: dict[str, Any]) -> ReadoutTable | None:
    facts = record.get("readouts", {})
    return ReadoutTable.of_frame(pd.read_parquet(path), facts) if "own" in facts else None


def _typed_contributions(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reindex(columns=list(CONTRIBUTION_COLUMNS)).astype(CONTRIBUTION_COLUMNS)


_LOWERED: Final = re.compile(r"Frenet: k is (\d+), the least rank of a layer, instead of ([\d, ]+)")
_SUBSPACES: Final = re.compile(r"frenet_[a-z_]+_k(\d+)(_[a-z]+)?")


def _dimensions_in_notes(table: pd.DataFrame, record: dict[str, Any]) -> dict[str, int]:
    """Return what the record's `subspace_dimensions` would hold: early runs say it in a note only."""
    said = [found for note in record.get("notes", ()) if (found := _LOWERED.match(note))]
    lowered = {k: int(found[1]) for found in said for k in found[2].split(", ")}
    named = {metric: _SUBSPACES.fullmatch(metric) for metric in map(str, table["metric"].unique())}
    return {metric: lowered[k[1]] for metric, k in named.items() if k and k[1] in lowered}


_Parts = tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]


def _with_kinds_of_views(parts: _Parts) -> _Parts:
    """Say in the contributions, and of the edit distances, which views they are of: the only ones."""
    table, contributions, record = parts
    views = table[table["level"] == "view"].drop_duplicates("metric").set_index("metric")
    labels = contributions["metric"].astype("string").map(views["perturbation"]).fillna("none")
    made = {**record.get("augmentation", {})}
    if label := made.pop("label", None):
        distances = record.get("edit_distance_by_text", {})
        record = record | {
            "augmentation": {label: made},
            "edit_distance_by_text": {label: distances} if distances else {},
        }
    return table, contributions.assign(perturbation=labels), record


# Version -> how a run of it becomes one of the next. A change of schema adds an entry here and a run
# folder to tests/historic_runs; nothing is ever taken away.
UPGRADES: Final[dict[int, Callable[[_Parts], _Parts]]] = {1: _with_kinds_of_views}
