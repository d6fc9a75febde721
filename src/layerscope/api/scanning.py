"""`scan`: every measure at every layer in one pass, and the `Scan` that it returns."""

from __future__ import annotations

import re
import time
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from torch import nn

from layerscope import data as data_module
from layerscope import plots, selection
from layerscope.analysis import scan_backbone
from layerscope.api.common import (
    Result,
    Watch,
    backbone_for,
    loaded,
    plan_of,
    settings_of,
    texts_of,
    unwatched,
)
from layerscope.arrays import scan_arrays
from layerscope.data import Texts, TextSource
from layerscope.decision import Selection, decide
from layerscope.errors import InputError
from layerscope.estimates import Estimates, estimate
from layerscope.metrics import catalogue
from layerscope.metrics.catalogue import Measure
from layerscope.models import Backbone, ModelOptions
from layerscope.preparation import Prepared, Progress, prepare, refuse_impossible
from layerscope.provenance import versions
from layerscope.runfolder import RunFolder
from layerscope.settings import ScanSettings
from layerscope.table import Run, load_run


class Scan(Result):
    """What a scan found; from `scan()` or, read from its folder, from `load()`."""

    def contributions(self) -> pd.DataFrame:
        """Return the per-text numbers whose means are the table's values."""
        return self.run.contributions.copy()

    def select(self) -> Selection:
        """Return the layer to use, without labels, with every rule's choice beside it."""
        return decide(self.run)

    def preferences(self) -> tuple[selection.Preference, ...]:
        """Return the layer that each measure prefers, in each convention, with the baselines."""
        return self._preferences

    @cached_property
    def _preferences(self) -> tuple[selection.Preference, ...]:
        """Bootstrapped once: the choice of a layer, the plots and the JSON all ask for them."""
        seed = int(self.record.get("settings", {}).get("seed", 0))
        return selection.preferences(self.run.table, self.run.contributions, seed=seed)

    def plot(self, *metrics: str) -> Any:
        """Return an interactive plotly figure of some measures, by default all."""
        return plots.to_plotly(self._figure(metrics))

    def save_plot(self, path: str | Path, *metrics: str) -> None:
        """Write the plot to a .png, .svg or .pdf file (needs the extra `plots`)."""
        plots.save(self._figure(metrics), path)

    def _figure(self, metrics: tuple[str, ...]) -> plots.Figure:
        chosen = catalogue.select(metrics) if metrics else catalogue.CATALOGUE
        dim = self.record.get("model", {}).get("dim")
        return plots.describe(self.run.table, self.preferences(), dim=dim, measures=chosen)


def load(folder: str | Path) -> Scan:
    """Read a finished scan from its folder.

    Raises:
        InputError: the folder holds none.
    """
    return Scan(load_run(folder), Path(folder))


@overload
def metrics() -> tuple[Measure, ...]: ...
@overload
def metrics(name: str) -> Measure: ...
def metrics(name: str | None = None) -> tuple[Measure, ...] | Measure:
    """Return every measure's facts, or those of one.

    Raises:
        InputError: no measure has that name.
    """
    return catalogue.CATALOGUE if name is None else catalogue.measure(name)


def scan(
    model: str | Path | nn.Module | np.ndarray[Any, Any] | torch.Tensor,
    data: TextSource | None = None,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    tokenizer: Any = None,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = data_module.DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Scan:
    """Measure every layer of a model on texts, in one pass.

    Args:
        model: a hub id, a local folder, a GGUF file, a loaded transformers model (give `tokenizer`),
            or plain arrays of pooled vectors (layer, sample, dim) or of the pooled vectors of
            augmented views (layer, sample, view, dim).
        data: a file, a datasets id, "-" for standard input, "sample", or the texts themselves as a
            list, an array, a column, a table or a dataset (`layerscope.data.as_texts` lists them);
            nothing for arrays.
        out: folder for the run; None writes nothing.
        overwrite: whether a run in that folder may be replaced.
        tokenizer: for a loaded model.
        column: of a table of texts, in a file or in Python.
        split: of a datasets id or of a dict of splits.
        limit: most texts to use; None uses all.
        model_options: how to load the model: revision, dtype, device.
        watch: opens a progress callback for the time of the scan; None shows nothing.
        settings: any field of `ScanSettings`.

    Raises:
        InputError: something given cannot be used; the message says what and what to do.
        RunError: the model or the disk failed.
    """
    chosen = settings_of(ScanSettings, settings)
    place = RunFolder(Path(out), overwrite) if out is not None else None
    if place:
        place.claim()
    with (watch or unwatched)() as progress:
        if isinstance(model, np.ndarray | torch.Tensor):
            if data is not None:
                raise InputError(
                    "expected arrays without texts, got both: arrays are measured as they are."
                )
            run = scan_arrays(_tensor(model), chosen, progress)
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


def estimate_scan(
    model: str | Path | nn.Module,
    data: TextSource,
    *,
    tokenizer: Any = None,
    column: str | None = None,
    split: str | None = None,
    limit: int | None = data_module.DEFAULT_LIMIT,
    model_options: ModelOptions | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Estimates:
    """Return what a scan would take in time, memory and disk, from one batch of it."""
    chosen = settings_of(ScanSettings, settings)
    with (watch or unwatched)() as progress:
        texts = texts_of(data, column, split, limit, chosen.seed)
        refuse_impossible(chosen, texts)
        backbone = backbone_for(model, tokenizer, model_options)
        return estimate(backbone, prepare(backbone, texts, chosen, progress))


def _scan_texts(
    model: str | Path | nn.Module,
    texts: Texts,
    settings: ScanSettings,
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


def _tensor(arrays: np.ndarray[Any, Any] | torch.Tensor) -> torch.Tensor:
    if isinstance(arrays, torch.Tensor):
        return arrays
    if arrays.dtype.kind not in "fiu":
        raise InputError(f"expected arrays of floating-point numbers, got {arrays.dtype}.")
    return torch.as_tensor(np.require(arrays, requirements=["C", "W"]))


def default_folder(model: str, data: str) -> Path:
    """Return where a scan goes if nobody says: runs/<model>--<data>."""
    names = (
        Path(model).resolve().name if Path(model).exists() else model,
        "stdin" if data == data_module.STANDARD_INPUT else Path(data).stem,
    )
    return Path(
        "runs", "--".join(re.sub(r"[^\w.-]+", "-", name).strip("-") or "run" for name in names)
    )
