"""`cut`: the model that gives the chosen layer, saved and verified."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from torch import nn

from layerscope.analysis.plan import prepare, refuse_impossible
from layerscope.analysis.run import estimate, scan_backbone
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
from layerscope.data.texts import Texts
from layerscope.decisions.rules import DEFAULT_RULE, find
from layerscope.errors import InputError
from layerscope.export import formats, sentence
from layerscope.export.cut import (
    Cut,
    CutEstimates,
    CutPlan,
    cut_model,
    plan_cut,
    possible_layer,
    refuse_layer,
    refuse_model,
    refuse_no_layer,
)
from layerscope.models.backbone import Backbone
from layerscope.results.table import Run
from layerscope.settings import DEFAULT_LIMIT, POOLING_SETTINGS, CutConfig, ModelOptions, ScanConfig
from layerscope.states.extract import Progress

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
    limit: Count | None = DEFAULT_LIMIT,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    overwrite: Flag = False,
    watch: Watch | None = None,
    **settings: Any,
) -> Cut:
    """Save the model cut after block `layer`; it is loaded in a new process and compared first.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
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
        settings: any field of `CutConfig`.

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full, or the scan failed.
    """
    chosen = CutConfig(**settings)
    refuse_tokenizer(model, tokenizer)
    place = Path(out)
    _refuse_place(place, chosen, (model, run), overwrite=overwrite)
    with formats.claimed(place), (watch or unwatched)() as progress:
        asked = _asked(
            model, layer, place, run, rule, chosen, progress,
            texts=(data, column, split, limit), tokenizer=tokenizer, options=model_options,
        )  # fmt: skip
        planned = asked.planned
        evidence = asked.evidence
        if planned is None:
            scan = scan_backbone(
                asked.backbone, asked.texts, _scan_settings(asked.settings, rule), progress=progress
            )
            planned, evidence = _chosen(asked, scan, rule)
        progress("saving and checking", 0, 1)
        found = cut_model(planned, place, evidence=evidence, overwrite=overwrite)
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
    limit: Count | None = DEFAULT_LIMIT,
    tokenizer: Tokenizer = None,
    model_options: ModelOptions | None = None,
    overwrite: Flag = False,
    watch: Watch | None = None,
    **settings: Any,
) -> CutEstimates:
    """Return what a cut with the same arguments would take; nothing is written.

    Raises:
        InputError, RunError: what `cut` raises before it scans or saves.
    """
    chosen = CutConfig(**settings)
    refuse_tokenizer(model, tokenizer)
    place = Path(out)
    _refuse_place(place, chosen, (model, run), overwrite=overwrite)
    with (watch or unwatched)() as progress:
        asked = _asked(
            model, layer, place, run, rule, chosen, progress,
            texts=(data, column, split, limit), tokenizer=tokenizer, options=model_options,
        )  # fmt: skip
        backbone, free = asked.backbone, formats.free_bytes(place)
        if asked.planned is not None:
            planned = asked.planned
            return CutEstimates(planned.layer, backbone.depth, planned.weight_bytes, free)
        prepared = prepare(backbone, asked.texts, _scan_settings(asked.settings, rule), progress)
        scan = estimate(backbone, prepared)
    weights = formats.bytes_of(backbone.whole if asked.settings.head else backbone.model)
    return CutEstimates(None, backbone.depth, weights, free, scan)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, after everything that can be refused before a scan or a save was.

    Attributes:
        backbone: the model.
        settings: how.
        texts: to scan and to compare on.
        source: the sentence-transformers model that the source is part of, or None.
        processor: the image processor of a model of images, or None.
        planned: the cut; None where a scan has yet to choose the layer.
        evidence: why this layer.
    """

    backbone: Backbone
    settings: CutConfig
    texts: Texts
    source: Any
    processor: Any
    planned: CutPlan | None = None
    evidence: tuple[str, ...] = ()


