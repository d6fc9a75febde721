"""`cut`: the model that gives the chosen layer, saved and verified."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Unpack

from torch import nn

from layerscope.analysis.plan import prepare, refuse_impossible
from layerscope.analysis.run import estimate, scan_backbone
from layerscope.api.common import (
    Data,
    Model,
    Tokenizer,
    loaded,
    refuse_other_model,
    refuse_tokenizer,
    texts_of,
)
from layerscope.api.deciding import RunLike, run_of, select
from layerscope.api.keywords import CutSettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress
from layerscope.config import AnyPath, Exactly, FirstToken, Flag, Pooling, Text, To, Whole, Words
from layerscope.data.texts import Texts
from layerscope.decisions.readouts import Preference
from layerscope.decisions.rules import DEFAULT_RULE, find
from layerscope.errors import InputError
from layerscope.export import formats, sentence
from layerscope.export.card import results_in
from layerscope.export.cut import (
    Cut,
    CutEstimates,
    CutPlan,
    Made,
    cut_model,
    plan_cut,
)
from layerscope.export.hub import Upload, upload_of
from layerscope.export.locate import possible_layer, refuse_layer, refuse_model, refuse_no_layer
from layerscope.export.readout import plan_readout
from layerscope.metrics.readouts import Readout
from layerscope.models.backbone import Backbone
from layerscope.models.serving import as_served
from layerscope.results.table import Run
from layerscope.settings import (
    POOLING_SETTINGS,
    CutConfig,
    HubConfig,
    ModelOptions,
    ReadingConfig,
    ScanConfig,
)
from layerscope.states.extract import Progress, layer_number

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# What the default rule reads; any other rule gets a whole scan.
_ENOUGH: Final[dict[str, Any]] = {"metrics": ("retrieval",), "augmentation": ("crops",)}


LayerOrAuto = Annotated[
    int | Literal["auto"],
    To(Annotated[Literal["auto"] | Whole, Words("a whole number or 'auto'")]),
]


@dataclass(frozen=True)
class CuttingPlan:
    """A cut that only the model can still refuse.

    Attributes:
        model: to load, or loaded.
        layer: the layer index, negative ones counted from the last; "auto" for a rule's choice.
        config: how.
        place: folder for the model.
        texts: to scan and to compare on.
        scanned: a scan of this model, or None.
        rule: to choose by; None for the default.
        readout: what to save in place of a layer; None for a choice, or for the layer.
        prefer: which readout a choice takes, see `select`.
        overwrite: whether a model that layerscope saved there may be replaced.
        upload: to the hub, or None.
        tokenizer: of a loaded model.
        options: how to load the model.
        show_progress: whether, or the function that shows it.
        made: a model made of the named one, which is cut in its place; None cuts the named one.
    """

    model: str | Path | nn.Module
    layer: int | Literal["auto"]
    config: CutConfig
    place: Path
    texts: Texts
    scanned: Run | None = None
    rule: str | None = None
    readout: Readout | None = None
    prefer: Preference = "quality"
    overwrite: bool = False
    upload: Upload | None = None
    tokenizer: Any = None
    options: ModelOptions | None = None
    show_progress: bool | Progress = True
    made: Made | None = None

    def estimate(self) -> CutEstimates:
        """Return what the cut would take.

        Raises:
            InputError, RunError: what `run` raises before it scans or saves.
        """
        with shown_progress(self.show_progress) as progress:
            asked = self._asked(progress)
            backbone, free = asked.backbone, formats.free_bytes(self.place)
            if asked.planned is not None:
                planned = asked.planned
                return CutEstimates(planned.layer, backbone.depth, planned.weight_bytes, free)
            how = _scan_settings(asked.settings, self.rule)
            scan = estimate(backbone, prepare(backbone, self.texts, how, progress))
        weights = formats.bytes_of(backbone.whole if asked.settings.head else backbone.model)
        return CutEstimates(None, backbone.depth, weights, free, scan)

    def run(self) -> Cut:
        """Choose the layer if that is left open, save the model, and verify it in a new process."""
        with formats.claimed(self.place), shown_progress(self.show_progress) as progress:
            made = self.carried_out(progress)
            if self.upload is not None:
                made = replace(made, pushed=self.upload.sent(made.folder, progress))
        return made

    def carried_out(self, progress: Progress) -> Cut:
        """Do the same in a folder that the caller has claimed, without the upload."""
        asked = self._asked(progress)
        planned, evidence = asked.planned, asked.evidence
        if planned is None:
            settings = _scan_settings(asked.settings, self.rule)
            found = scan_backbone(asked.backbone, self.texts, settings, progress=progress)
            planned, evidence = self._chosen(asked, found)
        progress("saving and checking", 0, 1)
        saved = cut_model(
            planned, self.place,
            evidence=evidence, results=self._results(asked, planned), overwrite=self.overwrite,
            made=self.made,
        )  # fmt: skip
        progress("saving and checking", 1, 1)
        return saved

    def refuse(self, backbone: Backbone, progress: Progress) -> None:
        """Refuse what can be refused before a model that is made of this one is scanned."""
        replace(self, made=Made(backbone, "", (), {}))._asked(progress)

    def _asked(self, progress: Progress) -> _Asked:
        """Load the model, and refuse what can be refused before a scan or a save."""
        layer, chosen, given = self.layer, self.config, self.scanned
        model = self.model if self.made is None else self.made.backbone
        backbone = loaded(model, self.tokenizer, self.options, progress, head=chosen.head)
        refuse_model(backbone, chosen)
        if layer != "auto":
            layer = layer_number(layer, backbone.depth)
            refuse_layer(backbone, layer)
        if given is not None:
            refuse_other_model(given, backbone)
        source = _source(self.model, chosen, self.options)
        if source is None or chosen.asks_for_pooling:
            chosen = _as_scanned(chosen, given)
        asked = _Asked(backbone, chosen, source, _image_processor(self.model, backbone))
        if self.readout is not None:
            planned = self._planned_readout(asked, self.readout)
            formats.refuse_full_disk(self.place, planned.weight_bytes)
            return replace(asked, planned=planned, evidence=("The readout was named by hand.",))
        if layer == "auto" and given is None:
            possible = self._planned(asked, possible_layer(backbone, chosen), chosen)
            formats.refuse_full_disk(self.place, possible.weight_bytes)
            return asked
        if layer == "auto" and given is not None:
            planned, evidence = self._chosen(asked, given)
        else:
            planned = self._planned(asked, int(layer), chosen)
            evidence = () if given is None else (
                f"Layer {layer} was named by hand.", select(given, rule=self.rule).sentence,
            )  # fmt: skip
        formats.refuse_full_disk(self.place, planned.weight_bytes)
        return replace(asked, planned=planned, evidence=evidence)

    def _planned(self, asked: _Asked, layer: int, settings: CutConfig) -> CutPlan:
        return plan_cut(
            asked.backbone, layer, settings,
            texts=self.texts.texts, source=asked.source, processor=asked.processor,
        )  # fmt: skip

    def _planned_readout(self, asked: _Asked, readout: Readout) -> CutPlan:
        """Return the cut that gives a readout: with modules after it only where they are needed."""
        depth, settings = asked.backbone.depth, asked.settings
        if len(readout.layers) > 1 or readout.map != "none" or readout.layers == (0,):
            return plan_readout(
                asked.backbone, readout, self._as_served(asked),
                texts=self.texts.texts, source=asked.source,
            )  # fmt: skip
        layer = readout.layers[0]
        if settings.final_norm == "auto" and layer == depth:
            settings = settings.changed(final_norm="keep")  # the model's own output is after it
        return self._planned(asked, layer, settings)

    def _as_served(self, asked: _Asked) -> CutConfig:
        """Return settings with the pooling of the scan, or of the source's own modules."""
        settings, serving = asked.settings, asked.backbone.serving
        if serving is None or settings.asks_for_pooling:
            return settings
        settings = _as_scanned(settings, self.scanned)
        how, _ = as_served(_scan_settings(settings, None), serving)
        pooled = {name: getattr(how, name) for name in POOLING_SETTINGS}
        return settings.changed(**pooled, normalize=settings.normalize or serving.normalize)

    def _results(self, asked: _Asked, planned: CutPlan) -> tuple[EvalResult, ...]:
        """Return the run's scores of the layer, if they are of the vectors that the saved model gives."""
        if (
            self.scanned is None
            or planned.readout
            or asked.settings.format != "sentence-transformers"
        ):
            return ()
        settings, serving = self._as_served(asked), asked.backbone.serving
        made = self.scanned.record.get("evaluation", {}).get("settings", {})
        gives = {
            "pooling": (settings.pooling or Pooling.MEAN).value,
            "special_tokens": bool(settings.special_tokens),
            "normalize": settings.normalize,
        }
        first = settings.first_token in (None, FirstToken.AUTO, made.get("first_token"))
        prompt = made.get("prompt") or ""
        own = prompt in ("", serving.default_prompt if serving else "")
        alike = first and own and all(made.get(name) == value for name, value in gives.items())
        return results_in(self.scanned, planned.place.site) if alike else ()

    def _chosen(self, asked: _Asked, run: Run) -> tuple[CutPlan, tuple[str, ...]]:
        """Return the cut at the layer that a rule names in a run, and the sentence that says why."""
        found = select(run, rule=self.rule, prefer=self.prefer)
        if found.readout is not None:
            return self._planned_readout(asked, found.readout.readout), (found.answer,)
        if found.layer is None or found.layer < 1:
            raise InputError(
                f"the rule {found.rule!r} names no layer to cut at ({found.sentence}); give --layer."
            )
        settings = asked.settings
        stages = {choice.stage for choice in found.chosen}
        if settings.final_norm == "auto" and stages == {"final_norm"}:
            settings = settings.changed(final_norm="keep")  # the chosen state is after it
        return self._planned(asked, found.layer, settings), (found.sentence,)


