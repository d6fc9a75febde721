"""`doctor`: proof that layer k is layer k for one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from layerscope.api.common import (
    Data,
    Model,
    Tokenizer,
    loaded,
    refuse_tokenizer,
    texts_of,
)
from layerscope.api.keywords import DoctorSettings
from layerscope.api.plans import ShowProgress, part, shown_progress, with_settings
from layerscope.config import Natural, Strings
from layerscope.data.texts import SAMPLE
from layerscope.diagnosis.examine import check_names, examine
from layerscope.diagnosis.results import Diagnosis
from layerscope.diagnosis.subject import Origin, of_images, of_texts, takes_images
from layerscope.errors import InputError
from layerscope.settings import FewTextsConfig, ModelOptions


@with_settings(FewTextsConfig, ModelOptions)
def doctor(
    model: Model,
    data: Data | Tensor = "sample",
    *,
    tokenizer: Tokenizer = None,
    skip: Strings = (),
    seed: Natural = 0,
    show_progress: ShowProgress = True,
    **settings: Unpack[DoctorSettings],
) -> Diagnosis:
    """Prove that layer k is layer k for this very model, or say where it is not.

    Args:
        model: a hub id, a local folder, a GGUF file, a sentence-transformers folder, a
            `SentenceTransformer`, or a loaded transformers model (give `tokenizer`). A loaded model of
            images is read as well.
        data: texts, as for `scan`; a few are enough. For a model of images, pixel values (sample,
            channel, height, width); seeded noise otherwise.
        tokenizer: of a loaded model of texts, which needs it; a model given by name has its own.
        skip: names of checks to leave out, such as "reload" for a model larger than the disk.
        seed: of the texts or the noise that are taken.
        show_progress: as of `scan`.
        settings: any field of `FewTextsConfig` (which texts; they are cut to 64 tokens) and
            `ModelOptions` (how the model is loaded).

    Raises:
        InputError: the model or the texts cannot be read, or no check has that name.
    """
    names = tuple(skip)
    check_names(names)
    options, which = part(ModelOptions, settings), part(FewTextsConfig, settings)
    origin = Origin(str(model) if isinstance(model, str | Path) else None, options)
    pixels = data if isinstance(data, torch.Tensor) else None
    if pixels is None:
        refuse_tokenizer(model, tokenizer)
    with shown_progress(show_progress) as progress:
        texts = None if pixels is not None else texts_of(data, which, seed)
        backbone = loaded(model, tokenizer, options, progress)
        if takes_images(backbone):
            if pixels is None and not (isinstance(data, str) and data == SAMPLE):
                raise InputError(f"{backbone.info.name} reads images; texts cannot be used.")
            subject, source = of_images(backbone, pixels, origin, seed), "images"
        elif texts is None:
            raise InputError(f"{backbone.info.name} reads texts, got pixel values.")
        else:
            subject, source = of_texts(backbone, texts.texts[: which.limit], origin), texts.name
        found = examine(subject, skip=names, progress=progress)
    return replace(found, data={"name": source} | dict(found.data))
