"""Texts that are in Python already: lists, columns, tables, datasets and dicts of them.

A table of any library is read as a file of the same columns would be: its column is chosen by
`choose_column`, and a missing value is an empty text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerscope.data.formats import (
    ROWS,
    choose_arrow_column,
    choose_column,
    is_missing,
    or_empty,
    read_columns,
    read_rows,
    refuse_options,
)
from layerscope.data.texts import Column, Texts, keep
from layerscope.errors import InputError, unknown_name
from layerscope.settings import DEFAULT_LIMIT


def as_texts(
    texts: Any,
    *,
    column: str | None = None,
    split: str | None = None,
    name: str = "texts",
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
) -> Texts:
    """Take texts that are already in Python through the same gate as those of a file.

    >>> kept = as_texts(["one text", "another", "one text", " "])
    >>> kept.texts, kept.dropped_duplicates, kept.dropped_empty
    (('one text', 'another'), 1, 1)

    Args:
        texts: a list, tuple or any other iterable of strings; a NumPy array, pandas Series or other
            column of strings; a set, which has no order and is sorted; a table (a data frame of pandas
            or polars, an Arrow table, a `datasets.Dataset`, a dict of columns, a list of rows); or a
            dict of splits, such as a `datasets.DatasetDict`. A missing value in a column is an empty
            text, as in a file. A `datasets.IterableDataset` is read only until `limit` texts are kept,
            so these are its first ones instead of a random subset.
        column: of a table; by default "text" or else the only column of strings.
        split: of a dict of splits; by default "train", or the only one.
        name: what the record calls the source.
        limit: the most texts to keep; None keeps all.
        seed: of the random subset that is kept when there are more.

    Raises:
        InputError: a single string, something that is no string, no such column or split, or no text
            left.
    """
    return keep(_read(texts, column, split), name, limit=limit, seed=seed)


def _read(given: Any, column: str | None, split: str | None) -> Column:
    kind = type(given).__name__
    if isinstance(given, str | bytes | bytearray):
        raise InputError(
            f"expected a list of texts, one {kind} came; "
            "put it into a list, or read a file with read_texts."
        )
    if isinstance(given, Mapping) and (split is not None or holds_tables(given)):
        return _read(given[choose_split(split, list(given), kind)], column, None)
    refuse_options(kind, split=split)
    if isinstance(given, Mapping):
        columns = {str(key): _values_of_column(key, values) for key, values in given.items()}
        return read_columns(columns, column, kind)
    if is_table(given):
        return _read_table(given, column, kind)
    return _read_values(given, column, kind)


def is_table(given: Any) -> bool:
    """Whether this is a table of any library: something with named columns."""
    return isinstance(given, pd.DataFrame) or (
        any(hasattr(given, name) for name in ("column_names", "columns"))
        and any(hasattr(given, name) for name in ("features", "__arrow_c_stream__", "to_pandas"))
    )


def holds_tables(given: Mapping[Any, Any]) -> bool:
    """Whether a dict holds splits, each a table, rather than columns."""
    return bool(given) and all(
        is_table(value) or isinstance(value, Mapping) for value in given.values()
    )


def choose_split(split: str | None, known: Sequence[str], where: str) -> str:
    """Return the split to read: the one asked for, else "train" or the only one.

    Raises:
        InputError: there is no such split, or the choice is open.
    """
    if split is not None and split not in known:
        raise unknown_name(f"split of {where!r}:", split, known)
    if split is not None:
        return split
    if "train" in known:
        return "train"
    if len(known) == 1:
        return known[0]
    raise InputError(f"expected one split, {where!r} has {', '.join(known)}; choose one.")


# --- tables ------------------------------------------------------------------------------------


def _read_table(table: Any, column: str | None, where: str) -> Column:
    if hasattr(table, "features"):
        return read_dataset(table, column, where)
    if not isinstance(table, pd.DataFrame) and hasattr(table, "__arrow_c_stream__"):
        return _read_arrow(table, column, where)
    frame = table if isinstance(table, pd.DataFrame) else table.to_pandas()
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise InputError(
            f"expected one column of each name, {where!r} has {', '.join(names)}; rename them."
        )
    columns = {name: frame.iloc[:, place] for place, name in enumerate(names)}
    return read_columns(columns, column, where)


def _read_arrow(table: Any, column: str | None, where: str) -> Column:
    import pyarrow as pa

    rows = pa.table(table)
    chosen = choose_arrow_column(column, rows.schema, where)
    batches = rows.select([chosen]).to_batches(max_chunksize=ROWS)
    return Column(chosen, or_empty(batch.column(0).to_pylist() for batch in batches))


def read_dataset(rows: Any, column: str | None, where: str) -> Column:
    """Read a column of a `datasets.Dataset` or `datasets.IterableDataset`."""
    streamed = not hasattr(rows, "__len__")
    if rows.features is None:  # a stream that has not been told its types
        found = read_rows(((f"row {n}", row) for n, row in enumerate(rows)), column, where)
        return Column(found.name, found.texts, streamed=True)
    strings = [name for name, kind in rows.features.items() if _is_string_feature(kind)]
    chosen = choose_column(column, list(rows.features), strings, where)
    narrow = rows.select_columns([chosen])
    if streamed:
        return Column(chosen, or_empty([row[chosen]] for row in narrow), streamed=True)
    return Column(
        chosen,
        or_empty(batch[chosen] for batch in narrow.with_format(None).iter(batch_size=ROWS)),
    )


def _is_string_feature(kind: object) -> bool:
    return str(getattr(kind, "dtype", "")) in {"string", "large_string"}


# --- lists and columns -------------------------------------------------------------------------


def _values_of_column(name: object, values: Any) -> list[object]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(
            f"expected a list of texts in column {str(name)!r}, got {type(values).__name__}; "
            "give a dict of columns, a list for each."
        )
    return list(_plain_values(values))


def _plain_values(values: Any) -> Iterable[object]:
    """Return values as Python's own, not as scalars of the library that holds them."""
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            found: Iterable[object] = getattr(values, method)()
            return found
    plain: Iterable[object] = values
    return plain


