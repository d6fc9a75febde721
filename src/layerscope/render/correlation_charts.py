"""Charts of measures against scores: the matrix and the scatter plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from layerscope.decisions.curves import Association, Findings, Summary, labels
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.render.matplotlib import canvas_class, write

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

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


DEPTH: Final = "depth"
MARKERS: Final = {
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "x": "X",
}  # fmt: skip
# Named scales of plotly.js and plotly.py run in opposite directions.
SIGNED: Final = [
    [0, "#b2182b"],
    [0.25, "#ef8a62"],
    [0.5, "#f7f7f7"],
    [0.75, "#67a9cf"],
    [1, "#2166ac"],
]
GAP: Final = "\N{EN DASH}"


# --- plotly -----------------------------------------------------------------------------------------


def matrix_parts(matrix: Matrix) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the heat map as plotly's traces and layout, in plain dicts."""
    trace = {
        "type": "heatmap",
        "x": list(matrix.columns),
        "y": list(matrix.rows),
        "z": [list(row) for row in matrix.values],
        "zmin": matrix.low,
        "zmax": 1,
        "colorscale": SIGNED if matrix.signed else "Viridis",
        "text": [["" if value is None else f"{value:z.2f}" for value in row]
                 for row in matrix.values],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "hovertemplate": "%{y}<br>%{x}: %{z:.3f}<extra></extra>",
        "hoverongaps": False,
        "showscale": False,  # the numbers stand in the cells
    }  # fmt: skip
    longest = max(map(len, matrix.rows))
    layout = {
        "margin": {"l": 20 + round(6.2 * longest), "r": 10, "t": 30, "b": 130},
        "xaxis": {"tickangle": -40, "showgrid": False},
        "yaxis": {"autorange": "reversed", "showgrid": False},
    }
    return [trace], layout


def cloud_traces(cloud: Cloud) -> list[dict[str, Any]]:
    """Return a cloud as plotly traces, in plain dicts; the layers are joined in their order."""
    return [_series_trace(series) for series in cloud.series]


def _series_trace(series: Series) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": series.name,
        "legendgroup": series.name,
        "mode": "lines+markers",
        "x": [dot.x for dot in series.dots],
        "y": [dot.y for dot in series.dots],
        "text": [dot.words for dot in series.dots],
        "hovertemplate": "%{text}",
        "line": {"color": "rgba(138,138,138,0.45)", "width": 1},
        "marker": {
            "color": [dot.depth for dot in series.dots],
            "cmin": 0,
            "cmax": 1,
            "colorscale": "Viridis",
            "symbol": series.symbol,
            "size": 9,
            "line": {"width": 0.5, "color": "#8a8a8a"},
        },
    }


def correlation_to_plotly(drawing: Matrix | Clouds) -> Any:
    """Return a matrix or clouds as an interactive `plotly.graph_objects.Figure`."""
    if isinstance(drawing, Matrix):
        return _matrix_to_plotly(drawing)
    return _clouds_to_plotly(drawing)


def _matrix_to_plotly(matrix: Matrix) -> Any:
    from plotly.graph_objects import Figure

    traces, layout = matrix_parts(matrix)
    height = 200 + 24 * len(matrix.rows)
    title = {"text": matrix.title, "x": 0}
    layout["margin"]["t"] = 60
    return Figure(traces, {**layout, "title": title, "template": "plotly_white", "height": height})


