"""A table's curves over the layers: table -> plain description -> drawing.

The description is frozen records of numbers and words, so that what a plot says can be tested
without drawing it, and every backend draws the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from layerscope import selection
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE, Measure
from layerscope.selection import Preference

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# Okabe and Ito's colors, told apart with any color vision; the blue a little lighter so that it also
# stands out on a dark page. Dashes say the same for print without color.
STYLES: Final = {
    selection.NORMALIZED: ("#2a7ab9", "solid"),
    selection.PAPER: ("#d55e00", "dash"),
    "reference": ("#009e73", "dot"),
    "": ("#2a7ab9", "solid"),
}
MODEL_COLORS: Final = (
    "#2a7ab9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b6bb1", "#7f7f7f",
)  # fmt: skip
DASHES: Final = ("solid", "dash", "dot")
# Two curves share an axis while neither is squeezed into less than 1 / 2.5 of it.
MOST_SQUEEZED: Final = 2.5
FORMATS: Final = (".png", ".svg", ".pdf")
BAND: Final = 0.16  # opacity; half of it where many models lie on top of each other
MIDDLE: Final = "middle layer"
PREFERRED: Final = "preferred layer"
NEAR: Final = "within noise of it"
NORMED: Final = "after the final norm"
SIGNS: Final = (MIDDLE, PREFERRED, NEAR, NORMED)


@dataclass(frozen=True)
class Point:
    """One value: where it stands, its limits (None where there are none), the texts behind it."""

    layer: int
    depth: float
    value: float
    low: float | None
    high: float | None
    texts: int | None
    stage: str = selection.BLOCK

    @property
    def words(self) -> str:
        """The point as a reader meets it under the pointer."""
        limits = (
            "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        )
        texts = "" if self.texts is None else f", {self.texts:,} texts"
        return f"{self.value:.4g}{limits}{texts}"


@dataclass(frozen=True)
class Line:
    """One measure in one convention of one model, over the layers.

    Attributes:
        name: What the legend calls it: the convention, or the model where several are compared.
        convention: The measure's preprocessing.
        points: The blocks' outputs where the measure is defined, by layer.
        final: The value after the final norm, where there is one.
        preferred: The layer that the measure prefers.
        near: The layers that the texts cannot tell from it.
        color: "#rrggbb".
        dash: "solid", "dash" or "dot".
    """

    name: str
    convention: str
    points: tuple[Point, ...]
    final: Point | None
    preferred: int | None
    near: tuple[int, ...]
    color: str
    dash: str

    @property
    def extent(self) -> tuple[float, float]:
        """Least and greatest value drawn, limits left out."""
        values = [point.value for point in self.all_points]
        return min(values), max(values)

    @property
    def all_points(self) -> tuple[Point, ...]:
        """The blocks' points and the final norm's."""
        return self.points if self.final is None else (*self.points, self.final)


@dataclass(frozen=True)
class Level:
    """A value that says "nothing is there", such as what random directions would give."""

    value: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One measure, its conventions or models as lines on one value axis.

    Attributes:
        metric: Name of the measure.
        title: What stands above the panel.
        unit: Unit of the values and the direction that is preferred, for the value axis.
        lines: What is drawn; the first one is the one to decide by.
        levels: Values to compare with, drawn dashed; those far outside the curves are only told.
        main: Whether this is one of the paper's seven measures.
    """

    metric: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    main: bool

    @property
    def preferred(self) -> int | None:
        """The layer marked in the panel, where one model is shown."""
        return self.lines[0].preferred

    def is_near(self, level: Level) -> bool:
        """Whether a level is so near to the curves that drawing it does not flatten them."""
        low, high = _union(self.lines)
        margin = high - low
        return low - margin <= level.value <= high + margin


@dataclass(frozen=True)
class Figure:
    """Panels that share their layers.

    Attributes:
        title: The run, or what is compared.
        panels: One or more a measure, in the catalogue's order.
        blocks: L; of the first model where several are compared.
        by_depth: Whether depth rather than the layer runs along x.
    """

    title: str
    panels: tuple[Panel, ...]
    blocks: int
    by_depth: bool

    @property
    def middle(self) -> float:
        """Where the middle layer stands on x."""
        return 0.5 if self.by_depth else float(selection.middle_layer(self.blocks))

    def x(self, point: Point) -> float:
        """Where a point stands on x."""
        return point.depth if self.by_depth else float(point.layer)


