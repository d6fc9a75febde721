"""What each block does to the representation, and the model as a whole, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pandas as pd
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from layerscope.terminal.signs import Symbols, grid_of
from layerscope.terminal.words import evenly, number, sparkline


@dataclass(frozen=True)
class _Head:
    """A column: the measure, its two lines of heading, its decimals."""

    metric: str
    words: str
    below: str
    decimals: int = 3


COLUMNS: Final = (
    _Head("frenet_speed_k32", "speed", "k32"),
    _Head("frenet_speed_k32_floor", "floor", "noise"),
    _Head("frenet_turning_k32", "turning", "k32", 2),
    _Head("nrs_k10", "NRS", "k10"),
    _Head("nrs_to_final_k10", "NRS", "to final"),
    _Head("gfmi_edge", "GFMI", "edge"),
    _Head("cka_unbiased", "CKA", "unbiased"),
    _Head("block_influence", "infl.", "tokens"),
)
SCORES: Final = (
    ("frenet_displacement_k32", "d_0,L (k32)", 3),
    ("frenet_straightness_k32", "straightness", 3),
    ("frenet_mean_turning_k32", "mean turning", 2),
    ("mean_nrs_k10", "mean NRS", 3),
    ("mean_gfmi_edge", "mean GFMI edge", 4),
)


def dynamics_table(table: pd.DataFrame, symbols: Symbols) -> RenderableType | None:
    """Return a row for each block and the model's scores, or None where neither was measured."""
    rows = table[(table["level"] == "pair") & table["value"].notna()]
    by_metric = {
        str(metric): dict(zip(part["layer"].astype(int), part["value"].astype(float), strict=True))
        for metric, part in rows.groupby("metric")
    }
    shown = [head for head in COLUMNS if head.metric in by_metric]
    scores = _scores(by_metric, symbols)
    if not shown and scores is None:
        return None
    parts: list[RenderableType] = [Text("Dynamics: what each block does", "bold")]
    if shown:
        parts.append(_blocks(shown, by_metric, symbols))
        legend = "null: unrelated layers or random subspaces; a speed near its floor is no motion"
        parts.append(Text(legend, "dim"))
    if scores is not None:
        parts.append(Padding(scores, (1, 0, 0, 0)))
    return Padding(Group(*parts), (0, 0, 1, 1))


def _blocks(
    shown: list[_Head], by_metric: Mapping[str, Mapping[int, float]], symbols: Symbols
) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, show_footer=True)
    foot = Text("null\n", "dim").append("shape", "dim")
    grid.add_column("block\n", foot, justify="right", no_wrap=True, width=5)
    layers = sorted({layer for head in shown for layer in by_metric[head.metric] if layer})
    for head in shown:
        words = Text(symbols.text(head.words)).append(f"\n{head.below}", style="dim")
        null = next(iter(by_metric.get(f"{head.metric}_null", {}).values()), None)
        below = Text("" if null is None else number(null, head.decimals, symbols), "dim")
        curve = [by_metric[head.metric][k] for k in layers if k in by_metric[head.metric]]
        below.append("\n").append(sparkline(curve, symbols), "cyan")
        grid.add_column(words, below, justify="right", no_wrap=True, width=8)
    for layer in evenly(layers):
        cells = [number(by_metric[h.metric].get(layer), h.decimals, symbols) for h in shown]
        grid.add_row(Text(str(layer), "bold"), *cells)
    return grid


def _scores(by_metric: Mapping[str, Mapping[int, float]], symbols: Symbols) -> Table | None:
    """Return the model's scores, each with what it would be without structure."""
    grid = grid_of("whole model", "", "null", "floor", "bound")
    for column in grid.columns[1:]:
        column.justify = "right"
    for metric, name, digits in SCORES:
        for value in by_metric.get(metric, {}).values():
            ends = (by_metric.get(f"{metric}_{kind}", {}) for kind in ("null", "floor", "bound"))
            beside = [next(iter(end.values()), None) for end in ends]
            cells = ["" if level is None else f"{level:.{digits}f}" for level in beside]
            grid.add_row(name, number(value, digits, symbols), *cells)
    return grid if grid.row_count else None
