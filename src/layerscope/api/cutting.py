"""`cut`: the model that gives the chosen layer, saved and verified."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
from torch import nn

from layerscope import surgery
from layerscope.analysis import scan_backbone
from layerscope.api.common import (
    Watch,
    loaded,
    refuse_other_model,
    settings_of,
    texts_of,
    unwatched,
)
from layerscope.api.deciding import run_of, select
from layerscope.api.evaluating import Evaluation
from layerscope.api.scanning import Scan
from layerscope.cutting import Cut, CutSettings, cut_model, refuse_layer
from layerscope.data import Texts
from layerscope.errors import InputError
from layerscope.models import Backbone, ModelOptions
from layerscope.preparation import Progress
from layerscope.rules import DEFAULT_RULE
from layerscope.settings import ScanSettings
from layerscope.table import Run

# What the default rule reads; any other rule gets a whole scan.
_ENOUGH: Final[dict[str, Any]] = {"metrics": ("retrieval",), "augmentation": ("crops",)}


def cut(
    model: str | Path | nn.Module,
    layer: int | Literal["auto"] = "auto",
    *,
    out: str | Path,
    run: str | Path | Run | Scan | Evaluation | pd.DataFrame | None = None,
    rule: str | None = None,
    data: str | Path | Iterable[str] | Texts = "sample",
    column: str | None = None,
    split: str | None = None,
    limit: int | None = 1000,
    tokenizer: Any = None,
    model_options: ModelOptions | None = None,
    overwrite: bool = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Cut:
    """Save the model cut after block `layer`; it is loaded in a new process and compared first.

    Args:
        model: a hub id, a local folder, a GGUF file, or a loaded transformers model (give `tokenizer`).
        layer: 1 to L; "auto" takes the layer that a rule chooses, from `run` or from a scan of `data`.
        out: folder for the model.
        run: a scan of this model: what the choice and the model card rest on.
        rule: to choose by; by default the one of `select`.
        data: texts to scan where there is no run, and to compare on.
        column: of a table of texts.
        split: of a datasets id.
        limit: most texts to scan.
        tokenizer: for a loaded model.
        model_options: how to load the model: revision, dtype, device.
        overwrite: whether a model that layerscope saved in `out` may be replaced.
        watch: opens a progress callback; None shows nothing.
        settings: any field of `CutSettings`.

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full, or the scan failed.
    """
    chosen = settings_of(CutSettings, settings)
    place = Path(out)
    surgery.refuse_folder(place, overwrite=overwrite)
    if chosen.format == "sentence-transformers":
        surgery.require_extra()
    if chosen.format == "onnx":
        surgery.require_onnx()
    given = None if run is None else run_of(run)
    texts = texts_of(data, column, split, limit, seed=0)
    with (watch or unwatched)() as progress:
        backbone = loaded(model, tokenizer, model_options, progress, head=chosen.head)
        if layer != "auto":
            refuse_layer(backbone, layer)
        if given is not None:
            refuse_other_model(given, backbone)
        layer, evidence = _choice(backbone, layer, given, rule, texts, progress)
        source = _source(model, chosen, model_options)
        progress("saving and checking", 0, 1)
        found = cut_model(
            backbone,
            layer,
            place,
            chosen,
            texts=texts.texts,
            source=source,
            evidence=evidence,
            processor=_image_processor(model, backbone),
            overwrite=overwrite,
        )
        progress("saving and checking", 1, 1)
    return found


def _choice(
    backbone: Backbone,
    layer: int | Literal["auto"],
    run: Run | None,
    rule: str | None,
    texts: Texts,
    progress: Progress,
) -> tuple[int, list[str]]:
    """Return the layer and the sentences that say why."""
    if layer != "auto" and run is None:
        return layer, []
    if run is None:
        asked = _ENOUGH if rule in (None, DEFAULT_RULE) else {}
        run = scan_backbone(backbone, texts, ScanSettings(**asked), progress=progress)
    found = select(run, rule=rule)
    said = [found.sentence]
    if layer != "auto":
        return layer, [f"Layer {layer} was named by hand.", *said]
    if found.layer is None or found.layer < 1:
        raise InputError(
            f"the rule {found.rule!r} names no layer to cut at ({found.sentence}); give --layer."
        )
    return found.layer, said


def _source(
    model: str | Path | nn.Module, settings: CutSettings, options: ModelOptions | None
) -> Any:
    """Return the sentence-transformers model that the source is part of, where its modules are taken."""
    if settings.format != "sentence-transformers" or settings.asks_for_pooling:
        return None
    if isinstance(model, nn.Module):
        return None
    return surgery.load_source(model, options)


def _image_processor(model: str | Path | nn.Module, backbone: Backbone) -> Any:
    if backbone.tokenizer is not None or isinstance(model, nn.Module):
        return None
    import transformers

    reader: Any = transformers.AutoImageProcessor
    try:
        return reader.from_pretrained(str(model))
    except (OSError, ValueError):  # the model is whole without one
        return None
