"""Drawings in matplotlib, for .png, .svg and .pdf files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final, TypeVar

from layerscope.errors import InputError
from layerscope.render.drawing import BAND, Cloud, Clouds, Figure, Heatmap, Line, Panel, Point
from layerscope.render.view import NONE

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Drawn = TypeVar("Drawn")

FORMATS: Final = (".png", ".svg", ".pdf")
MIDDLE: Final = "middle layer"
PREFERRED: Final = "preferred layer"
NEAR: Final = "within noise of it"
NORMED: Final = "after the final norm"
SIGNS: Final = (MIDDLE, PREFERRED, NEAR, NORMED)
_WIDEST: Final = 46  # characters of a panel's title in one line
_MOST_NAMED: Final = 14  # dots with their names beside them
_DASHES: Final = {"solid": "-", "dash": "--", "dot": ":"}
_MARKERS: Final = {
    "circle": "o", "square": "s", "diamond": "D", "cross": "P", "triangle-up": "^", "x": "X",
}  # fmt: skip


def save(drawing: Figure | Heatmap | Clouds, path: str | Path) -> None:
    """Write a drawing as .png, .svg or .pdf, by the path's ending.

    Raises:
        InputError: the ending is another, or matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InputError(
            f"expected a file ending in {', '.join(FORMATS)}, got {target.name!r}; "
            "an interactive page is written by `layerscope scan`"
        )
    to_matplotlib(drawing).savefig(target, dpi=160)


def to_matplotlib(drawing: Figure | Heatmap | Clouds) -> matplotlib.figure.Figure:
    """Return a drawing as a matplotlib figure, without a window or a global state.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise InputError(
            "expected matplotlib for an image file, and it is not installed: "
            "pip install 'layerscope[plots]'"
        ) from error
    match drawing:
        case Figure():
            return _panels(Canvas, drawing)
        case Heatmap():
            return _heatmap(Canvas, drawing)
        case Clouds():
            return _clouds(Canvas, drawing)


def _grid(
    canvas_class: Callable[..., Any],
    panels: Sequence[Drawn],
    size: tuple[float, float],
    draw: Callable[[matplotlib.axes.Axes, Drawn], Any],
) -> tuple[matplotlib.figure.Figure, Any, list[Any]]:
    """Return a canvas with three panels a row, its axes, and what drawing each panel returned."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    canvas = canvas_class(figsize=(size[0] * columns, size[1] * rows + 0.8), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    drawn = [draw(axes, panel) for axes, panel in zip(grid.flat, panels, strict=False)]
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    return canvas, grid, drawn


def _plain(axes: matplotlib.axes.Axes) -> None:
    axes.tick_params(labelsize=7, length=2)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# --- curves -----------------------------------------------------------------------------------------


def _panels(canvas_class: Callable[..., Any], figure: Figure) -> matplotlib.figure.Figure:
    canvas, grid, _ = _grid(
        canvas_class, figure.panels, (4.1, 2.9), lambda axes, panel: _panel(axes, figure, panel)
    )
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # Curves first, then the signs, which mean the same in every color.
    labels = sorted(handles, key=lambda label: label in SIGNS)
    # Below the panels: next to the title there is no room over one panel or two.
    canvas.legend(
        [handles[label] for label in labels], labels, loc="outside lower center",
        ncols=min(8, 3 * grid.shape[1]), fontsize=8,
    )  # fmt: skip
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=11)
    return canvas


def _panel(axes: matplotlib.axes.Axes, figure: Figure, panel: Panel) -> None:
    if (middle := figure.middle) is not None:
        axes.axvline(middle, color="#aaaaaa", linewidth=0.8, linestyle=":", label=MIDDLE)
    if panel.preferred is not None and figure.along == "layer":
        axes.axvline(panel.preferred, color=panel.lines[0].color, linewidth=0.8, linestyle="--")
    for line in panel.lines:
        _line(axes, figure, line)
    for level in filter(panel.is_near, panel.levels):
        axes.axhline(level.value, color="#888888", linewidth=0.8, linestyle=(0, (6, 3)))
        axes.annotate(level.label, (0.99, level.value), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=7, color="#666666")  # fmt: skip
    axes.set_title(fill(panel.title, _WIDEST), loc="left", fontsize=9, fontweight="bold")
    axes.set_ylabel(panel.unit, fontsize=7)
    axes.set_xlabel(figure.x_title or "layer, depth below it", fontsize=7)
    axes.set_xticks(*figure.ticks)
    axes.set_xlim(*figure.x_range)
    _plain(axes)


