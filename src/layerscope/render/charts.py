"""Curves over the layers as plain records: what a chart says, before it is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd

from layerscope.data.views import of_spans
from layerscope.decisions import evidence, rules
from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import Key
from layerscope.decisions.gains import Scores
from layerscope.decisions.select import Selection
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.results import table as table_module

# Okabe and Ito's colors, told apart with any color vision; the blue a little lighter so that it also
# stands out on a dark page. Dashes say the same for print without color.
STYLES: Final = {
    evidence.NORMALIZED: ("#2a7ab9", "solid"),
    evidence.PAPER: ("#d55e00", "dash"),
    "reference": ("#009e73", "dot"),
    "": ("#2a7ab9", "solid"),
}
MODEL_COLORS: Final = (
    "#2a7ab9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b6bb1", "#7f7f7f",
)  # fmt: skip
DASHES: Final = ("solid", "dash", "dot")
# Two curves share an axis while neither is squeezed into less than 1 / 2.5 of it.
MOST_SQUEEZED: Final = 2.5
# Where a measure of several layers stands that has one value a layer.
CURVES: Final = ("step", "layer", "final")
BAND: Final = 0.16  # opacity; half of it where many models lie on top of each other


@dataclass(frozen=True)
class Point:
    """One value: where it stands, its limits (None where there are none), the texts behind it."""

    layer: int
    depth: float
    value: float
    low: float | None
    high: float | None
    texts: int | None
    stage: str = table_module.BLOCK

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
        between: Whether it is a measure of several layers.
        scored: Whether it is the score of a task.
        views: What the views are that it is measured on; "" where it is not on views.
    """

    metric: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    main: bool
    between: bool = False
    scored: bool = False
    views: str = ""

    @property
    def on_spans(self) -> bool:
        """Whether it is measured on parts of texts."""
        return of_spans(self.views)

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
        return 0.5 if self.by_depth else float(rules.middle_layer(self.blocks))

    def x(self, point: Point) -> float:
        """Where a point stands on x."""
        return point.depth if self.by_depth else float(point.layer)


def describe(
    table: pd.DataFrame,
    choices: Mapping[Key, Choice] | None = None,
    *,
    dim: int | None = None,
    measures: Sequence[Measure] = CATALOGUE,
) -> Figure:
    """Return the curves of one run: a panel a measure, its conventions as lines.

    A convention whose values would squeeze the others' curves, or be squeezed by them, gets a panel
    of its own; so does every kind of views, whose values cannot be compared.

    Args:
        table: Results of one run.
        choices: The layer that each measure prefers (`choose.preferred`), which is marked.
        dim: Width of the hidden states; without it the levels that depend on it are left out.
        measures: The catalogue, or those of its measures that are wanted.

    Raises:
        InputError: If the table holds no measure of the catalogue and no score.
    """
    preferred = choices or {}
    panels = []
    for measure in measures:
        if measure.level == "pair":
            panels += _path_panels(table, measure)
            continue
        for views, conventions in _kinds([table], measure).items():
            lines = [_line(table, measure, each, views, preferred) for each in conventions]
            groups = _shared_axes([line for line in lines if line is not None])
            panels += [
                _panel(measure, group, dim, views, split=len(groups) > 1) for group in groups
            ]
    panels += _task_panels([table], ["score"])
    title = " ".join(str(name) for name in table["model"].dropna().unique())
    return Figure(_titled(title, table), _some(panels), evidence.number_of_blocks(table), False)


