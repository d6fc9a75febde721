"""Pooled vectors that come from elsewhere -> every measure they allow: a scan without a model."""

from __future__ import annotations

import numpy as np
import torch

from layerscope.dynamics import measure_dynamics
from layerscope.errors import InputError
from layerscope.measuring import (
    Cell,
    Measurement,
    ViewSet,
    dimensions_of,
    measure_site,
    notes_of,
    refuse_nothing_measured,
    run_frames,
)
from layerscope.metrics import catalogue
from layerscope.metrics.catalogue import Measure
from layerscope.metrics.inputs import Convention
from layerscope.preparation import Progress, conventions_of, silent
from layerscope.provenance import versions
from layerscope.reduction import key
from layerscope.settings import ScanSettings
from layerscope.states import Site
from layerscope.store import StateStore
from layerscope.table import Run


def scan_arrays(vectors: torch.Tensor, settings: ScanSettings, progress: Progress = silent) -> Run:
    """Measure pooled vectors that come from elsewhere, as layers 0..L.

    Args:
        vectors: (layer, sample, dim) for dataset measures and those of several layers, or (layer,
            sample, view, dim), the pooled vectors of augmented copies, for view measures.
        settings: which measures and conventions; what concerns models and texts has no effect.
        progress: told after every layer.

    Raises:
        InputError: another shape, or a measure that needs what arrays do not have.
    """
    if vectors.ndim not in (3, 4) or not vectors.is_floating_point():
        raise InputError(
            "expected floating-point vectors (layer, sample, dim) or (layer, sample, view, dim), got "
            f"{vectors.dtype} {tuple(vectors.shape)}."
        )
    layers, samples = vectors.shape[:2]
    if layers < 1 or samples < 2:
        raise InputError(f"expected at least 1 layer and 2 samples, got {layers} and {samples}.")
    level = "dataset" if vectors.ndim == 3 else "view"
    measures = _array_measures(settings, level)
    items = np.arange(samples * (1 if level == "dataset" else vectors.shape[2]))
    groups = items.reshape(samples, -1)
    store = StateStore()
    sites = [Site(layer) for layer in range(layers)]
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    flat = wide.detach().reshape(layers, len(items), -1).cpu().numpy()
    store.add(items, {key(site, "pooled"): flat[site.layer] for site in sites})
    measurement = Measurement(
        measures=measures,
        columns=(),
        conventions=lambda record: tuple(
            c for c in conventions_of(record, settings) if c is not Convention.REFERENCE
        ),
        texts=np.arange(samples),
        width=samples,
        views=[ViewSet("given", groups, np.arange(samples), samples)],
        reference=False,
        alpha=settings.alpha,
        seed=settings.seed,
    )
    cells: list[Cell] = []
    try:
        for number, site in enumerate(sites):
            progress("measuring layers", number, layers)
            cells.extend(measure_site(measurement, site, store))
        progress("measuring layers", layers, layers)
        cells.extend(measure_dynamics(measurement, layers, store, progress=progress))
    finally:
        store.close()
    table, contributions, undefined = run_frames(
        cells,
        depth=max(1, layers - 1),
        texts=range(samples),
        labels={"model": "arrays", "revision": "", "data": "arrays", "seed": settings.seed},
        resamples=settings.resamples,
    )
    refuse_nothing_measured(table, undefined)
    record = {
        "model": {"name": "arrays", "blocks": layers - 1, "dim": vectors.shape[-1]},
        "data": {"name": "arrays", "texts": samples},
        "settings": settings.as_dict(),
        "versions": versions(),
        "undefined": undefined,
        "subspace_dimensions": dimensions_of(cells),
        "notes": ["measured on given arrays: no model was run", *notes_of(cells)],
    }
    return Run(table, contributions, record)


def _array_measures(settings: ScanSettings, level: str) -> tuple[Measure, ...]:
    chosen = catalogue.select(settings.metrics)
    allowed = ("dataset", "pair") if level == "dataset" else (level,)
    fitting = tuple(
        measure for measure in chosen if measure.level in allowed and not measure.crosses_blocks
    )
    if settings.metrics and len(fitting) < len(chosen):
        others = ", ".join(measure.name for measure in chosen if measure not in fitting)
        axes = "(layer, sample, dim)" if level == "dataset" else "(layer, sample, view, dim)"
        raise InputError(f"arrays {axes} do not allow {others}.")
    return fitting
