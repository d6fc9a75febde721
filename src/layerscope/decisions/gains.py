"""Score gain of a chosen layer over baselines, and its share of the gain of the best layers.

A unit is one task of one model. Everything is paired within units: a rule's score, the baselines and
the best layer of the same task. A mean names its tasks, and two means are compared only over the
same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from layerscope.decisions.choose import Choice
from layerscope.decisions.evidence import number_of_blocks
from layerscope.decisions.rules import BASELINES, Floats, middle_layer, two_thirds_layer
from layerscope.errors import InputError, unknown_name
from layerscope.results.resampling import percentile_limits
from layerscope.results.table import BLOCK, FINAL_NORM, TASK, Run

MTEB: Final = "mteb/"
ORACLE: Final = "best layer of each task"
BEST_SINGLE: Final = "best single layer"
LEAVE_ONE_OUT: Final = "best layer on the other tasks"
# A share of next to nothing says nothing: where the best layers gain less than half a point on
# average, none is given.
LEAST_ROOM: Final = 0.005


@dataclass(frozen=True)
class Scores:
    """The task scores of one model.

    Attributes:
        model: its name.
        blocks: L.
        tasks: their names, in the table's order.
        values: (task, layer) of the blocks' outputs 0..L, in mteb's unit; NaN where not scored.
        last: (task,) of the model's own output: after the final norm where scored, else block L.
        last_stage: "final_norm" or "block", saying which.
    """

    model: str
    blocks: int
    tasks: tuple[str, ...]
    values: Floats
    last: Floats
    last_stage: str

    @property
    def candidates(self) -> Floats:
        """(task, L + 2): the blocks' outputs, then the model's own output."""
        found: Floats = np.column_stack([self.values, self.last])
        return found


@dataclass(frozen=True)
class Unit:
    """One task of one model, at the chosen layer, the baselines and the best layer.

    Attributes:
        model: the model's name.
        task: the task's name.
        layer: the chosen layer; None for any layer.
        score: at it; for any layer the mean over all.
        last, middle, two_thirds, random: at the baselines.
        best: at the best layer of this task, the model's own output included.
        best_layer: that layer.
    """

    model: str
    task: str
    layer: int | None
    score: float
    last: float
    middle: float
    two_thirds: float
    random: float
    best: float
    best_layer: int

    @property
    def share(self) -> float | None:
        """Share of the best layer's gain over the last that the choice has; None without any."""
        room = self.best - self.last
        return (self.score - self.last) / room if room > 0 else None


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % bootstrap limits over tasks (over models and tasks if several)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Gain:
    """What a rule gained over the tasks it was scored on.

    Attributes:
        rule: the rule's name.
        models: the models.
        tasks: the tasks that every mean here is over, the same for each model.
        units: each task of each model.
        score: mean at the chosen layers.
        over: by baseline, the mean gain over it.
        best: mean at the best layer of each task.
        share: of the gain of the best layers over the last, how much the choices have, of means;
            None where the best layers gain less than `LEAST_ROOM`.
    """

    rule: str
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    units: tuple[Unit, ...]
    score: Interval
    over: Mapping[str, Interval]
    best: float
    share: Interval | None


def task_name(metric: str) -> str:
    """Return what a score's metric calls its task.

    >>> task_name("mteb/STS17/cosine_spearman"), task_name("probe/mood.csv/linear_accuracy")
    ('STS17', 'probe/mood.csv/linear_accuracy')
    """
    return metric.removeprefix(MTEB).rsplit("/", 1)[0] if metric.startswith(MTEB) else metric


def scores_of(run: Run, tasks: Iterable[str] | None = None) -> tuple[Scores, ...]:
    """Return the task scores of each model in a run; none if it has none.

    Args:
        run: a run.
        tasks: which, and in which order; by default mteb's, or without any all scores.

    Raises:
        InputError: a task is named that is not there, or has several scores at a layer.
    """
    rows = run.table[(run.table["level"] == TASK) & run.table["value"].notna()]
    if rows.empty:
        if tasks is not None:
            raise InputError("expected task scores, found none; run layerscope evaluate first.")
        return ()
    rows = rows.assign(task=[task_name(str(metric)) for metric in rows["metric"]])
    mteb = rows["metric"].str.startswith(MTEB)
    default = rows[mteb] if mteb.any() else rows
    wanted = list(default["task"].unique()) if tasks is None else list(dict.fromkeys(tasks))
    for name in wanted:
        if name not in set(rows["task"]):
            raise unknown_name("task", name, rows["task"].unique())
    rows = rows[rows["task"].isin(wanted)]
    return tuple(
        _scores(str(model), part, wanted, number_of_blocks(run.table[run.table["model"] == model]))
        for model, part in rows.groupby("model", sort=False)
    )