def compare(
    runs: Sequence[tuple[pd.DataFrame, Mapping[Key, Choice]]],
    *,
    measures: Sequence[Measure] = CATALOGUE,
) -> Figure:
    """Return the curves of several runs: a panel a measure and convention, the models as lines.

    Layers are compared at equal depth, since models differ in their number of blocks.

    Raises:
        InputError: If the tables hold no measure of the catalogue.
    """
    names = run_names([table for table, _ in runs])
    kept = list(runs)
    panels = []
    for measure in measures:
        if measure.level == "pair":
            panels += _compared_paths([table for table, _ in kept], names, measure)
            continue
        for views, conventions in _kinds([table for table, _ in kept], measure).items():
            for convention in conventions:
                lines = []
                for index, (table, preferred) in enumerate(kept):
                    line = _line(table, measure, convention, views, preferred)
                    if line is not None:
                        color = MODEL_COLORS[index % len(MODEL_COLORS)]
                        dash = DASHES[index // len(MODEL_COLORS) % len(DASHES)]
                        lines.append(replace(line, name=names[index], color=color, dash=dash))
                if lines:
                    split = len(conventions) > 1
                    panels.append(_panel(measure, lines, None, views, split=split))
    panels += _task_panels([table for table, _ in kept], names)
    blocks = evidence.number_of_blocks(kept[0][0]) if kept else 0
    return Figure(f"{len(kept)} runs by depth", _some(panels), blocks, True)


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


def run_names(tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return the shortest names that tell the runs apart: model, then revision, data, a number."""
    for keys in (["model"], ["model", "revision"], ["model", "revision", "data"]):
        names = [" ".join(str(value) for value in table[keys].iloc[0].dropna()) for table in tables]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({index})" for index, name in enumerate(names, start=1)]


def _kinds(tables: Sequence[pd.DataFrame], measure: Measure) -> dict[str, list[str]]:
    """Return the kinds of views that a measure was made on, each with its conventions."""
    found: dict[str, list[str]] = {}
    measured = {c for table in tables for _, c in evidence.measured(table, (measure,))}
    for convention in sorted(measured, key=list(STYLES).index):
        for table in tables:
            for views in evidence.perturbations(table, measure.name, convention):
                if convention not in found.setdefault(views, []):
                    found[views].append(convention)
    return found


def _line(
    table: pd.DataFrame,
    measure: Measure,
    convention: str,
    views: str,
    preferred: Mapping[Key, Choice],
) -> Line | None:
    """Return a measure's curve, or None where it is defined nowhere."""

    def at(stage: str) -> tuple[Point, ...]:
        return _points(evidence.of_measure(table, measure.name, convention, stage, views), stage)

    points, final = at(table_module.BLOCK), at(table_module.FINAL_NORM)
    if not points and not final:
        return None
    choice = preferred.get((measure.name, convention, views))
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


def _points(rows: pd.DataFrame, stage: str = table_module.BLOCK) -> tuple[Point, ...]:
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


def _task_panels(tables: Sequence[pd.DataFrame], names: Sequence[str]) -> list[Panel]:
    """Return a panel for each task, with a line for each run that has its scores."""
    scored = [table[table["level"] == table_module.TASK] for table in tables]
    panels = []
    for metric in dict.fromkeys(str(metric) for rows in scored for metric in rows["metric"]):
        found = zip(scored, names, strict=True)
        lines = [_scores(rows, metric, name, place) for place, (rows, name) in enumerate(found)]
        drawn = tuple(line for line in lines if line is not None)
        _, _, task = metric.partition("/")
        name, _, score = task.rpartition("/")
        if drawn:
            unit = f"{score}, most is preferred"
            panels.append(Panel(metric, name, unit, drawn, (), main=False, scored=True))
    return panels


def _scores(rows: pd.DataFrame, metric: str, name: str, place: int) -> Line | None:
    points = _points(evidence.of_measure(rows, metric, ""))
    final = _points(
        evidence.of_measure(rows, metric, "", table_module.FINAL_NORM), table_module.FINAL_NORM
    )
    if not points and not final:
        return None
    best = max(points, key=lambda point: point.value).layer if points else None
    color = MODEL_COLORS[place % len(MODEL_COLORS)]
    dash = DASHES[place // len(MODEL_COLORS) % len(DASHES)]
    return Line(name, "", points, final[0] if final else None, best, (), color, dash)


def has_curves(table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE) -> bool:
    """Whether any of the measures has a value a layer, so that there is something to draw."""
    if evidence.measured(table, measures):
        return True
    return any(
        measure.place in CURVES and not evidence.of_path(table, measure.name).empty
        for measure in measures
    )


def _path_panels(table: pd.DataFrame, measure: Measure) -> list[Panel]:
    """Return the panel of a measure of several layers with its noise floor and null, if it has one."""
    if measure.place not in CURVES:
        return []
    line = _path(table, measure.name, "value", *STYLES[""])
    if line is None:
        return []
    floor = _path(table, f"{measure.name}_floor", "noise floor", "#8a8a8a", "dot")
    lines = tuple(each for each in (line, floor) if each is not None)
    return [_path_panel(table, measure, lines)]


def _compared_paths(
    tables: Sequence[pd.DataFrame],
    names: Sequence[str],
    measure: Measure,
) -> list[Panel]:
    if measure.place not in CURVES:
        return []
    found = []
    for index, table in enumerate(tables):
        color = MODEL_COLORS[index % len(MODEL_COLORS)]
        dash = DASHES[index // len(MODEL_COLORS) % len(DASHES)]
        found.append(_path(table, measure.name, names[index], color, dash))
    lines = tuple(line for line in found if line is not None)
    # Each run has a null of its own, so none is drawn.
    return [_path_panel(None, measure, lines)] if lines else []


def _path(table: pd.DataFrame, metric: str, name: str, color: str, dash: str) -> Line | None:
    points = _points(evidence.of_path(table, metric).reset_index(names="layer"))
    return Line(name, "", points, None, None, (), color, dash) if points else None


def _path_panel(table: pd.DataFrame | None, measure: Measure, lines: tuple[Line, ...]) -> Panel:
    null = measure.null
    levels = (
        set() if table is None else set(evidence.of_path(table, f"{measure.name}_null")["value"])
    )
    return Panel(
        metric=measure.name,
        title=measure.title,
        unit=f"{measure.name}: {measure.unit}",
        lines=lines,
        levels=tuple(Level(float(level), null.label) for level in levels) if null else (),
        main=False,
        between=True,
    )


@dataclass(frozen=True)
class Heatmap:
    """A measure of every two layers of one run.

    Attributes:
        metric: Name of the measure.
        title: What stands above it.
        unit: Unit of the values.
        layers: The layers, along both axes.
        values: (layer, layer), symmetric; None on the diagonal and where it is undefined.
    """

    metric: str
    title: str
    unit: str
    layers: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]


def heatmaps(table: pd.DataFrame, measures: Sequence[Measure] = CATALOGUE) -> tuple[Heatmap, ...]:
    """Return the measures of every two layers that a run's table holds."""
    return tuple(
        found
        for measure in measures
        if measure.place == "matrix" and (found := _heatmap(table, measure)) is not None
    )


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
    return Heatmap(
        measure.name, measure.title, f"{measure.name}: {measure.unit}", tuple(layers), values
    )


def _some(panels: Sequence[Panel]) -> tuple[Panel, ...]:
    if not panels:
        raise InputError(
            "expected a table with measures of the catalogue, or scores of tasks, got none to draw"
        )
    return tuple(panels)


def _titled(model: str, table: pd.DataFrame) -> str:
    measured = table[table["level"] != table_module.TASK]  # the tasks are named by their panels
    data = " ".join(str(name) for name in measured["data"].dropna().unique())
    return f"{model} on {data}" if data else model


def chosen_scores(found: Sequence[Selection]) -> Figure:
    """Return a panel for each scored model: its mean score over depth and the layer chosen.

    The mean is over the tasks that every layer was scored on, which the panel counts.

    Args:
        found: choices of layers, in runs with task scores.

    Raises:
        InputError: no run has scores of all layers.
    """
    panels = [
        panel
        for each in found
        for scores in each.scores
        if (panel := _score_panel(each, scores, len(found) > 1)) is not None
    ]
    if not panels:
        raise InputError(
            "expected task scores at every layer to draw, found none; run layerscope evaluate first."
        )
    rules = ", ".join(dict.fromkeys(each.rule for each in found))
    return Figure(
        f"Task scores over depth, with the layer chosen by {rules}", tuple(panels), 0, True
    )


def _score_panel(found: Selection, scores: Scores, named: bool) -> Panel | None:
    whole = ~np.isnan(scores.candidates).any(axis=1)
    if not whole.any():
        return None
    tasks = int(whole.sum())
    means = 100 * scores.values[whole].mean(axis=0)
    choice = next((each for each in found.chosen if each.model in ("", scores.model)), None)
    points = tuple(_point(scores, layer, value) for layer, value in enumerate(means.tolist()))
    final = None
    if scores.last_stage == table_module.FINAL_NORM:
        last = float(100 * scores.last[whole].mean())
        final = _point(scores, scores.blocks, last, table_module.FINAL_NORM)
    name = "mean of the tasks" if tasks > 1 else scores.tasks[int(whole.argmax())]
    line = Line(name, "", points, final, *_marked(choice), MODEL_COLORS[0], "solid")
    title = f"{scores.model} ({scores.blocks} blocks)" if named else scores.model
    counted = f"score x 100, {tasks} task{'s' if tasks > 1 else ''}"
    return Panel("scores", title, counted, (line,), (), main=False, scored=True)


def _marked(choice: Choice | None) -> tuple[int | None, tuple[int, ...]]:
    if choice is None:
        return None, ()
    return choice.layer, choice.within_noise


def _point(scores: Scores, layer: int, value: float, stage: str = table_module.BLOCK) -> Point:
    return Point(layer, layer / max(1, scores.blocks), value, None, None, None, stage)
