"""Retrieval data in the BEIR layout: a corpus, queries, and which texts are relevant to which query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.data.tables import is_missing
from layerscope.errors import InputError
from layerscope.evaluation.labels import LISTED, row_numbers, strings

RETRIEVAL: Final = "Retrieval"
CORPUS: Final = "corpus"
QUERIES: Final = "queries"
_FILES: Final = {CORPUS: "corpus.jsonl", QUERIES: "queries.jsonl"}
_QRELS: Final = "qrels"
_ID: Final = "_id"
_JUDGED: Final = ("query-id", "corpus-id", "score")


def is_beir(path: Path) -> bool:
    """Whether a path is a folder laid out as those of BEIR, perhaps with a file missing."""
    return path.is_dir() and any((path / name).exists() for name in (*_FILES.values(), _QRELS))


def beir_files(folder: Path, split: str) -> dict[str, list[Path]]:
    """Return the files of a folder: those of the corpus, of the queries, and of the split's qrels.

    Raises:
        InputError: one is missing.
    """
    names = {**_FILES, split: f"{_QRELS}/{split}.tsv"}
    if missing := [name for name in names.values() if not (folder / name).is_file()]:
        expected = " and ".join([", ".join(_FILES.values()), names[split]])
        raise InputError(
            f"expected {expected} in the BEIR layout of {str(folder)!r}, {missing[0]} is missing; "
            "add it."
        )
    return {part: [folder / name] for part, name in names.items()}


def checked_retrieval(frames: Mapping[str, pd.DataFrame], where: str) -> dict[str, pd.DataFrame]:
    """Return the parts of retrieval data under canonical column names.

    Args:
        frames: "corpus" with columns _id, text and perhaps title; "queries" with _id and text; for each
            split its qrels with query-id, corpus-id and score.
        where: the folder, for messages.

    Returns:
        The same parts with these columns alone: ids are strings, a text without a title has an
        empty one, scores are whole numbers. Texts of 0 or less are not relevant.

    Raises:
        InputError: a column or value is missing, an id stands twice or is unknown, or nothing is
            relevant.
    """
    found = {part: _texts(frames[part], f"{where}/{name}") for part, name in _FILES.items()}
    for split in frames.keys() - _FILES.keys():
        judged = _judgments(frames[split], f"{where}/{_QRELS}/{split}.tsv")
        for column, part in (("query-id", QUERIES), ("corpus-id", CORPUS)):
            _refuse_unknown(judged[column], found[part][_ID], _FILES[part], where)
        if not (judged["score"] > 0).any():
            raise InputError(
                f"no score in the qrels of {where!r} is above 0, so no text is relevant to any query; "
                "expected 1 or more for those that are."
            )
        found[split] = judged
    return found


def notes_on(qrels: pd.DataFrame) -> list[str]:
    """Say how many queries have nothing to find."""
    best = qrels.groupby("query-id")["score"].max()
    lost = int((best <= 0).sum())
    if not lost:
        return []
    return [f"{lost} of {len(best)} queries have no text with a score above 0 and count as 0."]


def retrieval_split(frames: Mapping[str, pd.DataFrame], split: str) -> dict[str, Any]:
    """Return checked parts as mteb's retrieval tasks hold a split: queries without qrels are left out."""
    from datasets import Dataset

    corpus, queries, judged = frames[CORPUS], frames[QUERIES], frames[split]
    relevant: dict[str, dict[str, int]] = {}
    for query, text, score in judged[list(_JUDGED)].itertuples(index=False, name=None):
        relevant.setdefault(query, {})[text] = score
    asked = queries[queries[_ID].isin(relevant)]
    return {
        "corpus": Dataset.from_dict(
            {"id": list(corpus[_ID]), "title": list(corpus["title"]), "text": list(corpus["text"])}
        ),
        "queries": Dataset.from_dict({"id": list(asked[_ID]), "text": list(asked["text"])}),
        "relevant_docs": relevant,
        "top_ranked": None,
    }


def _texts(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return ids, titles and texts."""
    _require(frame, (_ID, "text"), where)
    ids = _ids(frame[_ID], where)
    if repeated := [each for each, again in zip(ids, ids.duplicated(), strict=True) if again]:
        raise InputError(
            f"expected every {_ID} of {where!r} once, {repeated[0]!r} stands there more often; "
            "remove the others."
        )
    titles = frame["title"].tolist() if "title" in frame else [""] * len(frame)
    return pd.DataFrame(
        {
            _ID: ids,
            "title": ["" if is_missing(title) else str(title) for title in titles],
            "text": strings(frame["text"], where),
        }
    )


def _judgments(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    _require(frame, _JUDGED, where)
    scores = pd.to_numeric(frame["score"], errors="coerce").astype(float)
    if bad := np.flatnonzero(scores.isna() | (scores % 1 != 0)).tolist():
        raise InputError(
            f"expected a whole number as score, rows {row_numbers(bad)} of {where!r} have none."
        )
    ids = {column: _ids(frame[column], where) for column in _JUDGED[:2]}
    return pd.DataFrame(ids | {"score": [int(score) for score in scores]})


def _require(frame: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    if any(column not in frame for column in columns):
        raise InputError(
            f"expected the columns {', '.join(columns)} in {where!r}, found "
            f"{', '.join(map(str, frame.columns))}."
        )


def _ids(column: pd.Series[Any], where: str) -> pd.Series[str]:
    """Return ids as strings, also those that are written as numbers."""
    if missing := [row for row, value in enumerate(column) if is_missing(value) or value == ""]:
        raise InputError(
            f"expected an id in column {column.name}, rows {row_numbers(missing)} of {where!r} have "
            "none; add it or remove them."
        )
    return column.map(str)


def _refuse_unknown(ids: pd.Series[str], known: pd.Series[str], file: str, where: str) -> None:
    unknown = list(dict.fromkeys(ids[~ids.isin(known)]))
    if unknown:
        listed = ", ".join(map(repr, unknown[:LISTED])) + (", ..." if len(unknown) > LISTED else "")
        raise InputError(
            f"the qrels of {where!r} name ids that {file} lacks: {listed}; add those texts or remove "
            "the rows."
        )
