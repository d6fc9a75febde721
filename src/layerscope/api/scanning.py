"""`scan`: every measure at every layer in one pass, and the `Scan` that it returns."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Unpack

import numpy as np
import pandas as pd
import torch
from torch import nn

from layerscope.analysis.arrays import as_vectors, scan_arrays
from layerscope.analysis.plan import Prepared, check_measures, prepare, refuse_impossible
from layerscope.analysis.run import Estimates, estimate, scan_backbone
from layerscope.api.common import (
    Data,
    Model,
    Pictures,
    Result,
    Tokenizer,
    loaded,
    plan_of,
    refuse_tokenizer,
    samples_of,
)
from layerscope.api.keywords import ScanConfigKeywords, ScanSettings
from layerscope.api.plans import ShowProgress, command, part, shown_progress, with_settings
from layerscope.config import AnyPath, Exactly, Flag, Kind, Text, checked
from layerscope.data.images import Images
from layerscope.data.texts import STANDARD_INPUT, Texts
from layerscope.decisions import choose, evidence
from layerscope.decisions.bimodality import bimodality
from layerscope.decisions.select import Selection, decide
from layerscope.metrics import catalogue
from layerscope.models.backbone import Backbone
from layerscope.render import charts, matplotlib, plotly
from layerscope.render.drawing import Figure
from layerscope.render.scans import run_view
from layerscope.render.view import View
from layerscope.results.folder import RunFolder, versions
from layerscope.results.table import Run, load_run
from layerscope.settings import ModelOptions, ReadingConfig, ScanConfig
from layerscope.states.extract import Progress

States = Annotated[
    np.ndarray[Any, Any] | torch.Tensor | list[Any] | tuple[Any, ...],
    Kind("an array (layer, sample, dim) or (layer, sample, view, dim)"),
]


class Scan(Result):
    """What a scan found; from `scan()` or, read from its folder, from `load()`."""

    def contributions(self) -> pd.DataFrame:
        """Return the per-text numbers whose means are the table's values."""
        return self.run.contributions.copy()

    @checked
    def bimodality(self, metric: Text = "prompt_entropy") -> pd.DataFrame:
        """Return Hartigan's dip over the texts at each layer, with p and p corrected over the layers.

        Raises:
            InputError: no number for each text of that measure was computed.
        """
        return bimodality(self.run.contributions, metric)

    def select(self) -> Selection:
        """Return the layer to use, without labels, with every rule's choice beside it."""
        return decide(self.run, known=self._evidences)

    def advice(self) -> Selection:
        """Return the layer to use by the default rule alone."""
        return self._advice

    def view(self) -> View:
        """Return what the terminal and the page show."""
        return self._view

    @cached_property
    def _view(self) -> View:
        return run_view(self.run, preferred=self._preferred, advice=self._advice)

    def preferred(self) -> dict[evidence.Key, choose.Choice]:
        """Return the layer that each measure prefers, by metric, convention and perturbation."""
        return dict(self._preferred)

    @cached_property
    def _preferred(self) -> dict[evidence.Key, choose.Choice]:
        """Made once: the table, the page and the plots all show them."""
        return choose.preferred(self._evidences[0])

    @cached_property
    def _evidences(self) -> tuple[evidence.Evidence, ...]:
        """The curves over the layers; the texts are resampled once, at the first choice."""
        return evidence.evidences(self.run)

    @cached_property
    def _advice(self) -> Selection:
        return decide(self.run, rules=(), known=self._evidences)

    @checked
    def plot(self, *metrics: Text) -> Any:
        """Return an interactive plotly figure of some measures, by default the four main ones."""
        return plotly.to_plotly(self._figure(metrics))

    @checked
    def save_plot(self, path: AnyPath, *metrics: Text) -> None:
        """Write the plot to a .png, .svg or .pdf file (needs the extra `plots`)."""
        matplotlib.save(self._figure(metrics), path)

    def _figure(self, metrics: tuple[str, ...]) -> Figure:
        chosen = catalogue.select(metrics) if metrics else charts.main_measures(self.run.table)
        dim = self.record.get("model", {}).get("dim")
        return charts.describe(self.run.table, self.preferred(), dim=dim, measures=chosen)


@checked
def load(folder: AnyPath) -> Scan:
    """Read a finished scan from its folder.

    Raises:
        InputError: the folder holds none.
    """
    return Scan(load_run(folder), Path(folder))