def _read_values(given: Any, column: str | None, where: str) -> Column:
    if not isinstance(given, Iterable):
        raise InputError(
            f"expected texts (a list, a table, or the name of a file or dataset), got {where}."
        )
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise InputError(f"expected an array of texts along one axis, got the shape {given.shape}.")
    values = iter(_plain_values(given))
    first = list(itertools.islice(values, 1))
    whole: Iterator[object] = itertools.chain(first, values)
    if first and isinstance(first[0], Mapping):
        return read_rows(_rows(whole), column, where)
    refuse_options(where, column=column)
    if isinstance(given, set | frozenset):
        whole = iter(sorted(_only_strings(whole)))
    if _is_column(given):
        whole = ("" if is_missing(value) else value for value in whole)
    return Column(None, _only_strings(whole))


def _is_column(given: Any) -> bool:
    """Whether this was taken out of a table, in which values may be missing."""
    ours = isinstance(given, list | tuple | np.ndarray)
    columnar = hasattr(given, "to_list") or hasattr(given, "to_pylist")
    return not ours and (columnar or type(given).__module__.startswith("datasets."))


def _rows(values: Iterable[object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, row in enumerate(values):
        if not isinstance(row, Mapping):
            raise InputError(
                f"expected a dict of columns in every row, row {place} is {type(row).__name__}."
            )
        yield f"row {place}", row


def _only_strings(texts: Iterable[object]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "NaN" if is_missing(text) and text is not None else type(text).__name__
            raise InputError(
                f"expected every text to be a str, text {index} is "
                f"{'None' if text is None else kind}; convert it or leave it out."
            )
        yield str(text)
