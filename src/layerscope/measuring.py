"""The measures of one site, from what the pass left; and all sites' numbers as the results table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.numpy import save

from layerscope.errors import RunError, UndefinedError
from layerscope.files import write_atomically
from layerscope.metrics.catalogue import Measure
from layerscope.metrics.inputs import Convention, SampleInputs, ViewInputs
from layerscope.reduction import POOLED, PROMPT, REFERENCE, Column, call, key
from layerscope.states import Site
from layerscope.statistics import bootstrap_limits
from layerscope.store import Array, StateStore
from layerscope.table import COLUMNS, CONTRIBUTION_COLUMNS


@dataclass(frozen=True, eq=False)
class Cell:
    """One measure at one site.

    Attributes:
        layer, stage: the site.
        level: prompt, dataset or view.
        metric: the measure's name.
        convention: empty where it has none.
        value: None where it is undefined.
        contributions: a number for each kept text (NaN where it has none) whose mean is the value;
            empty for numbers that belong to no text, such as a null level.
        reason: why the value is undefined, or why some texts have none.
        other_layer: the layer that this one is compared with, None where there is none.
        low, high: limits, where they do not come from contributions.
        n: number of texts, where it does not come from contributions.
        note: what a reader of the record should know.
    """

    layer: int
    stage: str
    level: str
    metric: str
    convention: str
    value: float | None
    contributions: Array = field(default_factory=lambda: np.empty(0))
    reason: str = ""
    other_layer: int | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """What to measure at every site, and on which rows of the store.

    Attributes:
        measures: all of them.
        columns: the prompt measures, in the order of the store's columns.
        conventions: measure -> its conventions that were asked for.
        texts: items of the texts.
        width: length of a cell's contributions, one for each kept text, measured or not.
        views: (text, view) items of the views.
        view_texts: for each row of `views`, its text.
        reference: whether reference vectors are in the store.
        alpha: order of the entropies.
        seed: of the permutations.
    """

    measures: Sequence[Measure]
    columns: Sequence[Column]
    conventions: Callable[[Measure], tuple[Convention | None, ...]]
    texts: Array
    width: int
    views: Array
    view_texts: Array
    reference: bool
    alpha: float
    seed: int


def measure_site(
    measurement: Measurement, site: Site, store: StateStore, folder: Path | None = None
) -> list[Cell]:
    """Return the cells of a site; with a folder, kept there and read back if already made."""

    def make() -> list[Cell]:
        return [
            *_prompt_cells(measurement, site, store),
            *_dataset_cells(measurement, site, store),
            *_view_cells(measurement, site, store),
        ]

    return kept_cells(make, folder / f"measured-{site}.safetensors" if folder else None)


def kept_cells(make: Callable[[], list[Cell]], path: Path | None) -> list[Cell]:
    """Return cells read from a file or, where there is none, made and kept there."""
    if path is not None and path.is_file():
        return _read_cells(path)
    # The contributions come from derivatives, which a caller's inference mode would forbid.
    with torch.inference_mode(False):
        cells = make()
    if path is not None:
        write_atomically(path, _cells_as_bytes(cells))
    return cells


_FACTS: Final = tuple(part.name for part in fields(Cell) if part.name != "contributions")


def _cells_as_bytes(cells: Sequence[Cell]) -> bytes:
    # Python writes the shortest digits that read back as the same float, so JSON loses nothing.
    facts = [{name: getattr(cell, name) for name in _FACTS} for cell in cells]
    arrays = {str(i): cell.contributions for i, cell in enumerate(cells)}
    return save(arrays, metadata={"cells": json.dumps(facts)})


def _read_cells(path: Path) -> list[Cell]:
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["cells"])
        return [Cell(**fact, contributions=file.get_tensor(str(i))) for i, fact in enumerate(facts)]


def _prompt_cells(measurement: Measurement, site: Site, store: StateStore) -> Iterable[Cell]:
    if not measurement.columns:
        return
    numbers = store.rows(key(site, PROMPT), measurement.texts)
    for number, (record, convention) in enumerate(measurement.columns):
        values = numbers[:, number]
        kept = values[~np.isnan(values)]
        yield Cell(
            *_where(site, record, convention),
            value=float(kept.mean()) if len(kept) else None,
            contributions=spread_over(values, measurement.texts, measurement.width),
            reason=record.undefined if len(kept) < len(values) else "",
        )


def _dataset_cells(measurement: Measurement, site: Site, store: StateStore) -> Iterable[Cell]:
    records = [record for record in measurement.measures if record.level == "dataset"]
    if not records:
        return
    inputs = SampleInputs(*_vectors(measurement, site, store, measurement.texts))
    n, d = inputs.vectors.shape
    for record in records:
        yield from _scalar_cells(measurement, site, record, inputs, measurement.texts)
        if record.null is not None and record.null.varies:
            layer, stage, level, name, convention = _where(site, record, None)
            null = record.null.level(n, d)
            yield Cell(layer, stage, level, f"{name}_null", convention, value=null)


def _view_cells(measurement: Measurement, site: Site, store: StateStore) -> Iterable[Cell]:
    records = [record for record in measurement.measures if record.level == "view"]
    if not records:
        return
    inputs = ViewInputs(
        *_vectors(measurement, site, store, measurement.views), seed=measurement.seed
    )
    for record in records:
        yield from _scalar_cells(measurement, site, record, inputs, measurement.view_texts)


def _vectors(
    measurement: Measurement, site: Site, store: StateStore, items: Array
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return pooled and, where they were asked for, reference vectors, shaped (*items, dim)."""

    def rows(kind: str) -> torch.Tensor:
        flat = store.rows(key(site, kind), items.reshape(-1))
        return torch.from_numpy(flat.reshape(*items.shape, -1))

    return rows(POOLED), rows(REFERENCE) if measurement.reference else None