@dataclass(frozen=True)
class ScanPlan:
    """A scan that only the model can still refuse.

    Attributes:
        model: to load, or loaded.
        texts: to measure it on, or images.
        config: the settings.
        place: where the run goes, or None.
        tokenizer: of a loaded model.
        options: how to load the model.
        show_progress: whether, or the function that shows it.
    """

    model: str | Path | nn.Module | Backbone
    texts: Texts
    config: ScanConfig
    place: RunFolder | None = None
    tokenizer: Any = None
    options: ModelOptions | None = None
    show_progress: bool | Progress = True

    def estimate(self) -> Estimates:
        """Return what the scan would take in time, memory and disk, from one batch of it."""
        with shown_progress(self.show_progress) as progress:
            backbone = self._loaded(progress)
            return estimate(backbone, prepare(backbone, self.texts, self.config, progress))

    def run(self) -> Scan:
        """Load the model, measure every layer in one pass, and save the run if it has a place."""
        with self.place.claimed() if self.place else nullcontext():
            with shown_progress(self.show_progress) as progress:
                started = time.perf_counter()
                backbone = self._loaded(progress)

                def open_parts(prepared: Prepared) -> None:
                    if self.place:
                        self.place.open_parts(_identity(backbone, self.texts, prepared))

                run = scan_backbone(
                    backbone,
                    self.texts,
                    self.config,
                    folder=self.place.parts if self.place else None,
                    progress=progress,
                    load_seconds=time.perf_counter() - started,
                    open_parts=open_parts,
                )
            return _kept(run, self.place)

    def _loaded(self, progress: Progress) -> Backbone:
        images = isinstance(self.texts, Images)
        return loaded(self.model, self.tokenizer, self.options, progress, images=images)


@command(ScanConfig, ReadingConfig, ModelOptions)
def scan(
    model: Model | Backbone,
    data: Data | None = None,
    config: Exactly[ScanConfig] | None = None,
    *,
    images: Pictures | None = None,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    tokenizer: Tokenizer = None,
    show_progress: ShowProgress = True,
    **settings: Unpack[ScanSettings],
) -> ScanPlan:
    """Measure every layer of a model on texts or images, in one pass.

    `scan.plan(...)` takes the same arguments and returns the plan, whose `estimate()` says what the
    scan would take.

    Args:
        model: a hub id, a local folder, a GGUF file, a `SentenceTransformer`, a loaded transformers
            model (give `tokenizer`) or what `models.loading.load` returned.
        data: a file, a datasets id, "-" for standard input, "sample", or the texts themselves as a
            list, an array, a column, a table or a dataset (`data.objects.as_texts` lists them).
        config: the settings as one object; single settings below change it.
        images: in place of `data`, for a model of images: a folder (png, jpg, webp), a .parquet file or
            datasets id with a column of images, a `datasets.Dataset`, or a list of PIL images.
        out: folder for the run; None writes nothing.
        overwrite: whether a run in that folder may be replaced.
        tokenizer: of a loaded model, which needs it, or its image processor; a model given by name has
            its own.
        show_progress: whether bars are shown in a terminal or notebook, or a function of stage, done
            and total.
        settings: any field of `ScanConfig`, `ReadingConfig` (which texts) and `ModelOptions`
            (how the model is loaded).

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed.
    """
    chosen = part(ScanConfig, settings, config)
    which, options = part(ReadingConfig, settings), part(ModelOptions, settings)
    check_measures(chosen)
    refuse_tokenizer(model, tokenizer)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    if place:
        place.claim()
    texts = samples_of(data, images, which, chosen.seed)
    refuse_impossible(chosen, texts)
    return ScanPlan(model, texts, chosen, place, tokenizer, options, show_progress)


@with_settings(ScanConfig)
def scan_states(
    states: States,
    config: Exactly[ScanConfig] | None = None,
    *,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    show_progress: ShowProgress = True,
    **settings: Unpack[ScanConfigKeywords],
) -> Scan:
    """Measure pooled vectors that were made elsewhere, as layers 0 to L.

    Args:
        states: arrays of pooled vectors (layer, sample, dim) or of the pooled vectors of augmented
            views (layer, sample, view, dim), or a list with the array of each layer.
        config: the settings as one object; single settings below change it.
        out: folder for the run; None writes nothing.
        overwrite: whether a run in that folder may be replaced.
        show_progress: as of `scan`.
        settings: any field of `ScanConfig`; what concerns models and texts has no effect.

    Raises:
        InputError: an array that cannot be measured, or measures that need more than arrays.
    """
    chosen = part(ScanConfig, settings, config)
    check_measures(chosen)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    with place.claimed() if place else nullcontext():
        with shown_progress(show_progress) as progress:
            run = scan_arrays(as_vectors(states), chosen, progress)
        return _kept(run, place)


def _kept(run: Run, place: RunFolder | None) -> Scan:
    """Return a scan, saved where it has a place."""
    if place is None:
        return Scan(run)
    found = Scan(run, place.path)
    place.finish(run, found.page())
    return found


def _identity(backbone: Backbone, texts: Texts, prepared: Prepared) -> dict[str, Any]:
    made_by = {name: versions()[name] for name in ("layerscope", "torch", "transformers")}
    plan = plan_of(backbone, made_by) | prepared.settings.as_dict()
    return plan | {"data": texts.name, "data_fingerprint": texts.fingerprint}


@checked
def default_folder(model: Text, data: Text) -> Path:
    """Return where a scan goes if nobody says: runs/<model>--<data>."""
    names = (
        Path(model).resolve().name if Path(model).exists() else model,
        "stdin" if data == STANDARD_INPUT else Path(data).stem,
    )
    return Path(
        "runs", "--".join(re.sub(r"[^\w.-]+", "-", name).strip("-") or "run" for name in names)
    )
