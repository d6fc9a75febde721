"""How measures go with task scores, as plain records: what the plots say, before they are drawn.

A matrix of measures and tasks, as figure 3 of Layer by Layer, and clouds of layers with the score
against the measure, as its figures 8 and 9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from layerscope.correlation import Association, Findings, Summary, labels
from layerscope.metrics.catalogue import CATALOGUE

TITLES: Final = {
    "dcor": "distance correlation",
    "bias_corrected": "squared distance correlation, bias-corrected",
    "spearman": "Spearman correlation",
    "kendall": "Kendall's tau-b",
    "partial": "Spearman correlation given depth and its square",
}
UNITS: Final = {measure.name: measure.unit for measure in CATALOGUE}
SYMBOLS: Final = ("circle", "square", "diamond", "cross", "triangle-up", "x")


@dataclass(frozen=True)
class Matrix:
    """One coefficient of every measure with every task.

    Attributes:
        title: What the numbers are, of which models.
        statistic: The coefficient's name in words.
        rows: Tasks.
        columns: Measures, the closest first.
        values: (row, column), None where there is none.
        low: The least value that the colors tell apart: 0, or -1 for coefficients with a sign.
    """

    title: str
    statistic: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: float

    @property
    def signed(self) -> bool:
        """Whether the sign of a value means something."""
        return self.low < 0


@dataclass(frozen=True)
class Dot:
    """One layer: its measure, its score, its depth."""

    x: float
    y: float
    layer: int
    depth: float

    @property
    def words(self) -> str:
        """The layer as a reader meets it under the pointer."""
        return f"layer {self.layer}: {self.x:.4g}, score {self.y:.4g}"


@dataclass(frozen=True)
class Series:
    """The layers of one model, by layer."""

    name: str
    symbol: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Cloud:
    """The score against one measure, a dot a layer.

    Attributes:
        title: The measure.
        below: What the summary says of it.
        x_title: The measure's unit.
        y_title: The score, and over how many tasks it is the mean.
        series: One for each model.
    """

    title: str
    below: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Clouds:
    """One cloud a measure."""

    title: str
    panels: tuple[Cloud, ...]


def matrix(findings: Findings, statistic: str = "dcor") -> Matrix:
    """Return one coefficient of every measure with every task, the median over models.

    Raises:
        InputError: If the coefficient is unknown.
    """
    values = findings.matrix(statistic).T
    cells = tuple(
        tuple(None if np.isnan(value) else float(value) for value in row)
        for row in values.to_numpy(dtype=float)
    )
    words = TITLES[statistic]
    return Matrix(
        title=f"{words[0].upper()}{words[1:]} over layers, {models_of(findings)}",
        statistic=words,
        rows=tuple(values.index),
        columns=tuple(values.columns),
        values=cells,
        low=0.0 if statistic == "dcor" else -1.0,
    )


def clouds(findings: Findings) -> Clouds:
    """Return the scores against each measure, the closest first.

    Where a model has several tasks, both are means over them, the same tasks at every layer.
    """
    names = labels(summary.measure for summary in findings.summaries)
    panels = []
    for summary in findings.summaries:
        group = [each for each in findings.associations if each.measure == summary.measure]
        panels.append(_cloud(names[summary.measure], summary, group))
    return Clouds(f"Score against measure, a dot a layer, {models_of(findings)}", tuple(panels))


def _cloud(name: str, summary: Summary, group: Sequence[Association]) -> Cloud:
    models = sorted({each.score.cluster for each in group})
    series = []
    for index, model in enumerate(models):
        own = [each for each in group if each.score.cluster == model]
        series.append(Series(model, SYMBOLS[index % len(SYMBOLS)], _dots(own)))
    tasks = sorted({each.score.name for each in group})
    return Cloud(
        title=name,
        below=f"median dCor {summary.dcor:.2f}, Spearman {summary.spearman:z.2f}",
        x_title=UNITS.get(summary.measure.metric, summary.measure.metric),
        y_title=tasks[0] if len(tasks) == 1 else f"mean score of {len(tasks)} tasks",
        series=tuple(series),
    )


def _dots(group: Sequence[Association]) -> tuple[Dot, ...]:
    """Return the means over tasks at the layers that all of them have."""
    common = sorted(set.intersection(*(set(each.curve.layers) for each in group)))
    dots = []
    for layer in common:
        places = [each.curve.layers.index(layer) for each in group]
        pairs = list(zip(group, places, strict=True))
        dots.append(
            Dot(
                x=float(np.mean([each.curve.values[place] for each, place in pairs])),
                y=float(np.mean([each.scores[place] for each, place in pairs])),
                layer=layer,
                depth=group[0].curve.depths[places[0]],
            )
        )
    return tuple(dots)


def models_of(findings: Findings) -> str:
    """Return the model, or how many there are."""
    names = sorted({association.score.cluster for association in findings.associations})
    return names[0] if len(names) == 1 else f"{len(names)} models"
