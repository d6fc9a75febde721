"""Datasets of the hub: which names are theirs, and reading them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import pandas as pd

from layerscope.data import tables
from layerscope.data.tables import choose_split, open_table, rows_of_dataset
from layerscope.errors import InputError

# A hub id has at most one slash and may be followed by a configuration: "owner/name:config".
_DATASET_ID: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
TEXT_SUFFIXES: Final = (".txt", *tables.SUFFIXES)


def looks_like_a_file(source: str | Path) -> bool:
    """Whether a name is that of a file or folder, and no datasets id."""
    if isinstance(source, Path) or not _DATASET_ID.fullmatch(source):
        return True
    return source.startswith(".") or Path(source).suffix.lower() in TEXT_SUFFIXES


def load_hub_dataset(source: str, split: str | None) -> Any:
    """Return a split of a dataset of the hub, "owner/name" or "owner/name:config".

    Raises:
        InputError: it cannot be loaded, or has no such split.
    """
    import datasets

    name, _, config = source.partition(":")
    try:
        # Since version 4 datasets runs no code of a repository, and has no option for it.
        loaded = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{source!r} is neither a file here nor a dataset that can be loaded ({reason}); "
            "check the name, or save the data to a file: without network only cached "
            "datasets load."
        ) from None
    return loaded[choose_split(split, list(loaded), source)]


def frame_of(source: str, split: str | None = None) -> pd.DataFrame:
    """Return all rows of a table in a file, or of a datasets id; a file has one split.

    Raises:
        InputError: it cannot be read.
    """
    if looks_like_a_file(source) or Path(source).exists():
        with open_table(Path(source)) as rows:
            return rows.frame()
    return rows_of_dataset(load_hub_dataset(source, split), source).frame()
