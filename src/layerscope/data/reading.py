"""Texts from a file, standard input, the built-in sample, a datasets id or Python objects."""

from __future__ import annotations

import io
import re
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from layerscope.data.files import close_names
from layerscope.data.formats import READERS, Reader, read_plain, refuse_options, shortened
from layerscope.data.objects import choose_split, read_dataset
from layerscope.data.texts import Column, Texts, keep
from layerscope.errors import InputError
from layerscope.settings import DEFAULT_LIMIT

SAMPLE: Final = "sample"
STANDARD_INPUT: Final = "-"

# A hub id has at most one slash and may be followed by a configuration: "owner/name:config".
_DATASET_ID: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")

_WORDS_OF_A_SENTENCE: Final = 5
_LONGEST_NAME: Final = 255  # characters of a file's or folder's name on the usual systems


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
        refuse_options(source, column=column, split=split)
        stream = io.BytesIO(resources.files("layerscope.data").joinpath("sample.txt").read_bytes())
        return keep(read_plain(stream, SAMPLE), SAMPLE, limit=limit, seed=seed)
    if source == STANDARD_INPUT and isinstance(source, str):
        refuse_options("standard input", column=column, split=split)
        stream = io.BytesIO(sys.stdin.buffer.read())
        plain = read_plain(stream, "standard input")
        return keep(plain, STANDARD_INPUT, name="standard input", limit=limit, seed=seed)
    path = Path(source).expanduser()
    there = _exists(path)
    if isinstance(source, str) and not there:
        _refuse_a_text(source)
    if there or _looks_like_a_file(source):
        return _read_file(path, column=column, limit=limit, seed=seed, split=split)
    found = _read_dataset(str(source), column, split)
    return keep(found, str(source), limit=limit, seed=seed)


def _read_file(
    path: Path, *, column: str | None, limit: int | None, seed: int, split: str | None
) -> Texts:
    refuse_options(path.name, split=split)
    reader = _reader_of(path)
    try:
        with path.open("rb") as stream:
            found = reader(stream, column, path.name)
            return keep(found, str(path), name=path.name, limit=limit, seed=seed)
    except PermissionError:
        raise InputError(
            f"expected a readable file, {str(path)!r} may not be read by this user; "
            "change its permissions or copy it."
        ) from None


def _reader_of(path: Path) -> Reader:
    if path.is_dir():
        raise InputError(
            f"expected a file, {str(path)!r} is a folder; name one of the files in it "
            f"({_expected_suffixes()})."
        )
    if not path.exists():
        raise InputError(f"there is no file {str(path)!r}; {close_names(path)}")
    if path.suffix.lower() not in READERS:
        raise InputError(
            f"expected a file that ends in {_expected_suffixes()}, {path.name!r} came; "
            "rename it after what it holds."
        )
    return READERS[path.suffix.lower()]


def _expected_suffixes() -> str:
    return ", ".join(READERS)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than the system lets a name be
        return False


def _refuse_a_text(source: str) -> None:
    """Refuse a text in the place of the name of its source."""
    names = source.split("/")
    a_path = source.startswith((".", "/", "~")) or Path(source).suffix.lower() in READERS
    sentence = len(source.split()) >= _WORDS_OF_A_SENTENCE and not a_path
    if "\n" in source or sentence or max(map(len, names)) > _LONGEST_NAME:
        raise InputError(
            f"expected the name of a file or a dataset, or 'sample', got a text of {len(source)} "
            f"characters ({shortened(source)}); put texts into a list, or into a file."
        )


def _looks_like_a_file(source: str | Path) -> bool:
    if isinstance(source, Path) or not _DATASET_ID.fullmatch(source):
        return True
    return source.startswith(".") or Path(source).suffix.lower() in READERS


def _read_dataset(source: str, column: str | None, split: str | None) -> Column:
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
    return read_dataset(loaded[choose_split(split, list(loaded), source)], column, source)
