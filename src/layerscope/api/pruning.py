"""`prune`: the model without the blocks that a rule finds redundant, tried, saved and verified."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Unpack

from torch import nn

from layerscope.analysis.plan import refuse_impossible
from layerscope.api.common import (
    Data,
    Model,
    Pictures,
    Tables,
    Tasks,
    Tokenizer,
    loaded,
    refuse_other_model,
    refuse_tokenizer,
    samples_of,
    texts_of,
)
from layerscope.api.cutting import CuttingPlan
from layerscope.api.deciding import RunLike, run_of
from layerscope.api.keywords import PruneSettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress
from layerscope.config import AnyPath, Exactly, FirstToken, Flag, Kind
from layerscope.data.images import Images
from layerscope.data.texts import Texts
from layerscope.decisions import prune as prune_module
from layerscope.decisions.prune import Rule
from layerscope.errors import InputError
from layerscope.export import formats, sentence
from layerscope.export.cut import Made
from layerscope.export.hub import Upload, upload_of
from layerscope.export.outcomes import evidence_of
from layerscope.export.patches import healed
from layerscope.export.prune import Saving
from layerscope.export.pruning import Pruning, PruningEstimates, ReadyPruning, ready_pruning
from layerscope.export.request import Budgets, PruneRequest, listed_budgets, named_rule, tasks_of
from layerscope.models import loading
from layerscope.models.backbone import Backbone
from layerscope.models.serving import as_served
from layerscope.results.table import Run
from layerscope.settings import (
    CutConfig,
    EvaluateConfig,
    Format,
    HubConfig,
    ModelOptions,
    PruneConfig,
    ReadingConfig,
    VectorConfig,
)
from layerscope.states.extract import Progress

AnyRule = Annotated[str | Rule, Kind("the name of a rule or a Rule")]


@dataclass(frozen=True)
class PruningPlan:
    """A pruning that only the model can still refuse.

    Attributes:
        model: to load, or loaded.
        asked: rule, budgets and how they are tried.
        config: how blocks are chosen and saved.
        texts: to measure on, and to compare a saved model on; or images.
        scanned: a scan in place of measuring, or None.
        place: folder for the smaller model, or None.
        overwrite: whether a model that layerscope saved there may be replaced.
        tokenizer: of a loaded model.
        options: how to load the model.
        show_progress: whether, or the function that shows it.
        upload: of the saved model to the hub, or None.
    """

    model: str | Path | nn.Module
    asked: PruneRequest
    config: PruneConfig
    texts: Texts
    scanned: Run | None = None
    place: Path | None = None
    overwrite: bool = False
    tokenizer: Any = None
    options: ModelOptions | None = None
    show_progress: bool | Progress = True
    upload: Upload | None = None

    def estimate(self) -> PruningEstimates:
        """Return what the pruning would take; nothing is tried or written.

        Raises:
            InputError, RunError: what `run` raises before it measures.
        """
        with shown_progress(self.show_progress) as progress:
            return self._ready(progress).estimate(progress)

    def run(self) -> Pruning:
        """Measure, drop blocks, try the smaller model, and save it if it has a place."""
        alone = nullcontext() if self.place is None else formats.claimed(self.place)
        with alone, shown_progress(self.show_progress) as progress:
            ready = self._ready(progress)
            found = ready.carry_out(progress)
            if self.config.readout:
                found = self._read_out(ready.backbone, found, progress)
            if self.upload is None or found.shipped is None:
                return found
            return replace(found, pushed=self.upload.sent(found.shipped.folder, progress))

    def _read_out(self, backbone: Backbone, found: Pruning, progress: Progress) -> Pruning:
        """Cut the smaller model to its readout, and return the pruning with what was saved."""
        outcome = found.outcomes[0]
        gone = ", ".join(map(str, outcome.removed))
        name = f"{backbone.info.name} without block{'s' * (len(outcome.removed) > 1)} {gone}"
        evidence = tuple(evidence_of(self.asked, outcome, found.record))
        with healed(backbone, outcome.removed, outcome.patches) as shorter:
            made = Made(shorter, name, evidence, found.record)
            cut = replace(self._cutting(), made=made).carried_out(progress)
        return replace(
            found,
            shipped=cut.shipped,
            usage=cut.usage,
            notes=(*found.notes, *cut.evidence, *cut.notes),
        )

    def _cutting(self) -> CuttingPlan:
        """Return the cut that gives the readout of a model, as `cut` makes it."""
        chosen = self.config
        first = None if chosen.first_token is FirstToken.AUTO else chosen.first_token
        settings = CutConfig(
            pooling=chosen.pooling, special_tokens=chosen.special_tokens, first_token=first,
            max_length=chosen.max_length,
        )  # fmt: skip
        return CuttingPlan(
            self.model, "auto", settings, Path(self.place or ""), self.texts,
            overwrite=self.overwrite, tokenizer=self.tokenizer, options=self.options,
        )  # fmt: skip

    def _ready(self, progress: Progress) -> ReadyPruning:
        sees = isinstance(self.texts, Images)
        backbone, said = _loaded(
            self.model, self.tokenizer, self.options, progress,
            head=self.config.head and not sees, images=sees,
        )  # fmt: skip
        if self.scanned is not None:
            refuse_other_model(self.scanned, backbone)
        settings, notes = as_served(self.asked.settings, backbone.serving)
        asked, how = self.asked.changed(settings=settings), None
        if self.config.readout:
            self._cutting().refuse(backbone, progress)
        elif self.place is not None:
            how = _saving(
                self.model, asked, self.config.format, self.options, overwrite=self.overwrite
            )
        vectors = self.config.readout or backbone.serving is not None
        return ready_pruning(
            backbone, asked, self.texts, progress,
            run=self.scanned, place=self.place, how=how, said=[*said, *notes],
            serves_vectors=vectors or (how is not None and how.format != "transformers"),
        )  # fmt: skip


@command(PruneConfig, ReadingConfig, ModelOptions, HubConfig)
def prune(
    model: Model,
    rule: AnyRule = "angular",
    budget: Budgets = 0.1,
    config: Exactly[PruneConfig] | None = None,
    *,
    data: Data = "sample",
    images: Pictures | None = None,
    run: RunLike | None = None,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    evaluate: Tasks = (),
    task_data: AnyPath | None = None,
    tables: Tables = (),
    perplexity: Data | None = None,
    tokenizer: Tokenizer = None,
    show_progress: ShowProgress = True,
    **settings: Unpack[PruneSettings],
) -> PruningPlan:
    """Drop the blocks of a model that a rule finds redundant, and say what that costs.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer` or a loaded transformers
            model (give `tokenizer`).
        rule: the name of one of `layerscope.decisions.prune.RULES`, of a measure whose change
            across a block counts, or a rule of your own. The default is the one that did best where
            we tried them.
        budget: a part of the blocks (0.1, "10%") or their number; several compare what they do, and
            those that mean the same number are one.
        config: the settings as one object; single settings below change it.
        data: texts to measure the model on; also what a saved model is compared on.
        images: in place of `data`, for a model of images, as for `scan`; `tables` are then labelled
            images, as for `evaluate`.
        run: a finished scan of this model in place of measuring it.
        out: folder for the smaller model; None saves none.
        overwrite: whether a model that layerscope saved in `out` may be replaced.
        evaluate: tasks to score the full model, the smaller one and random subsets on, as for
            `layerscope.evaluate`.
        task_data: a folder with a folder for each task.
        tables: more tasks: labelled files or tables in Python.
        perplexity: held-out texts for a causal model; by default, where tasks are scored, texts of the
            built-in sample that were not measured.
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        show_progress: as of `scan`.
        settings: any field of `PruneConfig`, `ReadingConfig` (which texts), `ModelOptions` (how the
            model is loaded) and `HubConfig` (where it is uploaded to).

    Raises:
        InputError: it cannot be done; nothing was written.
        MismatchError: the saved model gives something else; it is kept as `OUT.unverified`.
        RunError: the model or the disk failed, or the hub does not answer.
    """
    chosen = part(PruneConfig, settings, config)
    which, options = part(ReadingConfig, settings), part(ModelOptions, settings)
    hub = part(HubConfig, settings)
    refuse_tokenizer(model, tokenizer)
    place = None if out is None else Path(out)
    if chosen.readout and place is None:
        raise InputError("a readout is saved with the smaller model: expected --out, got none.")
    if chosen.readout and images is not None:
        raise InputError(
            "a readout is saved for sentence-transformers, which reads texts: with --images leave "
            "--readout out, or cut the pruned model at a layer."
        )
    if chosen.readout:
        sentence.require_extra()
    _check_saving(place, chosen.format, (model, run), overwrite=overwrite)
    held_out = None if perplexity is None else texts_of(perplexity).texts
    asked = PruneRequest(
        rule=named_rule(rule), budgets=listed_budgets(budget), protect=chosen.protect,
        scheme=chosen.scheme, parts=chosen.parts, heal=chosen.heal, draws=chosen.draws,
        plans=tasks_of(evaluate, task_data, tables, images=images is not None),
        held_out=None if held_out is None else tuple(held_out),
        settings=EvaluateConfig(
            **{name: getattr(chosen, name) for name in (*VectorConfig.model_fields, "seed")}
        ),
        seed=chosen.seed,
    )  # fmt: skip
    if asked.part is not None and (place is not None or run is not None):
        raise InputError(
            f"no stock architecture has a switch for a block without its {asked.part}, and zeros in its "
            f"place are no smaller and no faster; with --parts {asked.part} leave --out and --run out, "
            "or drop whole blocks."
        )
    given = None if run is None else run_of(run)
    texts = samples_of(data if images is None else None, images, which, chosen.seed)
    if given is not None:
        prune_module.refuse_lacking(asked.rule, given)
    elif asked.rule.reads:
        refuse_impossible(asked.scan, texts)
    if hub.push is not None and place is None:
        raise InputError("expected a folder for the model that is to be uploaded; give --out.")
    return PruningPlan(
        model, asked, chosen, texts, given, place, overwrite, tokenizer, options, show_progress,
        upload_of(hub, overwrite=overwrite),
    )  # fmt: skip


def _check_saving(
    place: Path | None,
    format: str,  # noqa: A002
    sources: tuple[Any, ...],
    *,
    overwrite: bool,
) -> None:
    if place is None:
        return
    formats.refuse_folder(place, overwrite=overwrite, sources=sources)
    if format == "sentence-transformers":
        sentence.require_extra()


def _loaded(
    model: str | Path | nn.Module,
    tokenizer: Any,
    options: ModelOptions | None,
    progress: Progress,
    *,
    head: bool,
    images: bool,
) -> tuple[Backbone, list[str]]:
    """Load the model with its head if it has one, and return what to say of that."""
    if isinstance(model, nn.Module) or not head:
        return loaded(model, tokenizer, options, progress, images=images), []
    progress("loading the model", 0, 1)
    if loading.holds_head(model, options):
        return loaded(model, tokenizer, options, progress, head=True), []
    # Embedders are often saved under the name of a class with a head.
    said = "the config names a head that the checkpoint does not hold, so it is left out."
    return loaded(model, tokenizer, options, progress), [said]


def _saving(
    model: str | Path | nn.Module,
    asked: PruneRequest,
    format: str,  # noqa: A002
    options: ModelOptions | None,
    *,
    overwrite: bool,
) -> Saving:
    source = None if format == "transformers" else sentence.load_source(model, options)
    chosen: Format = "transformers" if source is None else "sentence-transformers"
    if format != "auto":
        chosen = format  # type: ignore[assignment]
    settings = asked.settings
    return Saving(
        chosen,
        source=source,
        pooling=settings.pools,
        special_tokens=bool(settings.special_tokens),
        max_length=settings.max_length,
        overwrite=overwrite,
    )