@dataclass(frozen=True)
class _Asked:
    """A cut after everything that can be refused before a scan or a save was.

    Attributes:
        backbone: the model.
        settings: how.
        source: the sentence-transformers model that the source is part of, or None.
        processor: the image processor of a model of images, or None.
        planned: the cut; None where a scan has yet to choose the layer.
        evidence: why this layer.
    """

    backbone: Backbone
    settings: CutConfig
    source: Any
    processor: Any
    planned: CutPlan | None = None
    evidence: tuple[str, ...] = ()


@command(CutConfig, ReadingConfig, ModelOptions, HubConfig)
def cut(
    model: Model,
    layer: LayerOrAuto = "auto",
    config: Exactly[CutConfig] | None = None,
    *,
    out: AnyPath,
    run: RunLike | None = None,
    rule: Text | None = None,
    readout: Text | None = None,
    prefer: Preference = "quality",
    data: Data = "sample",
    tokenizer: Tokenizer = None,
    overwrite: Flag = False,
    show_progress: ShowProgress = True,
    **settings: Unpack[CutSettings],
) -> CuttingPlan:
    """Save the model cut after block `layer`; it is loaded in a new process and compared first.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
        layer: 1 to L, or -1 for the last; "auto" takes the layer that a rule chooses, from `run` or
            from a scan of `data`.
        config: the settings as one object; single settings below change it.
        out: folder for the model.
        run: a scan of this model: what the choice and the model card rest on.
        rule: to choose a single layer by; by default a readout is chosen, as `select` does.
        readout: the name of a readout, like "24+30+6 unit, z-score", to save in place of a layer.
        prefer: "quality", or "cheap" for the readout of the lowest layer within noise of the best.
        data: texts to scan where there is no run, and to compare on.
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        overwrite: whether a model that layerscope saved in `out` may be replaced.
        show_progress: as of `scan`.
        settings: any field of `CutConfig`, `ReadingConfig` (which texts), `ModelOptions` (how the
            model is loaded) and `HubConfig` (where it is uploaded to).

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the disk is full, the scan failed, or the hub does not answer.
    """
    chosen = part(CutConfig, settings, config)
    which, options = part(ReadingConfig, settings), part(ModelOptions, settings)
    hub = part(HubConfig, settings)
    refuse_tokenizer(model, tokenizer)
    place = Path(out)
    _refuse_place(place, chosen, (model, run), overwrite=overwrite)
    given = None if run is None else run_of(run)
    texts = texts_of(data, which)
    _refuse_choice(layer, chosen, given, rule, texts)
    named = None if readout is None else Readout.parse(readout)
    if named is not None and (layer != "auto" or rule is not None):
        raise InputError("expected a layer, a rule or a readout, got more than one of them.")
    upload = upload_of(hub, overwrite=overwrite)
    return CuttingPlan(
        model, layer, chosen, place, texts, given, rule, named, prefer, overwrite, upload, tokenizer,
        options, show_progress,
    )  # fmt: skip


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
