"""Files of labelled data: which file is which split, their rows, their fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope.data.objects import holds_tables, is_table
from layerscope.errors import InputError

SPLITS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


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


def read_parts(files: Iterable[Path]) -> pd.DataFrame:
    """Read files that together hold one split, one after the other."""
    return pd.concat(map(read_frame, files), ignore_index=True)


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


def frames_of(given: Any) -> dict[str, pd.DataFrame]:
    """Return the rows of each split of a table that is in Python.

    Args:
        given: a table of pandas, polars, Arrow or `datasets`, a dict of columns, a list of rows, or a
            dict of splits, each of which is one of those. One without splits stands under the empty
            name, and so does the only split of a dict.

    Raises:
        InputError: it is something else, has no rows, or no telling which split is meant.
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
    if isinstance(given, Mapping):
        lengths = list(dict.fromkeys(map(len, given.values())))
        if len(lengths) > 1:
            raise InputError(
                f"expected columns of one length in {where!r}, got {', '.join(map(str, lengths))}."
            )
        frame = pd.DataFrame({name: list(values) for name, values in given.items()})
    elif isinstance(given, pd.DataFrame):
        frame = given.reset_index(drop=True)
    elif hasattr(given, "to_pandas"):
        frame = given.to_pandas()
    elif is_table(given) or _are_rows(given):
        frame = pd.DataFrame(list(given))
    else:
        raise InputError(
            f"expected a labelled table, a file or an object with columns, got {where}."
        )
    if not len(frame):
        raise InputError(f"the table {where!r} has no rows.")
    return frame


def _are_rows(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(row, Mapping) for row in given)


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
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _READERS)


def table_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split of a table; one without splits stands under the empty name.

    Raises:
        InputError: nothing there, or no telling which file is meant.
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
        f"expected files train and test ({', '.join(_READERS)}) in {str(path)!r}, found {listed}."
    )
