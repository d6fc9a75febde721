"""`scan`: every measure at every layer in one pass, and the `Scan` that it returns."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

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
    Result,
    Tokenizer,
    Watch,
    backbone_for,
    loaded,
    plan_of,
    refuse_tokenizer,
    texts_of,
    unwatched,
)
from layerscope.config import AnyPath, Count, Flag, Kind, Text, checked
from layerscope.data.texts import STANDARD_INPUT, Texts
from layerscope.decisions import evidence
from layerscope.decisions import preferences as preferences_module
from layerscope.decisions.select import Selection, decide
from layerscope.errors import InputError
from layerscope.metrics import catalogue
from layerscope.metrics.measure import Measure
from layerscope.models.backbone import Backbone
from layerscope.render import charts, matplotlib, plotly
from layerscope.render import page as page_module
from layerscope.results.folder import RunFolder, versions
from layerscope.results.table import Run, load_run
from layerscope.settings import DEFAULT_LIMIT, ModelOptions, ScanConfig
from layerscope.states.extract import Progress

Measured = Annotated[
    str
    | Path
    | nn.Module
    | Backbone
    | np.ndarray[Any, Any]
    | torch.Tensor
    | list[Any]
    | tuple[Any, ...],
    Kind("a hub id, a folder, a GGUF file, a loaded model or an array (layer, sample, dim)"),
]


class Scan(Result):
    """What a scan found; from `scan()` or, read from its folder, from `load()`."""

    def contributions(self) -> pd.DataFrame:
        """Return the per-text numbers whose means are the table's values."""
        return self.run.contributions.copy()

    def select(self) -> Selection:
        """Return the layer to use, without labels, with every rule's choice beside it."""
        return decide(self.run, known=self._evidences)

    def advice(self) -> Selection:
        """Return the layer to use by the default rule alone."""
        return self._advice

    def page(self) -> str:
        """Return the run as one self-contained HTML page."""
        run = (self.run.table, self.run.contributions, self.run.record)
        return page_module.page([run], choices=[self.preferences()], advice=[self._advice])

    def preferences(self) -> tuple[preferences_module.Preference, ...]:
        """Return the layer that each measure prefers, in each convention, with the baselines."""
        return self._preferences

    @cached_property
    def _preferences(self) -> tuple[preferences_module.Preference, ...]:
        """Bootstrapped once: the choice of a layer, the plots and the JSON all ask for them."""
        seed = int(self.record.get("settings", {}).get("seed", 0))
        return preferences_module.preferences(self.run.table, self.run.contributions, seed=seed)

    @cached_property
    def _evidences(self) -> tuple[evidence.Evidence, ...]:
        """What is known of the layers: its texts are resampled once, when a choice first asks."""
        return evidence.evidences(self.run)

    @cached_property
    def _advice(self) -> Selection:
        return decide(self.run, rules=(), known=self._evidences)

    @checked
    def plot(self, *metrics: Text) -> Any:
        """Return an interactive plotly figure of some measures, by default all."""
        return plotly.to_plotly(self._figure(metrics))

    @checked
    def save_plot(self, path: AnyPath, *metrics: Text) -> None:
        """Write the plot to a .png, .svg or .pdf file (needs the extra `plots`)."""
        matplotlib.save(self._figure(metrics), path)

    def _figure(self, metrics: tuple[str, ...]) -> charts.Figure:
        chosen = catalogue.select(metrics) if metrics else catalogue.CATALOGUE
        dim = self.record.get("model", {}).get("dim")
        return charts.describe(self.run.table, self.preferences(), dim=dim, measures=chosen)


@checked
def load(folder: AnyPath) -> Scan:
    """Read a finished scan from its folder.

    Raises:
        InputError: the folder holds none.
    """
    return Scan(load_run(folder), Path(folder))


@checked
def list_metrics() -> tuple[Measure, ...]:
    """Return the facts of every measure: formula, range, direction, conventions, reference."""
    return catalogue.CATALOGUE


