"""What public functions share: texts in, the model in, settings checked, a run as what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from torch import nn

from layerscope import data as data_module
from layerscope import models, report
from layerscope.cutting import CutSettings
from layerscope.data import Texts, TextSource
from layerscope.data.formats import refuse_options
from layerscope.errors import InputError, unknown_name
from layerscope.evaluation import EvaluationSettings
from layerscope.models import Backbone, ModelOptions
from layerscope.preparation import Progress, silent
from layerscope.runfolder import RunFolder
from layerscope.settings import ScanSettings
from layerscope.table import Run

Watch = Callable[[], AbstractContextManager[Progress]]
Settings = TypeVar("Settings", ScanSettings, EvaluationSettings, CutSettings)


@dataclass(frozen=True)
class Result:
    """A run and where it is saved.

    Attributes:
        run: the table, the per-text contributions and the record.
        folder: where it is saved, None if it is not.
    """

    run: Run
    folder: Path | None = None

    @property
    def record(self) -> dict[str, Any]:
        """How it was made: model, settings, versions, times, and what is undefined or failed and why."""
        return self.run.record

    def table(self) -> pd.DataFrame:
        """Return the long table: a row for each number, layer by layer."""
        return self.run.table.copy()

    def page(self) -> str:
        """Return the run as one self-contained HTML page."""
        return report.page([(self.run.table, self.run.contributions, self.run.record)])

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Self:
        """Write the run and its page to a folder, and return the result with it.

        Raises:
            InputError: the folder holds something already, or cannot be written to.
        """
        place = RunFolder(Path(folder), overwrite)
        place.claim()
        place.finish(self.run, self.page())
        return type(self)(self.run, place.path)


def texts_of(
    data: TextSource | None,
    column: str | None,
    split: str | None,
    limit: int | None,
    seed: int,
) -> Texts:
    """Return the texts that a caller names or gives.

    Raises:
        InputError: none are given, or they cannot be read.
    """
    if data is None:
        raise InputError("expected texts to measure the model on; give a file, a list or 'sample'.")
    if isinstance(data, Texts):
        refuse_options("what was read already", column=column, split=split)
        return data
    if isinstance(data, str | os.PathLike):
        name = data if isinstance(data, str) else Path(data)
        return data_module.read_texts(name, column=column, split=split, limit=limit, seed=seed)
    return data_module.as_texts(data, column=column, split=split, limit=limit, seed=seed)


def backbone_for(
    model: str | Path | nn.Module, tokenizer: Any, options: ModelOptions | None
) -> Backbone:
    """Return the model that a caller names or gives, its layers told apart."""
    if isinstance(model, str | Path):
        return models.load(model, options)
    return models.backbone_of(model, tokenizer)


def loaded(
    model: str | Path | nn.Module,
    tokenizer: Any,
    options: ModelOptions | None,
    progress: Progress,
    *,
    head: bool = False,
) -> Backbone:
    """Return the same, with its head on request, and tell that it is being loaded."""
    progress("loading the model", 0, 1)
    if head and isinstance(model, str | Path):
        backbone = models.load(model, options, head=True)
    else:
        backbone = backbone_for(model, tokenizer, options)
    progress("loading the model", 1, 1)
    return backbone


def refuse_other_model(run: Run, backbone: Backbone) -> None:
    """Raise an InputError for a run of other weights than the model's."""
    scanned = run.record.get("model", {})
    weights = scanned.get("weights_fingerprint")
    if weights is not None and weights != backbone.info.weights_fingerprint:
        raise InputError(
            f"the run is of another model or dtype ({scanned.get('name')}, weights {weights}) than "
            f"{backbone.info.name} (weights {backbone.info.weights_fingerprint}); scan this one."
        )


def plan_of(backbone: Backbone, made_by: dict[str, str]) -> dict[str, Any]:
    """Return what decides the numbers besides data and settings: unfinished work goes on only with it.

    Args:
        backbone: the model.
        made_by: versions of what makes the numbers.
    """
    info = backbone.info.as_dict()
    kept = ("name", "revision", "weights_fingerprint", "tokenizer_fingerprint", "dtype", "device")
    return {name: info[name] for name in kept} | made_by


def settings_of(kind: type[Settings], given: dict[str, Any]) -> Settings:
    """Return the settings that a caller gives by name.

    Lists are as good as tuples, and so is a single name or layer where several may be given.

    Raises:
        InputError: no such setting, or a value that it cannot have.
    """
    several = {field.name for field in fields(kind) if "tuple" in str(field.type)}
    for name in given:
        if name not in kind.__dataclass_fields__:
            raise unknown_name("setting", name, kind.__dataclass_fields__)
    return kind(
        **{name: _as_tuple(value) if name in several else value for name, value in given.items()}
    )


def _as_tuple(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str | int):
        return (value,)
    return value if value is None else tuple(value)


@contextmanager
def unwatched() -> Iterator[Progress]:
    """Show nothing."""
    yield silent
