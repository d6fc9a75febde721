"""What a correlation finds, as records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Final

import numpy as np
import pandas as pd

from layerscope.augmentation import ViewKind, view_kind
from layerscope.dependence import Unit
from layerscope.errors import unknown_name

BELIEVED: Final = 0.05
STATISTICS: Final = ("dcor", "bias_corrected", "spearman", "kendall", "partial")


def refuse_statistic(name: str) -> None:
    """Raise an InputError unless a coefficient has that name."""
    if name not in STATISTICS:
        raise unknown_name("coefficient", name, STATISTICS)


@dataclass(frozen=True, order=True)
class MeasureKey:
    """A measure as a table names it."""

    metric: str
    convention: str = ""
    perturbation: str = "none"

    @property
    def words(self) -> str:
        """The measure with its convention, for headings."""
        return f"{self.metric} ({self.convention})" if self.convention else self.metric


@dataclass(frozen=True, order=True)
class ScoreKey:
    """One score of one task for one model.

    Attributes:
        model: as the table names it.
        revision: of the model; may be empty.
        task: the table's data set.
        score: the table's metric.
        name: the task, or the score where the task has several.
    """

    model: str
    revision: str
    task: str
    score: str
    name: str

    @property
    def cluster(self) -> str:
        """The model with its revision."""
        return f"{self.model} @ {self.revision}" if self.revision else self.model


@dataclass(frozen=True)
class Curve:
    """Values over ascending layers, each with layer / number of blocks."""

    layers: tuple[int, ...]
    depths: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Association:
    """How a measure's curve goes with a score's, of one model on one task.

    Attributes:
        measure: the measure.
        score: the model, the task and its score.
        data: the texts that the measure was made on.
        curve: the measure, at the layers where both are defined.
        scores: (layer,) the score there.
        dcor: distance correlation, 0 to 1.
        bias_corrected: its square without the bias of few layers; may be negative.
        spearman: rank correlation, with its sign.
        kendall: tau-b.
        partial: Spearman's given depth and depth squared; None where nothing is left of a curve.
        p_shift: share of circular shifts that reach `dcor`; not below 1 / number of layers.
        unit: the two curves as the nulls take them.
    """

    measure: MeasureKey
    score: ScoreKey
    data: str
    curve: Curve
    scores: tuple[float, ...]
    dcor: float
    bias_corrected: float
    spearman: float
    kendall: float
    partial: float | None
    p_shift: float
    unit: Unit = field(compare=False, repr=False)


@dataclass(frozen=True)
class LeftOut:
    """What takes no part, and why; `measure` is empty where no measure does."""

    model: str
    task: str
    measure: str
    reason: str


@dataclass(frozen=True)
class Summary:
    """One measure over all models and tasks; every coefficient is the median over them.

    Attributes:
        measure: the measure.
        units: number of (model, task) pairs.
        models: number of models.
        tasks: number of tasks.
        dcor: distance correlation.
        bias_corrected: its square, bias-corrected.
        spearman: rank correlation.
        low: its lower 95 % limit, from drawing models again with all their tasks, or of one model
            its tasks; None where there is one of each.
        high: the upper limit.
        kendall: tau-b.
        partial: Spearman's given depth and depth squared; None where nothing is ever left.
        positive: share of models (of one model: tasks) whose median Spearman is above 0; None
            where there is one of each.
        p_sign: two-sided, of these signs being a coin's.
        p_shift: of `dcor` by circular shifts, the tasks of a model shifted together.
        p_shift_least: the least that p could be with these layers.
        p_walk: of `dcor` by random walks in the measure's place.
        walk: what the walks reach in 1 of 20 draws.
        p_holm: the larger of p_shift and p_walk, corrected over all measures after Holm.
        p_fdr: the same after Benjamini and Hochberg, for screens of many measures.
        dcor_of_means: distance correlation of the mean curves over the tasks, as published figures
            take it; the median over models.
    """

    measure: MeasureKey
    units: int
    models: int
    tasks: int
    dcor: float
    bias_corrected: float
    spearman: float
    low: float | None
    high: float | None
    kendall: float
    partial: float | None
    positive: float | None
    p_sign: float | None
    p_shift: float
    p_shift_least: float
    p_walk: float
    walk: float
    p_holm: float
    p_fdr: float
    dcor_of_means: float | None

    @property
    def holds(self) -> bool:
        """Whether it is more than drift and chance would give, all measures considered."""
        return self.p_holm < BELIEVED


@dataclass(frozen=True)
class Findings:
    """All associations, what they come to, what takes no part, and what a reader should know."""

    associations: tuple[Association, ...]
    summaries: tuple[Summary, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return a row a measure, the closest first; columns are the fields of `Summary`."""
        return pd.DataFrame([_flat(summary) for summary in self.summaries])

    def units(self) -> pd.DataFrame:
        """Return a row a measure, model and task; columns are the fields of `Association`."""
        return pd.DataFrame([_flat(association) for association in self.associations])

    def matrix(self, statistic: str = "dcor") -> pd.DataFrame:
        """Return measures by tasks of one coefficient, the median over models; NaN where none is.

        Raises:
            InputError: the coefficient is unknown.
        """
        refuse_statistic(statistic)
        order = [summary.measure for summary in self.summaries]
        values: dict[MeasureKey, dict[str, list[float]]] = {measure: {} for measure in order}
        for each in self.associations:
            value = getattr(each, statistic)
            if value is not None:
                values[each.measure].setdefault(each.score.name, []).append(value)
        names = labels(order)
        tasks = sorted({each.score.name for each in self.associations})
        medians = {
            names[measure]: {task: float(np.median(found)) for task, found in row.items()}
            for measure, row in values.items()
        }
        return pd.DataFrame.from_dict(medians, orient="index", columns=tasks, dtype=float)


def labels(measures: Iterable[MeasureKey]) -> dict[MeasureKey, str]:
    """Return names that tell measures apart: the views only where they must, in a word if that does.

    >>> keys = [MeasureKey("dime", "", views) for views in ("characters p=0.3", "crops of 20 words")]
    >>> list(labels(keys).values()), list(labels(keys[:1]).values())
    (['dime, characters', 'dime, crops'], ['dime'])
    """
    kept = list(measures)
    words = [measure.words for measure in kept]
    views = {measure.perturbation: _word_of(measure.perturbation) for measure in kept}
    if len(set(views.values())) < len(views):
        views = {name: name for name in views}
    return {
        measure: measure.words
        if words.count(measure.words) == 1
        else f"{measure.words}, {views[measure.perturbation]}"
        for measure in kept
    }


def _word_of(perturbation: str) -> str:
    kind = view_kind(perturbation)
    return perturbation if kind is ViewKind.OTHER else str(kind)


def _flat(record: Association | Summary) -> dict[str, object]:
    """Return a record's fields as one row, those of its keys among them, its curves left out."""
    row: dict[str, object] = {}
    for each in fields(record):
        value = getattr(record, each.name)
        if isinstance(value, MeasureKey | ScoreKey):
            row |= asdict(value)
        elif isinstance(value, Curve):
            row["layers"] = len(value.layers)
        elif not isinstance(value, tuple | Unit):
            row[each.name] = value
    return row
