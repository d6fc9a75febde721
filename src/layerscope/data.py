"""Texts in: one function that reads them from a file, standard input, a dataset or the sample.

Whatever the door, the texts pass one gate: empty ones and exact duplicates are dropped and counted,
and of more than `limit` a seeded random subset is kept in the original order. Sources are streamed,
so only the kept texts and a 16-byte digest of each distinct one are held in memory.

The built-in sample is public-domain prose; SAMPLE.md beside this file says from where.
"""

from __future__ import annotations

import codecs
import difflib
import hashlib
import heapq
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd

from layerscope.errors import InputError, unknown_name

DEFAULT_LIMIT: Final = 1000
SAMPLE: Final = "sample"
STANDARD_INPUT: Final = "-"

_BLOCK: Final = 1 << 20
_ROWS: Final = 4096
# A hub id has at most one slash and may be followed by a configuration: "owner/name:config".
_DATASET_ID: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


@dataclass(frozen=True)
class Texts:
    """The texts that are measured, and how they came to be these.

    Attributes:
        texts: the kept texts, in the order of the source.
        name: a short label: file name, dataset id, "sample".
        fingerprint: 16 hexadecimal digits of the sha256 over the kept texts in order.
        dropped_duplicates: how many repeated an earlier text exactly.
        dropped_empty: how many held nothing but white space.
        total_read: how many texts the source holds, dropped ones included.
        source: what the user named.
        column: the column read, None where the source has no columns.
        seed: of the random subset; without effect unless `sampled`.
    """

    texts: tuple[str, ...]
    name: str
    fingerprint: str
    dropped_duplicates: int
    dropped_empty: int
    total_read: int
    source: str
    column: str | None
    seed: int

    def __len__(self) -> int:
        """Return the number of kept texts."""
        return len(self.texts)

    @property
    def distinct(self) -> int:
        """How many distinct non-empty texts the source holds."""
        return self.total_read - self.dropped_duplicates - self.dropped_empty

    @property
    def sampled(self) -> bool:
        """Whether these are a random subset of the distinct texts."""
        return len(self.texts) < self.distinct


@dataclass(frozen=True)
class _Column:
    """A stream of texts and the column that they come from."""

    name: str | None
    texts: Iterable[str]


def read_texts(
    source: str | Path,
    *,
    column: str | None = None,
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
    split: str | None = None,
) -> Texts:
    """Read texts from a file, standard input ("-"), the built-in "sample" or a dataset id.

    Args:
        source: .txt (paragraphs if blank lines separate them, otherwise one text a line),
            .jsonl or .json (one object a line), .csv, .tsv, .parquet, "-" (read like .txt),
            "sample", or a datasets id "owner/name" or "owner/name:config". A `Path` is always a
            file, so `Path("sample")` is the file of that name.
        column: where the texts are; by default "text" or else the only column of strings.
        limit: the most texts to keep; None keeps all.
        seed: of the random subset that is kept when there are more.
        split: of a datasets id; by default "train", or the only one.

    Raises:
        InputError: nothing readable there, no such column, or no text left.
    """
    if source == SAMPLE and isinstance(source, str):
        _refuse_options(source, column=column, split=split)
        stream = io.BytesIO(resources.files("layerscope").joinpath("sample.txt").read_bytes())
        return _keep(_read_plain(stream, SAMPLE), SAMPLE, limit=limit, seed=seed)
    if source == STANDARD_INPUT and isinstance(source, str):
        _refuse_options("standard input", column=column, split=split)
        stream = io.BytesIO(sys.stdin.buffer.read())
        plain = _read_plain(stream, "standard input")
        return _keep(plain, STANDARD_INPUT, name="standard input", limit=limit, seed=seed)
    path = Path(source).expanduser()
    if path.exists() or _looks_like_a_file(source):
        return _read_file(path, column=column, limit=limit, seed=seed, split=split)
    found = _read_dataset(str(source), column, split)
    return _keep(found, str(source), limit=limit, seed=seed)


def as_texts(
    texts: Iterable[str], *, name: str = "texts", limit: int | None = DEFAULT_LIMIT, seed: int = 0
) -> Texts:
    """Take texts that are already in Python through the same gate as those of a file.

    >>> kept = as_texts(["one text", "another", "one text", " "])
    >>> kept.texts, kept.dropped_duplicates, kept.dropped_empty
    (('one text', 'another'), 1, 1)

    Raises:
        InputError: a single string, something that is no string, or no text left.
    """
    if isinstance(texts, str | bytes):
        raise InputError(
            f"expected a list of texts, one {type(texts).__name__} came; "
            "put it into a list, or read a file with read_texts."
        )
    return _keep(_Column(None, _only_strings(texts)), name, limit=limit, seed=seed)