@checked
def get_metric(name: Text) -> Measure:
    """Return the facts of one measure.

    Raises:
        InputError: no measure has that name.
    """
    return catalogue.measure(name)


@checked
def scan(
    model: Measured,
    data: Data | None = None,
    *,
    out: AnyPath | None = None,
    overwrite: Flag = False,
    tokenizer: Tokenizer = None,
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Scan:
    """Measure every layer of a model on texts, in one pass.

    Args:
        model: a hub id, a local folder, a GGUF file, a loaded transformers model (give `tokenizer`), a
            `SentenceTransformer`,
            what `models.loading.load` returned, or plain arrays of pooled vectors (layer, sample,
            dim) or of the pooled vectors of augmented views (layer, sample, view, dim), or a list with
            the array of each layer.
        data: a file, a datasets id, "-" for standard input, "sample", or the texts themselves as a
            list, an array, a column, a table or a dataset (`data.texts.as_texts` lists them);
            nothing for arrays.
        out: folder for the run; None writes nothing.
        overwrite: whether a run in that folder may be replaced.
        tokenizer: of a loaded model, which needs it; a model given by name has its own.
        column: of a table of texts, in a file or in Python.
        split: of a datasets id or of a dict of splits.
        limit: most texts to use; None uses all.
        model_options: how to load the model: revision, dtype, device.
        watch: opens a progress callback for the time of the scan; None shows nothing.
        settings: any field of `ScanConfig`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed.
    """
    chosen = ScanConfig(**settings)
    check_measures(chosen)
    refuse_tokenizer(model, tokenizer)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    with place.claimed() if place else nullcontext():
        with (watch or unwatched)() as progress:
            if not isinstance(model, str | Path | nn.Module | Backbone):
                if data is not None:
                    raise InputError(
                        "expected arrays without texts, got both: arrays are measured as they are."
                    )
                run = scan_arrays(as_vectors(model), chosen, progress)
            else:
                run = _scan_texts(
                    model, texts_of(data, column, split, limit, chosen.seed), chosen, place, progress,
                    tokenizer=tokenizer, model_options=model_options,
                )  # fmt: skip
        if place is None:
            return Scan(run)
        found = Scan(run, place.path)
        place.finish(run, found.page())
        return found


@checked
def estimate_scan(
    model: Model | Backbone,
    data: Data,
    *,
    tokenizer: Tokenizer = None,
    column: Text | None = None,
    split: Text | None = None,
    limit: Count | None = DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Estimates:
    """Return what a scan would take in time, memory and disk, from one batch of it."""
    chosen = ScanConfig(**settings)
    check_measures(chosen)
    refuse_tokenizer(model, tokenizer)
    with (watch or unwatched)() as progress:
        texts = texts_of(data, column, split, limit, chosen.seed)
        refuse_impossible(chosen, texts)
        backbone = backbone_for(model, tokenizer, model_options)
        return estimate(backbone, prepare(backbone, texts, chosen, progress))


def _scan_texts(
    model: str | Path | nn.Module | Backbone,
    texts: Texts,
    settings: ScanConfig,
    place: RunFolder | None,
    progress: Progress,
    *,
    tokenizer: Any,
    model_options: ModelOptions | None,
) -> Run:
    refuse_impossible(settings, texts)
    started = time.perf_counter()
    backbone = loaded(model, tokenizer, model_options, progress)

    def open_parts(prepared: Prepared) -> None:
        if place:
            place.open_parts(_plan(backbone, texts, prepared))

    return scan_backbone(
        backbone,
        texts,
        settings,
        folder=place.parts if place else None,
        progress=progress,
        load_seconds=time.perf_counter() - started,
        open_parts=open_parts,
    )


def _plan(backbone: Backbone, texts: Texts, prepared: Prepared) -> dict[str, Any]:
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
