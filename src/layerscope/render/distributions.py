"""Distributions of a measure of single texts at some layers: a panel a layer, a line a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import scipy.stats

from layerscope.decisions.bimodality import FEWEST, bimodality
from layerscope.decisions.dependence import holm
from layerscope.errors import InputError, unknown_name
from layerscope.render.drawing import Figure, Line, Panel, Point
from layerscope.render.overlay import (
    Key,
    grouped,
    in_convention,
    looks_of,
    short_names,
    spread_layers,
    words_of,
)
from layerscope.results.runs import RUN, blanked, labels_of
from layerscope.results.table import BLOCK
from layerscope.settings import PlotConfig

_POINTS: Final = 160  # of a density
_MOST_LAYERS: Final = 6
_FACETS: Final = ("model", "revision", "data")


def distributions(table: pd.DataFrame, contributions: pd.DataFrame, config: PlotConfig) -> Figure:
    """Return the densities of a measure over the texts, with p of Hartigan's dip in the titles.

    Densities are Gaussian kernels with Scott's bandwidth; p is corrected over all layers and lines of a
    measure (Holm).

    Args:
        table: of the runs, with the column `run`.
        contributions: their per-text numbers.
        config: which measure (by default prompt entropy), layers (by default six), and lines (by
            default data sets).

    Raises:
        InputError: no such numbers, or fewer than two texts.
    """
    by = config.by or ("data",)
    metric = (config.metric or ("prompt_entropy",))[0]
    rows = of_texts(table, contributions, metric, config)
    layers = sorted(rows["layer"].unique())
    shown = config.layers or spread_layers(layers, _MOST_LAYERS)
    others = [name for name in _FACETS if name not in by and rows[name].nunique() > 1]
    dips = _dips(rows, by, others)
    looks = looks_of(rows, by)
    panels = []
    for layer in shown:
        part = rows[rows["layer"] == layer]
        for key, own in grouped(part, others):
            lines, said = [], []
            for name, values in grouped(own, by):
                look = looks[name]
                lines.append(
                    Line(
                        look.name, "", _density(values["value"].to_numpy(float), int(layer)), None,
                        None, (), look.color, look.dash, look.listed,
                    )
                )  # fmt: skip
                if (p := dips.get((key, name, layer))) is not None:
                    said.append(f"{look.name} {p:.2g}")
            title = ", ".join(filter(None, (f"layer {layer}", words_of(others, key))))
            title += f"; p of the dip: {', '.join(said)}" if said else ""
            panels.append(Panel(metric, title, "density", tuple(lines), (), main=True))
    title = f"{metric} of single texts by {' and '.join(by)}"
    return Figure(title, tuple(panels), int(max(layers)), "value")


def of_texts(
    table: pd.DataFrame, contributions: pd.DataFrame, metric: str, config: PlotConfig
) -> pd.DataFrame:
    """Return the per-text numbers of one measure with the model and data of each run.

    Raises:
        InputError: the runs hold none of that measure.
    """
    own = blanked(labels_of(table, _FACETS), _FACETS)
    names = ["stage", "metric", "convention", "perturbation"]
    rows = contributions.astype(dict.fromkeys(names, str)).join(own, on=RUN)
    rows = rows[(rows["stage"] == BLOCK) & (rows["text"] >= 0)]
    if metric not in set(rows["metric"]):
        raise unknown_name(
            "measure of single texts in these runs", metric, sorted(set(rows["metric"]))
        )
    rows = in_convention(rows[rows["metric"] == metric], config.convention)
    if rows.empty:
        raise InputError("the runs hold no value to draw in that convention and at those layers.")
    return rows.assign(model=short_names(rows["model"]))


def _dips(
    rows: pd.DataFrame, by: Sequence[str], others: Sequence[str]
) -> dict[tuple[Key, Key, int], float]:
    """Return p of the dip of each panel's lines at each layer, corrected over all of them."""
    found: dict[tuple[Key, Key, int], float] = {}
    for key, part in grouped(rows, others):
        for name, own in grouped(part, by):
            if own["text"].nunique() < FEWEST:
                continue
            tested = bimodality(own, str(own["metric"].iloc[0]))
            found |= {
                (key, name, layer): p for layer, p in zip(tested["layer"], tested["p"], strict=True)
            }
    return dict(zip(found, map(float, holm(list(found.values()))), strict=True)) if found else {}


def _density(values: np.ndarray, layer: int) -> tuple[Point, ...]:
    spread = float(np.std(values))
    if len(values) < 2 or spread == 0:
        raise InputError(
            f"expected different values of several texts to draw a distribution, layer {layer} has "
            f"{len(set(values))}; leave it out with layers."
        )
    low, high = values.min() - spread / 2, values.max() + spread / 2
    places = np.linspace(low, high, _POINTS)
    heights = scipy.stats.gaussian_kde(values)(places)
    return tuple(
        Point(layer, 0.0, float(height), None, None, None, at=float(place))
        for place, height in zip(places, heights, strict=True)
    )
