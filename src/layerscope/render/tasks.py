"""Views of task scores: an evaluation's layers and best layers, and a selection with its gains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from layerscope.decisions import evidence
from layerscope.decisions.choose import Choice
from layerscope.decisions.gains import Gain, Interval, scored_verdict, scores_of
from layerscope.decisions.rules import BASELINES, RANDOM, middle_layer
from layerscope.decisions.select import Selection
from layerscope.render import readouts, words
from layerscope.render.view import (
    DIFFERENT,
    MOST,
    SAME,
    Answer,
    Cell,
    Head,
    Notes,
    Table,
    View,
    heads,
    section,
    sections,
)
from layerscope.results.display import in_percent, in_words_of
from layerscope.results.table import BLOCK, FINAL_NORM, TASK, Run

_TASKS_SHOWN: Final = 6  # columns of scores that fit next to layer, depth and mean
_WIDTH: Final = 9
_DROPPED: Final = ("Classification", "Clustering", "Reranking", "Retrieval")

Place = tuple[int, str]  # layer and stage


@dataclass(frozen=True)
class Curve:
    """The scores of one task, or their mean.

    Attributes:
        name: short and distinct.
        score: the main score's name.
        values: by layer and stage.
        probe: whether a probe's accuracy rather than mteb's score; it enters no mean.
    """

    name: str
    score: str
    values: Mapping[Place, float]
    probe: bool = False

    @property
    def best(self) -> Place:
        """The shallowest place of the greatest score."""
        return max(self.values, key=lambda place: (self.values[place], -place[0]))

    def last(self, blocks: int) -> float | None:
        """Return the score of the model's own output: after the final norm, if it has one."""
        normed = self.values.get((blocks, FINAL_NORM))
        return self.values.get((blocks, BLOCK)) if normed is None else normed

    def middle(self, blocks: int) -> float | None:
        """Return the score at the middle layer."""
        return self.values.get((middle_layer(blocks), BLOCK))


def task_curves(table: pd.DataFrame) -> list[Curve]:
    """Return the scores of each task that a table holds, in its order."""
    rows = table[(table["level"] == TASK) & table["value"].notna()]
    found: dict[str, dict[Place, float]] = {}
    for row in rows.to_dict("records"):
        place = (int(row["layer"]), str(row["stage"]))
        found.setdefault(str(row["metric"]), {})[place] = float(row["value"])
    names = short_names(list(found))
    return [
        Curve(names[metric], metric.rpartition("/")[2], values, metric.startswith("probe/"))
        for metric, values in found.items()
    ]


def mean_curve(curves: Sequence[Curve]) -> Curve | None:
    """Return the mean of several tasks, unless one of them lacks a layer that another has."""
    curves = [curve for curve in curves if not curve.probe]
    if len(curves) < 2 or any(curve.values.keys() != curves[0].values.keys() for curve in curves):
        return None
    values = {
        place: sum(curve.values[place] for curve in curves) / len(curves)
        for place in curves[0].values
    }
    return Curve(f"mean of {len(curves)} tasks", "", values)


def short_names(metrics: Sequence[str]) -> dict[str, str]:
    """Return a short distinct name for each metric of a task.

    >>> short_names(["mteb/Banking77Classification/accuracy"])
    {'mteb/Banking77Classification/accuracy': 'Banking77'}
    """
    found: dict[str, str] = {}
    for metric in metrics:
        kind, _, rest = metric.partition("/")
        name, _, score = rest.rpartition("/")
        for ending in _DROPPED:
            name = name.removesuffix(ending) or name
        name = f"{name} {score.partition('_')[0]}" if kind == "probe" else name
        found[metric] = name if name not in found.values() else rest
    return found


# --- an evaluation ----------------------------------------------------------------------------------


def answer(run: Run) -> Answer | None:
    """Return what the scores of a run of one model say; None where there are none."""
    scores = scores_of(run)
    return in_two_lines(scored_verdict(scores[0])) if len(scores) == 1 else None


def in_two_lines(said: str) -> Answer | None:
    """Return what to do and on what evidence as an answer; None where nothing is said."""
    lead, _, evidence = said.partition("\n")
    return Answer(lead, evidence) if said else None


def layers(table: pd.DataFrame) -> Table | None:
    """Return a row a layer and a column a task; with many tasks, only their mean."""
    curves = task_curves(table)
    if not curves:
        return None
    mean, blocks = mean_curve(curves), evidence.number_of_blocks(table)
    shown = list(curves) if len(curves) <= _TASKS_SHOWN else []
    columns = [Head(curve.name, width=_WIDTH) for curve in shown]
    if mean is not None:
        shown.append(mean)
        columns.append(Head("mean", width=_WIDTH))
    lines = []
    for layer, stage in _shown_places(shown or curves):
        normed = stage == FINAL_NORM
        depth = "out" if normed else f"{layer / blocks if blocks else 0:.2f}"
        cells = (_score(curve, (layer, stage)) for curve in shown)
        lines.append(
            (Cell("norm" if normed else str(layer), "strong"), Cell(depth, "soft"), *cells)
        )
    notes = [f"{MOST} the best layer; scores of mteb x 100"]
    if mean is not None:
        names = ", ".join(curve.name for curve in curves if not curve.probe)
        notes.append(f"{mean.name}: {names}")
    made = (Head("layer", width=5), Head("depth", width=6), *columns)
    return Table(made, tuple(lines), notes=tuple(notes), tight=True)