def _only_strings(texts: Iterable[object]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"expected every text to be a str, text {index} is {type(text).__name__}; "
                "convert it or leave it out."
            )
        yield text


# The gate


def _keep(
    found: _Column, source: str, *, name: str | None = None, limit: int | None, seed: int
) -> Texts:
    """Drop empty and repeated texts and keep at most `limit`.

    The subset is the `limit` texts of least seeded digest: uniform, independent of the order and
    the format of the source, and a smaller limit keeps a subset of what a larger one keeps.
    """
    if limit is not None and limit < 1:
        raise InputError(f"expected a limit of at least 1 text, {limit} came.")
    seen: set[bytes] = set()
    heap: list[tuple[int, int, str]] = []  # (minus the digest, index, text): the worst is first
    empty = total = 0
    for text in found.texts:
        total += 1
        if not text.strip():
            empty += 1
            continue
        digest = _digest(text, seed, total)
        if digest in seen:
            continue
        seen.add(digest)
        entry = (-int.from_bytes(digest), total, text)
        if limit is None or len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    if not seen:
        held = f"its {total} texts are all white space" if total else "it is empty"
        raise InputError(f"expected texts in {source!r}, but {held}; give it at least one text.")
    texts = tuple(text for _, _, text in sorted(heap, key=lambda entry: entry[1]))
    return Texts(
        texts=texts,
        name=name or source,
        fingerprint=_fingerprint(texts),
        dropped_duplicates=total - empty - len(seen),
        dropped_empty=empty,
        total_read=total,
        source=source,
        column=found.name,
        seed=seed,
    )


def _digest(text: str, seed: int, number: int) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"expected Unicode text, text {number} holds a lone surrogate at character "
            f"{error.start}; remove it or decode the source again."
        ) from None
    return hashlib.blake2b(data, digest_size=16, key=str(seed).encode()).digest()


def _fingerprint(texts: Sequence[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        data = text.encode()
        total.update(len(data).to_bytes(8))  # lengths keep ["ab", "c"] apart from ["a", "bc"]
        total.update(data)
    return total.hexdigest()[:16]


# Files


def _read_file(
    path: Path, *, column: str | None, limit: int | None, seed: int, split: str | None
) -> Texts:
    _refuse_options(path.name, split=split)
    reader = _reader_of(path)
    try:
        with path.open("rb") as stream:
            found = reader(stream, column, path.name)
            return _keep(found, str(path), name=path.name, limit=limit, seed=seed)
    except PermissionError:
        raise InputError(
            f"expected a readable file, {str(path)!r} may not be read by this user; "
            "change its permissions or copy it."
        ) from None


def _reader_of(path: Path) -> Callable[[BinaryIO, str | None, str], _Column]:
    if path.is_dir():
        raise InputError(
            f"expected a file, {str(path)!r} is a folder; name one of the files in it "
            f"({_expected_suffixes()})."
        )
    if not path.exists():
        raise InputError(f"there is no file {str(path)!r}; {_close_files(path)}")
    if path.suffix.lower() not in _READERS:
        raise InputError(
            f"expected a file that ends in {_expected_suffixes()}, {path.name!r} came; "
            "rename it after what it holds."
        )
    return _READERS[path.suffix.lower()]


def _expected_suffixes() -> str:
    return ", ".join(_READERS)


def _close_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {str(path.parent)!r} either; check the path."
    names = sorted(entry.name for entry in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(match) for match in close)}?"
    return f"nothing in {str(path.parent.resolve())!r} has a similar name; check the path."


def _looks_like_a_file(source: str | Path) -> bool:
    if isinstance(source, Path) or not _DATASET_ID.fullmatch(source):
        return True
    return source.startswith(".") or Path(source).suffix.lower() in _READERS


def _refuse_options(where: str, **options: str | None) -> None:
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


def _read_text_file(stream: BinaryIO, column: str | None, where: str) -> _Column:
    _refuse_options(where, column=column)
    return _read_plain(stream, where)


def _read_plain(stream: BinaryIO, where: str) -> _Column:
    return _Column(None, _plain_texts(_lines(stream, where)))


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


def _read_json_lines(stream: BinaryIO, column: str | None, where: str) -> _Column:
    rows = _json_rows(_lines(stream, where), where)
    first = next(rows, None)
    if first is None:
        return _Column(column, ())
    strings = [key for key, value in first[1].items() if isinstance(value, str)]
    # A null in the first row says nothing of the column's type.
    nulls = [key for key, value in first[1].items() if value is None and key == column]
    chosen = _choose_column(column, list(first[1]), strings + nulls, where)
    return _Column(chosen, _json_texts(first, rows, chosen, where))


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
                f"{_shortened(line)}; write one object a line, as jq -c does."
            )
        yield number, row


