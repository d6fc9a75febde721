"""Tables, read part by part: files of rows, and tables of any library that are in Python already.

Texts take one column of a table, labelled data take all of them. A table that cannot be read is
refused in one sentence.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd

from layerscope.data.files import lines_of, open_file, require_utf8
from layerscope.errors import InputError, unknown_name

_ROWS: Final = 4096  # in one part
_STREAMED_ROWS: Final = 16  # in one part of a stream, where a row may be slow to come

# Named columns (None for all) -> data frames of the next rows.
Parts = Callable[[list[str] | None], Iterable[pd.DataFrame]]


@dataclass(frozen=True)
class Rows:
    """The rows of a table, read part by part.

    Attributes:
        name: the name of the source, for messages.
        columns: the names of all columns.
        strings: those that hold strings, by their type or by the first rows.
        parts: reads the rows; may be called only once.
        untyped: columns without a value in the first rows, which may be of strings.
        unit: what the index of a part counts, for messages.
        streamed: whether reading on is slow or never ends, so that only the first rows are wanted.

    Raises:
        InputError: two columns have the same name.
    """

    name: str
    columns: Sequence[str]
    strings: Sequence[str]
    parts: Parts
    untyped: Sequence[str] = ()
    unit: str = "row"
    streamed: bool = False

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise InputError(
                f"expected one column of each name, {self.name!r} has {', '.join(self.columns)}; "
                "rename them."
            )

    def frame(self) -> pd.DataFrame:
        """Return all rows, numbered from 0."""
        parts = list(self.parts(None))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def texts(self, column: str) -> Iterator[str]:
        """Yield the texts of a column; a missing value is an empty text.

        Raises:
            InputError: a cell holds something else.
        """
        for part in self.parts([column]):
            for place, value in zip(part.index, part[column].tolist(), strict=True):
                if is_missing(value):
                    yield ""
                elif isinstance(value, str):
                    yield str(value)  # NumPy has a string type of its own
                else:
                    raise InputError(
                        f"expected a string in column {column!r}, {self.unit} {place} of "
                        f"{self.name!r} holds {type(value).__name__}; choose another column or "
                        "convert it."
                    )

    def choose(self, column: str | None) -> str:
        """Return the column to read texts from: the one asked for, "text", or the only one of strings.

        Raises:
            InputError: there is no such column, it holds no strings, or the choice is open.
        """
        strings = [*self.strings, *(name for name in self.untyped if name == column)]
        if column is not None and column not in self.columns:
            raise unknown_name(f"column of {self.name!r}:", column, self.columns)
        if column is not None and column not in strings:
            raise InputError(
                f"expected strings in column {column!r}, it holds something else; "
                f"columns of {self.name!r} with strings: {', '.join(strings) or 'none'}."
            )
        if column is not None:
            return column
        if "text" in strings:
            return "text"
        if len(strings) == 1:
            return strings[0]
        if not strings:
            raise InputError(
                f"expected a column of strings, {self.name!r} has only: {', '.join(self.columns)}."
            )
        raise InputError(
            f"expected one column of strings, {self.name!r} has {len(strings)} "
            f"({', '.join(strings)}); choose one with column (--column)."
        )


def is_missing(value: object) -> bool:
    """Whether a cell holds None, NaN or pandas' NA or NaT."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _of_frame(frame: pd.DataFrame, name: str) -> Rows:
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    frame = frame.reset_index(drop=True)
    columns = list(frame.columns)
    if len(set(columns)) < len(columns):
        return Rows(name, columns, (), lambda _: ())
    strings, untyped = _strings_in(frame)
    return Rows(
        name, columns, strings, lambda chosen: [frame[chosen or columns]], untyped=untyped
    )  # fmt: skip


