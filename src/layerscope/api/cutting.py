"""`cut`: the model that gives the chosen layer, saved and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from torch import nn

from layerscope import surgery
from layerscope.analysis import scan_backbone
from layerscope.api.common import (
    Data,
    Model,
    Tokenizer,
    Watch,
    loaded,
    refuse_other_model,
    refuse_tokenizer,
    texts_of,
    unwatched,
)
from layerscope.api.deciding import RunLike, run_of, select
from layerscope.config import AnyPath, Count, Flag, Natural, Text, To, Words, checked
from layerscope.cutting import (
    Cut,
    CutEstimates,
    CutSettings,
    cut_model,
    refuse_layer,
    refuse_model,
    refuse_no_layer,
)
from layerscope.cutting.records import POOLING_SETTINGS
from layerscope.data import Texts
from layerscope.errors import InputError
from layerscope.estimates import estimate
from layerscope.models import Backbone, ModelOptions
from layerscope.preparation import Progress, prepare, refuse_impossible
from layerscope.rules import DEFAULT_RULE, find
from layerscope.settings import ScanSettings
from layerscope.table import Run

# What the default rule reads; any other rule gets a whole scan.
_ENOUGH: Final[dict[str, Any]] = {"metrics": ("retrieval",), "augmentation": ("crops",)}


LayerOrAuto = Annotated[
    int | Literal["auto"],
    To(Annotated[Literal["auto"] | Natural, Words("a whole number of at least 1 or 'auto'")]),
]


@checked
def cut(
    model: Model,
    layer: LayerOrAuto = "auto",
    *,
    out: AnyPath,
    run: RunLike | None = None,
    rule: Text | None = None,
    data: Data = "sample",
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = 1000,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    overwrite: Flag = False,
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
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        model_options: how to load the model: revision, dtype, device.
        overwrite: whether a model that layerscope saved in `out` may be replaced.
        watch: opens a progress callback; None shows nothing.
        settings: any field of `CutSettings`.

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full, or the scan failed.
    """
    chosen = CutSettings(**settings)
    refuse_tokenizer(model, tokenizer)
    place = Path(out)
    _refuse_place(place, chosen, (model, run), overwrite=overwrite)
    given = None if run is None else run_of(run)
    texts = texts_of(data, column, split, limit, seed=0)
    _refuse_choice(layer, chosen, given, rule, texts)
    with surgery.claimed(place), (watch or unwatched)() as progress:
        backbone = loaded(model, tokenizer, model_options, progress, head=chosen.head)
        refuse_model(backbone, chosen)  # before a scan, which may take long
        if layer != "auto":
            refuse_layer(backbone, layer)
        if given is not None:
            refuse_other_model(given, backbone)
        source = _source(model, chosen, model_options)
        if source is None or chosen.asks_for_pooling:
            chosen = _as_scanned(chosen, given)
        layer, chosen, evidence = _choice(backbone, layer, chosen, given, rule, texts, progress)
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


@checked
def estimate_cut(
    model: Model,
    layer: LayerOrAuto = "auto",
    *,
    out: AnyPath,
    run: RunLike | None = None,
    rule: Text | None = None,
    data: Data = "sample",
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = 1000,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    overwrite: Flag = False,
    watch: Watch | None = None,
    **settings: Any,
) -> CutEstimates:
    """Return what a cut with the same arguments would take; nothing is written."""
    chosen = CutSettings(**settings)
    refuse_tokenizer(model, tokenizer)
    place = Path(out)
    _refuse_place(place, chosen, (model, run), overwrite=overwrite)
    given = None if run is None else run_of(run)
    texts = texts_of(data, column, split, limit, seed=0)
    _refuse_choice(layer, chosen, given, rule, texts)
    with (watch or unwatched)() as progress:
        backbone = loaded(model, tokenizer, model_options, progress, head=chosen.head)
        refuse_model(backbone, chosen)
        scan = None
        if layer == "auto" and given is None:
            prepared = prepare(backbone, texts, _scan_settings(chosen, rule), progress)
            scan = estimate(backbone, prepared)
        elif layer == "auto" and given is not None:
            layer = select(given, rule=rule).layer or "auto"
    number = None if layer == "auto" else layer
    if number is not None:
        refuse_layer(backbone, number)
    kept = range(backbone.depth if number is None or chosen.kind == "pointer" else number)
    weights = surgery.bytes_of(surgery.smaller(backbone, kept, head=chosen.head))
    return CutEstimates(number, backbone.depth, weights, surgery.free_bytes(place), scan)


def _refuse_place(
    place: Path, settings: CutSettings, sources: tuple[Any, ...], *, overwrite: bool
) -> None:
    """Refuse, before any work, a folder or a format that cannot be written."""
    surgery.refuse_folder(place, overwrite=overwrite, sources=sources)
    if settings.format == "sentence-transformers":
        surgery.require_extra()
    if settings.format == "onnx":
        surgery.require_onnx()


def _refuse_choice(
    layer: int | Literal["auto"],
    settings: CutSettings,
    run: Run | None,
    rule: str | None,
    texts: Texts,
) -> None:
    """Refuse, before a model is loaded, a choice of the layer that cannot be made for any."""
    if layer != "auto":
        refuse_no_layer(layer)
    if rule is not None:
        find(rule)
    scan = _scan_settings(settings, rule)
    if run is not None:
        select(run, rule=rule, resamples=1)
    elif layer == "auto":
        refuse_impossible(scan, texts)


def _as_scanned(settings: CutSettings, run: Run | None) -> CutSettings:
    """Return settings whose pooling, where nothing was said of it, is that of the scan."""
    scanned = run.record.get("settings", {}) if run is not None else {}
    unsaid = {
        name: scanned[name]
        for name in POOLING_SETTINGS
        if name in scanned and getattr(settings, name) is None
    }
    return settings.changed(**unsaid)


def _choice(
    backbone: Backbone,
    layer: int | Literal["auto"],
    settings: CutSettings,
    run: Run | None,
    rule: str | None,
    texts: Texts,
    progress: Progress,
) -> tuple[int, CutSettings, list[str]]:
    """Return the layer, the settings with its stage, and the sentences that say why."""
    if layer != "auto" and run is None:
        return layer, settings, []
    if run is None:
        run = scan_backbone(backbone, texts, _scan_settings(settings, rule), progress=progress)
    found = select(run, rule=rule)
    said = [found.sentence]
    if layer != "auto":
        return layer, settings, [f"Layer {layer} was named by hand.", *said]
    if found.layer is None or found.layer < 1:
        raise InputError(
            f"the rule {found.rule!r} names no layer to cut at ({found.sentence}); give --layer."
        )
    stages = {choice.stage for choice in found.chosen}
    if settings.final_norm == "auto" and stages == {"final_norm"}:
        settings = settings.changed(final_norm="keep")  # the state that was chosen is behind it
    return found.layer, settings, said


def _scan_settings(settings: CutSettings, rule: str | None) -> ScanSettings:
    """Return what scans the vectors that the cut model will give, as far as a rule reads it."""
    asked = _ENOUGH if rule in (None, DEFAULT_RULE) else {}
    said = {name: getattr(settings, name) for name in POOLING_SETTINGS}
    known = {name: value for name, value in said.items() if value is not None}
    return ScanSettings(**asked, **known, max_length=settings.max_length)


def _source(
    model: str | Path | nn.Module, settings: CutSettings, options: ModelOptions | None
) -> Any:
    """Return the sentence-transformers model that the source is part of, if it is."""
    if settings.format != "sentence-transformers" or isinstance(model, nn.Module):
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
