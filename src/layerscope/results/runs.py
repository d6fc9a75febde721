"""Several runs as one table: a column says which run a row is of; a study's folder is many runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope.data.files import write_atomically
from layerscope.errors import InputError
from layerscope.results.table import (
    BLOCK,
    COLUMNS,
    CONTRIBUTION_COLUMNS,
    RECORD_FILE,
    TASK,
    Run,
    conform,
    load_run,
    load_table,
)

RUN: Final = "run"
STUDY_FILE: Final = "study.json"
CELLS: Final = "cells"
# How names of revisions and checkpoints say their training step.
# What else runs along x, in the column of perturbations.
ALONG: Final = {
    "position": (re.compile(r" *(\d+) tokens?"), "a perturbation like 'length 64 tokens'"),
    "budget": (re.compile(r" *(\d+(?:\.\d+)?) %"), "a perturbation like 'angular 10 %'"),
    "decay": (re.compile(r"decay (\d+(?:\.\d+)?),? *"), "a perturbation like 'decay 0.5'"),
}
STEP: Final = re.compile(r"[-_/ ]*(?:global_?step|step|checkpoint|ckpt|iter)[-_ ]*(\d+)", re.I)


@dataclass(frozen=True, eq=False)
class NamedRun:
    """A run among others.

    Attributes:
        name: tells it apart from the others.
        table: its long table.
        read: gives the whole run, whose per-text numbers of many would not fit in memory.
    """

    name: str
    table: pd.DataFrame
    read: Callable[[], Run]

    @classmethod
    def of(cls, name: str, run: Run) -> NamedRun:
        """Return a run that is in memory under a name."""
        return cls(name, run.table, lambda: run)


@dataclass(frozen=True)
class Made:
    """A run that was made without a result of its own around it."""

    run: Run


@dataclass(frozen=True)
class Needs:
    """What making a run would take: seconds, and bytes while it is made."""

    pass_seconds: float
    memory_bytes: int = 0
    disk_bytes: int = 0


def is_study(folder: Path) -> bool:
    """Whether a folder is that of a study."""
    return (folder / STUDY_FILE).is_file()


def read_study(folder: Path) -> dict[str, Any]:
    """Return the record of a study's folder: the study, and its cells in order, each with its key.

    Raises:
        InputError: the folder holds none, or it cannot be read.
    """
    if not is_study(folder):
        raise InputError(
            f"expected the folder of a study, found no {STUDY_FILE} in {str(folder)!r}; give the "
            "--out folder of one."
        )
    try:
        found = json.loads((folder / STUDY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the study in {str(folder)!r} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get(CELLS), list):
        raise InputError(f"the study in {str(folder)!r} cannot be read: {STUDY_FILE} has no cells")
    return found


def finished_cells(folder: Path) -> list[NamedRun]:
    """Return the finished cells of a study, in its order; their tables name models and data as it does.

    Raises:
        InputError: the folder holds no study.
    """
    found = []
    for cell in read_study(folder)[CELLS]:
        path = folder / CELLS / cell["key"]
        if (path / RECORD_FILE).is_file():
            table = load_table(path).assign(**cell["labels"])
            found.append(NamedRun(cell["key"], table, partial(load_run, path)))
    return found


def one_table(runs: Sequence[NamedRun]) -> pd.DataFrame:
    """Return the tables of several runs as one; the column `run` is the run's name."""
    frames = [each.table.assign(**{RUN: each.name}).astype({RUN: "string"}) for each in runs]
    columns = [RUN, *COLUMNS]
    return pd.concat([frame[columns] for frame in frames], ignore_index=True)


def one_table_of_texts(runs: Sequence[NamedRun]) -> pd.DataFrame:
    """Return the per-text numbers of several runs as one frame, each named as in `one_table`."""
    columns = [RUN, *CONTRIBUTION_COLUMNS]
    frames = [each.read().contributions.assign(**{RUN: each.name})[columns] for each in runs]
    return pd.concat(frames, ignore_index=True)


def in_order(text: str) -> tuple[tuple[float, str], ...]:
    """Return a key that sorts numbers in names by their values.

    >>> sorted(["step10", "step9", "p=0.1", "p=0.05"], key=in_order)
    ['p=0.05', 'p=0.1', 'step9', 'step10']
    """
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return tuple(
        (float(each), "") if place % 2 else (-1.0, each) for place, each in enumerate(parts)
    )


