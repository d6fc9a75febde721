"""`doctor`: proof that layer k is layer k for one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from layerscope.api.common import (
    Data,
    Model,
    Tokenizer,
    Watch,
    loaded,
    refuse_tokenizer,
    texts_of,
    unwatched,
)
from layerscope.config import Count, Natural, Strings, Text, checked
from layerscope.data.texts import SAMPLE
from layerscope.diagnosis.examine import check_names, examine
from layerscope.diagnosis.results import Diagnosis
from layerscope.diagnosis.subject import Origin, of_images, of_texts, takes_images
from layerscope.errors import InputError
from layerscope.settings import FEW_TEXTS, ModelOptions


@checked
def doctor(
    model: Model,
    data: Data | Tensor = "sample",
    *,
    tokenizer: Tokenizer = None,
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = FEW_TEXTS,
    skip: Strings = (),
    seed: Natural = 0,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
) -> Diagnosis:
    """Prove that layer k is layer k for this very model, or say where it is not.

    Args:
        model: a hub id, a local folder, a GGUF file, a sentence-transformers folder, a
            `SentenceTransformer`, or a loaded transformers model (give `tokenizer`). A loaded model of
            images is read as well.
        data: texts, as for `scan`; a few are enough. For a model of images, pixel values (sample,
            channel, height, width); seeded noise otherwise.
        tokenizer: of a loaded model of texts, which needs it; a model given by name has its own.
        column: of a table of texts.
        split: of a datasets id.
        limit: most texts to read, None for all; they are cut to 64 tokens.
        skip: names of checks to leave out, such as "reload" for a model larger than the disk.
        seed: of the texts or the noise that are taken.
        model_options: how to load the model: revision, dtype, device.
        watch: opens a progress callback; None shows nothing.

    Raises:
        InputError: the model or the texts cannot be read, or no check has that name.
    """
    names = tuple(skip)
    check_names(names)
    options = model_options or ModelOptions()
    origin = Origin(str(model) if isinstance(model, str | Path) else None, options)
    pixels = data if isinstance(data, torch.Tensor) else None
    if pixels is None:
        refuse_tokenizer(model, tokenizer)
    with (watch or unwatched)() as progress:
        texts = None if pixels is not None else texts_of(data, column, split, limit, seed)
        backbone = loaded(model, tokenizer, model_options, progress)
        if takes_images(backbone):
            if pixels is None and not (isinstance(data, str) and data == SAMPLE):
                raise InputError(f"{backbone.info.name} reads images; texts cannot be used.")
            subject, source = of_images(backbone, pixels, origin, seed), "images"
        elif texts is None:
            raise InputError(f"{backbone.info.name} reads texts, got pixel values.")
        else:
            subject, source = of_texts(backbone, texts.texts[:limit], origin), texts.name
        found = examine(subject, skip=names, progress=progress)
    return replace(found, data={"name": source} | dict(found.data))
