"""What public functions share: texts in, the model in, settings checked, a run as what came of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Self

import pandas as pd
from pydantic import BeforeValidator, PlainValidator
from torch import nn

from layerscope.config import AnyPath, Flag, Kind, Listed, Text, To, Words, checked
from layerscope.data.images import Images, ImageSource, read_images
from layerscope.data.tables import is_table
from layerscope.data.texts import Texts, TextSource, as_texts, read_texts, refuse_options
from layerscope.errors import InputError
from layerscope.evaluation.tables import Table, listed_tables
from layerscope.models import backbone as backbone_module
from layerscope.models import loading
from layerscope.models.backbone import OLDER, Backbone, is_older_fingerprint
from layerscope.models.inputs import reads_images
from layerscope.render import page as page_module
from layerscope.render.scans import run_view
from layerscope.render.view import View
from layerscope.results.display import Displayed, in_words_of
from layerscope.results.folder import RunFolder
from layerscope.results.table import Run
from layerscope.settings import ModelOptions, ReadingConfig
from layerscope.states.extract import Progress, silent

_TEXTS: Final = "a file, a datasets id, 'sample' or a list of texts"


def _comma_separated(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


def _reads_texts(given: Any) -> Any:
    known = ("num_special_tokens_to_add", "preprocess", "image_processor")
    if given is None or (callable(given) and any(hasattr(given, name) for name in known)):
        return given
    raise ValueError(given)


def _tables(given: Any) -> Any:
    try:
        return listed_tables(given)
    except TypeError as error:  # pydantic turns no other error into ours
        raise ValueError(given) from error


def _labelled(given: Any) -> Any:
    if isinstance(given, str | os.PathLike | Table | Mapping | list) or is_table(given):
        return given
    raise ValueError(given)


Labelled = Annotated[
    Any, PlainValidator(_labelled), Words("a labelled file or an object with columns")
]
ALL_TEXTS: Final = ReadingConfig(limit=None)
# The arguments that several functions take; `checked` refuses anything else.
Model = Annotated[str | Path | nn.Module, Kind("a hub id, a folder, a GGUF file or a loaded model")]
Data = Annotated[TextSource, Kind(_TEXTS)]
Pictures = Annotated[
    ImageSource,
    Kind("a folder, a .parquet file, a datasets id, a Dataset or a list of PIL images"),
]
Tasks = Annotated[
    str | Iterable[str], To(Annotated[Listed[Text], BeforeValidator(_comma_separated)])
]
Tables = Annotated[Any, To(Annotated[tuple[Labelled, ...], BeforeValidator(_tables)])]
Tokenizer = Annotated[
    Any,
    PlainValidator(_reads_texts),
    Words("a loaded transformers tokenizer or image processor, or None"),
]


@dataclass(frozen=True, eq=False, repr=False)
class Result(Displayed):
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

    def summary(self) -> str:
        """Return what was measured, where it is saved and how large the table is."""
        model, data = (self.record.get(part) or {} for part in ("model", "data"))
        name = model.get("name") or "arrays"
        texts = f" on {data['texts']:,} texts of {data.get('name', '?')}" if "texts" in data else ""
        place = f", saved in {self.folder}" if self.folder else ""
        said = f"{name}{texts}: {len(self.run.table):,} rows{place}"
        return in_words_of(self.record, said)

    def table(self) -> pd.DataFrame:
        """Return the long table: a row for each number, layer by layer."""
        return self.run.table.copy()

    def page(self) -> str:
        """Return the run as one self-contained HTML page."""
        return page_module.page(self.view())

    def _repr_html_(self) -> str:
        """Return the answer and the first table for a notebook."""
        return page_module.card(self.view())

    def view(self) -> View:
        """Return what the terminal and the page show."""
        return run_view(self.run)

    @checked
    def save(self, folder: AnyPath, *, overwrite: Flag = False) -> Self:
        """Write the run and its page to a folder, and return the result with it.

        Raises:
            InputError: the folder holds something already, or cannot be written to.
        """
        place = RunFolder(Path(folder), overwrite)
        with place.claimed():
            place.finish(self.run, self.page())
        return type(self)(self.run, place.path)


def texts_of(data: TextSource | None, which: ReadingConfig = ALL_TEXTS, seed: int = 0) -> Texts:
    """Return the texts that a caller names or gives.

    Raises:
        InputError: none are given, or they cannot be read.
    """
    if data is None:
        raise InputError("expected texts to measure the model on; give a file, a list or 'sample'.")
    if isinstance(data, Texts):
        refuse_options("what was read already", column=which.column, split=which.split)
        return data
    column, split, limit = which.column, which.split, which.limit
    if isinstance(data, str | os.PathLike):
        name = data if isinstance(data, str) else Path(data)
        return read_texts(name, column=column, split=split, limit=limit, seed=seed)
    return as_texts(data, column=column, split=split, limit=limit, seed=seed)


def samples_of(
    data: TextSource | None, images: ImageSource | None, which: ReadingConfig, seed: int = 0
) -> Texts:
    """Return the texts or the images that a caller names or gives.

    Raises:
        InputError: both or none are given, or they cannot be read.
    """
    if images is None:
        return texts_of(data, which, seed)
    if data is not None:
        raise InputError("expected texts or images, got both; leave data or images out.")
    if isinstance(images, Images):
        refuse_options("what was read already", column=which.column, split=which.split)
        return images
    return read_images(images, column=which.column, split=which.split, limit=which.limit, seed=seed)


def refuse_tokenizer(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that nothing would use, and a loaded model of texts that comes without one.

    Raises:
        InputError: a tokenizer with the name of a model, or none with a loaded model that needs one.
    """
    sentences = backbone_module.is_sentence_transformer(model)
    if (sentences or isinstance(model, str | Path)) and tokenizer is not None:
        name = "a SentenceTransformer" if sentences else repr(str(model))
        raise InputError(
            f"expected a tokenizer with a loaded model only; {name} has its own, so leave "
            "tokenizer= out."
        )
    sees = reads_images(model)
    loaded_model = isinstance(model, nn.Module) and hasattr(model, "config")
    if loaded_model and not sentences and tokenizer is None and not sees:
        raise InputError(
            f"a {type(model).__name__} reads texts, but there is no tokenizer; pass tokenizer= with a "
            "loaded model."
        )


