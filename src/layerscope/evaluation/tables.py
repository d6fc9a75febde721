"""Labelled data in plain files: which kind of task a table is, its columns, its splits.

A table is a file (.parquet, .jsonl, .csv, .tsv) or a folder with one file a split. Its columns say
what it is: a text and a label (classification, or clustering on request), two texts and a score
(STS), two texts and a label of 0 or 1 (pair classification), a query with positive and negative
texts (reranking).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.errors import InputError, unknown_name

KINDS: Final = ("Classification", "Clustering", "PairClassification", "Reranking", "STS")

# What a column may be called, best first: with both "label" and "label_text", "label" is read.
_SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text", "texts", "sentence", "sentences", "content"),
    "label": ("label", "labels", "target", "class", "category", "label_text"),
    "sentence1": ("sentence1", "text1", "sent1", "question1"),
    "sentence2": ("sentence2", "text2", "sent2", "question2"),
    "score": ("score", "similarity", "similarity_score"),
    "query": ("query", "queries"),
    "positive": ("positive", "positives"),
    "negative": ("negative", "negatives"),
}
_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "Reranking": ("query", "positive", "negative"),
    "STS": ("sentence1", "sentence2", "score"),
    "PairClassification": ("sentence1", "sentence2", "label"),
    "Classification": ("text", "label"),
    "Clustering": ("text", "label"),
}
_TEXTS: Final = ("text", "sentence1", "sentence2", "query")
_SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_TRUE: Final = ("1", "1.0", "true", "yes")
_FALSE: Final = ("0", "0.0", "false", "no")
_LISTED: Final = 5  # rows named in a message


@dataclass(frozen=True)
class Table:
    """Labelled data with its columns under their canonical names.

    Attributes:
        name: the file's or folder's.
        kind: one of `KINDS`.
        splits: split -> columns of that kind: (text, label); (sentence1, sentence2, score or label);
            (query, positive, negative), the last two lists of texts. Labels are codes 0, 1, 2...
        classes: what the codes of a classification or clustering stand for.
        fingerprint: 16 hexadecimal digits of the sha256 over the files.
        source: the path.
        notes: what was done to the data, in sentences.
    """

    name: str
    kind: str
    splits: Mapping[str, pd.DataFrame]
    classes: tuple[str, ...]
    fingerprint: str
    source: str
    notes: tuple[str, ...] = ()


def read_table(path: str | Path, *, kind: str | None = None, seed: int = 0) -> Table:
    """Read a labelled table and tell what kind of task it is.

    A classification needs texts to train on and others to test on: files named train and test in a
    folder, a column `split`, or else half of every class, chosen by the seed.

    Args:
        path: a file, or a folder with one file a split.
        kind: one of `KINDS`, in any case; None goes by the columns.
        seed: of the split in two halves.

    Raises:
        InputError: nothing readable there, columns of no kind of task, or too little to score.
    """
    path = Path(path).expanduser()
    files = _table_files(path)
    where = str(path)
    frames = {split: read_frame(file) for split, file in files.items()}
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
    if list(splits) == [""]:
        splits = _split(splits[""], kind, seed, notes, where)
    _refuse_too_little(splits, kind, where)
    notes += _unseen_classes(splits, classes, kind)
    return Table(
        name=path.stem if path.is_file() else path.resolve().name,
        kind=kind,
        splits=splits,
        classes=classes,
        fingerprint=fingerprint(files.values()),
        source=where,
        notes=tuple(notes),
    )


# --- files -------------------------------------------------------------------------------------


def read_frame(path: Path) -> pd.DataFrame:
    """Read a file of rows, its columns as they are called there.

    Raises:
        InputError: not a table, or not readable as what its name says.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"expected a table that ends in {', '.join(_READERS)}, got {path.name!r}.")
    try:
        frame = reader(path)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # pandas and pyarrow derive theirs from these
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"the table {str(path)!r} cannot be read ({reason}).") from error
    if not len(frame):
        raise InputError(f"the table {str(path)!r} has no rows.")
    return frame


