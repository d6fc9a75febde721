"""The view of several runs: a row a run, and a chart a measure with a line a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import pandas as pd

from layerscope.render import words
from layerscope.render.drawing import Figure, Panel
from layerscope.render.measures import Column, main_columns
from layerscope.render.overlay import short_names
from layerscope.render.scans import DASHES
from layerscope.render.tasks import mean_curve, task_curves
from layerscope.render.view import NONE, Cell, Chart, Charts, Head, Table, View, section, sections
from layerscope.results.runs import RUN
from layerscope.results.table import TASK

_NAMED: Final = ("model", "revision", "data", "perturbation")


def runs_view(
    table: pd.DataFrame, figure: Figure, answers: Mapping[str, str], title: str, version: str
) -> View:
    """Return several runs side by side.

    Args:
        table: as `results.runs.one_table` makes it.
        figure: a panel a measure, a line a run (`overlay.overlay`).
        answers: run -> the readout to use, where a scan compared some.
        title: of the page.
        version: of layerscope.
    """
    return View(
        title,
        subject=title,
        sections=sections(
            section("Runs", _runs(table, answers), page=True),
            section("Measures over the layers", _charts(figure, scored=False), page=True),
            section("Scores over the layers", _charts(figure, scored=True), page=True),
        ),
        version=version,
    )


def _charts(figure: Figure, *, scored: bool) -> Charts:
    found = [
        (f"line-{place}", panel)
        for place, panel in enumerate(figure.panels)
        if _of_task(panel) == scored
    ]
    lines = {line.name: line for _, panel in found for line in panel.lines}
    return Charts(
        tuple(
            Chart(name, replace(figure, panels=(panel,)), panel.title, panel.unit)
            for name, panel in found
        ),
        tuple((name, line.color, DASHES[line.dash]) for name, line in lines.items()),
        signs=(("diamond", "after the final norm"), ("", "bands: 95 % limits over texts")),
    )


def _of_task(panel: Panel) -> bool:
    return panel.metric.partition("/")[0] in ("mteb", "probe")


def _runs(table: pd.DataFrame, answers: Mapping[str, str]) -> Table:
    """Return a row a run: what it is of, what to do with it, and its numbers at the model's output."""
    names = list(dict.fromkeys(map(str, table[RUN])))
    frames = [table[table[RUN] == name] for name in names]
    told = {each: [_only(frame, each) for frame in frames] for each in differing(table)}
    if "model" in told:
        told["model"] = short_names(pd.Series(told["model"])).tolist()
    if len(set(zip(*told.values(), strict=True))) < len(names):  # they do not tell the runs apart
        told = {RUN: names} | told
    means = [_mean_score(frame) for frame in frames]
    scored = any(mean is not None for mean in means)
    found = [{each.measure.name: each for each in main_columns(frame)} for frame in frames]
    measures = {name: each.measure for columns in found for name, each in columns.items()}
    made = [[_output(columns.get(name)) for columns in found] for name in measures]
    digits = [words.decimals(column) for column in made]
    rows = []
    for place, (name, mean) in enumerate(zip(names, means, strict=True)):
        numbers = [words.number(each[place], digs) for each, digs in zip(made, digits, strict=True)]
        rows.append(
            (
                *(Cell(values[place]) for values in told.values()),
                Cell(answers.get(name, NONE)),
                *([Cell(words.score(mean))] if scored else []),
                *(Cell(number) for number in numbers),
            )
        )
    return Table(
        (
            *(Head(column, left=True) for column in told),
            Head("readout", "without labels", left=True),
            *([Head("score", "own output")] if scored else []),
            *(Head(each.title, "own output", title=each.formula) for each in measures.values()),
        ),
        tuple(rows),
        notes=("Numbers are of the model's own output, after its final norm where it has one.",),
    )


def differing(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the columns that tell runs apart; kinds of views are parts of one run."""
    rows = table[table["level"] != "view"]
    values = rows.fillna(dict.fromkeys(_NAMED, "")).groupby(RUN)
    return tuple(each for each in _NAMED if values[each].agg(frozenset).nunique() > 1)


def _only(frame: pd.DataFrame, column: str) -> str:
    rows = frame.loc[frame["level"] != "view", column]
    found = [str(each) for each in rows.dropna().unique() if str(each) not in ("", "none")]
    return found[0] if len(found) == 1 else f"{len(found)} kinds" if found else NONE


def _output(found: Column | None) -> float | None:
    """Return a measure's value at the model's own output."""
    if found is None or found.final is not None:
        return None if found is None else found.final
    return found.values[max(found.values)] if found.values else None


def _mean_score(frame: pd.DataFrame) -> float | None:
    curves = task_curves(frame[frame["level"] == TASK])
    curve = mean_curve(curves) if len(curves) > 1 else curves[0] if curves else None
    blocks = 0 if curve is None else max(layer for layer, _ in curve.values)
    return None if curve is None else curve.last(blocks)