def _asked(
    model: str | Path | nn.Module,
    layer: int | Literal["auto"],
    out: Path,
    run: RunLike | None,
    rule: str | None,
    chosen: CutConfig,
    progress: Progress,
    *,
    texts: tuple[Any, str | None, str | None, int | None],
    tokenizer: Any,
    options: ModelOptions | None,
) -> _Asked:
    """Decide what a cut and its dry run decide alike: they differ only in what they do then.

    Raises:
        InputError: it cannot be done.
        RunError: the disk is too full.
    """
    given = None if run is None else run_of(run)
    read = texts_of(*texts, seed=0)
    _refuse_choice(layer, chosen, given, rule, read)
    backbone = loaded(model, tokenizer, options, progress, head=chosen.head)
    refuse_model(backbone, chosen)
    if layer != "auto":
        refuse_layer(backbone, layer)
    if given is not None:
        refuse_other_model(given, backbone)
    source = _source(model, chosen, options)
    if source is None or chosen.asks_for_pooling:
        chosen = _as_scanned(chosen, given)
    asked = _Asked(backbone, chosen, read, source, _image_processor(model, backbone))
    if layer == "auto" and given is None:
        possible = _planned(asked, possible_layer(backbone, chosen), chosen)
        formats.refuse_full_disk(out, possible.weight_bytes)
        return asked
    if layer == "auto" and given is not None:
        planned, evidence = _chosen(asked, given, rule)
    else:
        planned = _planned(asked, int(layer), chosen)
        evidence = () if given is None else (
            f"Layer {layer} was named by hand.", select(given, rule=rule).sentence,
        )  # fmt: skip
    formats.refuse_full_disk(out, planned.weight_bytes)
    return replace(asked, planned=planned, evidence=evidence)


def _planned(asked: _Asked, layer: int, settings: CutConfig) -> CutPlan:
    return plan_cut(
        asked.backbone, layer, settings,
        texts=asked.texts.texts, source=asked.source, processor=asked.processor,
    )  # fmt: skip


def _chosen(asked: _Asked, run: Run, rule: str | None) -> tuple[CutPlan, tuple[str, ...]]:
    """Return the cut at the layer that a rule names in a run, and the sentence that says why."""
    found = select(run, rule=rule)
    if found.layer is None or found.layer < 1:
        raise InputError(
            f"the rule {found.rule!r} names no layer to cut at ({found.sentence}); give --layer."
        )
    settings = asked.settings
    stages = {choice.stage for choice in found.chosen}
    if settings.final_norm == "auto" and stages == {"final_norm"}:
        settings = settings.changed(final_norm="keep")  # the state that was chosen is behind it
    return _planned(asked, found.layer, settings), (found.sentence,)


def _refuse_place(
    place: Path, settings: CutConfig, sources: tuple[Any, ...], *, overwrite: bool
) -> None:
    """Refuse, before any work, a folder or a format that cannot be written."""
    formats.refuse_folder(place, overwrite=overwrite, sources=sources)
    if settings.format == "sentence-transformers":
        sentence.require_extra()
    if settings.format == "onnx":
        formats.require_onnx()


def _refuse_choice(
    layer: int | Literal["auto"],
    settings: CutConfig,
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


def _as_scanned(settings: CutConfig, run: Run | None) -> CutConfig:
    """Return settings whose pooling, where nothing was said of it, is that of the scan."""
    scanned = run.record.get("settings", {}) if run is not None else {}
    unsaid = {
        name: scanned[name]
        for name in POOLING_SETTINGS
        if name in scanned and getattr(settings, name) is None
    }
    return settings.changed(**unsaid)


def _scan_settings(settings: CutConfig, rule: str | None) -> ScanConfig:
    """Return what scans the vectors that the cut model will give, as far as a rule reads it."""
    asked = _ENOUGH if rule in (None, DEFAULT_RULE) else {}
    said = {name: getattr(settings, name) for name in POOLING_SETTINGS}
    known = {name: value for name, value in said.items() if value is not None}
    return ScanConfig(**asked, **known, max_length=settings.max_length)


def _source(
    model: str | Path | nn.Module, settings: CutConfig, options: ModelOptions | None
) -> Any:
    """Return the sentence-transformers model that the source is part of, if it is."""
    if settings.format != "sentence-transformers":
        return None
    return sentence.load_source(model, options)


def _image_processor(model: str | Path | nn.Module, backbone: Backbone) -> Any:
    if backbone.tokenizer is not None or isinstance(model, nn.Module):
        return None
    import transformers

    reader: Any = transformers.AutoImageProcessor
    try:
        return reader.from_pretrained(str(model))
    except (OSError, ValueError):  # the model is whole without one
        return None
