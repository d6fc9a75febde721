"""Drawings as plotly's traces and layout: for a page, and as a figure in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from layerscope.render.drawing import (
    BAND,
    Cloud,
    Clouds,
    Drawing,
    Figure,
    Heatmap,
    Line,
    Panel,
    Point,
    Series,
)

Parts = tuple[list[dict[str, Any]], dict[str, Any]]

_GRAY: Final = "#8a8a8a"
_HOVERED: Final = {"depth": "depth %{x:.2f}", "layer": "layer %{x}"}
_PLAIN: Final = {
    "showlegend": False,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"size": 12},
    "modebar": {"bgcolor": "rgba(0,0,0,0)"},
}
# Named scales of plotly.js and plotly.py run in opposite directions.
_SIGNED: Final = [
    [0, "#b2182b"], [0.25, "#ef8a62"], [0.5, "#f7f7f7"], [0.75, "#67a9cf"], [1, "#2166ac"],
]  # fmt: skip


def parts(drawing: Drawing) -> Parts:
    """Return one drawing as traces and layout in plain dicts; text has the page's colors.

    Levels have no labels: a page names them above the drawing, where they cover no curve.

    Args:
        drawing: a figure of one panel, a heatmap or a cloud.
    """
    match drawing:
        case Figure():
            traces, layout = _panel(drawing, drawing.panels[0])
            return traces, layout | {"annotations": []}
        case Heatmap():
            return _heatmap(drawing)
        case Cloud():
            return _cloud(drawing)


def to_plotly(drawing: Figure | Heatmap | Clouds, *, columns: int = 3) -> Any:
    """Return an interactive `plotly.graph_objects.Figure`: a heatmap, or panels side by side."""
    from plotly.graph_objects import Figure as Canvas

    template, title = "plotly_white", {"text": drawing.title, "x": 0}
    if isinstance(drawing, Heatmap):
        traces, layout = parts(drawing)
        layout |= {"height": 200 + 24 * len(drawing.rows), "title": title, "template": template}
        return Canvas(traces, layout | {"margin": layout["margin"] | {"t": 60}})
    if isinstance(drawing, Figure):
        cells = [(panel.title, panel.unit, _panel(drawing, panel)) for panel in drawing.panels]
    else:
        cells = [(each.title, each.y_title, _cloud(each)) for each in drawing.panels]
        dots = [trace for _, _, (own, _) in cells for trace in own]
        if drawing.layers:
            dots[0]["marker"] |= {"showscale": True, "colorbar": {"title": {"text": "depth"}}}
        for trace in () if drawing.layers else dots:
            marker = {"symbol": trace["marker"]["symbol"], "size": 9}
            trace |= {"mode": "markers", "marker": marker}
    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    traces, layout = _grid(cells, rows, columns)
    return Canvas(
        traces,
        layout
        | {
            "title": title if len(cells) > 1 else None,
            "template": template,
            "height": 110 + 290 * rows,
            "margin": {"l": 60, "r": 20, "t": 90, "b": 50},
            "hovermode": cells[0][2][1]["hovermode"],
        },
    )


def _grid(cells: Sequence[tuple[str, str, Parts]], rows: int, columns: int) -> Parts:
    """Return (title, y title, parts) of several panels as one set of parts, row by row."""
    legend: set[str] = set()
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"shapes": [], "annotations": []}
    across, down = 0.07, min(0.12, 0.36 / rows)
    width, height = (1 + across) / columns - across, (1 + down) / rows - down
    for index, (title, unit, (own, axes)) in enumerate(cells):
        end = "" if index == 0 else str(index + 1)
        left, top = index % columns * (width + across), 1 - index // columns * (height + down)
        for trace in own:
            first = trace["name"] not in legend and trace.get("showlegend", True)
            legend |= {trace["name"]} if first else set()
            axis = {"xaxis": f"x{end}", "yaxis": f"y{end}", "showlegend": first}
            traces.append(trace | axis)
        layout[f"xaxis{end}"] = axes["xaxis"] | {
            "domain": [left, min(1.0, left + width)],
            "anchor": f"y{end}",
        }
        layout[f"yaxis{end}"] = axes["yaxis"] | {
            "domain": [max(0.0, top - height), top],
            "anchor": f"x{end}",
            "title": {"text": unit, "font": {"size": 12}},
        }
        head = {"x": 0, "xref": "x domain", "y": 1, "yref": "y domain", "yanchor": "bottom",
                "text": f"<b>{title}</b>", "showarrow": False}  # fmt: skip
        layout["annotations"] += [
            _moved(each, end) for each in (*axes.get("annotations", ()), head)
        ]
        layout["shapes"] += [_moved(each, end) for each in axes.get("shapes", ())]
    return traces, layout


def _moved(mark: dict[str, Any], end: str) -> dict[str, Any]:
    """Return a mark on the axes of another panel."""
    return mark | {
        "xref": mark["xref"].replace("x", f"x{end}", 1),
        "yref": mark["yref"].replace("y", f"y{end}", 1),
    }


# --- curves -----------------------------------------------------------------------------------------


def _panel(figure: Figure, panel: Panel) -> Parts:
    bands = [trace for line in panel.lines for trace in bands_of(figure, line)]
    curves = [trace for line in panel.lines for trace in _curve(figure, line)]
    levels = [level for level in panel.levels if panel.is_near(level)]
    marks = [] if figure.middle is None else [_vertical(figure.middle, _GRAY, "dot")]
    one = len({line.convention for line in panel.lines}) == 1
    if panel.preferred is not None and figure.along == "layer" and one:
        marks.append(_vertical(panel.preferred, panel.lines[0].color, "dash"))
    flat = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y", "layer": "below",
            "line": {"color": _GRAY, "width": 1, "dash": "longdash"}}  # fmt: skip
    note = {"xref": "x domain", "x": 1, "yref": "y", "showarrow": False, "xanchor": "right",
            "yanchor": "bottom", "font": {"size": 12}}  # fmt: skip
    values, labels = figure.ticks
    layout = _PLAIN | {
        "margin": {"l": 52, "r": 12, "t": 28, "b": 38},
        "hovermode": "x unified",
        "hoverlabel": {"font": {"size": 12}},
        "xaxis": {
            "range": list(figure.x_range),
            "tickvals": values,
            "ticktext": [label.replace("\n", "<br>") for label in labels],
            "zeroline": False,
            "showgrid": False,  # its lines would hide the marked layers
            "spikecolor": _GRAY,
            "spikedash": "solid",
            "spikethickness": -1,
            "title": {"text": figure.x_title, "font": {"size": 12}},
            "unifiedhovertitle": {"text": _HOVERED.get(figure.along, figure.x_title)},
        },
        "yaxis": {"zeroline": False, "nticks": 6},
        "shapes": marks + [flat | {"y0": level.value, "y1": level.value} for level in levels],
        "annotations": [note | {"y": level.value, "text": level.label} for level in levels],
    }
    return bands + curves, layout


def _vertical(x: float, color: str, dash: str) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "x0": x, "x1": x, "yref": "y domain", "y0": 0, "y1": 1,
        "layer": "below", "line": {"color": color, "width": 1.2, "dash": dash},
    }  # fmt: skip


def bands_of(figure: Figure, line: Line) -> list[dict[str, Any]]:
    """Return one closed shape for every stretch of neighboring layers that has limits."""
    stretches: list[list[Point]] = []
    for point in line.points:
        if point.low is None or point.high is None:
            continue
        if stretches and (not figure.over_layers or stretches[-1][-1].layer == point.layer - 1):
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
            "fillcolor": f"rgba({red},{green},{blue},{BAND})",
            "line": {"width": 0},
            "mode": "lines",
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": line.name,
        }
        for stretch in stretches
    ]


def _curve(figure: Figure, line: Line) -> list[dict[str, Any]]:
    """Return the curve, its layers within noise ringed, and the final norm as a diamond."""
    best = [point.layer == line.preferred for point in line.points]
    ring = [point.layer in line.near and not b for point, b in zip(line.points, best, strict=True)]
    signs = list(zip(best, ring, strict=True))
    curve = _scatter(figure, line, line.points) | {
        "name": line.name,
        "mode": "lines+markers",
        "showlegend": line.listed,
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
    final = _scatter(figure, line, [line.final]) | {
        "name": f"{line.name}, final norm",
        "mode": "markers",
        "marker": {"color": line.color, "symbol": "diamond-open", "size": 9, "line": {"width": 2}},
        "showlegend": False,
    }
    return [curve, final]


def _scatter(figure: Figure, line: Line, points: Sequence[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "legendgroup": line.name,
        "x": [figure.x(point) for point in points],
        "y": [point.value for point in points],
        "text": [point.words for point in points],
        "hovertemplate": "%{text}",
    }


# --- heatmaps and clouds ----------------------------------------------------------------------------


def _heatmap(heat: Heatmap) -> Parts:
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": list(heat.columns),
        "y": list(heat.rows),
        "z": [list(row) for row in heat.values],
        "colorscale": _SIGNED if heat.signed else "Viridis",
        "hoverongaps": False,
    }
    if heat.low is None:  # layers by layers
        ticks = {"tickmode": "auto", "nticks": 8, "zeroline": False, "showgrid": False}
        trace |= {
            "colorbar": {"thickness": 10, "len": 1, "outlinewidth": 0, "tickfont": {"size": 12}},
            "hovertemplate": "layers %{x} and %{y}: %{z:.3f}<extra></extra>",
        }
        margin = {"l": 34, "r": 8, "t": 28, "b": 30}
        return [trace], _PLAIN | {"margin": margin, "xaxis": ticks, "yaxis": ticks}
    trace |= {
        "zmin": heat.low,
        "zmax": 1,
        "text": [["" if v is None else f"{v:z.2f}" for v in row] for row in heat.values],
        "texttemplate": "%{text}",
        "textfont": {"size": 12},
        "hovertemplate": "%{y}<br>%{x}: %{z:.3f}<extra></extra>",
        "showscale": False,  # the numbers stand in the cells
    }
    longest = max(len(str(row)) for row in heat.rows)
    return [trace], _PLAIN | {
        "margin": {"l": 20 + round(6.2 * longest), "r": 10, "t": 30, "b": 130},
        "xaxis": {"tickangle": -40, "showgrid": False},
        "yaxis": {"autorange": "reversed", "showgrid": False},
    }


def _cloud(cloud: Cloud) -> Parts:
    """Return the dots of each model, joined in the order of the layers."""
    return [_series(series) for series in cloud.series], _PLAIN | {
        "margin": {"l": 52, "r": 12, "t": 28, "b": 38},
        "hovermode": "closest",
        "xaxis": {"zeroline": False, "nticks": 6, "title": {"text": cloud.x_title}},
        "yaxis": {"zeroline": False, "nticks": 6},
    }


def _series(series: Series) -> dict[str, Any]:
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
            "line": {"width": 0.5, "color": _GRAY},
        },
    }
