"""One run, or several compared, as a self-contained interactive page that opens no connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from layerscope.decisions import choose, evidence
from layerscope.decisions import rules as rules_module
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.decisions.select import Selection, decide
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render import charts
from layerscope.render import plotly as plotly_module
from layerscope.render import words as words_module
from layerscope.render.charts import Figure, Heatmap, Panel
from layerscope.render.words import Column
from layerscope.results import table as table_module

LIBRARY: Final = "plotly-cartesian.min.js"


def render(template: str, drawings: Sequence[dict[str, Any]], **values: Any) -> str:
    """Return a page.

    Args:
        template: name of a file in `templates`.
        drawings: what plotly draws, each with id (of an element of the template), data and layout.
        values: what else the template asks for; one that it lacks is an error.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerscope.render"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(
        library=Markup(library()),  # noqa: S704 - our own file, not the user's words
        drawings=_embedded(drawings),
        **values,
    )


def library() -> str:
    """Return plotly.js's cartesian bundle (MIT; its license lies beside it)."""
    return (files("layerscope.render") / "templates" / LIBRARY).read_text(encoding="utf-8")


def _embedded(value: object) -> Markup:
    """Return JSON that no content can end: inside a script element "<" must not appear."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    return Markup(text)  # noqa: S704 - escaped in the line above


DASHES: Final = {"solid": "none", "dash": "7 4", "dot": "2 4"}
AGREEMENT: Final = {
    "same": ("same", "same layer"),
    "within noise": ("overlap", "within noise"),
    "another": ("differ", "disagree"),
}
SECTIONS: Final = {
    "model": "Model",
    "data": "Texts",
    "settings": "Settings",
    "evaluation": "Evaluation",
    "tasks": "Tasks",
    "augmentation": "Augmentation",
    "versions": "Versions",
    "times": "Seconds",
}

Run = tuple[pd.DataFrame, pd.DataFrame, Mapping[str, Any]]


class Cell(NamedTuple):
    """One value of a table: its text, "▼" or "▲", its style, what the pointer shows."""

    text: str
    mark: str
    style: str
    title: str


class Row(NamedTuple):
    """One layer of a table."""

    layer: str
    depth: str
    cells: list[Cell]


class Grid(NamedTuple):
    """A table of layers by measures; a head is (measure, convention and direction)."""

    heads: list[tuple[str, str]]
    rows: list[Row]


class Score(NamedTuple):
    """One number of a whole model: its name, value, limits, level without structure, noise floor."""

    metric: str
    title: str
    value: str
    limits: str
    null: str
    floor: str


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run, ready to be written."""

    name: str
    blocks: int
    lines: tuple[str, ...]
    advice: Selection
    middle: int
    last_stage: str
    preferences: list[dict[str, Any]]
    main: Grid
    rest: Grid
    undefined: tuple[tuple[str, str, str, str], ...]
    notes: list[str]
    facts: list[tuple[str, list[tuple[str, str]]]]
    scores: list[Score]
    heatmaps: list[tuple[str, Heatmap]]


def page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    measures: Sequence[Measure] = CATALOGUE,
    choices: Sequence[Mapping[Key, Choice]] | None = None,
    advice: Sequence[Selection] | None = None,
) -> str:
    """Return the whole page as HTML.

    Args:
        runs: (table, contributions, record) of each run; several are drawn over depth.
        title: What stands on top; by default the models and texts.
        measures: The catalogue.
        choices: The layer that each measure prefers in each run, where it is known already.
        advice: The layer to use of each run by the default rule, where it is chosen already.

    Raises:
        InputError: If there is no run, or none of the measures is in a table.
    """
    if not runs:
        raise InputError("expected at least one run to report on, got none")
    if choices is None:
        choices = [
            choose.preferred(evidence.evidences(table_module.Run(t, c, dict(record)))[0], measures)
            for t, c, record in runs
        ]
    if advice is None:
        advice = [decide(table_module.Run(t, c, dict(record)), rules=()) for t, c, record in runs]
    figure = _figure(runs, choices, measures)
    names = charts.run_names([table for table, _, _ in runs])
    views = [
        _view(f"heat-{place}", names[place], run, choices[place], advice[place], measures)
        for place, run in enumerate(runs)
    ]
    panels = [(f"panel-{index}", panel) for index, panel in enumerate(figure.panels)]
    drawings = [
        *(_drawing(figure, panel, name) for name, panel in panels),
        *(_heatmap(heat, name) for view in views for name, heat in view.heatmaps),
    ]
    return render(
        "report.html.j2",
        drawings,
        title=title or (figure.title if len(runs) == 1 else f"{', '.join(names)} compared"),
        runs=views,
        groups=_groups(figure, panels),
        titles={measure.name: measure.title for measure in measures},
        caution=rules_module.CAUTION,
        version=_version(runs),
    )