def _clouds_to_plotly(clouds: Clouds, *, columns: int = 3) -> Any:
    from plotly.subplots import make_subplots

    columns = min(columns, len(clouds.panels))
    rows = -(-len(clouds.panels) // columns)
    drawing = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[f"{cloud.title}<br><sup>{cloud.below}</sup>" for cloud in clouds.panels],
        vertical_spacing=min(0.14, 0.42 / rows),
        horizontal_spacing=0.08,
    )
    legend: set[str] = set()
    for index, cloud in enumerate(clouds.panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in cloud_traces(cloud):
            first = trace["name"] not in legend
            legend.add(trace["name"])
            trace["marker"] = {**trace["marker"], "showscale": not index and len(legend) == 1}
            trace["marker"]["colorbar"] = {"title": {"text": DEPTH}, "thickness": 10}
            drawing.add_trace({**trace, "showlegend": first}, **place)
        drawing.update_xaxes(title={"text": cloud.x_title, "font": {"size": 11}}, **place)
        drawing.update_yaxes(title={"text": cloud.y_title, "font": {"size": 11}}, **place)
    drawing.update_layout(
        title={"text": clouds.title, "x": 0},
        template="plotly_white",
        height=140 + 320 * rows,
        showlegend=len(legend) > 1,
        legend={"orientation": "h", "y": -0.2 / rows},
        margin={"l": 60, "r": 20, "t": 110, "b": 60},
    )
    return drawing


# --- matplotlib -------------------------------------------------------------------------------------


def save_correlation(drawing: Matrix | Clouds, path: str | Path) -> None:
    """Write a matrix or clouds as .png, .svg or .pdf, told from the path's ending.

    Raises:
        InputError: If the ending is another, or matplotlib is not installed.
    """
    write(_matrix_canvas(drawing) if isinstance(drawing, Matrix) else _clouds_canvas(drawing), path)


def _matrix_canvas(matrix: Matrix) -> matplotlib.figure.Figure:
    """Return the matrix as a matplotlib figure, each value in its cell."""
    from matplotlib import colormaps

    size = (3.4 + 0.72 * len(matrix.columns), 1.9 + 0.24 * len(matrix.rows))
    canvas = canvas_class()(figsize=size, layout="constrained")
    axes = canvas.subplots()
    colors = colormaps["RdBu" if matrix.signed else "viridis"].with_extremes(bad="white")
    numbers = [[float("nan") if value is None else value for value in row] for row in matrix.values]
    image = axes.imshow(numbers, cmap=colors, vmin=matrix.low, vmax=1, aspect="auto")
    for row, values in enumerate(matrix.values):
        for column, value in enumerate(values):
            words = GAP if value is None else f"{value:z.2f}"
            axes.text(column, row, words, ha="center", va="center", fontsize=7,
                      color=_ink(matrix, value))  # fmt: skip
    axes.set_yticks(range(len(matrix.rows)), matrix.rows, fontsize=8)
    axes.set_xticks(
        range(len(matrix.columns)), matrix.columns, fontsize=8, rotation=35, ha="right",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    canvas.colorbar(image, ax=axes, shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)
    canvas.suptitle(matrix.title, x=0.01, ha="left", fontsize=10)
    return canvas


def _ink(matrix: Matrix, value: float | None) -> str:
    """Return a color that is read on that of the value."""
    if value is None:
        return "#888888"
    if matrix.signed:
        return "white" if abs(value) > 0.6 else "black"
    return "white" if value < 0.6 else "black"


def _clouds_canvas(clouds: Clouds, *, columns: int = 3) -> matplotlib.figure.Figure:
    """Return the clouds as a matplotlib figure, colored by depth."""
    columns = min(columns, len(clouds.panels))
    rows = -(-len(clouds.panels) // columns)
    canvas = canvas_class()(figsize=(3.7 * columns + 0.6, 3.1 * rows + 0.6), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    points = [_draw_cloud(axes, cloud) for axes, cloud in zip(grid.flat, clouds.panels)]  # noqa: B905
    for axes in grid.flat[len(clouds.panels) :]:
        axes.set_axis_off()
    canvas.colorbar(points[0], ax=grid, shrink=0.5, pad=0.02, label=DEPTH)
    handles, names = grid[0, 0].get_legend_handles_labels()
    if len(names) > 1:
        canvas.legend(handles, names, loc="outside lower left", ncols=3, fontsize=8)
    canvas.suptitle(clouds.title, x=0.01, ha="left", fontsize=11)
    return canvas


def _draw_cloud(axes: matplotlib.axes.Axes, cloud: Cloud) -> Any:
    """Draw one cloud and return its points, for the scale of their colors."""
    points = None
    for series in cloud.series:
        x, y = [dot.x for dot in series.dots], [dot.y for dot in series.dots]
        axes.plot(x, y, color="#bbbbbb", linewidth=0.7, zorder=1)
        points = axes.scatter(
            x, y, c=[dot.depth for dot in series.dots], vmin=0, vmax=1, cmap="viridis", s=26,
            marker=MARKERS[series.symbol], edgecolors="#666666", linewidths=0.4, zorder=2,
            label=series.name,
        )  # fmt: skip
    axes.set_title(f"{cloud.title}\n{cloud.below}", loc="left", fontsize=8)
    axes.set_xlabel(cloud.x_title, fontsize=7)
    axes.set_ylabel(cloud.y_title, fontsize=7)
    axes.tick_params(labelsize=7, length=2)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return points