def _scores(model: str, rows: pd.DataFrame, wanted: Sequence[str], blocks: int) -> Scores:
    if rows.duplicated(["task", "layer", "stage"]).any():
        raise InputError(f"expected one score a task and layer of {model!r}, got several.")
    tasks = [name for name in wanted if name in set(rows["task"])]
    places = rows["task"].map({name: place for place, name in enumerate(tasks)})
    values = np.full((len(tasks), blocks + 1), np.nan)
    block = rows["stage"] == BLOCK
    at = places[block].to_numpy(dtype=int), rows["layer"][block].to_numpy(dtype=int)
    values[at] = rows["value"][block].to_numpy(dtype=np.float64)
    normed = rows["stage"] == FINAL_NORM
    last = values[:, blocks].copy()
    last[places[normed].to_numpy(dtype=int)] = rows["value"][normed].to_numpy(dtype=np.float64)
    stage = FINAL_NORM if normed.any() else BLOCK
    return Scores(model, blocks, tuple(tasks), values, last, stage)


def gain_of(
    rule: str, choices: Iterable[Choice], scores: Iterable[Scores], *, seed: int = 0,
    resamples: int = 1000,
) -> Gain | None:  # fmt: skip
    """Return what a rule's choices gained; None if no task can be scored at them.

    A choice made on a task's own texts is for that task; one made on other texts, if it is the
    model's only one, for every task; one that looks at nothing, for every task too.

    Args:
        rule: the rule's name.
        choices: the rule's choices, of one or more models.
        scores: task scores, of one or more models.
        seed: of the resampling of tasks and models.
        resamples: their number.
    """
    made = [choice for choice in choices if choice.rule == rule]
    units = [unit for each in scores for unit in _units(made, each)]
    return summarize(rule, units, seed=seed, resamples=resamples) if units else None


def _units(choices: Sequence[Choice], scores: Scores) -> list[Unit]:
    own = [choice for choice in choices if choice.model == scores.model]
    by_data = {choice.data: choice for choice in own}
    for_all = own[0] if own and (len(own) == 1 or own[0].fixed) else None
    found = (
        _unit(scores, place, by_data.get(task, for_all)) for place, task in enumerate(scores.tasks)
    )
    return [unit for unit in found if unit is not None]


def _unit(scores: Scores, place: int, choice: Choice | None) -> Unit | None:
    if choice is None or (choice.layer is None and not choice.fixed):
        return None
    if choice.layer is None:
        score = float(np.nanmean(scores.values[place]))
    elif choice.stage == FINAL_NORM:
        score = float(scores.last[place])
    else:
        score = float(scores.values[place, choice.layer])
    return _at(scores, place, choice.layer, score)


def _at(scores: Scores, place: int, layer: int | None, score: float) -> Unit | None:
    """Return a unit, or None where a score that it compares is missing."""
    row, last = scores.values[place], float(scores.last[place])
    middle = float(row[middle_layer(scores.blocks)])
    two_thirds = float(row[two_thirds_layer(scores.blocks)])
    if np.isnan([score, last, middle, two_thirds]).any():
        return None
    candidates = scores.candidates[place]
    best = int(np.nanargmax(candidates))
    return Unit(
        model=scores.model,
        task=scores.tasks[place],
        layer=layer,
        score=score,
        last=last,
        middle=middle,
        two_thirds=two_thirds,
        random=float(np.nanmean(row)),
        best=float(candidates[best]),
        best_layer=min(best, scores.blocks),
    )


def labeled(scores: Sequence[Scores], *, seed: int = 0, resamples: int = 1000) -> tuple[Gain, ...]:
    """Return the gains of layers that only labels can find, as bounds for the rules.

    The best single layer of each model over its tasks; the same found on all tasks but one and
    scored on that one; and the best layer of each task.
    """
    kinds: dict[str, Callable[[Scores, int], int]] = {
        BEST_SINGLE: lambda each, _place: _best_mean(each.candidates),
        LEAVE_ONE_OUT: lambda each, place: _best_mean(np.delete(each.candidates, place, axis=0)),
        ORACLE: lambda each, place: int(np.nanargmax(each.candidates[place])),
    }
    found = []
    for name, place_of in kinds.items():
        units = [
            _at(each, task, min(place, each.blocks), float(each.candidates[task, place]))
            for each in scores
            if name != LEAVE_ONE_OUT or len(each.tasks) > 1
            for task in range(len(each.tasks))
            for place in (place_of(each, task),)
        ]
        known = [unit for unit in units if unit is not None]
        if known:
            found.append(summarize(name, known, seed=seed, resamples=resamples))
    return tuple(found)


def _best_mean(candidates: Floats) -> int:
    """Return the place of the best mean over tasks, of those that every task was scored at."""
    means = candidates.mean(axis=0)
    return int(np.argmax(np.where(np.isnan(means), -np.inf, means)))


