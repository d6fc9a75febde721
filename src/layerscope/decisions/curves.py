"""Layer curves of measures and of task scores read from tables, and the records of their correlation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Final

import numpy as np
import pandas as pd

from layerscope.data.views import ViewKind, view_kind
from layerscope.decisions.dependence import Unit
from layerscope.errors import InputError, unknown_name
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.results.table import BLOCK, FINAL_NORM, TASK, conform

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
    """Correlation of the curves of a measure and of a score, for one model on one task.

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
    """A score or measure that is left out, and why; `measure` is empty where none is used."""

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
        walk: 95 % quantile of the distance correlation of the walks.
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
    """All associations, their summaries, what is left out, and notes for readers."""

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
    """Return unique names of measures: with the kind of views only where needed.

    >>> keys = [MeasureKey("dime", "", views) for views in ("characters p=0.3", "crops of 20 words")]
    >>> list(labels(keys).values()), list(labels(keys[:1]).values())
    (['dime, characters', 'dime, crops'], ['dime'])
    >>> keys = [MeasureKey("dime", "", views) for views in ("augmented images", "crops of images")]
    >>> list(labels(keys).values())
    ['dime, augmented images', 'dime, crops']
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
    altered = kind is ViewKind.CHARACTERS and not perturbation.startswith(kind)  # images
    return perturbation if altered or kind is ViewKind.OTHER else str(kind)


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


OWN: Final = "own"  # in place of a data set: the texts of each task itself
ALL: Final = "all"  # in place of measures: every one that the runs hold
MAIN: Final = frozenset(measure.name for measure in CATALOGUE if measure.main)
LEVELS: Final = ("_null", "_floor")
WORDS: Final = (
    "model", "revision", "data", "perturbation", "level", "stage", "metric", "convention",
)  # fmt: skip

Place = tuple[str, str, str, MeasureKey]  # model, revision, data, measure


def rows_at(tables: Sequence[pd.DataFrame], stage: str) -> pd.DataFrame:
    """Return the defined rows of single layers at a stage, absent words made empty.

    Raises:
        InputError: there is no table, or no row at that stage.
    """
    if not tables:
        raise InputError("expected at least one run to correlate, got none.")
    rows = pd.concat([conform(table) for table in tables], ignore_index=True)
    rows = rows[rows["value"].notna() & rows["layer"].notna() & rows["other_layer"].isna()]
    rows = rows.fillna(dict.fromkeys(WORDS, ""))
    if stage == FINAL_NORM:
        return _last_layer_normed(rows)
    if stage not in set(rows["stage"]):
        raise unknown_name("stage", stage, sorted({*rows["stage"], FINAL_NORM} - {""}))
    return rows[rows["stage"] == stage]


def _last_layer_normed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the blocks' outputs, in place of the last one what the model gives after its norm."""
    keys = [*(name for name in WORDS if name != "stage"), "layer"]
    blocks, final = (rows[rows["stage"] == stage] for stage in (BLOCK, FINAL_NORM))
    normed = pd.MultiIndex.from_frame(blocks[keys]).isin(pd.MultiIndex.from_frame(final[keys]))
    return pd.concat([blocks[~normed], final])


def score_curves(rows: pd.DataFrame, scores: Sequence[str] | None) -> dict[ScoreKey, Curve]:
    """Return the tasks' scores over the layers.

    Raises:
        InputError: there are none, a name is unknown, or a layer has two values.
    """
    tasks = rows[rows["level"] == TASK]
    if tasks.empty:
        raise InputError(
            "expected runs with task scores, found only measures; make scores of the same model with "
            "`layerscope evaluate` and give that run too."
        )
    if scores is not None:
        _check("task", scores, {*tasks["data"], *tasks["metric"]})
        tasks = tasks[tasks["data"].isin(scores) | tasks["metric"].isin(scores)]
    several = {str(task) for task, group in tasks.groupby("data") if group["metric"].nunique() > 1}
    return {
        ScoreKey(model, revision, task, score, score if task in several else task): _curve(group)
        for (model, revision, task, score), group in _groups(
            tasks, "model", "revision", "data", "metric"
        )
    }