def _strings_in(frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the columns of strings by their first value, and those without a value."""
    if not len(frame):  # nothing objects to any column
        return list(frame.columns), []
    firsts = {
        column: next((value for value in frame[column] if not is_missing(value)), None)
        for column in frame.columns
    }
    strings = [column for column, value in firsts.items() if isinstance(value, str)]
    return strings, [column for column, value in firsts.items() if value is None]


def _of_arrow(schema: Any, batches: Callable[[list[str] | None], Iterable[Any]], name: str) -> Rows:
    def parts(columns: list[str] | None) -> Iterator[pd.DataFrame]:
        for batch in batches(columns):
            yield pd.DataFrame(batch.to_pydict(), dtype=object)

    return Rows(name, schema.names, _strings_of(schema), parts)


def _strings_of(schema: Any) -> list[str]:
    import pyarrow as pa

    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    kinds = {
        field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        for field in schema
    }
    return [name for name, kind in kinds.items() if any(check(kind) for check in checks)]


def rows_of_dicts(
    rows: Iterable[tuple[int, Any]], name: str, *, unit: str = "row", streamed: bool = False
) -> Rows:
    """Return the rows of a stream of dicts, whose first ones show which columns hold strings.

    Args:
        rows: (number for messages, column -> value).
        name: the name of the source, for messages.
        unit: what the numbers count.
        streamed: as of `Rows`.
    """
    found = _dict_parts(rows, _STREAMED_ROWS if streamed else _ROWS)
    first = next(found, pd.DataFrame())
    strings, untyped = _strings_in(first)
    return Rows(
        name, list(first.columns), strings,
        lambda columns: (
            part if columns is None else part.reindex(columns=columns)
            for part in itertools.chain([first], found)
        ),
        untyped=untyped, unit=unit, streamed=streamed,
    )  # fmt: skip


def _dict_parts(rows: Iterable[tuple[int, Any]], size: int) -> Iterator[pd.DataFrame]:
    rows = iter(rows)
    while part := list(itertools.islice(rows, size)):
        for number, row in part:
            if not isinstance(row, Mapping):
                raise InputError(
                    f"expected a dict of columns in every row, row {number} is "
                    f"{type(row).__name__}."
                )
        columns = dict.fromkeys(column for _, row in part for column in row)
        yield pd.DataFrame(
            {column: [row.get(column) for _, row in part] for column in columns},
            index=[number for number, _ in part],
            dtype=object,
        )


# --- objects -----------------------------------------------------------------------------------


def rows_of(given: Any) -> Rows | None:
    """Return the rows of a table that is in Python; None for something without columns.

    Args:
        given: a table of pandas, polars, Arrow or `datasets`, a dict of columns or a list of rows.

    Raises:
        InputError: a table that cannot be read.
    """
    name = type(given).__name__
    if isinstance(given, pd.DataFrame):
        return _of_frame(given, name)
    if isinstance(given, Mapping):
        return _of_columns(given, name)
    if isinstance(given, list | tuple) and given and isinstance(given[0], Mapping):
        return rows_of_dicts(enumerate(given), name)
    if not is_table(given):
        return None
    if hasattr(given, "features"):
        return rows_of_dataset(given, name)
    if hasattr(given, "__arrow_c_stream__"):
        import pyarrow as pa

        table = pa.table(given)
        return _of_arrow(
            table.schema,
            lambda columns: table.select(columns or table.column_names).to_batches(_ROWS),
            name,
        )
    return _of_frame(given.to_pandas(), name)


def is_table(given: Any) -> bool:
    """Whether this is a table of any library: something with named columns."""
    return isinstance(given, pd.DataFrame) or (
        any(hasattr(given, name) for name in ("column_names", "columns"))
        and any(hasattr(given, name) for name in ("features", "__arrow_c_stream__", "to_pandas"))
    )


def _of_columns(given: Mapping[Any, Any], name: str) -> Rows:
    columns = {str(key): _values_of(key, values) for key, values in given.items()}
    lengths = list(dict.fromkeys(map(len, columns.values())))
    if len(lengths) > 1:
        raise InputError(
            f"expected columns of one length in {name!r}, got {', '.join(map(str, lengths))}."
        )
    return _of_frame(pd.DataFrame(columns, dtype=object), name)


def _values_of(key: object, values: Any) -> list[object]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(
            f"expected a list of texts in column {str(key)!r}, got {type(values).__name__}; "
            "give a dict of columns, a list for each."
        )
    return list(plain_values(values))


def plain_values(values: Any) -> Iterable[object]:
    """Return values as Python's own, not as scalars of the library that holds them."""
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            found: Iterable[object] = getattr(values, method)()
            return found
    plain: Iterable[object] = values
    return plain


def rows_of_dataset(data: Any, name: str) -> Rows:
    """Return the rows of a `datasets.Dataset` or `datasets.IterableDataset`."""
    streamed = not hasattr(data, "__len__")
    if data.features is None:  # a stream that was given no types
        return rows_of_dicts(enumerate(data), name, streamed=streamed)
    schema = data.features.arrow_schema
    if not streamed:
        return _of_arrow(
            schema,
            lambda columns: (
                data.select_columns(columns or schema.names).with_format("arrow").iter(_ROWS)
            ),
            name,
        )
    return Rows(
        name, schema.names, _strings_of(schema),
        lambda columns: _dict_parts(
            enumerate(data.select_columns(columns or schema.names)), _STREAMED_ROWS
        ),
        streamed=True,
    )  # fmt: skip


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


# --- files -------------------------------------------------------------------------------------


@contextmanager
def open_table(path: Path) -> Iterator[Rows]:
    """Open a file of rows; they can be read until the block ends.

    Raises:
        InputError: not a table, or not readable as what its name says.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"expected a table that ends in {', '.join(SUFFIXES)}, got {path.name!r}.")
    with open_file(path) as stream:
        try:
            yield reader(stream, path.name)
        except InputError:
            raise
        except (OSError, ValueError) as error:  # pandas and pyarrow derive theirs from these
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(f"the table {str(path)!r} cannot be read ({reason}).") from error


def _read_json_lines(stream: BinaryIO, where: str) -> Rows:
    return rows_of_dicts(_json_rows(lines_of(stream, where), where), where, unit="line")


def _json_rows(lines: Iterable[str], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f"expected one JSON object a line, line {number} of {where!r} is "
                f"{shortened(line)}; write one object a line, as jq -c does."
            )
        yield number, row


def shortened(text: str, length: int = 40) -> str:
    """Return the start of a text in quotation marks."""
    return repr(text if len(text) <= length else text[:length] + "...")


def _read_separated(stream: BinaryIO, where: str, separator: str = ",") -> Rows:
    require_utf8(stream, where)
    try:
        # The head is read with types, to know which columns are numbers.
        head = pd.read_csv(stream, sep=separator, nrows=_ROWS, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        return Rows(where, (), (), lambda _: ())
    except pd.errors.ParserError as error:
        raise _broken_table(where, error) from None
    columns = [str(name) for name in head.columns]
    numeric = head.select_dtypes(["number", "bool"]).columns
    # Without a row there is no type to object to.
    strings = [name for name in columns if name not in numeric] if len(head) else columns

    def parts(chosen: list[str] | None) -> Iterator[pd.DataFrame]:
        stream.seek(0)
        try:
            # As strings and without missing values: the texts "NA" and "007" stay what they are.
            yield from pd.read_csv(
                stream, sep=separator, usecols=chosen, dtype=str, na_filter=False,
                chunksize=_ROWS, encoding="utf-8-sig",
            )  # fmt: skip
        except pd.errors.ParserError as error:
            raise _broken_table(where, error) from None

    return Rows(where, columns, strings, parts)


def _broken_table(where: str, error: Exception) -> InputError:
    reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
    return InputError(
        f"expected the same number of fields in every row, {where!r} cannot be read ({reason}); "
        "quote fields that hold the separator or a quotation mark."
    )


def _read_parquet(stream: BinaryIO, where: str) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid:
        raise InputError(
            f"expected a parquet file, {where!r} is none or was cut off; write it again, or "
            "rename it after what it holds."
        ) from None
    return _of_arrow(
        file.schema_arrow, lambda columns: file.iter_batches(_ROWS, columns=columns), where
    )


_READERS: Final[Mapping[str, Callable[[BinaryIO, str], Rows]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_separated,
    ".tsv": lambda stream, where: _read_separated(stream, where, "\t"),
    ".parquet": _read_parquet,
}
SUFFIXES: Final = tuple(_READERS)
