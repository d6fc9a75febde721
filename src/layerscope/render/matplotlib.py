"""A description drawn with matplotlib, for .png, .svg and .pdf files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from layerscope.errors import InputError
from layerscope.render.charts import BAND, Figure, Line, Panel, ticks, x_range

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

FORMATS: Final = (".png", ".svg", ".pdf")
MIDDLE: Final = "middle layer"
PREFERRED: Final = "preferred layer"
NEAR: Final = "within noise of it"
NORMED: Final = "after the final norm"
SIGNS: Final = (MIDDLE, PREFERRED, NEAR, NORMED)


def save(figure: Figure, path: str | Path) -> None:
    """Write the description as .png, .svg or .pdf, told from the path's ending.

    Raises:
        InputError: If the ending is another, or matplotlib is not installed.
    """
    write(to_matplotlib(figure), path)


def write(canvas: matplotlib.figure.Figure, path: str | Path) -> None:
    """Write what is drawn as .png, .svg or .pdf, told from the path's ending.

    Raises:
        InputError: If the ending is another.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InputError(
            f"expected a file ending in {', '.join(FORMATS)}, got {target.name!r}; "
            "an interactive page is written by `layerscope report`"
        )
    canvas.savefig(target, dpi=160)


def canvas_class() -> type[matplotlib.figure.Figure]:
    """Return matplotlib's figure, without a window or a global state.

    Raises:
        InputError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise InputError(
            "expected matplotlib for an image file, and it is not installed: "
            "pip install 'layerscope[plots]'"
        ) from error
    return Canvas


def to_matplotlib(figure: Figure, *, columns: int = 3) -> matplotlib.figure.Figure:
    """Return the description as a matplotlib figure, for print.

    Raises:
        InputError: If matplotlib is not installed.
    """
    columns = min(columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = canvas_class()(figsize=(4.1 * columns, 2.9 * rows + 0.8), layout="constrained")
    grid = canvas.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, figure.panels, strict=False):
        _draw_panel(axes, figure, panel)
    for axes in grid.flat[len(figure.panels) :]:
        axes.set_axis_off()
    handles = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    # Curves first, then the signs, which mean the same in every color.
    labels = sorted(handles, key=lambda label: label in SIGNS)
    # Below the panels: beside the title there is no room over one panel or two.
    canvas.legend(
        [handles[label] for label in labels], labels, loc="outside lower center",
        ncols=min(8, 3 * columns), fontsize=8,
    )  # fmt: skip
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=11)
    return canvas


def _draw_panel(axes: matplotlib.axes.Axes, figure: Figure, panel: Panel) -> None:
    """Draw one panel with matplotlib."""
    dashes = {"solid": "-", "dash": "--", "dot": ":"}
    axes.axvline(figure.middle, color="#aaaaaa", linewidth=0.8, linestyle=":", label=MIDDLE)
    if panel.preferred is not None and not figure.by_depth:
        axes.axvline(panel.preferred, color=panel.lines[0].color, linewidth=0.8, linestyle="--")
    for line in panel.lines:
        _draw_line(axes, figure, line, dashes[line.dash])
    for level in filter(panel.is_near, panel.levels):
        axes.axhline(level.value, color="#888888", linewidth=0.8, linestyle=(0, (6, 3)))
        axes.annotate(level.label, (0.99, level.value), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=7, color="#666666")  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize=9, fontweight="bold")
    axes.set_ylabel(panel.unit, fontsize=7)
    values, labels = ticks(figure)
    axes.set_xticks(values, labels)
    axes.set_xlim(*x_range(figure))
    axes.tick_params(labelsize=7, length=2)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(axes: matplotlib.axes.Axes, figure: Figure, line: Line, style: str) -> None:
    """Draw a curve with its band, the layers within noise ringed, the final norm as a diamond."""
    x = [figure.x(point) for point in line.points]
    values = [point.value for point in line.points]
    axes.plot(x, values, style, color=line.color, linewidth=1.6, label=line.name)
    limited = [point for point in line.points if point.low is not None and point.high is not None]
    axes.fill_between(
        [figure.x(point) for point in limited],
        [point.low for point in limited if point.low is not None],
        [point.high for point in limited if point.high is not None],
        color=line.color, alpha=BAND / 2 if figure.by_depth else BAND, linewidth=0,
    )  # fmt: skip
    near = [point for point in line.points if point.layer in line.near]
    axes.plot([figure.x(p) for p in near], [p.value for p in near], "o", color=line.color,
              markerfacecolor="white", markersize=5, label=NEAR)  # fmt: skip
    best = [point for point in line.points if point.layer == line.preferred]
    axes.plot([figure.x(p) for p in best], [p.value for p in best], "o", color=line.color,
              markersize=6, label=PREFERRED)  # fmt: skip
    if line.final is not None:
        axes.plot([figure.x(line.final)], [line.final.value], "D", color=line.color,
                  markerfacecolor="none", markersize=5, label=NORMED)  # fmt: skip
