"""The measures of several layers, from the same store as those of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from layerscope.measuring import Cell, Measurement, kept_cells, spread_over
from layerscope.metrics.catalogue import Measure
from layerscope.metrics.layers import Between, LayerStack
from layerscope.metrics.similarity import TokenCosines
from layerscope.reduction import CROSSED, POOLED, key
from layerscope.states import Site
from layerscope.store import StateStore
from layerscope.table import BLOCK


def measure_dynamics(
    measurement: Measurement,
    layers: int,
    store: StateStore,
    folder: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[Cell]:
    """Return the cells of all pair measures; with a folder, kept there and read back if already made.

    Args:
        measurement: what to measure, on which texts.
        layers: number of layers, 0 to L; with fewer than 2 nothing is between them.
        store: what the pass left.
        folder: where the finished family is kept.
        progress: told after every layer that was prepared and every measure.
    """
    records = [record for record in measurement.measures if record.level == "pair"]
    if not records or layers < 2:
        return []
    total, done = layers + len(records), 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("comparing layers", done, total)

    def make() -> list[Cell]:
        stack = _stack(measurement, layers, store, tell, records)
        cells = []
        for record in records:
            cells.extend(_cells(record, stack, measurement))
            tell()
        return cells

    progress("comparing layers", 0, total)
    cells = kept_cells(make, folder / "measured-dynamics.safetensors" if folder else None)
    progress("comparing layers", total, total)
    return cells


def _stack(
    measurement: Measurement,
    layers: int,
    store: StateStore,
    told: Callable[[], None],
    records: Sequence[Measure],
) -> LayerStack:
    def read(layer: int) -> torch.Tensor:
        return torch.from_numpy(store.rows(key(Site(layer), POOLED), measurement.texts))

    def crossed(layer: int) -> TokenCosines:
        rows = torch.from_numpy(store.rows(key(Site(layer), CROSSED), measurement.texts))
        return TokenCosines(rows[:, 0], rows[:, 1])

    return LayerStack(
        read,
        layers,
        seed=measurement.seed,
        components=any(record.name == "gfmi_component" for record in records),
        crossed=crossed if any(record.crosses_blocks for record in records) else None,
        told=told,
    )


def _cells(record: Measure, stack: LayerStack, measurement: Measurement) -> list[Cell]:
    found: list[Cell] = []
    for row in record.function(stack):
        found.append(_cell(row, measurement))
        for name, level in (("null", row.null), ("floor", row.floor)):
            if level is not None:
                found.append(_level(row, name, level))
    return found


def _cell(row: Between, measurement: Measurement) -> Cell:
    where = (row.layer, BLOCK, "pair", row.metric, "")
    low, high = row.limits or (None, None)
    cell = Cell(
        *where,
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
    return replace(cell, contributions=spread_over(numbers, measurement.texts, measurement.width))


def _level(row: Between, name: str, level: float) -> Cell:
    return Cell(
        row.layer,
        BLOCK,
        "pair",
        f"{row.metric}_{name}",
        "",
        value=level,
        other_layer=row.other_layer,
    )
