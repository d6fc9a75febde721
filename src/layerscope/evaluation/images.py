"""Labelled images as a table, whose rows hold keys of images where other tables hold texts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from layerscope.data.images import Images, Picture, read_images, refuse_one_class
from layerscope.errors import InputError
from layerscope.evaluation.tables import SPLITS, Table, read_table
from layerscope.evaluation.tasks import TaskPlan, plan_table


def plan_of_images(source: Any) -> TaskPlan:
    """Return the classification that labelled images are.

    Args:
        source: as of `table_of_images`.
    """
    table, pictures = table_of_images(source)
    return replace(plan_table(table), sees=True, pictures=pictures)


def table_of_images(source: Any, seed: int = 0) -> tuple[Table, dict[str, Picture]]:
    """Return labelled images as a table of keys, and the images by key.

    Args:
        source: as of `read_images`, with labels; a folder with subfolders train and test, each with a
            subfolder for each class, or a dict of those splits, is tested on its test images.
        seed: of the halves, where there is one split.

    Raises:
        InputError: no images, fewer than 2 classes, or images without a label.
    """
    parts = {split: _read(given) for split, given in _splits(source).items()}
    pictures: dict[str, Picture] = {}
    for part in parts.values():
        pictures |= part.pictures
    frames = {split: _frame(part) for split, part in parts.items()}
    first = next(iter(parts.values()))
    whole = isinstance(source, str | os.PathLike) and Path(source).is_dir()
    name = Path(source).resolve().name if whole else _short(first.name)
    given = frames if len(frames) > 1 else frames[""]
    table = read_table(given, kind="Classification", seed=seed, name=name)
    return replace(table, source=str(source) if whole else first.source), pictures


def _short(name: str) -> str:
    """Return the name of a file or a datasets id without its folder, owner, part and suffix."""
    return name.rpartition("/")[2].partition(":")[0].removesuffix(".parquet")


def _read(given: Any) -> Images:
    return given if isinstance(given, Images) else read_images(given, limit=None)


def _splits(source: Any) -> dict[str, Any]:
    """Return the images to train and to test on, or all under the empty name."""
    named: Mapping[str, Any] = {}
    if isinstance(source, str | os.PathLike) and Path(source).is_dir():
        named = {path.name: path for path in Path(source).iterdir() if path.is_dir()}
    elif isinstance(source, Mapping):
        named = source
    found = {
        split: part
        for split in ("train", "test")
        for name, part in named.items()
        if name.lower() in SPLITS[split]
    }
    return found if len(found) == 2 else {"": source}


def _frame(images: Images) -> pd.DataFrame:
    """Return a row an image: its key and its class."""
    refuse_one_class(list(images.labels.values()), images.name)
    if bare := [each.name for each in images.samples if each.key not in images.labels]:
        raise InputError(
            f"expected a class for every image in {images.name!r}, {len(bare)} have none (such as "
            f"{bare[0]!r}); put each into the subfolder of its class."
        )
    return pd.DataFrame({"text": images.texts, "label": [images.labels[k] for k in images.texts]})
