"""Columns of labelled data: what kind of task they make, their canonical names, usable values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.tables import is_missing
from layerscope.errors import InputError, unknown_name

KINDS: Final = (
    "Classification", "Clustering", "PairClassification", "Reranking", "Retrieval", "STS",
)  # fmt: skip

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
_TRUE: Final = ("1", "1.0", "true", "yes")
_FALSE: Final = ("0", "0.0", "false", "no")
LISTED: Final = 5  # rows named in a message


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
    """Infer from its columns what kind of task a table is.

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


# --- values ------------------------------------------------------------------------------------


def label_codes(
    columns: Sequence[Sequence[Any]], where: str
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Return labels as codes 0, 1, 2..., one coding for all columns, and what the codes stand for.

    Numbers keep their order, strings go by the alphabet.

    >>> label_codes([["b", "a"], ["b"]], "file")
    ([[1, 0], [1]], ('a', 'b'))
    """
    for column in columns:
        if missing := [row for row, label in enumerate(column) if is_missing(label) or label == ""]:
            raise InputError(
                f"rows {row_numbers(missing)} of {where!r} have no label; add it or remove them."
            )
    plain = [[_plain(label) for label in column] for column in columns]
    known = {label for column in plain for label in column}
    numbers = all(isinstance(label, int | float) for label in known)
    classes = sorted(known) if numbers else sorted(known, key=str)
    code = {label: number for number, label in enumerate(classes)}
    return [[code[label] for label in column] for column in plain], tuple(map(str, classes))


def _plain(value: Any) -> Any:
    """Return a label as a plain number or string: 1.0 is 1."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def row_numbers(places: Sequence[int]) -> str:
    """Return the first of some rows for a message, counted from 1."""
    named = ", ".join(str(place + 1) for place in places[:LISTED])
    return named + (", ..." if len(places) > LISTED else "")


def strings(texts: pd.Series[Any], where: str) -> list[str]:
    """Return a column of texts; InputError names the rows that have none."""
    if bad := [place for place, text in enumerate(texts) if not isinstance(text, str)]:
        raise InputError(
            f"expected a text in column {texts.name}, rows {row_numbers(bad)} of {where!r} have none."
        )
    return list(texts)


def numbers(scores: pd.Series[Any], where: str) -> list[float]:
    """Return a column of numbers; InputError names the rows that have none."""
    values = pd.to_numeric(scores, errors="coerce").astype(float)
    if bad := np.flatnonzero(~np.isfinite(values)).tolist():
        raise InputError(
            f"expected a number as score, rows {row_numbers(bad)} of {where!r} have none."
        )
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