def scored_verdict(scores: Scores, *, seed: int = 0, resamples: int = 1000) -> str:
    """Return what task scores say of one model's layers: what to do, then on what evidence, a line each.

    The gain of the best layer is that of layers chosen on the other tasks, because the best of many on
    the tasks that it was chosen on looks better than it is. Nothing where no layer has all scores.
    """
    candidates, count = scores.candidates, len(scores.tasks)
    known = np.isfinite(candidates.sum(axis=0))
    if not known.any():
        return ""
    best, own = _best_mean(candidates), candidates.shape[1] - 1
    means = 100 * candidates.mean(0)
    on = f"{count} tasks" if count > 1 else scores.tasks[0]
    place = "the model's own output" if best == own else f"layer {best} of {scores.blocks}"
    if not known[own]:
        return f"Read {place}.\nOn {on} it scores {means[best]:.2f}; the last layer was not scored."
    if not means[best] > means[own]:
        return (
            f"Keep the model's own output.\nOn {on} it scores {means[own]:.2f}, and no layer more."
        )
    both = f"it scores {means[best]:.2f}, the model's own output {means[own]:.2f}"
    if count == 1:
        return f"Read {place}.\nOn {on} {both}; what another task would say is unknown."
    others = [_best_mean(np.delete(candidates, task, axis=0)) for task in range(count)]
    gains = 100 * (candidates[np.arange(count), others] - candidates[:, own])
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    low, high = percentile_limits(gains[drawn].mean(1))
    gained = (
        f"chosen on the other tasks, a layer gains {gains.mean():+.2f} ({low:+.2f} to {high:+.2f})"
    )
    if low > 0:
        return f"Read {place}.\nOn {on} {both}; {gained}."
    keep = f"Keep the model's own output: {place} is not clearly better."
    return f"{keep}\nOn {on} {both}; but {gained} over it."


def summarize(rule: str, units: Iterable[Unit], *, seed: int = 0, resamples: int = 1000) -> Gain:
    """Return the means of units of one or more models, with intervals.

    With one model its tasks are resampled; with several, models and within them tasks. Only the
    tasks that every model has are counted, so that no two means are over different tasks.

    Args:
        rule: the rule's name.
        units: each task of each model once.
        seed: of the resampling.
        resamples: their number.

    Raises:
        InputError: there is no unit, or the models have no task in common.
    """
    given = list(units)
    models = tuple(dict.fromkeys(unit.model for unit in given))
    having = [{unit.task for unit in given if unit.model == model} for model in models]
    common = set.intersection(*having) if having else set()
    kept = tuple(unit for unit in given if unit.task in common)
    if not kept:
        raise InputError("expected scores of at least one task that every model has, got none.")
    weights = _weights([unit.model for unit in kept], seed, resamples)

    def column(name: str) -> Floats:
        return np.array([getattr(unit, name) for unit in kept], dtype=np.float64)

    score, last, best = column("score"), column("last"), column("best")
    return Gain(
        rule=rule,
        models=models,
        tasks=tuple(dict.fromkeys(unit.task for unit in kept)),
        units=kept,
        score=_mean(score, weights),
        over={
            baseline.name: _mean(score - column(baseline.name.replace(" ", "_")), weights)
            for baseline in BASELINES
        },
        best=float(best.mean()),
        share=_ratio(score - last, best - last, weights),
    )


def _weights(models: Sequence[str], seed: int, resamples: int) -> Floats | None:
    """Return how often each unit is drawn, (resample, unit); None if there is but one task."""
    names, places = np.unique(models, return_inverse=True)
    sizes = np.bincount(places)
    if sizes.max() < 2:
        return None
    generator = np.random.default_rng(seed)
    several = len(names) > 1
    uniform = np.full(len(names), 1 / len(names))
    drawn = generator.multinomial(len(names), uniform, resamples) if several else None
    weights = np.empty((resamples, len(models)))
    for model, size in enumerate(sizes):
        counts = generator.multinomial(size, np.full(size, 1 / size), resamples).astype(float)
        weights[:, places == model] = counts if drawn is None else counts * drawn[:, [model]]
    return weights


def _mean(values: Floats, weights: Floats | None) -> Interval:
    if weights is None:
        return Interval(float(values.mean()), None, None)
    limits = percentile_limits(weights @ values / weights.sum(1))
    return Interval(float(values.mean()), *limits)


def _ratio(part: Floats, whole: Floats, weights: Floats | None) -> Interval | None:
    if whole.mean() < LEAST_ROOM:
        return None
    value = float(part.sum() / whole.sum())
    if weights is None:
        return Interval(value, None, None)
    parts, wholes = weights @ part, weights @ whole
    return Interval(value, *percentile_limits(parts[wholes > 0] / wholes[wholes > 0]))
