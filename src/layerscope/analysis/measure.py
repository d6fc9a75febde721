"""The measures of one site, and of several layers, computed from the stored states."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.numpy import save

from layerscope.analysis.reduce import CROSSED, POOLED, PROMPT, REFERENCE, Column, call, key
from layerscope.data.files import write_atomically
from layerscope.data.views import of_spans
from layerscope.errors import RunError, UndefinedError
from layerscope.metrics.between import Between
from layerscope.metrics.geometry import LayerStack
from layerscope.metrics.inputs import SampleInputs, ViewInputs
from layerscope.metrics.measure import Measure
from layerscope.metrics.similarity import TokenCosines
from layerscope.results.resampling import bootstrap_limits
from layerscope.results.table import BLOCK, COLUMNS, CONTRIBUTION_COLUMNS
from layerscope.settings import Convention
from layerscope.states.extract import Site
from layerscope.states.store import Array, StateStore


@dataclass(frozen=True, eq=False)
class Cell:
    """The value of one measure at one site.

    Attributes:
        layer, stage: the site.
        level: prompt, dataset, view or pair.
        metric: name of the measure.
        convention: empty where it has none.
        value: None where it is undefined.
        contributions: a number for each kept text (NaN where it has none) whose mean is the value;
            empty for numbers that belong to no text, such as a null level.
        reason: why the value is undefined, or why some texts have none.
        other_layer: the layer that this one is compared with, None where there is none.
        low, high: limits, where they do not come from contributions.
        n: number of texts, where it does not come from contributions.
        note: a sentence for readers of the record.
        perturbation: kind of the views; "none" where the measure is not on views.
        corpus: whether the contributions belong to the texts of a corpus instead of the user's.
        dimension: of the compared subspaces, where it is lower than the k of the name.
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
    perturbation: str = "none"
    corpus: bool = False
    dimension: int | None = None


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Views of one kind.

    Attributes:
        perturbation: their kind, for the table.
        items: (text, view) rows of the store.
        texts: (text,) index of each text among all kept texts, or in the corpus.
        width: number of all kept texts, or of those in the corpus.
        corpus: whether the views are of the texts of a corpus instead of the user's.
    """

    perturbation: str
    items: Array
    texts: Array
    width: int
    corpus: bool = False

    def only(self, wanted: Array) -> ViewSet:
        """Return the views of some of these texts; `wanted` is (text,) bool."""
        return replace(self, items=self.items[wanted], texts=self.texts[wanted])


@dataclass(frozen=True)
class Measurement:
    """What to measure at every site, and on which rows of the store.

    Attributes:
        measures: all of them.
        columns: the prompt measures, in the order of the store's columns.
        conventions: measure -> its requested conventions.
        texts: rows of the texts in the store.
        width: number of kept texts, measured or not: the length of contributions.
        views: the views, by kind.
        reference: whether reference vectors are in the store.
        alpha: order of the entropies.
        seed: of the permutations.
    """

    measures: Sequence[Measure]
    columns: Sequence[Column]
    conventions: Callable[[Measure], tuple[Convention | None, ...]]
    texts: Array
    width: int
    views: Sequence[ViewSet]
    reference: bool
    alpha: float
    seed: int


def measure_site(
    measurement: Measurement, site: Site, store: StateStore, folder: Path | None = None
) -> list[Cell]:
    """Return the cells of a site; with a folder, cached there."""
    levels = (_prompt_cells, _dataset_cells, _view_cells)
    return kept_cells(
        lambda: [cell for cells in levels for cell in cells(measurement, site, store)],
        folder / f"measured-{site}.safetensors" if folder else None,
    )


def kept_cells(make: Callable[[], list[Cell]], path: Path | None) -> list[Cell]:
    """Return cells from a cache file, or compute them and write the file."""
    if path is not None and path.is_file():
        return _read_cells(path)
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
    for number, column in enumerate(measurement.columns):
        values = numbers[:, number]
        kept, whole = values[~np.isnan(values)], column.first is None
        cell = Cell(
            *_where(site, column.measure, column.convention),
            value=float(kept.mean()) if len(kept) else None,
            contributions=values,
            reason=column.measure.undefined if len(kept) < len(values) and whole else "",
            perturbation=column.label,
        )
        yield _spread(cell, measurement.texts, measurement.width)


def _dataset_cells(measurement: Measurement, site: Site, store: StateStore) -> Iterable[Cell]:
    records = [record for record in measurement.measures if record.level == "dataset"]
    if not records:
        return
    inputs = SampleInputs(*_vectors(measurement, site, store, measurement.texts))
    for record in records:
        for cell in _scalar_cells(measurement, site, record, inputs):
            yield _spread(cell, measurement.texts, measurement.width)
        if record.null is not None and record.null.varies:
            null = Cell(*_where(site, record, None), value=record.null.level(*inputs.vectors.shape))
            yield replace(null, metric=f"{record.name}_null")


def _view_cells(measurement: Measurement, site: Site, store: StateStore) -> Iterable[Cell]:
    records = [record for record in measurement.measures if record.level == "view"]
    if not records:
        return
    for views in measurement.views:
        inputs = None
        if len(views.texts):
            vectors = _vectors(measurement, site, store, views.items)
            inputs = ViewInputs(*vectors, seed=measurement.seed)
        for record in records:
            for cell in _scalar_cells(measurement, site, record, inputs):
                of_views = replace(cell, perturbation=views.perturbation, corpus=views.corpus)
                yield _spread(of_views, views.texts, views.width)


def _vectors(
    measurement: Measurement, site: Site, store: StateStore, items: Array
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return pooled and, if the store has them, reference vectors, shaped (*items, dim)."""

    def rows(kind: str) -> torch.Tensor:
        flat = store.rows(key(site, kind), items.reshape(-1))
        return torch.from_numpy(flat.reshape(*items.shape, -1))

    return rows(POOLED), rows(REFERENCE) if measurement.reference else None


