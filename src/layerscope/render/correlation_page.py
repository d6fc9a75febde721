"""How measures go with task scores, as one page: the table, the matrices, the clouds."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from markupsafe import Markup

from layerscope.decisions.curves import Findings, Summary, labels
from layerscope.render import correlation_charts
from layerscope.render import page as page_module
from layerscope.render.correlation_charts import Cloud, Matrix
from layerscope.results.folder import versions

GAP: Final = "\N{EN DASH}"
SHOWN: Final = ("dcor", "spearman", "partial")  # a matrix each
CLEAR: Final = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"size": 11},
    "modebar": {"bgcolor": "rgba(0,0,0,0)"},
    "showlegend": False,
}


class Row(NamedTuple):
    """One measure: its name, what tells it from its like, its cells, whether it holds."""

    name: str
    below: str
    cells: tuple[str, ...]
    sure: bool


class Panel(NamedTuple):
    """A drawing with the words above it."""

    id: str
    title: str
    caption: str
    height: int


def page(findings: Findings) -> str:
    """Return the whole page as HTML."""
    matrices = [correlation_charts.matrix(findings, statistic) for statistic in SHOWN]
    clouds = correlation_charts.clouds(findings)
    drawings = [
        *(_matrix(matrix, f"matrix-{index}") for index, matrix in enumerate(matrices)),
        *(_cloud(cloud, f"cloud-{index}") for index, cloud in enumerate(clouds.panels)),
    ]
    named = labels(summary.measure for summary in findings.summaries)
    series = {each.name: each.symbol for cloud in clouds.panels for each in cloud.series}
    return page_module.render(
        "correlation.html.j2",
        drawings,
        title=f"Measures and task scores, {correlation_charts.models_of(findings)}",
        notes=findings.notes,
        rows=[_row(named[summary.measure], summary) for summary in findings.summaries],
        matrices=[
            Panel(f"matrix-{index}", matrix.statistic, "", 160 + 22 * len(matrix.rows))
            for index, matrix in enumerate(matrices)
        ],
        clouds=[
            Panel(f"cloud-{index}", cloud.title, f"{cloud.below}; {cloud.y_title}", 260)
            for index, cloud in enumerate(clouds.panels)
        ],
        series=series if len(series) > 1 else {},
        version=versions()["layerscope"],
    )


def _row(label: str, summary: Summary) -> Row:
    limits = "" if summary.low is None else f"{summary.low:z.2f} to {summary.high:z.2f}"
    positive = GAP if summary.positive is None else f"{100 * summary.positive:.0f} %"
    coefficients = (summary.dcor, summary.bias_corrected, summary.dcor_of_means, summary.spearman)
    return Row(
        summary.measure.metric,
        label.removeprefix(summary.measure.metric).strip(" ,"),
        (
            str(summary.units),
            *map(_short, coefficients),
            limits,
            positive,
            _short(summary.kendall),
            _short(summary.partial),
            *(f"{p:.2g}" for p in (summary.p_shift, summary.p_walk, summary.p_holm)),
        ),
        summary.holds,
    )


def _short(value: float | None) -> str:
    return GAP if value is None else f"{value:z.2f}"


def _matrix(matrix: Matrix, name: str) -> dict[str, Any]:
    traces, layout = correlation_charts.matrix_parts(matrix)
    for trace in traces:  # plotly reads names as HTML
        trace |= {axis: [str(Markup.escape(word)) for word in trace[axis]] for axis in ("x", "y")}
    return {"id": name, "data": traces, "layout": {**layout, **CLEAR}}


def _cloud(cloud: Cloud, name: str) -> dict[str, Any]:
    traces = correlation_charts.cloud_traces(cloud)
    for trace in traces:
        trace["name"] = str(Markup.escape(trace["name"]))
    layout = {
        "margin": {"l": 46, "r": 12, "t": 8, "b": 34},
        "hovermode": "closest",
        "xaxis": {"zeroline": False, "nticks": 6, "title": {"text": cloud.x_title}},
        "yaxis": {"zeroline": False, "nticks": 6},
    }
    return {"id": name, "data": traces, "layout": {**layout, **CLEAR}}