def _figure(
    runs: Sequence[Run], choices: Sequence[Mapping[Key, Choice]], measures: Sequence[Measure]
) -> Figure:
    """Return the curves; none where the runs hold only numbers of whole models."""
    if len(runs) > 1:
        pairs = [(run[0], own) for run, own in zip(runs, choices, strict=True)]
        return charts.compare(pairs, measures=measures)
    table, _, record = runs[0]
    if set(table["level"].dropna()) == {"pair"} and not charts.has_curves(table, measures):
        return Figure(str(table["model"].iloc[0]), (), evidence.number_of_blocks(table), False)
    dim = record.get("model", {}).get("dim")
    return charts.describe(table, choices[0], dim=dim, measures=measures)


def _version(runs: Iterable[Run]) -> str:
    return next(
        (
            str(record["versions"]["layerscope"])
            for _, _, record in runs
            if "layerscope" in record.get("versions", {})
        ),
        "",
    )


def _groups(figure: Figure, panels: Sequence[tuple[str, Panel]]) -> list[dict[str, Any]]:
    """Return the panels in the main group and a folded one with the rest."""
    scored = [(name, panel) for name, panel in panels if panel.scored]
    single = [(name, panel) for name, panel in panels if not (panel.between or panel.scored)]
    first = [(name, panel) for name, panel in single if _is_main(figure, panel)]
    rest = [(name, panel) for name, panel in single if not _is_main(figure, panel)]
    main = [(name, panel) for name, panel in first if not panel.on_spans]
    spans = [(name, panel) for name, panel in first if panel.on_spans]
    if not main and not spans:
        main, rest = rest, []
    between = [(name, panel) for name, panel in panels if panel.between]
    return [
        _group("Scores of tasks by layer", scored, folded=False),
        _group("Measures by layer", main, folded=False),
        _group("On parts of texts: same topic, other words", spans, folded=False),
        _group("More measures and conventions", rest, folded=True),
        _group("Dynamics over depth", between, folded=False, between=True),
    ]


def _group(
    title: str, panels: Sequence[tuple[str, Panel]], *, folded: bool, between: bool = False
) -> dict[str, Any]:
    shown = [
        {"id": name, "title": panel.title, "caption": _caption(panel)} for name, panel in panels
    ]
    legend = _legend([panel for _, panel in panels])
    return {
        "title": title, "panels": shown, "folded": folded, "between": between, "legend": legend,
    }  # fmt: skip


def _is_main(figure: Figure, panel: Panel) -> bool:
    """Whether a panel is seen without unfolding: the paper's measures, when compared normalized."""
    if not figure.by_depth:
        return panel.main
    return panel.main and panel.lines[0].convention in (evidence.NORMALIZED, "")


def _caption(panel: Panel) -> str:
    far = [
        f"{level.label}: {level.value:.3g}" for level in panel.levels if not panel.is_near(level)
    ]
    views = [panel.views] if panel.views and not panel.on_spans else []
    return "; ".join([panel.unit, *views, *far])


def _legend(panels: Sequence[Panel]) -> list[tuple[str, str, str]]:
    found = {line.name: line for panel in panels for line in panel.lines}
    if len(found) > 1:
        found.pop("value", None)  # the measures without conventions explain themselves
    return [(name, line.color, DASHES[line.dash]) for name, line in found.items()]


def _drawing(figure: Figure, panel: Panel, name: str) -> dict[str, Any]:
    """Return one panel as plotly's data and layout; colors of text and grid are the page's."""
    values, labels = charts.ticks(figure)
    shapes = [_vertical(figure.middle, "#8a8a8a", "dot")]
    if panel.preferred is not None and not figure.by_depth:
        shapes.append(_vertical(panel.preferred, panel.lines[0].color, "dash"))
    levels = [level for level in panel.levels if panel.is_near(level)]
    level_line = {"color": "#8a8a8a", "width": 1, "dash": "longdash"}
    shapes += [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level.value, "y1": level.value,
         "line": level_line, "layer": "below"}
        for level in levels
    ]  # fmt: skip
    layout = {
        "margin": {"l": 46, "r": 12, "t": 8, "b": 34},
        "showlegend": False,
        "hovermode": "x unified",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11},
        "hoverlabel": {"font": {"size": 11}},
        "modebar": {"bgcolor": "rgba(0,0,0,0)"},
        "xaxis": {
            "range": list(charts.x_range(figure)),
            "tickvals": values,
            "ticktext": [label.replace("\n", "<br>") for label in labels],
            "zeroline": False,
            "showgrid": False,  # its lines would hide the marked layers
            "spikecolor": "#8a8a8a",
            "spikedash": "solid",
            "spikethickness": -1,
            "unifiedhovertitle": {"text": "depth %{x:.2f}" if figure.by_depth else "layer %{x}"},
        },
        "yaxis": {"zeroline": False, "nticks": 6},
        "shapes": shapes,
        "annotations": [
            {"xref": "paper", "x": 1, "y": level.value, "text": level.label, "showarrow": False,
             "xanchor": "right", "yanchor": "bottom", "font": {"size": 10}}
            for level in levels
        ],
    }  # fmt: skip
    traces = plotly_module.panel_traces(figure, panel)
    for trace in traces:
        trace["name"] = str(Markup.escape(trace["name"]))  # plotly reads names as HTML
    return {"id": name, "data": traces, "layout": layout}