def _scalar_cells(
    measurement: Measurement,
    site: Site,
    record: Measure,
    inputs: SampleInputs | ViewInputs | None,
) -> Iterable[Cell]:
    """Return the cells of a measure, with contributions of the texts of the inputs."""
    for convention in measurement.conventions(record):
        where = _where(site, record, convention)
        try:
            if inputs is None:
                raise UndefinedError("no text has views whose states can be measured")
            estimate = call(record, inputs, convention, measurement.alpha)
        except UndefinedError as error:
            yield Cell(*where, value=None, reason=str(error))
            continue
        texts = estimate.contributions.cpu().numpy()
        yield Cell(*where, estimate.value, texts, note=estimate.note, n=len(texts) or None)


def _spread(cell: Cell, texts: Array, width: int) -> Cell:
    """Return a cell with contributions of all kept texts (width,); NaN for texts not measured."""
    if not len(cell.contributions):
        return cell
    everywhere = np.full(width, np.nan)
    everywhere[texts] = cell.contributions
    return replace(cell, contributions=everywhere)


def _where(
    site: Site, record: Measure, convention: Convention | None
) -> tuple[int, str, str, str, str]:
    return site.layer, site.stage, record.level, record.name, str(convention or "")


# --- numbers as frames ---------------------------------------------------------------------------


