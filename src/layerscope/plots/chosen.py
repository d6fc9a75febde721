"""The scores of tasks over the layers of one or more models, with the chosen layers marked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from layerscope import selection
from layerscope.decision import Selection
from layerscope.errors import InputError
from layerscope.gains import Scores
from layerscope.plots.description import MODEL_COLORS, Figure, Line, Panel, Point
from layerscope.selection import Choice


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
        if (panel := _panel(each, scores, len(found) > 1)) is not None
    ]
    if not panels:
        raise InputError(
            "expected task scores at every layer to draw, found none; run layerscope evaluate first."
        )
    rules = ", ".join(dict.fromkeys(each.rule for each in found))
    return Figure(
        f"Task scores over depth, with the layer chosen by {rules}", tuple(panels), 0, True
    )


def _panel(found: Selection, scores: Scores, named: bool) -> Panel | None:
    whole = ~np.isnan(scores.candidates).any(axis=1)
    if not whole.any():
        return None
    tasks = int(whole.sum())
    means = 100 * scores.values[whole].mean(axis=0)
    choice = next((each for each in found.chosen if each.model in ("", scores.model)), None)
    points = tuple(_point(scores, layer, value) for layer, value in enumerate(means.tolist()))
    final = None
    if scores.last_stage == selection.FINAL_NORM:
        last = float(100 * scores.last[whole].mean())
        final = _point(scores, scores.blocks, last, selection.FINAL_NORM)
    name = "mean of the tasks" if tasks > 1 else scores.tasks[int(whole.argmax())]
    line = Line(name, "", points, final, *_marked(choice), MODEL_COLORS[0], "solid")
    title = f"{scores.model} ({scores.blocks} blocks)" if named else scores.model
    counted = f"score x 100, {tasks} task{'s' if tasks > 1 else ''}"
    return Panel("scores", title, counted, (line,), (), main=False, scored=True)


def _marked(choice: Choice | None) -> tuple[int | None, tuple[int, ...]]:
    if choice is None:
        return None, ()
    return choice.layer, choice.within_noise


def _point(scores: Scores, layer: int, value: float, stage: str = selection.BLOCK) -> Point:
    return Point(layer, layer / max(1, scores.blocks), value, None, None, None, stage)