def _heatmap(heat: Heatmap, name: str) -> dict[str, Any]:
    """Return the values of every two layers as plotly's data and layout."""
    ticks = {"tickmode": "auto", "nticks": 8, "zeroline": False, "showgrid": False}
    trace = {
        "type": "heatmap",
        "x": list(heat.layers),
        "y": list(heat.layers),
        "z": [list(row) for row in heat.values],
        "colorscale": "Viridis",
        "colorbar": {"thickness": 10, "len": 1, "outlinewidth": 0, "tickfont": {"size": 10}},
        "hovertemplate": "layers %{x} and %{y}: %{z:.3f}<extra></extra>",
        "hoverongaps": False,
    }
    layout = {
        "margin": {"l": 34, "r": 8, "t": 8, "b": 30},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"size": 11},
        "modebar": {"bgcolor": "rgba(0,0,0,0)"},
        "xaxis": ticks,
        "yaxis": ticks,
    }
    return {"id": name, "data": [trace], "layout": layout}


def _scores(table: pd.DataFrame, measures: Sequence[Measure]) -> list[Score]:
    """Return the numbers of the whole model, each with what it would be without structure."""
    rows = table[(table["level"] == "pair") & table["value"].notna()]
    by_metric = {str(row["metric"]): row for row in rows.to_dict("records")}

    def level(metric: str, kind: str, digits: int) -> str:
        row = by_metric.get(f"{metric}_{kind}")
        return "" if row is None else _number(float(row["value"]), digits)

    found = []
    for measure in measures:
        row = by_metric.get(measure.name)
        if measure.place != "model" or row is None:
            continue
        digits = max(2, words_module.decimals([float(row["value"])]))
        bounded = not (pd.isna(row["low"]) or pd.isna(row["high"]))
        limits = f"{row['low']:.{digits}f} to {row['high']:.{digits}f}" if bounded else ""
        found.append(
            Score(
                measure.name,
                measure.title,
                _number(float(row["value"]), digits),
                limits,
                level(measure.name, "null", digits),
                level(measure.name, "floor", digits),
            )
        )
    return found


def _vertical(x: float, color: str, dash: str) -> dict[str, Any]:
    return {
        "type": "line", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below",
        "line": {"color": color, "width": 1.2, "dash": dash},
    }  # fmt: skip


def _view(
    place: str,
    name: str,
    run: Run,
    choices: Mapping[Key, Choice],
    advice: Selection,
    measures: Sequence[Measure],
) -> RunView:
    table, _, record = run
    blocks = evidence.number_of_blocks(table)
    main = words_module.main_columns(table, measures)
    shown = {(item.measure.name, item.convention, item.perturbation) for item in main}
    rest = [
        words_module.column(table, measure, convention, views)
        for measure, convention in evidence.measured(table, measures)
        for views in evidence.perturbations(table, measure.name, convention)
        if (measure.name, convention, views) not in shown
    ]
    return RunView(
        name=name,
        blocks=blocks,
        lines=words_module.settings_lines(record),
        advice=advice,
        middle=rules_module.middle_layer(blocks),
        last_stage=table_module.FINAL_NORM
        if (table["stage"] == table_module.FINAL_NORM).any()
        else table_module.BLOCK,
        preferences=_preference_rows(choices, table, measures),
        main=_grid(main, choices, table, blocks),
        rest=_grid(rest, choices, table, blocks),
        undefined=words_module.undefined_reasons(record),
        notes=[str(note) for note in record.get("notes", ())],
        facts=_facts(record),
        scores=_scores(table, measures),
        heatmaps=[
            (f"{place}-{number}", heat)
            for number, heat in enumerate(charts.heatmaps(table, measures))
        ],
    )


def _preference_rows(
    choices: Mapping[Key, Choice], table: pd.DataFrame, measures: Sequence[Measure]
) -> list[dict[str, Any]]:
    return [
        _preference_row((measure.name, convention, views), choices, table, measure)
        for measure in measures
        for convention in charts.STYLES
        for views in evidence.perturbations(table, measure.name, convention)
        if (measure, convention) in evidence.measured(table, measures)
    ]