def describe(
    table: pd.DataFrame,
    choices: Iterable[Preference] = (),
    *,
    dim: int | None = None,
    measures: Sequence[Measure] = CATALOGUE,
) -> Figure:
    """Return the curves of one run: a panel a measure, its conventions as lines.

    A convention whose values would squeeze the others' curves, or be squeezed by them, gets a panel
    of its own.

    Args:
        table: Results of one run.
        choices: Its preferences, which are marked.
        dim: Width of the hidden states; without it the levels that depend on it are left out.
        measures: The catalogue, or those of its measures that are wanted.

    Raises:
        InputError: If the table holds no measure of the catalogue.
    """
    preferred = {(choice.metric, choice.convention): choice for choice in choices}
    panels = []
    for measure in measures:
        conventions = [convention for _, convention in selection.measured(table, (measure,))]
        lines = [
            _line(table, measure, convention, preferred.get((measure.name, convention)))
            for convention in sorted(conventions, key=list(STYLES).index)
        ]
        groups = _shared_axes([line for line in lines if line is not None])
        panels += [_panel(measure, group, dim, split=len(groups) > 1) for group in groups]
    title = " ".join(str(name) for name in table["model"].dropna().unique())
    return Figure(_titled(title, table), _some(panels), selection.number_of_blocks(table), False)


