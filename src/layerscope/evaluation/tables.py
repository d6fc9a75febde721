"""Labelled tables of the user: their files or objects, splits and fingerprints."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.tables import SUFFIXES, holds_tables, is_table, open_table, rows_of
from layerscope.errors import InputError
from layerscope.evaluation.labels import (
    LISTED,
    binary_labels,
    canonical,
    infer_kind,
    label_codes,
    numbers,
    parse_kind,
    unrolled,
)
from layerscope.evaluation.retrieval import (
    RETRIEVAL,
    beir_files,
    checked_retrieval,
    is_beir,
    notes_on,
)

SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


_TEXTS: Final = ("text", "sentence1", "sentence2", "query")


@dataclass(frozen=True)
class Table:
    """Labelled data with its columns under their canonical names.

    Attributes:
        name: the file's or folder's, or one made of the fingerprint.
        kind: one of `KINDS`.
        splits: split -> columns of that kind: (text, label); (sentence1, sentence2, score or label);
            (query, positive, negative), the last two lists of texts. Labels are codes 0, 1, 2... A
            retrieval has its corpus and queries beside the split's qrels (`checked_retrieval`).
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
    """Read a labelled table and infer its kind of task.

    A classification needs texts to train on and others to test on: files or splits named train and
    test, a column `split`, or else half of every class, chosen by the seed.

    Args:
        given: a file, a folder with one file a split or in the BEIR layout, or an object with columns
            (`frames_of`).
        kind: one of `KINDS`, in any case; None goes by the columns.
        seed: of the split in two halves.
        name: of the task; by default that of the file or folder, "table-" and a part of its
            fingerprint for an object.

    Raises:
        InputError: nothing readable there, columns of no kind of task, or too little to score.
    """
    kind = parse_kind(kind) if kind else None
    if isinstance(given, str | os.PathLike):
        path = Path(given).expanduser()
        if kind == RETRIEVAL or is_beir(path):
            return _read_retrieval(path, kind, name)
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
    kind = kind or infer_kind(next(iter(frames.values())), where)
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


def _read_retrieval(path: Path, kind: str | None, name: str | None) -> Table:
    if not is_beir(path):
        raise InputError(
            "expected a folder in the BEIR layout (corpus.jsonl, queries.jsonl, qrels/test.tsv) for a "
            f"{RETRIEVAL}, got {str(path)!r}."
        )
    if kind not in (None, RETRIEVAL):
        raise InputError(
            f"{str(path)!r} is in the BEIR layout, which is scored as a {RETRIEVAL}, not as {kind}."
        )
    files = beir_files(path, "test")
    frames = {part: read_parts(parts) for part, parts in files.items()}
    splits = checked_retrieval(frames, str(path))
    return Table(
        name=name or path.resolve().name,
        kind=RETRIEVAL,
        splits=splits,
        classes=(),
        fingerprint=fingerprint(file for parts in files.values() for file in parts),
        source=str(path),
        notes=tuple(notes_on(splits["test"])),
    )


def listed_tables(given: Any) -> tuple[Any, ...]:
    """Return one or several tables as several."""
    alone = isinstance(given, str | os.PathLike | Table | Mapping) or is_table(given)
    return (given,) if alone else tuple(given)


# --- files and objects -------------------------------------------------------------------------


def read_parts(files: Iterable[Path]) -> pd.DataFrame:
    """Read files that together hold one split, one after the other.

    Raises:
        InputError: one is not a table, cannot be read or has no rows.
    """
    frames = []
    for path in files:
        with open_table(path) as rows:
            frames.append(_some_rows(rows.frame(), str(path)))
    return pd.concat(frames, ignore_index=True)


def _some_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    if not len(frame):
        raise InputError(f"the table {where!r} has no rows.")
    return frame


def fingerprint(files: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits of the sha256 over the files, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


def frames_of(given: Any) -> dict[str, pd.DataFrame]:
    """Return the rows of each split of a table that is in Python.

    Args:
        given: a table of pandas, polars, Arrow or `datasets`, a dict of columns, a list of rows, or a
            dict of splits, each of which is one of those. One without splits stands under the empty
            name, and so does the only split of a dict.

    Raises:
        InputError: it is something else, has no rows, or it is unclear which split is meant.
    """
    where = type(given).__name__
    if not (isinstance(given, Mapping) and holds_tables(given)):
        return {"": _frame_of(given, where)}
    frames = {str(name).lower(): _frame_of(part, where) for name, part in given.items()}
    found = {
        split: frame
        for split in ("train", "test")
        for name, frame in frames.items()
        if name in SPLITS[split]
    }
    if "test" in found:
        return found if "train" in found else {"": found["test"]}
    if len(frames) == 1:
        return {"": next(iter(frames.values()))}
    raise InputError(f"expected splits train and test in {where!r}, found {', '.join(frames)}.")


def _frame_of(given: Any, where: str) -> pd.DataFrame:
    rows = rows_of(given)
    if rows is None:
        raise InputError(
            f"expected a labelled table, a file or an object with columns, got {where}."
        )
    return _some_rows(rows.frame(), where)


def fingerprint_of(frames: Mapping[str, pd.DataFrame]) -> str:
    """Return 16 hexadecimal digits of the sha256 over the rows of all splits."""
    total = hashlib.sha256()
    for split, frame in frames.items():
        total.update(f"{split}\n{frame.to_csv(index=False)}".encode())
    return total.hexdigest()[:16]


def split_files(folder: Path, split: str, subset: str = "default") -> list[Path]:
    """Return the files of a split in a folder: one, or the numbered parts of one.

    They are called after the split, alone or with the subset before it (test.parquet,
    en_test.parquet, en/test.jsonl, data/test-00000-of-00002.parquet).

    Raises:
        InputError: several files claim to be it.
    """
    named = "|".join(map(re.escape, SPLITS.get(split, (split,))))
    part = r"(-\d{5}-of-\d{5})?"
    patterns = [rf"({named}){part}"]
    if subset != "default":
        patterns.insert(0, rf"{re.escape(subset)}[_.-]({named}){part}")
    for pattern in patterns:
        for place in (folder, folder / subset, folder / "data"):
            found = [file for file in _files(place) if re.fullmatch(pattern, file.stem)]
            if len(found) > 1 and not all(re.search(r"-of-\d{5}$", file.stem) for file in found):
                names = ", ".join(file.name for file in found)
                raise InputError(f"several files in {str(place)!r} are the split {split}: {names}.")
            if found:
                return found
    return []


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def table_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a table; one without splits stands under the empty name.

    Raises:
        InputError: nothing there, or it is unclear which file is meant.
    """
    if not path.exists():
        raise InputError(f"there is no table {str(path)!r}; check the path.")
    if path.is_file():
        return {"": [path]}
    found = {split: split_files(path, split) for split in ("train", "test")}
    if found["test"]:
        # Without train files the only split is as good as a file without splits.
        return found if found["train"] else {"": found["test"]}
    alone = _files(path)
    if len(alone) == 1:
        return {"": alone}
    listed = ", ".join(file.name for file in alone) or "no table"
    raise InputError(
        f"expected files train and test ({', '.join(SUFFIXES)}) in {str(path)!r}, found {listed}."
    )


# --- splits ------------------------------------------------------------------------------------


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
    """Split a single file by its column `split`."""
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
