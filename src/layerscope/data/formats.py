"""File formats: each reader turns an open file into a stream of texts and the name of their column.

Whatever a reader cannot use it refuses in one sentence; a missing value becomes an empty text, which
the gate counts.
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import pandas as pd

from layerscope.data.texts import Column
from layerscope.errors import InputError, unknown_name

ROWS: Final = 4096  # read at a time
_BLOCK: Final = 1 << 20

# An open file, the column asked for and the name for messages.
Reader = Callable[[BinaryIO, str | None, str], Column]


def refuse_options(where: str, **options: str | None) -> None:
    """Refuse options that this source has no use for, rather than ignore them."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{where} has no {option}s; leave out {option}={value!r}.")


def _require_utf8(stream: BinaryIO, where: str) -> None:
    """Read the stream once to its end and rewind it, so that readers after this cannot fail."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while block := stream.read(_BLOCK):
        pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut
        if not offset and block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise _not_utf8(where, 0, "UTF-16")
        if b"\0" in block:
            raise InputError(
                f"expected text, {where!r} is binary (a zero byte at offset "
                f"{offset + block.index(0)}); export the texts as .txt, .jsonl or .parquet."
            )
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            raise _not_utf8(where, offset - pending + error.start, "LATIN1") from None
        offset += len(block)
    if decoder.getstate()[0]:
        raise _not_utf8(where, offset - len(decoder.getstate()[0]), "LATIN1")
    stream.seek(0)


def _not_utf8(where: str, offset: int, guess: str) -> InputError:
    return InputError(
        f"expected UTF-8, {where!r} is not from byte {offset} on; convert it, for example with "
        f"iconv -f {guess} -t UTF-8."
    )


def _lines(stream: BinaryIO, where: str) -> Iterator[str]:
    r"""Yield the lines without their ends and the byte order mark; only \n and \r\n end a line."""
    _require_utf8(stream, where)
    for number, line in enumerate(stream):
        text = line.decode().rstrip("\r\n")
        yield text if number else text.removeprefix("\ufeff")


def _read_text_file(stream: BinaryIO, column: str | None, where: str) -> Column:
    refuse_options(where, column=column)
    return read_plain(stream, where)


def read_plain(stream: BinaryIO, where: str) -> Column:
    """Read plain text: paragraphs or lines, see `_plain_texts`."""
    return Column(None, _plain_texts(_lines(stream, where)))


def _plain_texts(lines: Iterable[str]) -> Iterator[str]:
    """Yield paragraphs if a blank line stands between two lines of text, else lines.

    Lines are held back only until the first such blank line, or the end, tells which it is.
    """
    held: list[str] = []
    lines = iter(lines)
    for line in lines:
        if line.strip() and held and not held[-1].strip() and any(map(str.strip, held)):
            yield from _paragraphs([*held, line], lines)
            return
        held.append(line)
    yield from (line for line in held if line.strip())


def _paragraphs(*parts: Iterable[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in (line for part in parts for line in part):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)


def _read_json_lines(stream: BinaryIO, column: str | None, where: str) -> Column:
    return read_rows(_json_rows(_lines(stream, where), where), column, where)


def read_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], column: str | None, where: str
) -> Column:
    """Read one column of rows, whose first one tells which columns hold strings.

    Args:
        rows: (its place for messages, column -> value), streamed.
        column: the one asked for, as for `choose_column`.
        where: the source's name, for messages.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return Column(column, ())
    chosen = _column_by_values(column, first[1], where)
    texts = (
        text_of_cell(row.get(chosen), chosen, f"{place} of {where!r}")
        for place, row in itertools.chain([first], rows)
    )
    return Column(chosen, texts)


def read_columns(
    columns: Mapping[str, Collection[object]], column: str | None, where: str
) -> Column:
    """Read one of several columns of plain values, whose first value that is not missing tells its type.

    Args:
        columns: name -> its values.
        column: the one asked for, as for `choose_column`.
        where: the source's name, for messages.
    """
    firsts = {
        name: next((value for value in values if not is_missing(value)), None)
        for name, values in columns.items()
    }
    if columns and not any(map(len, columns.values())):
        return Column(choose_column(column, list(columns), list(columns), where), ())
    chosen = _column_by_values(column, firsts, where)
    texts = (
        text_of_cell(value, chosen, f"row {place} of {where!r}")
        for place, value in enumerate(columns[chosen])
    )
    return Column(chosen, texts)


def _column_by_values(column: str | None, values: Mapping[str, Any], where: str) -> str:
    strings = [name for name, value in values.items() if isinstance(value, str)]
    # A missing value says nothing of the column's type.
    untold = [name for name, value in values.items() if is_missing(value) and name == column]
    return choose_column(column, list(values), strings + untold, where)


