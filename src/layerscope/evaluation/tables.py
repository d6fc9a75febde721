"""Labelled data in plain files: which kind of task a table is, its columns, its splits.

A table is a file (.parquet, .jsonl, .csv, .tsv) or a folder with one file a split. Its columns say
what it is: a text and a label (classification, or clustering on request), two texts and a score
(STS), two texts and a label of 0 or 1 (pair classification), a query with positive and negative
texts (reranking).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.objects import is_table
from layerscope.errors import InputError
from layerscope.evaluation.columns import (
    LISTED,
    binary_labels,
    canonical,
    infer_kind,
    label_codes,
    numbers,
    parse_kind,
    unrolled,
)
from layerscope.evaluation.reading import (
    SPLITS,
    fingerprint,
    fingerprint_of,
    frames_of,
    read_parts,
    table_files,
)

_TEXTS: Final = ("text", "sentence1", "sentence2", "query")


@dataclass(frozen=True)
class Table:
    """Labelled data with its columns under their canonical names.

    Attributes:
        name: the file's or folder's, or one made of the fingerprint.
        kind: one of `KINDS`.
        splits: split -> columns of that kind: (text, label); (sentence1, sentence2, score or label);
            (query, positive, negative), the last two lists of texts. Labels are codes 0, 1, 2...
        classes: what the codes of a classification or clustering stand for.
        fingerprint: 16 hexadecimal digits of the sha256 over the files or rows, and the seed of the
            halves where it is not 0.
        source: the path, or the type of the object.
        notes: what was done to the data, in sentences.
    """

    name: str
    kind: str
    splits: Mapping[str, pd.DataFrame]
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    notes: tuple[str, ...] = ()


def read_table(
    given: Any, *, kind: str | None = None, seed: int = 0, name: str | None = None
) -> Table:
    """Read a labelled table and tell what kind of task it is.

    A classification needs texts to train on and others to test on: files or splits named train and
    test, a column `split`, or else half of every class, chosen by the seed.

    Args:
        given: a file, a folder with one file a split, or an object with columns (`frames_of`).
        kind: one of `KINDS`, in any case; None goes by the columns.
        seed: of the split in two halves.
        name: of the task; by default that of the file or folder, "table-" and a part of its
            fingerprint for an object.

    Raises:
        InputError: nothing readable there, columns of no kind of task, or too little to score.
    """
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser()
        files = table_files(path)
        where = str(path)
        frames = {split: read_parts(parts) for split, parts in files.items()}
        digest = fingerprint([file for parts in files.values() for file in parts])
        name = name or (path.stem if path.is_file() else path.resolve().name)
    else:
        where = type(given).__name__
        frames = frames_of(given)
        digest = fingerprint_of(frames)
        name = name or f"table-{digest[:8]}"
    frames = _by_split_column(frames, where)
    kind = parse_kind(kind) if kind else infer_kind(next(iter(frames.values())), where)
    if kind != "Classification" and "test" in frames:
        frames = {"test": frames["test"]}
    splits = {split: canonical(frame, kind, where) for split, frame in frames.items()}
    if kind in ("Classification", "Clustering", "PairClassification"):
        splits = {split: unrolled(frame) for split, frame in splits.items()}
    splits, classes = _scored(splits, kind, where)
    notes: list[str] = []
    splits = {split: _without_empty(frame, split, notes) for split, frame in splits.items()}
    halved = ""
    if list(splits) == [""]:
        halved = f"/seed{seed}" if kind == "Classification" and seed else ""
        splits = _split(splits[""], kind, seed, notes, where)
    _refuse_too_little(splits, kind, where)
    notes += _unseen_classes(splits, classes, kind)
    return Table(
        name=name,
        kind=kind,
        splits=splits,
        classes=classes,
        fingerprint=digest + halved,
        source=where,
        notes=tuple(notes),
    )


def listed_tables(given: Any) -> tuple[Any, ...]:
    """Return one or several tables as several."""
    alone = isinstance(given, str | os.PathLike | Table | Mapping) or is_table(given)
    return (given,) if alone else tuple(given)


def _without_empty(frame: pd.DataFrame, split: str, notes: list[str]) -> pd.DataFrame:
    """Leave out rows with an empty text, and say so."""
    kept = pd.Series(True, index=frame.index)
    for role in frame.columns.intersection(list(_TEXTS)):
        kept &= frame[role].map(lambda text: isinstance(text, str) and bool(text.strip()))
    if {"positive", "negative"} <= set(frame.columns):
        kept &= frame["positive"].map(bool) & frame["negative"].map(bool)
    if dropped := int((~kept).sum()):
        place = f" of {split}" if split else ""
        notes.append(f"{dropped} of {len(frame)} rows{place} were left out: a text is empty.")
    return frame[kept].reset_index(drop=True)


def _by_split_column(frames: dict[str, pd.DataFrame], where: str) -> dict[str, pd.DataFrame]:
    """Return the parts of a single file that a column `split` tells apart."""
    if list(frames) != [""] or "split" not in frames[""].columns:
        return frames
    frame = frames[""]
    names = frame["split"].map(lambda name: str(name).lower())
    found = {split: frame[names.isin(words)] for split, words in SPLITS.items()}
    if not len(found["train"]) or not len(found["test"]):
        came = ", ".join(sorted(names.unique())[:LISTED])
        raise InputError(f"expected train and test in column split of {where!r}, found {came}.")
    return {split: found[split].reset_index(drop=True) for split in ("train", "test")}


def _split(
    frame: pd.DataFrame, kind: str, seed: int, notes: list[str], where: str
) -> dict[str, pd.DataFrame]:
    if kind != "Classification":
        return {"test": frame}
    notes.append(f"half of every class, chosen by seed {seed}, is train and the rest test.")
    train = np.zeros(len(frame), dtype=bool)
    generator = np.random.default_rng(seed)
    for label in sorted(frame["label"].unique()):
        rows = generator.permutation(np.flatnonzero(frame["label"] == label))
        train[rows[: (len(rows) + 1) // 2]] = True
    halves = {"train": frame[train], "test": frame[~train]}
    if not len(halves["test"]):
        raise InputError(f"every class of {where!r} has one text; two are needed to test on one.")
    return {split: half.reset_index(drop=True) for split, half in halves.items()}


def _scored(
    splits: dict[str, pd.DataFrame], kind: str, where: str
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Return the splits with numbers for labels and scores, and what the labels were."""
    if kind == "STS":
        return {s: _assigned(f, "score", numbers(f["score"], where)) for s, f in splits.items()}, ()
    if kind == "PairClassification":
        return {
            s: _assigned(f, "label", binary_labels(f["label"], where)) for s, f in splits.items()
        }, ()
    if kind == "Reranking":
        return splits, ()
    codes, classes = label_codes([frame["label"].tolist() for frame in splits.values()], where)
    numbered = zip(splits.items(), codes, strict=True)
    return {split: _assigned(frame, "label", code) for (split, frame), code in numbered}, classes


