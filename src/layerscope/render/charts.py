"""Curves over the layers and heatmaps of pairs of layers, from a run's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from layerscope.data.views import of_spans
from layerscope.decisions import evidence
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.decisions.gains import Scores
from layerscope.decisions.select import Selection
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.render.drawing import Figure, Heatmap, Level, Line, Panel, Point, extent
from layerscope.results.table import BLOCK, FINAL_NORM, TASK

# Okabe and Ito's colors, distinct with any color vision; the blue a little lighter so that it also
# stands out on a dark page. Dashes say the same for print without color.
STYLES: Final = {
    evidence.NORMALIZED: ("#2a7ab9", "solid"),
    evidence.PAPER: ("#d55e00", "dash"),
    evidence.REFERENCE: ("#009e73", "dot"),
    "": ("#2a7ab9", "solid"),
}
# Two curves share an axis while neither is squeezed into less than 1 / 2.5 of it.
MOST_SQUEEZED: Final = 2.5
# What a figure shows where nothing is asked for, in this order.
MAIN: Final = (
    "retrieval", "prompt_entropy", "dataset_entropy", "curvature", "infonce", "lidar", "effective_rank",
)  # fmt: skip
FEW: Final = 4
# The places of measures of several layers that have one value a layer.
CURVES: Final = ("step", "layer", "final")


def describe(
    table: pd.DataFrame,
    choices: Mapping[Key, Choice] | None = None,
    *,
    dim: int | None = None,
    measures: Sequence[Measure] = CATALOGUE,
    together: bool = False,
) -> Figure:
    """Return the curves of one run: a panel a measure, its conventions as lines.

    A convention whose values would squeeze the others' curves, or be squeezed by them, gets a panel
    of its own; so does every kind of views, whose values cannot be compared.

    Args:
        table: results of one run.
        choices: the layer that each measure prefers (`choose.preferred`), which is marked.
        dim: width of the hidden states; without it the levels that depend on it are left out.
        measures: the catalogue, or those of its measures that are wanted.
        together: whether all conventions share a panel, because only one of them is shown at a time.

    Raises:
        InputError: the table holds no measure of the catalogue and no score.
    """
    panels: list[Panel] = []
    for measure in measures:
        if measure.level == "pair":
            panels += _path_panels(table, measure)
            continue
        for views, conventions in _kinds(table, measure).items():
            lines = [_line(table, (measure.name, each, views), choices) for each in conventions]
            known = [line for line in lines if line is not None]
            groups = ([known] if known else []) if together else _shared_axes(known)
            panels += [
                _panel(measure, group, dim, views, split=len(groups) > 1) for group in groups
            ]
    panels += _task_panels(table)
    return Figure(_titled(table), _some(panels), evidence.number_of_blocks(table))


def has_curves(table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE) -> bool:
    """Return whether any of the measures has a value a layer, or the table a score."""
    if (table["level"] == TASK).any() or evidence.measured(table, measures):
        return True
    return any(
        measure.place in CURVES and not evidence.of_path(table, measure.name).empty
        for measure in measures
    )


def main_measures(table: pd.DataFrame) -> tuple[Measure, ...]:
    """Return the measures that a figure shows by default: four of the main ones, or what there is."""
    present = set(table.loc[table["value"].notna(), "metric"])
    known = {measure.name: measure for measure in CATALOGUE}
    found = [known[name] for name in MAIN if name in present][:FEW]
    return tuple(found or CATALOGUE)


def _kinds(table: pd.DataFrame, measure: Measure) -> dict[str, list[str]]:
    """Return the kinds of views that a measure was made on, each with its conventions."""
    found: dict[str, list[str]] = {}
    measured = [convention for _, convention in evidence.measured(table, (measure,))]
    for convention in sorted(measured, key=list(STYLES).index):
        for views in evidence.perturbations(table, measure.name, convention):
            found.setdefault(views, []).append(convention)
    return found


def _line(table: pd.DataFrame, key: Key, choices: Mapping[Key, Choice] | None) -> Line | None:
    """Return a measure's curve, or None where it is defined nowhere."""
    metric, convention, views = key
    points, final = (
        _points(evidence.of_measure(table, metric, convention, stage, views), stage)
        for stage in (BLOCK, FINAL_NORM)
    )
    if not points and not final:
        return None
    choice = (choices or {}).get(key)
    return Line(
        name=convention or "value",
        convention=convention,
        points=points,
        final=final[0] if final else None,
        preferred=choice.layer if choice else None,
        near=choice.within_noise if choice else (),
        color=STYLES[convention][0],
        dash=STYLES[convention][1],
    )