def _line(axes: matplotlib.axes.Axes, figure: Figure, line: Line) -> None:
    """Draw a curve with its band, the layers within noise ringed, the final norm as a diamond."""
    x = [figure.x(point) for point in line.points]
    values = [point.value for point in line.points]
    axes.plot(x, values, _DASHES[line.dash], color=line.color, linewidth=1.6,
              label=line.name if line.listed else None)  # fmt: skip
    limited = [point for point in line.points if point.low is not None and point.high is not None]
    axes.fill_between(
        [figure.x(point) for point in limited],
        [point.low for point in limited if point.low is not None],
        [point.high for point in limited if point.high is not None],
        color=line.color, alpha=BAND, linewidth=0,
    )  # fmt: skip
    near = [point for point in line.points if point.layer in line.near]
    best = [point for point in line.points if point.layer == line.preferred]
    signs: tuple[tuple[Sequence[Point], dict[str, Any]], ...] = (
        (near, {"marker": "o", "markerfacecolor": "white", "markersize": 5, "label": NEAR}),
        (best, {"marker": "o", "markersize": 6, "label": PREFERRED}),
        ([line.final] if line.final else [],
         {"marker": "D", "markerfacecolor": "none", "markersize": 5, "label": NORMED}),
    )  # fmt: skip
    for points, style in signs:
        if points:  # the legend names no sign that is nowhere
            axes.plot([figure.x(p) for p in points], [p.value for p in points], linestyle="",
                      color=line.color, **style)  # fmt: skip


# --- heatmaps and clouds ----------------------------------------------------------------------------


def _heatmap(canvas_class: Callable[..., Any], heat: Heatmap) -> matplotlib.figure.Figure:
    """Draw a heatmap with each value in its cell."""
    from matplotlib import colormaps

    size = (3.4 + 0.72 * len(heat.columns), 1.9 + 0.24 * len(heat.rows))
    canvas: matplotlib.figure.Figure = canvas_class(figsize=size, layout="constrained")
    axes = canvas.subplots()
    colors = colormaps["RdBu" if heat.signed else "viridis"].with_extremes(bad="white")
    numbers = [[float("nan") if value is None else value for value in row] for row in heat.values]
    image = axes.imshow(numbers, cmap=colors, vmin=heat.low, vmax=1, aspect="auto")
    for row, values in enumerate(heat.values):
        for column, value in enumerate(values):
            words = NONE if value is None else f"{value:z.2f}"
            axes.text(column, row, words, ha="center", va="center", fontsize=7,
                      color=_ink(heat, value))  # fmt: skip
    axes.set_yticks(range(len(heat.rows)), [str(row) for row in heat.rows], fontsize=8)
    axes.set_xticks(
        range(len(heat.columns)), [str(column) for column in heat.columns], fontsize=8,
        rotation=35, ha="right", rotation_mode="anchor",
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    canvas.colorbar(image, ax=axes, shrink=0.6, pad=0.02).ax.tick_params(labelsize=7)
    canvas.suptitle(heat.title, x=0.01, ha="left", fontsize=10)
    return canvas


def _ink(heat: Heatmap, value: float | None) -> str:
    """Return a color that is legible on that of the value."""
    if value is None:
        return "#888888"
    dark = abs(value) > 0.6 if heat.signed else value < 0.6
    return "white" if dark else "black"


def _clouds(canvas_class: Callable[..., Any], clouds: Clouds) -> matplotlib.figure.Figure:
    draw = _cloud if clouds.layers else _named_cloud
    canvas, grid, points = _grid(canvas_class, clouds.panels, (3.7, 3.1), draw)
    if clouds.layers:
        canvas.colorbar(points[0], ax=grid, shrink=0.5, pad=0.02, label="depth")
    handles, names = grid[0, 0].get_legend_handles_labels()
    if len(names) > 1:
        canvas.legend(handles, names, loc="outside lower left", ncols=3, fontsize=8)
    canvas.suptitle(clouds.title, x=0.01, ha="left", fontsize=11)
    return canvas


def _cloud(axes: matplotlib.axes.Axes, cloud: Cloud) -> Any:
    """Draw one cloud and return its points, for the scale of their colors."""
    points = None
    for series in cloud.series:
        x, y = [dot.x for dot in series.dots], [dot.y for dot in series.dots]
        axes.plot(x, y, color="#bbbbbb", linewidth=0.7, zorder=1)
        points = axes.scatter(
            x, y, c=[dot.depth for dot in series.dots], vmin=0, vmax=1, cmap="viridis", s=26,
            marker=_MARKERS[series.symbol], edgecolors="#666666", linewidths=0.4, zorder=2,
            label=series.name,
        )  # fmt: skip
    _label(axes, cloud)
    return points


def _named_cloud(axes: matplotlib.axes.Axes, cloud: Cloud) -> None:
    """Draw one cloud whose dots are data sets or models; of few, each with its name."""
    for series in cloud.series:
        x, y = [dot.x for dot in series.dots], [dot.y for dot in series.dots]
        axes.scatter(x, y, s=22, marker=_MARKERS[series.symbol], alpha=0.75, label=series.name)
    dots = [dot for series in cloud.series for dot in series.dots]
    for dot in dots if len(dots) <= _MOST_NAMED else ():
        axes.annotate(dot.name, (dot.x, dot.y), (3, 3), textcoords="offset points", fontsize=6)
    _label(axes, cloud)


def _label(axes: matplotlib.axes.Axes, cloud: Cloud) -> None:
    axes.set_title(f"{cloud.title}\n{cloud.below}", loc="left", fontsize=8)
    axes.set_xlabel(cloud.x_title, fontsize=7)
    axes.set_ylabel(cloud.y_title, fontsize=7)
    _plain(axes)