def _assigned(frame: pd.DataFrame, role: str, values: Sequence[Any]) -> pd.DataFrame:
    return frame.assign(**{role: values})


def _refuse_too_little(splits: Mapping[str, pd.DataFrame], kind: str, where: str) -> None:
    column = {"STS": "score", "Reranking": None}.get(kind, "label")
    role = "train" if kind == "Classification" else "test"
    test = splits["test"]
    if not len(test):
        raise InputError(f"no row of {where!r} is left to test on.")
    if column and splits[role][column].nunique() < 2:
        what = "scores" if kind == "STS" else "labels"
        split = f" of {role}" if len(splits) > 1 else ""
        raise InputError(
            f"expected at least 2 different {what}, all rows{split} of {where!r} agree."
        )
    if kind == "Classification" and not set(test["label"]) & set(splits["train"]["label"]):
        raise InputError(f"no label of test is among those of train in {where!r}.")


def _unseen_classes(
    splits: Mapping[str, pd.DataFrame], classes: Sequence[str], kind: str
) -> list[str]:
    """Say which classes cannot be predicted because train has none of them."""
    if kind != "Classification":
        return []
    unseen = sorted(set(splits["test"]["label"]) - set(splits["train"]["label"]))
    if not unseen:
        return []
    texts = int(splits["test"]["label"].isin(unseen).sum())
    named = ", ".join(repr(classes[label]) for label in unseen[:LISTED])
    return [f"{texts} test texts have a label that train lacks and count as wrong: {named}."]