def run_frames(
    cells: Sequence[Cell],
    *,
    depth: int,
    texts: Sequence[int],
    labels: dict[str, Any],
    resamples: int,
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]]:
    """Return the results table, the contributions, and the undefined values with their reasons.

    Args:
        cells: of all sites.
        depth: number of blocks of the model.
        texts: for each entry of the contributions, the index of the user's text.
        labels: model, revision, data and seed, which are in every row.
        resamples: of the bootstrap.
    """
    limits = _limits(cells, int(labels["seed"]), resamples)
    rows = [
        labels
        | {name: getattr(cell, name) for name in _FACTS if name in COLUMNS}
        | {"depth": cell.layer / depth, "low": low, "high": high, "n": count}
        for cell, (low, high, count) in zip(cells, limits, strict=True)
        if cell.value is not None
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table, _contribution_frame(cells, np.asarray(texts)), _undefined(cells)


def _limits(
    cells: Sequence[Cell], seed: int, resamples: int
) -> list[tuple[float | None, float | None, int | None]]:
    """Return low, high and the number of texts of every cell.

    All cells share the resamples of the user's texts; those of a corpus have resamples of their own.
    """
    found = [(cell.low, cell.high, cell.n) for cell in cells]
    for corpus in (False, True):
        known = [cell.value is not None and len(cell.contributions) for cell in cells]
        places = [i for i, cell in enumerate(cells) if known[i] and cell.corpus == corpus]
        if not places:
            continue
        numbers = np.array([cells[place].contributions for place in places])
        lows, highs = bootstrap_limits(numbers, seed + corpus, resamples=resamples)
        counts = (~np.isnan(numbers)).sum(axis=1)
        for place, low, high, count in zip(places, lows, highs, counts, strict=True):
            bounded = bool(np.isfinite(low) and np.isfinite(high))
            limits = (float(low), float(high)) if bounded else (None, None)
            found[place] = (*limits, int(count) or cells[place].n)
    return found


def _contribution_frame(cells: Sequence[Cell], texts: Array) -> pd.DataFrame:
    kept = [cell for cell in cells if cell.value is not None and len(cell.contributions)]
    widths = [len(cell.contributions) for cell in kept]
    ids = [-1 - np.arange(len(cell.contributions)) if cell.corpus else texts for cell in kept]
    frame = pd.DataFrame({"text": np.concatenate([np.empty(0, int), *ids])})
    for name in ("perturbation", "layer", "stage", "metric", "convention"):
        labels = [getattr(cell, name) for cell in kept]
        codes, known = pd.factorize(np.array(labels, dtype=object))
        frame[name] = pd.Categorical.from_codes(np.repeat(codes, widths), pd.Index(known))
    frame["value"] = np.concatenate([np.empty(0), *(cell.contributions for cell in kept)])
    defined = frame[frame["value"].notna()]
    return defined.reset_index(drop=True).astype(CONTRIBUTION_COLUMNS)


def _undefined(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the cells without a value, or without one for some texts, each with its reason."""
    found = []
    for cell in cells:
        missing = int(np.isnan(cell.contributions).sum()) if cell.level == "prompt" else 0
        if cell.value is None or (missing and cell.reason):
            names = ["metric", "convention", "layer", "stage", "reason"]
            names += ["other_layer"] * (cell.other_layer is not None)
            names += ["perturbation"] * (cell.level == "view")
            entry = {name: getattr(cell, name) for name in names}
            found.append(entry | ({"texts": missing} if cell.value is not None else {}))
    return found


def dimensions_of(cells: Iterable[Cell]) -> dict[str, int]:
    """Return measure -> dimension of its subspaces, where it is lower than the k of the name."""
    return {cell.metric: cell.dimension for cell in cells if cell.dimension is not None}


def notes_of(cells: Iterable[Cell]) -> list[str]:
    """Return the notes on measures in this run, each once; of several kinds of views, on the first."""
    found: dict[str, str] = {}
    first: dict[tuple[str, str], str] = {}
    for cell in cells:
        if cell.note:
            views = first.setdefault((cell.metric, cell.convention), cell.perturbation)
            if views == cell.perturbation:
                found.setdefault(cell.note, views)
    return [f"{on}: {note}" if of_spans(on) else note for note, on in found.items()]


def refuse_nothing_measured(table: pd.DataFrame, undefined: list[dict[str, Any]]) -> None:
    """Raise a RunError if no measure has a value at any layer."""
    if table["value"].notna().any():
        return
    why = f": {undefined[0]['reason'].rstrip('.')}" if undefined else ""
    raise RunError(f"no measure has a value at any layer{why}.")


def measure_dynamics(
    measurement: Measurement,
    layers: int,
    store: StateStore,
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Cell]:
    """Return the cells of all pair measures; with a folder, cached there.

    Args:
        measurement: what to measure, on which texts.
        layers: number of layers, L + 1; with fewer than 2 there are no pairs.
        store: the stored states.
        folder: of the cache.
        progress: called after each prepared layer and each measure.
    """
    records = [record for record in measurement.measures if record.level == "pair"]
    if not records or layers < 2:
        return []
    total, done = layers + len(records), itertools.count(1)

    def advance() -> None:
        progress("comparing layers", next(done), total)

    def make() -> list[Cell]:
        stack = _stack(measurement, layers, store, advance, records)
        cells: list[Cell] = []
        for record in records:
            cells.extend(_cells(record, stack, measurement))
            advance()
        return cells

    progress("comparing layers", 0, total)
    cells = kept_cells(make, folder / "measured-dynamics.safetensors" if folder else None)
    progress("comparing layers", total, total)
    return cells


def _stack(
    measurement: Measurement,
    layers: int,
    store: StateStore,
    prepared: Callable[[], None],
    records: Sequence[Measure],
) -> LayerStack:
    def rows(layer: int, kind: str) -> torch.Tensor:
        return torch.from_numpy(store.rows(key(Site(layer), kind), measurement.texts))

    def crossed(layer: int) -> TokenCosines:
        return TokenCosines(*rows(layer, CROSSED)[:, :2].unbind(1))

    return LayerStack(
        lambda layer: rows(layer, POOLED),
        layers,
        seed=measurement.seed,
        components=any(record.name == "gfmi_component" for record in records),
        crossed=crossed if any(record.crosses_blocks for record in records) else None,
        prepared=prepared,
    )


def _cells(record: Measure, stack: LayerStack, measurement: Measurement) -> Iterable[Cell]:
    for row in record.function(stack):
        yield _cell(row, measurement)
        for name, level in (("null", row.null), ("floor", row.floor)):
            if level is not None:
                where = (row.layer, BLOCK, "pair", f"{row.metric}_{name}", "")
                yield Cell(*where, value=level, other_layer=row.other_layer)


def _cell(row: Between, measurement: Measurement) -> Cell:
    low, high = row.limits or (None, None)
    cell = Cell(
        *(row.layer, BLOCK, "pair", row.metric, ""),
        value=row.value,
        reason=row.reason,
        other_layer=row.other_layer,
        low=low,
        high=high,
        n=len(measurement.texts),
        note=row.note,
        dimension=row.dimension,
    )
    if row.contributions is None:
        return cell
    numbers = row.contributions.cpu().numpy()
    return _spread(replace(cell, contributions=numbers), measurement.texts, measurement.width)
