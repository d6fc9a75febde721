"""What every public function does at its door: texts in, the model in, whom to tell of progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from layerscope import data as data_module
from layerscope import models
from layerscope.data import Texts
from layerscope.errors import InputError
from layerscope.models import Backbone, ModelOptions
from layerscope.preparation import Progress, silent

Watch = Callable[[], AbstractContextManager[Progress]]


def texts_of(
    data: str | Path | Iterable[str] | Texts | None,
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
        return data
    if isinstance(data, str | Path):
        return data_module.read_texts(data, column=column, split=split, limit=limit, seed=seed)
    return data_module.as_texts(data, limit=limit, seed=seed)


def backbone_for(
    model: str | Path | nn.Module, tokenizer: Any, options: ModelOptions | None
) -> Backbone:
    """Return the model that a caller names or gives, its layers told apart."""
    if isinstance(model, str | Path):
        return models.load(model, options)
    return models.backbone_of(model, tokenizer)


@contextmanager
def unwatched() -> Iterator[Progress]:
    """Show nothing."""
    yield silent