def compare(
    runs: Sequence[tuple[pd.DataFrame, Iterable[Preference]]],
    *,
    measures: Sequence[Measure] = CATALOGUE,
) -> Figure:
    """Return the curves of several runs: a panel a measure and convention, the models as lines.

    Layers are compared at equal depth, since models differ in their number of blocks.

    Raises:
        InputError: If the tables hold no measure of the catalogue.
    """
    names = run_names([table for table, _ in runs])
    kept = [(table, tuple(choices)) for table, choices in runs]
    panels = []
    for measure in measures:
        conventions = {c for table, _ in kept for m, c in selection.measured(table, (measure,))}
        for convention in sorted(conventions, key=list(STYLES).index):
            lines = []
            for index, (table, choices) in enumerate(kept):
                preferred = {(choice.metric, choice.convention): choice for choice in choices}
                line = _line(table, measure, convention, preferred.get((measure.name, convention)))
                if line is not None:
                    color = MODEL_COLORS[index % len(MODEL_COLORS)]
                    dash = DASHES[index // len(MODEL_COLORS) % len(DASHES)]
                    lines.append(replace(line, name=names[index], color=color, dash=dash))
            if lines:
                panels.append(_panel(measure, lines, None, split=len(conventions) > 1))
    blocks = selection.number_of_blocks(kept[0][0]) if kept else 0
    return Figure(f"{len(kept)} runs by depth", _some(panels), blocks, True)


def to_plotly(figure: Figure, *, columns: int = 3) -> Any:
    """Return the description as an interactive `plotly.graph_objects.Figure`."""
    from plotly.subplots import make_subplots

    columns = min(columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    drawing = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[panel.title for panel in figure.panels],
        vertical_spacing=min(0.09, 0.3 / rows),
        horizontal_spacing=0.07,
    )
    legend: set[str] = set()
    for index, panel in enumerate(figure.panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in panel_traces(figure, panel):
            first = trace["name"] not in legend and trace.get("showlegend", True)
            legend |= {trace["name"]} if first else set()
            drawing.add_trace({**trace, "showlegend": first}, **place)
        _plotly_marks(drawing, figure, panel, place)
    drawing.update_layout(
        title=figure.title if len(figure.panels) > 1 else None,
        template="plotly_white",
        hovermode="x unified",
        height=110 + 270 * rows,
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
    )
    return drawing


def panel_traces(figure: Figure, panel: Panel) -> list[dict[str, Any]]:
    """Return a panel's bands, curves and final norms as plotly traces in plain dicts."""
    bands = [trace for line in panel.lines for trace in _plotly_bands(figure, line)]
    curves = [trace for line in panel.lines for trace in _plotly_curve(figure, line)]
    return bands + curves


def ticks(figure: Figure) -> tuple[list[float], list[str]]:
    """Return at most about eight x positions with their labels: the layer, and its depth below."""
    if figure.by_depth:
        return [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"]
    stride = max(1, -(-figure.blocks // 7))
    layers = list(range(0, figure.blocks + 1, stride))
    if layers[-1] != figure.blocks:
        # The last layer always has a label; its left neighbor goes where both would not fit.
        layers = [k for k in layers if figure.blocks - k > stride / 2] + [figure.blocks]
    depth = [f"{layer / figure.blocks:.2f}" if figure.blocks else "0" for layer in layers]
    return [float(k) for k in layers], [f"{k}\n{d}" for k, d in zip(layers, depth, strict=True)]


def x_range(figure: Figure) -> tuple[float, float]:
    """Return the limits of x, equal in all panels, with room for the marks at both ends."""
    top = 1.0 if figure.by_depth else float(max(figure.blocks, 1))
    return -0.04 * top, 1.04 * top


def to_matplotlib(figure: Figure, *, columns: int = 3) -> matplotlib.figure.Figure:
    """Return the description as a matplotlib figure, for print.

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
    columns = min(columns, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = Canvas(figsize=(4.1 * columns, 2.9 * rows + 0.8), layout="constrained")
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
    canvas.legend(
        [handles[label] for label in labels], labels, loc="outside upper right", ncols=8, fontsize=8
    )
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=11)
    return canvas


def save(figure: Figure, path: str | Path) -> None:
    """Write the description as .png, .svg or .pdf, told from the path's ending.

    Raises:
        InputError: If the ending is another, or matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise InputError(
            f"expected a file ending in {', '.join(FORMATS)}, got {target.name!r}; "
            "an interactive page is written by `layerscope report`"
        )
    to_matplotlib(figure).savefig(target, dpi=160)


def _line(
    table: pd.DataFrame, measure: Measure, convention: str, choice: Preference | None
) -> Line | None:
    """Return a measure's curve, or None where it is defined nowhere."""
    points = _points(selection.of_measure(table, measure.name, convention))
    final = _points(
        selection.of_measure(table, measure.name, convention, selection.FINAL_NORM),
        selection.FINAL_NORM,
    )
    if not points and not final:
        return None
    color, dash = STYLES[convention]
    return Line(
        name=convention or "value",
        convention=convention,
        points=points,
        final=final[0] if final else None,
        preferred=choice.layer if choice else None,
        near=choice.within_noise if choice else (),
        color=color,
        dash=dash,
    )


def _points(rows: pd.DataFrame, stage: str = selection.BLOCK) -> tuple[Point, ...]:
    return tuple(
        Point(
            layer=int(row["layer"]),
            depth=float(row["depth"]),
            value=float(row["value"]),
            low=None if pd.isna(row["low"]) else float(row["low"]),
            high=None if pd.isna(row["high"]) else float(row["high"]),
            texts=None if pd.isna(row["n"]) else int(row["n"]),
            stage=stage,
        )
        for row in rows.reset_index().to_dict("records")
    )


def _shared_axes(lines: Sequence[Line]) -> list[list[Line]]:
    """Return the lines in groups that can share a value axis, in their order."""
    groups: list[list[Line]] = []
    for line in lines:
        for group in groups:
            if _fits(line, group):
                group.append(line)
                break
        else:
            groups.append([line])
    return groups


def _fits(line: Line, group: Sequence[Line]) -> bool:
    low, high = _union(group)
    own_low, own_high = line.extent
    if low <= own_low and own_high <= high:
        return True
    span = max(high, own_high) - min(low, own_low)
    narrowest = min(
        own_high - own_low, *(top - bottom for bottom, top in _extents(group)), high - low
    )
    return span <= MOST_SQUEEZED * narrowest


def _extents(lines: Iterable[Line]) -> list[tuple[float, float]]:
    return [line.extent for line in lines]


def _union(lines: Iterable[Line]) -> tuple[float, float]:
    extents = _extents(lines)
    return min(low for low, _ in extents), max(high for _, high in extents)


def _panel(measure: Measure, lines: Sequence[Line], dim: int | None, *, split: bool) -> Panel:
    conventions = ", ".join(dict.fromkeys(line.convention for line in lines if line.convention))
    direction = str(measure.direction)
    wanted = "" if direction == "none" else f"{direction} is preferred"
    return Panel(
        metric=measure.name,
        title=f"{measure.title} ({conventions})" if split and conventions else measure.title,
        unit=", ".join(part for part in (measure.unit, wanted) if part),
        lines=tuple(lines),
        levels=_levels(measure, lines, dim),
        main=bool(measure.paper_seven),
    )


def _levels(measure: Measure, lines: Sequence[Line], dim: int | None) -> tuple[Level, ...]:
    """Return the level without structure, unless it depends on a size that is not the same."""
    null = measure.null
    if null is None:
        return ()
    if not null.varies:
        return (Level(null.level(0, 0), null.label),)
    texts = {point.texts for line in lines for point in line.all_points}
    number = texts.pop() if len(texts) == 1 else None
    if number is None or dim is None:
        return ()
    return (Level(null.level(number, dim), null.label),)


def _some(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    if not panels:
        raise InputError("expected a table with measures of the catalogue, got none to draw")
    return tuple(panels)


def _titled(model: str, table: pd.DataFrame) -> str:
    data = " ".join(str(name) for name in table["data"].dropna().unique())
    return f"{model} on {data}" if data else model


def run_names(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the shortest names that tell the runs apart: model, then revision, data, a number."""
    for keys in (["model"], ["model", "revision"], ["model", "revision", "data"]):
        names = [" ".join(str(value) for value in table[keys].iloc[0].dropna()) for table in tables]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({index})" for index, name in enumerate(names, start=1)]


def _plotly_bands(figure: Figure, line: Line) -> list[dict[str, Any]]:
    """Return one closed shape for every stretch of neighboring layers that has limits."""
    stretches: list[list[Point]] = []
    for point in line.points:
        if point.low is None or point.high is None:
            continue
        if stretches and stretches[-1][-1].layer == point.layer - 1:
            stretches[-1].append(point)
        else:
            stretches.append([point])
    red, green, blue = (int(line.color[k : k + 2], 16) for k in (1, 3, 5))
    return [
        {
            "type": "scatter",
            "name": f"{line.name} limits",
            "x": [figure.x(point) for point in (*stretch, *reversed(stretch))],
            "y": [*(point.high for point in stretch), *(point.low for point in reversed(stretch))],
            "fill": "toself",
            "fillcolor": f"rgba({red},{green},{blue},{BAND if not figure.by_depth else BAND / 2})",
            "line": {"width": 0},
            "mode": "lines",
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": line.name,
        }
        for stretch in stretches
    ]


def _plotly_curve(figure: Figure, line: Line) -> list[dict[str, Any]]:
    """Return the curve, its layers within noise ringed, and the final norm as a diamond."""
    best = [point.layer == line.preferred for point in line.points]
    ring = [point.layer in line.near and not b for point, b in zip(line.points, best, strict=True)]
    signs = list(zip(best, ring, strict=True))
    curve = {
        "type": "scatter",
        "name": line.name,
        "legendgroup": line.name,
        "x": [figure.x(point) for point in line.points],
        "y": [point.value for point in line.points],
        "text": [point.words for point in line.points],
        "hovertemplate": "%{text}",
        "mode": "lines+markers",
        "line": {"color": line.color, "dash": line.dash, "width": 2},
        "marker": {
            "color": line.color,
            "size": [11 if preferred else 9 if near else 4 for preferred, near in signs],
            "symbol": ["circle-open" if near else "circle" for near in ring],
            "line": {"width": [2 if near else 0 for near in ring]},
        },
    }
    if line.final is None:
        return [curve]
    final = {
        "type": "scatter",
        "name": f"{line.name}, final norm",
        "legendgroup": line.name,
        "x": [figure.x(line.final)],
        "y": [line.final.value],
        "text": [line.final.words],
        "hovertemplate": "%{text}",
        "mode": "markers",
        "marker": {"color": line.color, "symbol": "diamond-open", "size": 9, "line": {"width": 2}},
        "showlegend": False,
    }
    return [curve, final]


def _plotly_marks(drawing: Any, figure: Figure, panel: Panel, place: dict[str, int]) -> None:
    """Draw what is not a curve: the middle, the preferred layer, the levels, the axes' words."""
    drawing.add_vline(
        x=figure.middle, line={"color": "#8a8a8a", "width": 1, "dash": "dot"}, **place
    )
    if panel.preferred is not None and not figure.by_depth:
        color = panel.lines[0].color
        drawing.add_vline(
            x=panel.preferred, line={"color": color, "width": 1, "dash": "dash"}, **place
        )
    for level in filter(panel.is_near, panel.levels):
        drawing.add_hline(
            y=level.value,
            line={"color": "#8a8a8a", "width": 1, "dash": "longdash"},
            annotation={"text": level.label, "font": {"size": 10, "color": "#777777"}},
            **place,
        )
    values, labels = ticks(figure)
    text = [label.replace("\n", "<br>") for label in labels]
    drawing.update_xaxes(
        range=list(x_range(figure)), tickvals=values, ticktext=text, zeroline=False, **place
    )
    drawing.update_yaxes(title={"text": panel.unit, "font": {"size": 11}}, zeroline=False, **place)


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