def loaded(
    model: str | Path | nn.Module | Backbone,
    tokenizer: Any,
    options: ModelOptions | None,
    progress: Progress = silent,
    *,
    head: bool = False,
    images: bool = False,
) -> Backbone:
    """Return the model that a caller names or gives as a `Backbone`.

    Args:
        model: its name, or the model.
        tokenizer: of a loaded model.
        options: how to load it.
        progress: called before and after.
        head: whether its head is wanted too.
        images: whether it is to read images.
    """
    if isinstance(model, Backbone):
        return model
    progress("loading the model", 0, 1)
    if isinstance(model, str | Path):
        backbone = loading.load(model, options, head=head, images=images)
    else:
        backbone = backbone_module.backbone_of(model, tokenizer, images=images)
    progress("loading the model", 1, 1)
    return backbone


def refuse_other_model(run: Run, backbone: Backbone) -> None:
    """Raise an InputError for a run of other weights than the model's."""
    scanned = run.record.get("model", {})
    weights = scanned.get("weights_fingerprint")
    if is_older_fingerprint(weights):
        raise InputError(f"the run of {scanned.get('name')} was {OLDER}; scan again.")
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
    kept = (
        "name", "revision", "dtype", "weights_fingerprint", "tokenizer_fingerprint",
        "config_fingerprint", "device",
    )  # fmt: skip
    return {name: info[name] for name in kept} | made_by