def _shown_places(curves: Sequence[Curve]) -> list[Place]:
    """Return at most about MAX_ROWS places: evenly spaced ones, the last two, and every best one."""
    found = {place for curve in curves for place in curve.values}
    places = sorted(found, key=lambda place: (place[0], place[1] == FINAL_NORM))
    stride = max(1, -(-len(places) // words.MAX_ROWS))
    kept = {*places[::stride], *places[-2:], *(curve.best for curve in curves)}
    return [place for place in places if place in kept]


def _score(curve: Curve, place: Place) -> Cell:
    best = place == curve.best
    known = place in curve.values
    mark = MOST if best else " " if known else ""
    style = "good" if best else "" if known else "soft"
    return Cell(words.score(curve.values.get(place)), style, mark=mark)  # type: ignore[arg-type]


def best(table: pd.DataFrame) -> Table | None:
    """Return a row a task: its best layer, and the scores of the baselines."""
    curves = task_curves(table)
    if not curves:
        return None
    mean, blocks = mean_curve(curves), evidence.number_of_blocks(table)
    lines = []
    for curve in [*curves, *([] if mean is None else [mean])]:
        top, last = curve.values[curve.best], curve.last(blocks)
        gain = None if last is None else top - last
        lines.append(
            (
                Cell(curve.name),
                Cell(curve.score, "soft"),
                Cell("norm" if curve.best[1] == FINAL_NORM else str(curve.best[0]), "good"),
                *(Cell(words.score(value)) for value in (top, last, curve.middle(blocks))),
                Cell(words.score(gain, signed=True)),
            )
        )
    made = heads(
        "task", "main score", "best layer", "best", "last", "middle", "best - last", left=(0, 1)
    )
    return Table(made, tuple(lines))


def notes(record: Mapping[str, Any]) -> list[str]:
    """Return the notes of an evaluation and of its tasks."""
    found = [f"! {note}" for note in record.get("evaluation", {}).get("notes", ())]
    for name, facts in record.get("tasks", {}).items():
        found += [f"! {name}: {note}" for note in facts.get("notes", ())]
    return found


# --- a selection ------------------------------------------------------------------------------------

_MOST_TASKS: Final = 12


def advice_of(found: Selection) -> Answer:
    """Return what to do, on what evidence: by labels or scores where there are some, else without."""
    if found.labels or found.scored or found.readout:
        lead, *rest = found.answer.split("\n")
        return Answer(lead, rest[0] if rest else "", warnings=tuple(rest[1:]))
    lead, by, why = found.sentence.partition(" by the rule")
    return Answer(lead, f"{by}{why}".strip(), good=found.layer is not None)


def selection_view(found: Selection, record: Mapping[str, Any], *, every: bool = False) -> View:
    """Return what `select` found: the layer and how sure it is, the rules, what they gained.

    Args:
        found: what `select.decide` returned.
        record: run.json as a dict; whatever it lacks is left out.
        every: whether to show every rule and task, not only the main ones.
    """
    model = record.get("model", {})
    gained = (_gains(found, every), _by_task(found, every)) if found.gains else (None, None)
    view = View(
        title=str(model.get("name", "")),
        detail=str(model.get("revision") or ""),
        lines=words.settings_lines(record),
        details=words.detail_lines(record),
        answers=(advice_of(found),),
        sections=sections(
            None if found.labels is None else readouts.label_section(found.labels),
            None if found.readout is None else readouts.readout_section(found.readout),
            section("Layers by rule", _choices(found, every)),
            section("Scores at those layers", gained[0]),
            section(f"Tasks at the layer of {found.rule}", gained[1]),
            section("Notes", Notes(tuple(_footnotes(found, every)))),
        ),
    )
    return in_words_of(record, view)


def _shown(found: Selection, every: bool) -> list[str]:
    """Return the rules to show: the one that is followed first."""
    names = [rule.name for rule in found.rules if every or rule.main]
    return list(dict.fromkeys([found.rule, *names]))


def _choices(found: Selection, every: bool) -> Table:
    """Return a row a rule: its layer, what is within noise, how often it wins, what flips it."""
    sets = {(choice.model, choice.data) for choice in found.choices}
    one = len(sets) == 1
    lines = []
    for name in _shown(found, every):
        if chosen := found.of(name):
            label = Cell(name, "good" if name == found.rule else "")
            lines.append((label, Cell(_layer(chosen)), *(_sureness(chosen[0]) if one else ())))
    said = []
    if any(choice.stage == FINAL_NORM for choice in found.choices):
        said.append("norm: the model's own output, after its final norm")
    if not one:
        said.append(f"the layers of {len(sets)} sets of texts")
    elif any(choice.wins for choice in found.choices):
        said.append("wins: share of the resamples of the texts that choose the layer again")
    sure = ("within noise", "wins", "other conventions") if one else ()
    return Table(heads("rule", "layer", *sure, left=(0, 2, 4)), tuple(lines), notes=tuple(said))


def _sureness(choice: Choice) -> tuple[Cell, Cell, Cell]:
    won = "" if choice.won is None else in_percent(choice.won)
    near = "" if choice.fixed else words.layer_ranges(choice.within_noise)
    return Cell(near), Cell(won), Cell(_others(choice), "bad" if choice.agrees is False else "")


def _layer(chosen: Sequence[Choice]) -> str:
    """Return the layer of a rule, or of several sets of texts the range that its layers span."""
    if all(choice.stage == FINAL_NORM for choice in chosen):
        return "norm"
    known = [choice.layer for choice in chosen if choice.layer is not None]
    return words.span(known) if known else "any" if chosen[0].rule == RANDOM.name else "none"


def _others(choice: Choice) -> str:
    """Return whether other conventions take the same layer, and which they take if not."""
    if choice.agrees is None:
        return ""
    if choice.agrees:
        return SAME
    others = [f"{name} {k}" for name, k in choice.conventions if k != choice.layer]
    return f"{', '.join(others)} {DIFFERENT}"


def _gains(found: Selection, every: bool) -> Table:
    """Return two lines a rule: mean score and gains over the baselines, and their intervals."""
    titles = ("rule", "score", *(f"over {baseline.name}" for baseline in BASELINES), "of the best")
    made = tuple(
        Head(title, left=title == "rule", width=width)
        for title, width in zip(titles, (20, 5, 10, 10, 10, 10, 8), strict=True)
    )
    most = max(len(gain.tasks) for gain in found.gains)
    named = [gain for name in _shown(found, every) if (gain := found.gain(name)) is not None]
    lines = tuple(
        (
            _label(gain, found, most),
            Cell(words.score(gain.score.value)),
            *(_interval(gain.over[baseline.name]) for baseline in BASELINES),
            _interval(gain.share, share=True),
        )
        for gain in (*named, *found.labeled)
    )
    note = (
        "Scores x 100, with 95 % intervals over tasks; a gain is over the rule's own tasks. Of the "
        "best: share of what the best layer of each task gains over the last. No rule finds the "
        "layers of the last rows, only labels do."
    )
    return Table(made, lines, notes=(note,), tight=True)


def _label(gain: Gain, found: Selection, most: int) -> Cell:
    """Return a rule's name, and below it what it does not share with the other rows."""
    below = []
    if gain in found.labeled:
        known = words.span(unit.layer for unit in gain.units if unit.layer is not None)
        below.append(f"labels: layer {known}")
    if len(gain.tasks) < most:
        below.append(words.several(len(gain.tasks), "task"))
    return Cell(gain.rule, "good" if gain.rule == found.rule else "", below=", ".join(below))


def _interval(interval: Interval | None, *, share: bool = False) -> Cell:
    """Return a gain, or a share, with its limits below; nothing for a comparison with itself."""
    if interval is None or interval == Interval(0.0, 0.0, 0.0):
        return Cell()
    text = in_percent(interval.value) if share else words.score(interval.value, signed=True)
    low, high = interval.low, interval.high
    if low is None or high is None or low >= high:
        return Cell(text)
    places = 0 if share or 100 * max(abs(low), abs(high)) >= 10 else 1
    return Cell(text, below=words.limits(100 * low, 100 * high, places))


def _by_task(found: Selection, every: bool) -> Table | None:
    """Return a row a task: the chosen layer, last, middle and best; of few tasks, or on request."""
    gain = found.gain(found.rule)
    if gain is None or (len(gain.units) > _MOST_TASKS and not every):
        return None
    several = ("model",) if len(gain.models) > 1 else ()
    lines = []
    for unit in gain.units:
        values = (unit.score, unit.last, unit.middle, unit.two_thirds, unit.best)
        lines.append(
            (
                *(Cell(unit.model) for _ in several),
                Cell(unit.task),
                Cell("any" if unit.layer is None else str(unit.layer), "good"),
                *(Cell(words.score(value)) for value in values),
                Cell(str(unit.best_layer)),
            )
        )
    named = heads(*several, "task", "layer", "score", "last", "middle", "two thirds", "best", "at",
                  left=range(1 + len(several)))  # fmt: skip
    return Table(named, tuple(lines))


def _footnotes(found: Selection, every: bool) -> Iterable[str]:
    if found.gains:
        tasks = max((gain.tasks for gain in found.gains), key=len)
        yield f"{words.several(len(tasks), 'task')}: {', '.join(sorted(tasks))}"
    if every:
        yield from (f"{rule} needs {what}" for rule, what in found.lacking.items())
    elif found.lacking:
        lacking = words.several(len(found.lacking), "rule")
        yield f"measures that this run lacks are needed by {lacking}; --verbose names them"