def _scalar_cells(
    measurement: Measurement,
    site: Site,
    record: Measure,
    inputs: SampleInputs | ViewInputs,
    texts: Array,
) -> Iterable[Cell]:
    for convention in measurement.conventions(record):
        where = _where(site, record, convention)
        try:
            estimate = call(record, inputs, convention, measurement.alpha)
        except UndefinedError as error:
            yield Cell(*where, value=None, reason=str(error))
            continue
        numbers = estimate.contributions.cpu().numpy()
        if len(numbers):
            numbers = spread_over(numbers, texts, measurement.width)
        yield Cell(*where, estimate.value, numbers, note=estimate.note)


def _where(
    site: Site, record: Measure, convention: Convention | None
) -> tuple[int, str, str, str, str]:
    return site.layer, site.stage, record.level, record.name, str(convention or "")


def spread_over(numbers: Array, texts: Array, width: int) -> Array:
    """Return numbers (text,) at the places of their texts among all kept texts; NaN elsewhere."""
    out = np.full(width, np.nan)
    out[texts] = numbers
    return out


# --- numbers as frames ---------------------------------------------------------------------------


def run_frames(
    cells: Sequence[Cell],
    *,
    depth: int,
    texts: Sequence[int],
    labels: dict[str, Any],
    perturbation: str,
    resamples: int,
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Return the results table, the contributions, and what is undefined with its reason.

    Args:
        cells: all of them.
        depth: number of blocks of the model.
        texts: for each place in the contributions, which of the user's texts it is.
        labels: model, revision, data and seed, which stand in every row.
        perturbation: what the view measures' texts went through.
        resamples: of the bootstrap.
    """
    limits = _limits(cells, int(labels["seed"]), resamples)
    rows = []
    for cell, (low, high, count) in zip(cells, limits, strict=True):
        if cell.value is None:
            continue
        rows.append(
            labels
            | {
                "perturbation": perturbation if cell.level == "view" else "none",
                "level": cell.level,
                "layer": cell.layer,
                "depth": cell.layer / depth,
                "stage": cell.stage,
                "other_layer": cell.other_layer,
                "metric": cell.metric,
                "convention": cell.convention,
                "value": cell.value,
                "low": low,
                "high": high,
                "n": count,
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table, _contribution_frame(cells, np.asarray(texts)), _undefined(cells)


def _limits(
    cells: Sequence[Cell], seed: int, resamples: int
) -> list[tuple[float | None, float | None, int | None]]:
    """Return low, high and the number of texts of every cell, all on the same resamples."""
    found = [(cell.low, cell.high, cell.n) for cell in cells]
    places = [
        i for i, cell in enumerate(cells) if cell.value is not None and len(cell.contributions)
    ]
    if not places:
        return found
    numbers = np.array([cells[i].contributions for i in places])
    lows, highs = bootstrap_limits(numbers, seed, resamples=resamples)
    counts = (~np.isnan(numbers)).sum(axis=1)
    for place, low, high, count in zip(places, lows, highs, counts, strict=True):
        bounded = bool(np.isfinite(low) and np.isfinite(high))
        found[place] = (
            (float(low), float(high), int(count)) if bounded else (None, None, int(count))
        )
    return found


def _contribution_frame(cells: Sequence[Cell], texts: Array) -> pd.DataFrame:
    kept = [cell for cell in cells if cell.value is not None and len(cell.contributions)]
    width = len(texts)
    values = np.array([cell.contributions for cell in kept]).reshape(-1)
    frame = pd.DataFrame({"text": np.tile(texts, len(kept))})
    frame["layer"] = np.repeat([cell.layer for cell in kept], width)
    for name in ("stage", "metric", "convention"):
        labels = [getattr(cell, name) for cell in kept]
        codes, known = pd.factorize(np.array(labels, dtype=object))
        frame[name] = pd.Categorical.from_codes(np.repeat(codes, width), pd.Index(known))
    frame["value"] = values
    defined = frame[frame["value"].notna()]
    return defined.reset_index(drop=True).astype(CONTRIBUTION_COLUMNS)


def _undefined(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """List what has no value, and what has none for some texts, with the reason."""
    found = []
    for cell in cells:
        missing = int(np.isnan(cell.contributions).sum()) if cell.level == "prompt" else 0
        if cell.value is None or missing:
            entry = {
                "metric": cell.metric,
                "convention": cell.convention,
                "layer": cell.layer,
                "stage": cell.stage,
                "reason": cell.reason,
            }
            if cell.other_layer is not None:
                entry["other_layer"] = cell.other_layer
            found.append(entry | ({"texts": missing} if cell.value is not None else {}))
    return found


def notes_of(cells: Iterable[Cell]) -> list[str]:
    """Return what readers should know of some measures in this run, each once."""
    return list(dict.fromkeys(cell.note for cell in cells if cell.note))


def refuse_nothing_measured(table: pd.DataFrame, undefined: list[dict[str, Any]]) -> None:
    """Raise a RunError if no measure has a value anywhere: an empty table would be no answer."""
    if table["value"].notna().any():
        return
    why = f": {undefined[0]['reason'].rstrip('.')}" if undefined else ""
    raise RunError(f"no measure has a value at any layer{why}.")