def is_missing(value: object) -> bool:
    """Whether a cell holds None, NaN or pandas' NA or NaT."""
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def text_of_cell(value: object, column: str, place: str) -> str:
    """Return a cell's text; a missing value is an empty one, which the gate counts.

    Raises:
        InputError: it holds something else.
    """
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise InputError(
            f"expected a string in column {column!r}, {place} holds {type(value).__name__}; "
            "choose another column or convert it."
        )
    return str(value)  # NumPy has a string type of its own


def _json_rows(lines: Iterable[str], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
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
        yield f"line {number}", row


def shortened(text: str, length: int = 40) -> str:
    """Return the start of a text in quotation marks."""
    return repr(text if len(text) <= length else text[:length] + "...")


def _read_csv(stream: BinaryIO, column: str | None, where: str) -> Column:
    return _read_separated(stream, column, where, ",")


def _read_tsv(stream: BinaryIO, column: str | None, where: str) -> Column:
    return _read_separated(stream, column, where, "\t")


def _read_separated(stream: BinaryIO, column: str | None, where: str, separator: str) -> Column:
    _require_utf8(stream, where)
    try:
        # The head is read with types, to know which columns are numbers.
        head = pd.read_csv(stream, sep=separator, nrows=ROWS, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        return Column(column, ())
    except pd.errors.ParserError as error:
        raise _broken_table(where, error) from None
    stream.seek(0)
    numeric = head.select_dtypes(["number", "bool"]).columns
    known = [str(name) for name in head.columns]
    strings = [str(name) for name in head.columns if name not in numeric]
    # Without a row there is no type to object to: the gate will say that there is no text.
    chosen = choose_column(column, known, strings if len(head) else known, where)
    return Column(chosen, _csv_texts(stream, chosen, where, separator))


def _csv_texts(stream: BinaryIO, column: str, where: str, separator: str) -> Iterator[str]:
    try:
        # As strings and without missing values: the texts "NA" and "007" stay what they are.
        chunks = pd.read_csv(
            stream,
            sep=separator,
            usecols=[column],
            dtype=str,
            na_filter=False,
            chunksize=ROWS,
            encoding="utf-8-sig",
        )
        for chunk in chunks:
            yield from chunk[column].tolist()
    except pd.errors.ParserError as error:
        raise _broken_table(where, error) from None


def _broken_table(where: str, error: Exception) -> InputError:
    reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
    return InputError(
        f"expected the same number of fields in every row, {where!r} cannot be read ({reason}); "
        "quote fields that hold the separator or a quotation mark."
    )


def _read_parquet(stream: BinaryIO, column: str | None, where: str) -> Column:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid:
        raise InputError(
            f"expected a parquet file, {where!r} is none or was cut off; write it again, or "
            "rename it after what it holds."
        ) from None
    chosen = choose_arrow_column(column, file.schema_arrow, where)
    batches = file.iter_batches(batch_size=ROWS, columns=[chosen])
    return Column(chosen, or_empty(batch.column(0).to_pylist() for batch in batches))


def choose_arrow_column(column: str | None, schema: Any, where: str) -> str:
    """Return the column to read of an Arrow table, whose schema tells which hold strings."""
    strings = [field.name for field in schema if _is_string(field.type)]
    return choose_column(column, schema.names, strings, where)


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def or_empty(batches: Iterable[Sequence[str | None]]) -> Iterator[str]:
    """Yield the texts of all batches, with a missing one as empty: the gate counts those."""
    for batch in batches:
        yield from (text or "" for text in batch)


def choose_column(
    column: str | None, known: Sequence[str], strings: Sequence[str], where: str
) -> str:
    """Return the column to read, which holds strings.

    Args:
        column: the one asked for; None stands for "text" or else the only one of strings.
        known: all columns.
        strings: those that hold strings.
        where: the source's name, for messages.

    Raises:
        InputError: there is no such column, it holds no strings, or the choice is open.
    """
    listed = ", ".join(known)
    if column is not None and column not in known:
        raise unknown_name(f"column of {where!r}:", column, known)
    if column is not None and column not in strings:
        raise InputError(
            f"expected strings in column {column!r}, it holds something else; "
            f"columns of {where!r} with strings: {', '.join(strings) or 'none'}."
        )
    if column is not None:
        return column
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    if not strings:
        raise InputError(f"expected a column of strings, {where!r} has only: {listed}.")
    raise InputError(
        f"expected one column of strings, {where!r} has {len(strings)} "
        f"({', '.join(strings)}); choose one with column (--column)."
    )


READERS: Final[dict[str, Reader]] = {
    ".txt": _read_text_file,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