def _points(rows: pd.DataFrame, stage: str = BLOCK) -> tuple[Point, ...]:
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
        for row in rows.reset_index(names="layer").to_dict("records")
    )


def _shared_axes(lines: Sequence[Line]) -> list[list[Line]]:
    """Return the lines in groups that can share a value axis, in their order."""
    groups: list[list[Line]] = []
    for line in lines:
        group = next((group for group in groups if _fits(line, group)), None)
        if group is None:
            groups.append([line])
        else:
            group.append(line)
    return groups


def _fits(line: Line, group: Sequence[Line]) -> bool:
    low, high = extent(group)
    own_low, own_high = extent([line])
    if low <= own_low and own_high <= high:
        return True
    spans = [top - bottom for bottom, top in (extent([each]) for each in (line, *group))]
    both = max(high, own_high) - min(low, own_low)
    return both <= MOST_SQUEEZED * min(*spans, high - low)


def _panel(
    measure: Measure, lines: Sequence[Line], dim: int | None, views: str, *, split: bool
) -> Panel:
    title = f"{measure.title} on {views}" if of_spans(views) else measure.title
    conventions = ", ".join(dict.fromkeys(line.convention for line in lines if line.convention))
    direction = str(measure.direction)
    wanted = "" if direction == "none" else f"{direction} is preferred"
    return Panel(
        metric=measure.name,
        title=f"{title} ({conventions})" if split and conventions else title,
        unit=", ".join(part for part in (measure.unit, wanted) if part),
        lines=tuple(lines),
        levels=_levels(measure, lines, dim),
        main=measure.main if of_spans(views) else measure.paper_seven,
        views=views if measure.level == "view" else "",
    )


def _levels(measure: Measure, lines: Sequence[Line], dim: int | None) -> tuple[Level, ...]:
    """Return the level without structure, unless it depends on a size that varies."""
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
        raise InputError(
            "expected a table with measures of the catalogue, or scores of tasks, got none to draw"
        )
    return tuple(panels)


def _titled(table: pd.DataFrame) -> str:
    model = " ".join(str(name) for name in table["model"].dropna().unique())
    measured = table[table["level"] != TASK]  # the tasks are named by their panels
    data = " ".join(str(name) for name in measured["data"].dropna().unique())
    return f"{model} on {data}" if data else model


# --- scores of tasks --------------------------------------------------------------------------------


def _task_panels(table: pd.DataFrame) -> list[Panel]:
    """Return a panel for each task."""
    scored = table[table["level"] == TASK]
    panels = []
    for metric in dict.fromkeys(str(metric) for metric in scored["metric"]):
        points, final = (
            tuple(map(_times_100, _points(evidence.of_measure(scored, metric, "", stage), stage)))
            for stage in (BLOCK, FINAL_NORM)
        )
        if points or final:
            best = max(points, key=lambda point: point.value).layer if points else None
            line = Line("score", "", points, final[0] if final else None, best, (), *STYLES[""])
            name, _, score = metric.partition("/")[2].rpartition("/")
            unit = f"{score} x 100, most is preferred"
            panels.append(Panel(metric, name, unit, (line,), (), main=False, scored=True))
    return panels


def _times_100(point: Point) -> Point:
    """Return a score as it is shown everywhere: times 100."""
    scaled = [None if each is None else 100 * each for each in (point.low, point.high)]
    return replace(point, value=100 * point.value, low=scaled[0], high=scaled[1])


def chosen_scores(found: Sequence[Selection]) -> Figure:
    """Return a panel for each scored model: its mean score over depth and the layer chosen.

    The mean is over the tasks that every layer was scored on, which the panel counts.

    Args:
        found: choices of layers, in runs with task scores.

    Raises:
        InputError: no run has scores of all layers.
    """
    panels = score_panels(found)
    if not panels:
        raise InputError(
            "expected task scores at every layer to draw, found none; run layerscope evaluate first."
        )
    rules = ", ".join(dict.fromkeys(each.rule for each in found))
    return Figure(
        f"Task scores over depth, with the layer chosen by {rules}", tuple(panels), 0, "depth"
    )