def _read_separated(path: Path, separator: str) -> pd.DataFrame:
    # As strings and without missing values: the texts "NA" and "007" stay what they are.
    return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _read_json_lines(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"expected one JSON object a line, line {number} of {str(path)!r} is none."
            )
        rows.append(row)
    return pd.DataFrame(rows)


_READERS: Final[Mapping[str, Callable[[Path], pd.DataFrame]]] = {
    ".parquet": pd.read_parquet,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": lambda path: _read_separated(path, ","),
    ".tsv": lambda path: _read_separated(path, "\t"),
}
SUFFIXES: Final = tuple(_READERS)


def fingerprint(files: Iterable[Path]) -> str:
    """Return 16 hexadecimal digits of the sha256 over the files, in the order of their names."""
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(f"{file.name} {file.stat().st_size}\n".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


def split_files(folder: Path, split: str, subset: str = "default") -> list[Path]:
    """Return the files of a split in a folder: one, or the numbered parts of one.

    They are called after the split, alone or with the subset before it (test.parquet,
    en_test.parquet, en/test.jsonl, data/test-00000-of-00002.parquet).

    Raises:
        InputError: several files claim to be it.
    """
    named = "|".join(map(re.escape, _SPLITS.get(split, (split,))))
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
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _READERS)


def _table_files(path: Path) -> dict[str, Path]:
    """Return the file of each split; one without splits stands under the empty name."""
    if not path.exists():
        raise InputError(f"there is no table {str(path)!r}; check the path.")
    if path.is_file():
        return {"": path}
    found = {split: split_files(path, split) for split in ("train", "test")}
    if any(len(files) > 1 for files in found.values()):
        raise InputError(f"expected one file a split in {str(path)!r}, found numbered parts.")
    files = {split: parts[0] for split, parts in found.items() if parts}
    if "test" in files:
        # Without train files the only split is as good as a file without splits.
        return files if "train" in files else {"": files["test"]}
    alone = _files(path)
    if len(alone) == 1:
        return {"": alone[0]}
    listed = ", ".join(file.name for file in alone) or "no table"
    raise InputError(
        f"expected files train and test ({', '.join(_READERS)}) in {str(path)!r}, found {listed}."
    )


# --- columns -----------------------------------------------------------------------------------


def parse_kind(name: str) -> str:
    """Return the kind of task that a name means, in any case.

    >>> parse_kind("clustering")
    'Clustering'
    """
    for kind in KINDS:
        if kind.lower() == name.lower():
            return kind
    raise unknown_name("kind of table", name, KINDS)


def infer_kind(frame: pd.DataFrame, where: str) -> str:
    """Tell by its columns what kind of task a table is.

    Raises:
        InputError: the columns of no kind.
    """
    for kind, roles in _COLUMNS.items():
        if all(_column(frame, role) for role in roles):
            return kind
    needs = "; ".join(
        f"{', '.join(roles)} ({kind})" for kind, roles in _COLUMNS.items() if kind != "Clustering"
    )
    raise InputError(
        f"the columns of {where!r} are those of no task: {_listed(frame)}. Expected {needs}."
    )


def canonical(frame: pd.DataFrame, kind: str, where: str) -> pd.DataFrame:
    """Return the columns of a kind of task under their canonical names, rows numbered anew.

    Raises:
        InputError: a column is missing or holds no texts.
    """
    found = {}
    for role in _COLUMNS[kind]:
        column = _column(frame, role)
        if column is None:
            raise InputError(
                f"a {kind} needs a column {role} (or {', '.join(_SYNONYMS[role][1:])}); "
                f"{where!r} has {_listed(frame)}."
            )
        found[role] = frame[column].tolist()
    if kind == "Reranking":
        for role in ("positive", "negative"):
            found[role] = [_texts(value, role, where) for value in found[role]]
    return pd.DataFrame(found)


def _column(frame: pd.DataFrame, role: str) -> str | None:
    lower = {str(column).lower(): str(column) for column in frame.columns}
    return next((lower[name] for name in _SYNONYMS[role] if name in lower), None)


