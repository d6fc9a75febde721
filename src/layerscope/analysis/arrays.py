"""Pooled vectors that come from elsewhere -> every measure they allow: a scan without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from layerscope.analysis.measure import (
    Cell,
    Measurement,
    ViewSet,
    dimensions_of,
    measure_dynamics,
    measure_site,
    notes_of,
    refuse_nothing_measured,
    run_frames,
)
from layerscope.analysis.plan import check_measures, conventions_of
from layerscope.analysis.reduce import key
from layerscope.config import shown
from layerscope.errors import InputError
from layerscope.metrics.measure import Measure
from layerscope.results.folder import versions
from layerscope.results.table import Run
from layerscope.settings import Convention, ScanConfig
from layerscope.states.extract import Progress, Site, silent
from layerscope.states.store import StateStore


def scan_arrays(vectors: torch.Tensor, settings: ScanConfig, progress: Progress = silent) -> Run:
    """Measure pooled vectors that come from elsewhere, as layers 0..L.

    Args:
        vectors: (layer, sample, dim) for dataset measures and those of several layers, or (layer,
            sample, view, dim), the pooled vectors of augmented copies, for view measures.
        settings: which measures and conventions; what concerns models and texts has no effect.
        progress: told after every layer.

    Raises:
        InputError: another shape, or a measure that needs what arrays do not have.
    """
    _refuse_unmeasurable(vectors)
    layers, samples = vectors.shape[:2]
    level = "dataset" if vectors.ndim == 3 else "view"
    measures = _array_measures(settings, level)
    _refuse_reference(settings, measures)
    _refuse_lone_layer(settings, measures, layers)
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


def as_vectors(arrays: Any) -> torch.Tensor:
    """Return one tensor for an array, or for a list with the array of each layer.

    Raises:
        InputError: a list of something else or of arrays of several shapes, or a type of number that
            cannot be measured.
    """
    if isinstance(arrays, torch.Tensor):
        return arrays
    if isinstance(arrays, list | tuple):
        return _stacked(arrays)
    if np.ma.is_masked(arrays):
        raise InputError(
            "expected arrays without masked entries, got some; fill or leave them out."
        )
    if arrays.dtype.kind not in "fiu":
        raise InputError(f"expected arrays of floating-point numbers, got {arrays.dtype}.")
    native = (
        f"{arrays.dtype.kind}{min(8, arrays.dtype.itemsize)}"  # torch reads no other byte order
    )
    return torch.as_tensor(np.require(arrays, dtype=native, requirements=["C", "W"]))


def _stacked(arrays: Sequence[Any]) -> torch.Tensor:
    if not arrays or not all(isinstance(each, np.ndarray | torch.Tensor) for each in arrays):
        raise InputError(
            "expected an array (layer, sample, dim), or a list with the array of each layer, got "
            f"{shown(arrays)}."
        )
    shapes = [tuple(each.shape) for each in arrays]
    if len(set(shapes)) > 1:
        other = next(number for number, shape in enumerate(shapes) if shape != shapes[0])
        raise InputError(
            f"expected arrays of one shape, got {shapes[0]} for layer 0 and {shapes[other]} for layer "
            f"{other}; measure the same samples in as many dimensions at every layer."
        )
    vectors = [as_vectors(each) for each in arrays]
    return torch.stack([each.to(vectors[0]) for each in vectors])


def _refuse_unmeasurable(vectors: torch.Tensor) -> None:
    shape = tuple(vectors.shape)
    if len(shape) not in (3, 4) or not vectors.is_floating_point():
        raise InputError(
            "expected floating-point vectors (layer, sample, dim) or (layer, sample, view, dim), got "
            f"{vectors.dtype} {shape}."
        )
    if vectors.layout != torch.strided:
        raise InputError(f"expected a dense tensor, got {vectors.layout}; pass its to_dense().")
    least = dict(zip(("layer", "samples", "views", "dimension"), (1, 2, 2, 1), strict=True))
    if len(shape) == 3:
        del least["views"]
    for (axis, fewest), size in zip(least.items(), shape, strict=True):
        if size < fewest:
            raise InputError(f"expected at least {fewest} {axis}, got arrays of shape {shape}.")
    bad = int((~torch.isfinite(vectors)).sum())
    if bad:
        raise InputError(
            f"expected arrays of finite numbers, got {bad} NaN or infinite of {vectors.numel()}; leave "
            "out the samples that hold them."
        )


def _refuse_reference(settings: ScanConfig, measures: Sequence[Measure]) -> None:
    """Arrays hold one pooling only, and the convention `reference` has its own."""
    if set(settings.conventions) == {Convention.REFERENCE} and any(
        measure.conventions for measure in measures
    ):
        raise InputError(
            "arrays have no convention 'reference': it pools the tokens of a text in its own way, and "
            "arrays hold no tokens; ask for paper or normalized, or scan the model."
        )


def _refuse_lone_layer(settings: ScanConfig, measures: Sequence[Measure], layers: int) -> None:
    between = [measure.name for measure in measures if measure.level == "pair"]
    if settings.metrics and between and layers < 2:
        raise InputError(
            f"measures of several layers ({', '.join(between)}) need at least 2, got arrays of 1 layer."
        )


def _array_measures(settings: ScanConfig, level: str) -> tuple[Measure, ...]:
    chosen = check_measures(settings)
    allowed = ("dataset", "pair") if level == "dataset" else (level,)
    fitting = tuple(
        measure for measure in chosen if measure.level in allowed and not measure.crosses_blocks
    )
    if settings.metrics and len(fitting) < len(chosen):
        others = ", ".join(measure.name for measure in chosen if measure not in fitting)
        axes = "(layer, sample, dim)" if level == "dataset" else "(layer, sample, view, dim)"
        raise InputError(f"arrays {axes} do not allow {others}.")
    return fitting