def measure_curves(
    rows: pd.DataFrame, measures: Sequence[str] | None, conventions: Sequence[str] | None
) -> dict[Place, Curve]:
    """Return the measures over the layers.

    Raises:
        InputError: there are none, a name is unknown, or a layer has two values.
    """
    found = rows[rows["level"] != TASK]
    if found.empty:
        raise InputError(
            "expected runs with measures, found only task scores; make measures of the same model "
            "with `layerscope scan` and give that run too."
        )
    found = found[found["metric"].isin(_chosen(set(found["metric"]), measures))]
    if conventions is not None:
        _check("convention", conventions, {*found["convention"]} - {""})
        found = found[found["convention"].isin([*conventions, ""])]
    return {
        (model, revision, data, MeasureKey(*names)): _curve(group)
        for (model, revision, data, *names), group in _groups(
            found, "model", "revision", "data", "metric", "convention", "perturbation"
        )
    }


def _chosen(known: set[str], measures: Sequence[str] | None) -> Iterable[str]:
    """Return the requested measures, by default the main ones and those not in the catalogue.

    Where a main one is missing, others of its family replace it: lidar_log for lidar. Reference
    levels of a measure (its null, its noise floor) are only included by name.
    """
    if measures is not None and ALL not in measures:
        _check("measure in these runs", measures, known)
        return measures
    every = {name for name in known if not name.endswith(LEVELS)}
    if measures is not None:
        return every
    side = {name for each in CATALOGUE for name in (each.name, *each.variants)} - MAIN
    absent = tuple(f"{name}_" for name in MAIN - known)
    return {name for name in every if name not in side or name.startswith(absent)} or every


def _check(kind: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(kind, name, sorted(known))


def _groups(rows: pd.DataFrame, *names: str) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    for key, group in rows.groupby(list(names)):
        yield tuple(map(str, key)), group


def _curve(rows: pd.DataFrame) -> Curve:
    ordered = rows.sort_values("layer")
    layers = [int(layer) for layer in ordered["layer"]]
    if len(set(layers)) < len(layers):
        first = ordered.iloc[0]
        raise InputError(
            f"expected one value of {first['metric']!r} a layer for {first['model']} on "
            f"{first['data']}, got several: two runs hold the same; leave one out."
        )
    depths = ordered["depth"].astype(float)
    if depths.isna().any():  # a foreign table: its deepest layer is taken for the last
        depths = ordered["layer"].astype(float) / max(1, layers[-1])
    return Curve(tuple(layers), tuple(map(float, depths)), tuple(map(float, ordered["value"])))


def texts_for(
    scores: Iterable[ScoreKey], places: Iterable[Place], data: str | None
) -> tuple[dict[ScoreKey, str], list[LeftOut]]:
    """Return on which texts the measures were made that each score is compared with.

    Args:
        scores: all of them.
        places: where there are measures.
        data: the texts for all tasks, "own" for each task's, None for the only ones there can be.

    Returns:
        The texts for each score that has any, and the scores that have none.

    Raises:
        InputError: the data set is unknown, or several can be meant.
    """
    known: dict[tuple[str, str], set[str]] = {}
    for model, revision, name, _ in places:
        known.setdefault((model, revision), set()).add(name)
    if data is not None:
        _check("data set", [data], {OWN}.union(*known.values()))
    wanted, pairs, left_out = list(scores), {}, []
    for score in wanted:
        names = known.get((score.model, score.revision), set())
        tasks = {other.task for other in wanted if other.cluster == score.cluster}
        texts = data or (_only(names, tasks, score.cluster) if names else OWN)
        name = score.task if texts == OWN else texts
        if name in names:
            pairs[score] = name
        else:
            on = "the task's own texts" if texts == OWN else name
            reason = f"no measures on {on}" if names else "no measures of this model"
            left_out.append(LeftOut(score.cluster, score.name, "", reason))
    return pairs, left_out


def _only(names: set[str], tasks: set[str], model: str) -> str:
    """Return the one data set that there is, or "own" if any task's own texts were measured.

    Raises:
        InputError: several can be meant.
    """
    if len(names) == 1:
        return next(iter(names))
    if names & tasks:
        return OWN
    raise InputError(
        f"the measures of {model} were made on {len(names)} data sets: {', '.join(sorted(names))}; "
        "choose one with --data (data= in Python)."
    )
