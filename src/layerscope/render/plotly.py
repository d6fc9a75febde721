"""A description drawn with plotly."""

from __future__ import annotations

from typing import Any

from layerscope.render.charts import BAND, Figure, Line, Panel, Point, ticks, x_range


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