def _preference_row(
    key: Key, choices: Mapping[Key, Choice], table: pd.DataFrame, measure: Measure
) -> dict[str, Any]:
    choice, paper = choices.get(key), choices.get((key[0], evidence.PAPER, key[2]))
    row: dict[str, Any] = {
        "title": measure.title,
        "views": "" if key[2] == "none" else key[2],
        "convention": key[1],
        "direction": str(measure.direction),
        "layer": None if choice is None else choice.layer,
    }
    if choice is None or choice.layer is None:
        reason = "the measure is defined at no layer" if choice is None else choice.reason
        undirected = str(measure.direction) == "none"
        return row | {"reason": "the measure has no preferred direction" if undirected else reason}
    values = evidence.beside_baselines(table, key, choice.layer)
    digits = words_module.decimals([value for value in values if value is not None])
    there, last, middle = (_number(value, digits) for value in values)
    both = paper is not None and paper.layer is not None and key[1] == evidence.NORMALIZED
    return row | {
        "value": there,
        "last": last,
        "middle": middle,
        "near": words_module.layer_ranges(choice.within_noise),
        "agreement": AGREEMENT[choose.agreement(paper, choice)] if both and paper else ("", ""),
    }


def _grid(
    columns: Sequence[Column], choices: Mapping[Key, Choice], table: pd.DataFrame, blocks: int
) -> Grid:
    """Return the layers by measures, the final norm last."""
    limits = _limits(table)
    layers = sorted({layer for item in columns for layer in item.values})
    rows = [
        Row(
            str(layer),
            f"{layer / blocks if blocks else 0:.2f}",
            [_cell(item, layer, choices.get(_which(item)), limits) for item in columns],
        )
        for layer in layers
    ]
    if any(item.final is not None for item in columns):
        key = (blocks, table_module.FINAL_NORM)
        cells = [
            Cell(
                _number(item.final, item.decimals),
                "",
                "",
                limits.get((*_which(item), *key), ""),
            )
            for item in columns
        ]
        rows.append(Row("final norm", "out", cells))
    return Grid([(item.measure.title, _below(item)) for item in columns], rows)


def _below(item: Column) -> str:
    """Return what stands under a measure's title: convention, direction, and views if it has any."""
    views = f"on {item.perturbation}" if item.measure.level == "view" else ""
    return " ".join(filter(None, (item.convention, _wanted(item.measure), views)))


def _which(item: Column) -> tuple[str, str, str]:
    return item.measure.name, item.convention, item.perturbation


def _cell(
    item: Column, layer: int, choice: Choice | None, limits: Mapping[tuple[Any, ...], str]
) -> Cell:
    flat = item.least == item.greatest
    mark = "" if flat else {item.greatest: "▲", item.least: "▼"}.get(layer, "")
    style = ""
    if choice is not None and layer in choice.within_noise:
        style = "best" if layer == choice.layer else "near"
    key = (*_which(item), layer, table_module.BLOCK)
    return Cell(_number(item.values.get(layer), item.decimals), mark, style, limits.get(key, ""))


def _limits(table: pd.DataFrame) -> dict[tuple[Any, ...], str]:
    """Return, for every (*_which, layer, stage), its limits and texts in words."""
    rows = table[table["other_layer"].isna() & table["value"].notna()]
    words: dict[tuple[Any, ...], str] = {}
    for row in rows.to_dict("records"):
        bounded = not (pd.isna(row["low"]) or pd.isna(row["high"]))
        limits = f"{row['low']:.4g} to {row['high']:.4g}" if bounded else ""
        texts = "" if pd.isna(row["n"]) else f"{row['n']:,} texts"
        convention = "" if pd.isna(row["convention"]) else row["convention"]
        views = "" if pd.isna(row["perturbation"]) else row["perturbation"]
        key = (row["metric"], convention, views, int(row["layer"]), row["stage"])
        words[key] = ", ".join(filter(None, (limits, texts)))
    return words


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.{digits}f}" if abs(value) < 1e5 else f"{value:.2e}"


def _wanted(measure: Measure) -> str:
    return "" if str(measure.direction) == "none" else str(measure.direction)


def _facts(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the record in sections of (name, value), known sections first."""
    sections = []
    for key, heading in SECTIONS.items():
        if isinstance(record.get(key), Mapping) and record[key]:
            sections.append((heading, [(_spoken(k), _worded(v)) for k, v in record[key].items()]))
    known = {*SECTIONS, "undefined", "notes", "edit_distance_by_text"}
    other = [(_spoken(key), _worded(value)) for key, value in record.items() if key not in known]
    return [*sections, ("Record", other)] if other else sections


def _spoken(key: str) -> str:
    return key.replace("_", " ")


def _worded(value: object) -> str:
    """Return a value of the record as words."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{_spoken(str(k))} {_worded(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_worded(part) for part in value) or "none"
    return str(value)
