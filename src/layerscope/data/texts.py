"""Texts from a file, standard input, the built-in sample, a datasets id or Python objects.

Whatever the source, empty and repeated texts are dropped, at most a limit is kept, and all are counted.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from layerscope.data import tables
from layerscope.data.files import close_names, lines_of, open_file
from layerscope.data.hub import TEXT_SUFFIXES, load_hub_dataset, looks_like_a_file
from layerscope.data.tables import (
    Rows,
    choose_split,
    holds_tables,
    is_missing,
    open_table,
    plain_values,
    rows_of,
    rows_of_dataset,
    rows_of_dicts,
    shortened,
)
from layerscope.errors import InputError
from layerscope.settings import DEFAULT_LIMIT

SAMPLE: Final = "sample"
STANDARD_INPUT: Final = "-"

_WORDS_OF_A_SENTENCE: Final = 5
_LONGEST_NAME: Final = 255  # characters of a file's or folder's name on the usual systems


@dataclass(frozen=True)
class Texts:
    """The texts that are measured, and how they came to be these.

    Attributes:
        texts: the kept texts, in the order of the source.
        name: a short label: file name, dataset id, "sample".
        fingerprint: 16 hexadecimal digits of the sha256 over the kept texts in order.
        dropped_duplicates: how many repeated an earlier text exactly.
        dropped_empty: how many held nothing but white space.
        total_read: how many texts the source holds, dropped ones included; of a stream, how many
            were read.
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
    noun: ClassVar[str] = "texts"

    @property
    def samples(self) -> tuple[Any, ...]:
        """What the model reads, in order."""
        return self.texts

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


# What a caller may give as texts: a name, or one of the objects that `as_texts` takes.
TextSource = str | os.PathLike[str] | Iterable[Any] | Texts


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
    kept: dict[str, Any] = {"limit": limit, "seed": seed}
    if isinstance(source, str) and source in (SAMPLE, STANDARD_INPUT):
        sample = source == SAMPLE
        name = SAMPLE if sample else "standard input"
        refuse_options(name, column=column, split=split)
        content = (
            resources.files("layerscope.data").joinpath("sample.txt").read_bytes()
            if sample
            else sys.stdin.buffer.read()
        )
        return _keep(_plain_texts(lines_of(io.BytesIO(content), name)), source, name=name, **kept)
    path = Path(source).expanduser()
    there = _exists(path)
    if isinstance(source, str) and not there:
        _refuse_a_text(source)
    if not there and not looks_like_a_file(source):
        return _keep_column(
            rows_of_dataset(load_hub_dataset(str(source), split), str(source)),
            column,
            str(source),
            **kept,
        )
    refuse_options(path.name, split=split)
    _refuse_unreadable(path)
    kept |= {"name": path.name}
    if path.suffix.lower() in tables.SUFFIXES:
        with open_table(path) as rows:
            return _keep_column(rows, column, str(path), **kept)
    refuse_options(path.name, column=column)
    with open_file(path) as stream:
        return _keep(_plain_texts(lines_of(stream, path.name)), str(path), **kept)


def as_texts(
    texts: Any,
    *,
    column: str | None = None,
    split: str | None = None,
    name: str = "texts",
    limit: int | None = DEFAULT_LIMIT,
    seed: int = 0,
) -> Texts:
    """Take texts that are in Python already, with the same checks as those of a file.

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
    kept: dict[str, Any] = {"limit": limit, "seed": seed}
    kind = type(texts).__name__
    if isinstance(texts, str | bytes | bytearray):
        raise InputError(
            f"expected a list of texts, one {kind} came; "
            "put it into a list, or read a file with read_texts."
        )
    if isinstance(texts, Mapping) and (split is not None or holds_tables(texts)):
        part = texts[choose_split(split, list(texts), kind)]
        return as_texts(part, column=column, name=name, **kept)
    refuse_options(kind, split=split)
    rows = rows_of(texts)
    if rows is None:
        values = _values_of(texts, kind)
        first = list(itertools.islice(values, 1))
        values = itertools.chain(first, values)
        if not (first and isinstance(first[0], Mapping)):
            refuse_options(kind, column=column)
            return _keep(_strings_of(values, texts), name, **kept)
        rows = rows_of_dicts(enumerate(values), kind)
    return _keep_column(rows, column, name, **kept)


def refuse_options(where: str, **options: str | None) -> None:
    """Refuse options that this source has no use for, rather than ignore them."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"{where} has no {option}s; leave out {option}={value!r}.")