def score_panels(found: Sequence[Selection]) -> list[Panel]:
    """Return the panels of `chosen_scores`; none where no run has scores of all layers."""
    panels = (
        _score_panel(each, scores, len(found) > 1) for each in found for scores in each.scores
    )
    return [panel for panel in panels if panel is not None]


def _score_panel(found: Selection, scores: Scores, named: bool) -> Panel | None:
    whole = ~np.isnan(scores.candidates).any(axis=1)
    if not whole.any():
        return None
    tasks = int(whole.sum())
    means = 100 * scores.values[whole].mean(axis=0)
    points = tuple(_point(scores, layer, value) for layer, value in enumerate(means.tolist()))
    final = None
    if scores.last_stage == FINAL_NORM:
        last = float(100 * scores.last[whole].mean())
        final = _point(scores, scores.blocks, last, FINAL_NORM)
    choice = next((each for each in found.chosen if each.model in ("", scores.model)), None)
    layer, near = (None, ()) if choice is None else (choice.layer, choice.within_noise)
    name = "mean of the tasks" if tasks > 1 else scores.tasks[int(whole.argmax())]
    line = Line(name, "", points, final, layer, near, *STYLES[""])
    title = f"{scores.model} ({scores.blocks} blocks)" if named else scores.model
    counted = f"score x 100, {tasks} task{'s' if tasks > 1 else ''}"
    return Panel("scores", title, counted, (line,), (), main=False, scored=True)


def _point(scores: Scores, layer: int, value: float, stage: str = BLOCK) -> Point:
    return Point(layer, layer / max(1, scores.blocks), value, None, None, None, stage)


# --- measures of several layers ---------------------------------------------------------------------


def _path_panels(table: pd.DataFrame, measure: Measure) -> list[Panel]:
    """Return the panel of a measure of several layers with its noise floor and null, if it has one."""
    line = _path(table, measure, measure.name, "value", *STYLES[""])
    if line is None:
        return []
    floor = _path(table, measure, f"{measure.name}_floor", "noise floor", "#8a8a8a", "dot")
    levels = set(evidence.of_path(table, f"{measure.name}_null")["value"])
    return [_path_panel(measure, (line, floor), levels)]


def _path(
    table: pd.DataFrame, measure: Measure, metric: str, name: str, color: str, dash: str
) -> Line | None:
    if measure.place not in CURVES:
        return None
    points = _points(evidence.of_path(table, metric))
    return Line(name, "", points, None, None, (), color, dash) if points else None


def _path_panel(
    measure: Measure, lines: Iterable[Line | None], levels: Iterable[float] = ()
) -> Panel:
    null = measure.null
    return Panel(
        metric=measure.name,
        title=measure.title,
        unit=f"{measure.name}: {measure.unit}",
        lines=tuple(line for line in lines if line is not None),
        levels=tuple(Level(float(level), null.label) for level in levels) if null else (),
        main=False,
        between=True,
    )


def heatmaps(table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE) -> tuple[Heatmap, ...]:
    """Return the measures of every two layers that a run's table holds."""
    found = (_heatmap(table, measure) for measure in measures if measure.place == "matrix")
    return tuple(heatmap for heatmap in found if heatmap is not None)


def _heatmap(table: pd.DataFrame, measure: Measure) -> Heatmap | None:
    rows = table[(table["metric"] == measure.name) & table["value"].notna()]
    if rows.empty:
        return None
    pairs = {
        (int(row["layer"]), int(row["other_layer"])): float(row["value"])
        for row in rows.to_dict("records")
    }
    layers = sorted({layer for pair in pairs for layer in pair})
    values = tuple(
        tuple(pairs.get((min(one, other), max(one, other))) for other in layers) for one in layers
    )
    named = f"{measure.name}: {measure.unit}"
    return Heatmap(measure.name, measure.title, named, tuple(layers), tuple(layers), values)