def _listed(frame: pd.DataFrame) -> str:
    return ", ".join(map(str, frame.columns)) or "no columns"


def _texts(value: Any, role: str, where: str) -> list[str]:
    """Return a list of texts; in a file of plain text it is written as JSON, or is one text."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else [value]
    texts = list(value) if isinstance(value, list | tuple | np.ndarray) else None
    if texts is None or not all(isinstance(text, str) for text in texts):
        raise InputError(f"expected lists of texts in column {role} of {where!r}.")
    return texts


def unrolled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a text, where a row holds lists of them (as mteb's older data do)."""
    if isinstance(frame.iloc[0, 0], str):
        return frame
    rows = frame.explode(list(frame.columns), ignore_index=True)
    return rows.infer_objects()


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


# --- splits and labels -------------------------------------------------------------------------


def _by_split_column(frames: dict[str, pd.DataFrame], where: str) -> dict[str, pd.DataFrame]:
    """Return the parts of a single file that a column `split` tells apart."""
    if list(frames) != [""] or "split" not in frames[""].columns:
        return frames
    frame = frames[""]
    names = frame["split"].map(lambda name: str(name).lower())
    found = {split: frame[names.isin(words)] for split, words in _SPLITS.items()}
    if not len(found["train"]) or not len(found["test"]):
        came = ", ".join(sorted(names.unique())[:_LISTED])
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


def label_codes(
    columns: Sequence[Sequence[Any]], where: str
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Return labels as codes 0, 1, 2..., one coding for all columns, and what the codes stand for.

    Numbers keep their order, strings go by the alphabet.

    >>> label_codes([["b", "a"], ["b"]], "file")
    ([[1, 0], [1]], ('a', 'b'))
    """
    for column in columns:
        if missing := [row for row, label in enumerate(column) if _is_missing(label)]:
            raise InputError(
                f"rows {_rows(missing)} of {where!r} have no label; add it or remove them."
            )
    plain = [[_plain(label) for label in column] for column in columns]
    known = {label for column in plain for label in column}
    numbers = all(isinstance(label, int | float) for label in known)
    classes = sorted(known) if numbers else sorted(known, key=str)
    code = {label: number for number, label in enumerate(classes)}
    return [[code[label] for label in column] for column in plain], tuple(map(str, classes))


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))


def _plain(value: Any) -> Any:
    """Return a label as a plain number or string: 1.0 is 1."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rows(places: Sequence[int]) -> str:
    named = ", ".join(str(place + 1) for place in places[:_LISTED])
    return named + (", ..." if len(places) > _LISTED else "")


def strings(texts: pd.Series[Any], where: str) -> list[str]:
    """Return a column of texts; InputError names the rows that have none."""
    if bad := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
        raise InputError(
            f"expected a text in column {texts.name}, rows {_rows(bad)} of {where!r} have none."
        )
    return list(texts)


def numbers(scores: pd.Series[Any], where: str) -> list[float]:
    """Return a column of numbers; InputError names the rows that have none."""
    values = pd.to_numeric(scores, errors="coerce").astype(float)
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        raise InputError(f"expected a number as score, rows {_rows(bad)} of {where!r} have none.")
    return [float(value) for value in values]


def binary_labels(labels: pd.Series[Any], where: str) -> list[int]:
    """Return labels of pairs as 0 and 1, however they are written; InputError if they are others."""
    words = labels.map(lambda label: str(label).strip().lower())
    bad = np.flatnonzero(~words.isin([*_TRUE, *_FALSE])).tolist()
    if bad:
        raise InputError(
            f"expected labels 0 and 1 for pairs, row {bad[0] + 1} of {where!r} has "
            f"{labels.iloc[bad[0]]!r}; call the column score if it says how similar they are."
        )
    return [int(word in _TRUE) for word in words]


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
    named = ", ".join(repr(classes[label]) for label in unseen[:_LISTED])
    return [f"{texts} test texts have a label that train lacks and count as wrong: {named}."]