def _keep_column(
    rows: Rows, column: str | None, source: str, *, name: str | None = None, **kept: Any
) -> Texts:
    chosen = rows.choose(column) if rows.columns else column
    texts = rows.texts(chosen) if rows.columns and chosen is not None else iter(())
    return _keep(texts, source, name=name, column=chosen, streamed=rows.streamed, **kept)


def _keep(
    given: Iterable[str],
    source: str,
    *,
    name: str | None = None,
    column: str | None = None,
    streamed: bool = False,
    limit: int | None,
    seed: int,
) -> Texts:
    """Drop empty and repeated texts and keep at most `limit`.

    The subset is the `limit` texts of least seeded digest: uniform, independent of the order and
    the format of the source, and a smaller limit keeps a subset of what a larger one keeps. Of a
    stream the first `limit` texts are kept and the rest is not read.
    """
    refuse_limit(limit)
    seen: set[bytes] = set()
    heap: list[tuple[int, int, str]] = []  # (minus the digest, index, text): the worst is first
    empty = total = 0
    for text in given:
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
        if streamed and len(seen) == limit:
            break
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
        column=column,
        seed=seed,
    )


def refuse_limit(limit: int | None) -> None:
    """Raise an InputError for a limit that keeps nothing."""
    if limit is not None and limit < 1:
        raise InputError(
            f"expected a limit of at least 1 text, got {limit}; all are taken without a limit "
            "(limit=None, on the command line --limit 0)."
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


# --- texts without columns -----------------------------------------------------------------------


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


def _values_of(given: Any, where: str) -> Iterator[object]:
    if not isinstance(given, Iterable):
        raise InputError(
            f"expected texts (a list, a table, or the name of a file or dataset), got {where}."
        )
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise InputError(f"expected an array of texts along one axis, got the shape {given.shape}.")
    return iter(plain_values(given))


def _strings_of(values: Iterable[object], given: Any) -> Iterator[str]:
    """Return the values of what was given as texts: those of a set sorted, "" for a missing one."""
    if isinstance(given, set | frozenset):
        return iter(sorted(_only_strings(values)))
    if _is_column(given):
        values = ("" if is_missing(value) else value for value in values)
    return _only_strings(values)


def _is_column(given: Any) -> bool:
    """Whether this was taken out of a table, in which values may be missing."""
    ours = isinstance(given, list | tuple | np.ndarray)
    columnar = hasattr(given, "to_list") or hasattr(given, "to_pylist")
    return not ours and (columnar or type(given).__module__.startswith("datasets."))


def _only_strings(texts: Iterable[object]) -> Iterator[str]:
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            kind = "NaN" if is_missing(text) and text is not None else type(text).__name__
            image = type(text).__module__.startswith("PIL.")
            raise InputError(
                f"expected every text to be a str, text {index} is "
                f"{'None' if text is None else kind}; "
                f"{'pass images as images=' if image else 'convert it or leave it out'}."
            )
        yield str(text)


# --- names of sources ----------------------------------------------------------------------------


def _refuse_unreadable(path: Path) -> None:
    """Refuse a folder, a file that is not there, or one of a kind that is not read."""
    if path.is_dir():
        raise InputError(
            f"expected a file, {str(path)!r} is a folder; name one of the files in it "
            f"({', '.join(TEXT_SUFFIXES)}), or pass a folder of images as images (--images)."
        )
    if not path.exists():
        raise InputError(f"there is no file {str(path)!r}; {close_names(path)}")
    if path.suffix.lower() not in TEXT_SUFFIXES:
        raise InputError(
            f"expected a file that ends in {', '.join(TEXT_SUFFIXES)}, {path.name!r} came; "
            "rename it after what it holds."
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than the system lets a name be
        return False


def _refuse_a_text(source: str) -> None:
    """Refuse a text in the place of the name of its source."""
    names = source.split("/")
    a_path = source.startswith((".", "/", "~")) or Path(source).suffix.lower() in TEXT_SUFFIXES
    sentence = len(source.split()) >= _WORDS_OF_A_SENTENCE and not a_path
    if "\n" in source or sentence or max(map(len, names)) > _LONGEST_NAME:
        raise InputError(
            f"expected the name of a file or a dataset, or 'sample', got a text of {len(source)} "
            f"characters ({shortened(source)}); put texts into a list, or into a file."
        )