def _json_texts(
    first: tuple[int, dict[str, Any]],
    rows: Iterator[tuple[int, dict[str, Any]]],
    column: str,
    where: str,
) -> Iterator[str]:
    for number, row in itertools.chain([first], rows):
        yield _json_text(number, row, column, where)


def _json_text(number: int, row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None:
        return ""  # counted with the empty ones
    if not isinstance(value, str):
        raise InputError(
            f"expected a string in column {column!r}, line {number} of {where!r} holds "
            f"{type(value).__name__}; choose another column or convert it."
        )
    return value


def _shortened(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")


def _read_csv(stream: BinaryIO, column: str | None, where: str) -> _Column:
    return _read_separated(stream, column, where, ",")


def _read_tsv(stream: BinaryIO, column: str | None, where: str) -> _Column:
    return _read_separated(stream, column, where, "\t")


def _read_separated(stream: BinaryIO, column: str | None, where: str, separator: str) -> _Column:
    _require_utf8(stream, where)
    try:
        # The head is read with types, to know which columns are numbers.
        head = pd.read_csv(stream, sep=separator, nrows=_ROWS, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        return _Column(column, ())
    except pd.errors.ParserError as error:
        raise _broken_table(where, error) from None
    stream.seek(0)
    numeric = head.select_dtypes(["number", "bool"]).columns
    known = [str(name) for name in head.columns]
    strings = [str(name) for name in head.columns if name not in numeric]
    # Without a row there is no type to object to: the gate will say that there is no text.
    chosen = _choose_column(column, known, strings if len(head) else known, where)
    return _Column(chosen, _csv_texts(stream, chosen, where, separator))


def _csv_texts(stream: BinaryIO, column: str, where: str, separator: str) -> Iterator[str]:
    try:
        # As strings and without missing values: the texts "NA" and "007" stay what they are.
        chunks = pd.read_csv(
            stream,
            sep=separator,
            usecols=[column],
            dtype=str,
            na_filter=False,
            chunksize=_ROWS,
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


def _read_parquet(stream: BinaryIO, column: str | None, where: str) -> _Column:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid:
        raise InputError(
            f"expected a parquet file, {where!r} is none or was cut off; write it again, or "
            "rename it after what it holds."
        ) from None
    schema = file.schema_arrow
    strings = [field.name for field in schema if _is_string(field.type)]
    chosen = _choose_column(column, schema.names, strings, where)
    batches = file.iter_batches(batch_size=_ROWS, columns=[chosen])
    return _Column(chosen, _or_empty(batch.column(0).to_pylist() for batch in batches))


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def _or_empty(batches: Iterable[Sequence[str | None]]) -> Iterator[str]:
    """Yield the texts of all batches, with a missing one as empty: the gate counts those."""
    for batch in batches:
        yield from (text or "" for text in batch)


_READERS: Final[dict[str, Callable[[BinaryIO, str | None, str], _Column]]] = {
    ".txt": _read_text_file,
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}


def _choose_column(
    column: str | None, known: Sequence[str], strings: Sequence[str], where: str
) -> str:
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


# Datasets


def _read_dataset(source: str, column: str | None, split: str | None) -> _Column:
    import datasets

    name, _, config = source.partition(":")
    try:
        # Since version 4 datasets runs no code of a repository, and has no option for it.
        loaded = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{source!r} is neither a file here nor a dataset that can be loaded ({reason}); "
            "check the name, or save the texts to a file: without network only cached "
            "datasets load."
        ) from None
    rows = loaded[_choose_split(split, list(loaded), source)]
    strings = [name for name, kind in rows.features.items() if _is_string_feature(kind)]
    chosen = _choose_column(column, rows.column_names, strings, source)
    batches = rows.select_columns([chosen]).iter(batch_size=_ROWS)
    return _Column(chosen, _or_empty(batch[chosen] for batch in batches))


def _is_string_feature(kind: object) -> bool:
    return str(getattr(kind, "dtype", "")) in {"string", "large_string"}


def _choose_split(split: str | None, known: Sequence[str], source: str) -> str:
    if split is not None and split not in known:
        raise unknown_name(f"split of {source!r}:", split, known)
    if split is not None:
        return split
    if "train" in known:
        return "train"
    if len(known) == 1:
        return known[0]
    raise InputError(f"expected one split, {source!r} has {', '.join(known)}; choose one.")