def named_apart(names: Iterable[str]) -> list[str]:
    """Return short names of folders that still differ: their last parts, as many as that takes.

    >>> named_apart(["runs/a/x", "runs/b/x", "y"]), named_apart(["z", "z"])
    (['a/x', 'b/x', 'y'], ['z', 'z (2)'])
    """
    whole = [re.split(r"[/\\]", name.rstrip("/\\")) for name in names]
    found = ["/".join(parts) for parts in whole]
    for count in range(1, max(map(len, whole), default=1) + 1):
        short = ["/".join(parts[-count:]) for parts in whole]
        if len(set(short)) == len(set(found)):
            found = short
            break
    seen: dict[str, int] = {}
    for place, name in enumerate(found):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            found[place] = f"{name} ({seen[name]})"
    return found


def joined(runs: Sequence[Run]) -> list[Run]:
    """Return one run a model: its scan, whose table has the scores of its other runs too.

    Raises:
        InputError: a model has several scans.
    """
    tables = [run.table for run in runs if (run.table["level"] == TASK).any()]
    scores = pd.concat(tables, ignore_index=True) if tables else None
    found: dict[str, Run] = {}
    for run in runs:
        if (run.table["level"] == TASK).all():
            continue
        model = str(run.table["model"].iloc[0])
        if model in found:
            raise InputError(f"expected one scan of {model!r}, got several; list one set of texts.")
        own = [run.table] if scores is None else [run.table, scores[scores["model"] == model]]
        record = run.record | {"model": run.record["model"] | {"name": model}}
        found[model] = replace(run, table=pd.concat(own, ignore_index=True), record=record)
    return list(found.values())


def layer_scores(run: Run) -> pd.DataFrame:
    """Return the label-free score of each single layer as rows of the long table, if it was made."""
    if run.readouts is None:
        return conform(pd.DataFrame(columns=["metric", "value"]))
    first, blocks = run.table.iloc[0], run.readouts.blocks
    rows = [
        {
            "model": first["model"], "revision": first["revision"], "data": first["data"],
            "perturbation": run.readouts.crops, "level": "view", "layer": each.readout.layers[0],
            "depth": each.readout.layers[0] / blocks, "stage": BLOCK, "metric": "crop_retrieval",
            "value": each.score, "low": each.low, "high": each.high,
        }
        for each in run.readouts.candidates
        if each.readout is not None and str(each.readout) == str(each.readout.layers[0])
    ]  # fmt: skip
    return conform(pd.DataFrame(rows, columns=list(COLUMNS)))


def labels_of(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return some columns of the first row of each run, which say what it is of, by run."""
    return table.drop_duplicates(RUN).set_index(RUN)[list(columns)]


def blanked(rows: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """Return rows with an empty text where these columns hold nothing, so that they can be keys."""
    return rows.assign(**{name: rows[name].astype(object).fillna("") for name in columns})


def numbered(rows: pd.DataFrame, along: str) -> pd.DataFrame:
    """Return rows with the column `at`: their training step, token position, budget or decay.

    The names that say it lose it, so that what is equal but for it has one name.

    Args:
        rows: of the table of several runs.
        along: step, or a key of `ALONG`.

    Raises:
        InputError: a run's names hold no step, or no perturbation holds what else is asked for.
    """
    if along != "step":
        form, wanted = ALONG[along]
        named = rows["perturbation"].astype("string").str.extract(form, expand=False).notna()
        return _read_out(rows[named] if named.any() else rows, "perturbation", form, wanted)
    revision = (
        rows["revision"].astype("string").fillna("").str.replace(r"^(\d+)$", r"step\1", regex=True)
    )
    rows, named = rows.assign(revision=revision), revision.str.extract(STEP, expand=False).notna()
    wanted = "a revision or a model named like step1000 or checkpoint-1000"
    parts = ((rows[named], "revision"), (rows[~named], "model"))
    found = [_read_out(part, column, STEP, wanted) for part, column in parts if len(part)]
    return pd.concat(found)


def _read_out(rows: pd.DataFrame, column: str, form: re.Pattern[str], wanted: str) -> pd.DataFrame:
    texts = rows[column].astype("string").fillna("")
    numbers = texts.str.extract(form, expand=False)
    if numbers.isna().any():
        name = texts[numbers.isna()].iloc[0]
        raise InputError(f"expected {wanted} in every run, got the {column} {name!r}.")
    rest = texts.str.replace(form, "", regex=True, n=1)
    return rows.assign(at=numbers.astype(float), **{column: rest})


def write_table(path: Path, runs: Sequence[NamedRun]) -> None:
    """Write the table of several runs as parquet."""
    write_atomically(path, one_table(runs).to_parquet(index=False))
