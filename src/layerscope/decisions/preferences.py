"""Which layer each measure prefers, how sure that is, and what the measures prefer together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from layerscope.data.views import of_spans
from layerscope.decisions.evidence import (
    NORMALIZED,
    PAPER,
    measured,
    number_of_blocks,
    of_measure,
    perturbations,
)
from layerscope.decisions.rules import CAUTION, middle_layer
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.measure import Measure
from layerscope.results.resampling import within_noise
from layerscope.results.table import BLOCK, FINAL_NORM


@dataclass(frozen=True)
class Preference:
    """The layer one measure prefers in one convention, beside the two trivial choices.

    Attributes:
        metric: Name of the measure in the catalogue.
        convention: Its preprocessing; empty where the measure has none.
        direction: "least", "most" or "none": which values are preferred.
        layer: The preferred layer, the shallower of equals; None where nothing can be preferred.
        value: The measure there.
        within_noise: Layers that the texts cannot tell from the preferred one, itself included.
        last_value: The measure on what the model itself outputs: after the final norm where there
            is one, else after the last block; None where it was not measured.
        last_stage: "final_norm" or "block", saying which of the two that is.
        middle_layer: L / 2, rounded down.
        middle_value: The measure there; None where undefined.
        reason: Why there is no layer; empty where there is one.
        perturbation: What the views are that it is measured on; "none" where it is not on views.
    """

    metric: str
    convention: str
    direction: str
    layer: int | None
    value: float | None
    within_noise: tuple[int, ...]
    last_value: float | None
    last_stage: str
    middle_layer: int
    middle_value: float | None
    reason: str = ""
    perturbation: str = "none"


@dataclass(frozen=True)
class Agreement:
    """Whether a measure prefers one layer whatever its convention.

    Attributes:
        metric: Name of the measure.
        paper: Layer preferred by the printed formula on raw states.
        normalized: Layer preferred after centering and unit rows.
        same: The two layers are equal.
        overlap: The two sets of layers within noise share at least one.
        perturbation: What the views are that it is measured on.
    """

    metric: str
    paper: int
    normalized: int
    same: bool
    overlap: bool
    perturbation: str = "none"


@dataclass(frozen=True)
class Vote:
    """The measures that vote for one layer."""

    layer: int
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """What the paper's measures prefer together; a hint, which `sentence` says.

    Attributes:
        layer: The layer with most votes, the shallower of equals; None where nothing voted.
        votes: Votes of every layer that has any, most votes first.
        voters: Number of measures that voted.
        paper_layer: The layer the same vote picks in the paper's convention, None if not measured.
        sentence: The whole of it for people.
    """

    layer: int | None
    votes: tuple[Vote, ...]
    voters: int
    paper_layer: int | None
    sentence: str


def preferences(
    table: pd.DataFrame,
    contributions: pd.DataFrame,
    *,
    measures: Sequence[Measure] = CATALOGUE,
    seed: int = 0,
) -> tuple[Preference, ...]:
    """Return the preference of every measure and convention in a run's table.

    Args:
        table: The results of one run (see `layerscope.results.table`).
        contributions: Its per-text numbers, columns as `table.CONTRIBUTION_COLUMNS`. Without
            them only the preferred layer itself is "within noise".
        measures: The catalogue that says which direction is preferred.
        seed: Seed of the resampling behind `within_noise`.

    Returns:
        One preference a measure, convention and kind of views, in the catalogue's order. Layers
        where the measure is undefined take no part.
    """
    blocks = number_of_blocks(table)
    matrices = _matrices(contributions, {measure.name for measure in measures})
    return tuple(
        _preference(table, matrices, measure, convention, perturbation, blocks, seed)
        for measure, convention in measured(table, measures)
        for perturbation in perturbations(table, measure.name, convention)
    )


def agreement(choices: Iterable[Preference]) -> tuple[Agreement, ...]:
    """Return whether the paper and normalized conventions agree, for measures that have both."""
    found: dict[tuple[str, str], dict[str, tuple[int, tuple[int, ...]]]] = {}
    for choice in choices:
        if choice.layer is not None:
            found.setdefault((choice.metric, choice.perturbation), {})[choice.convention] = (
                choice.layer,
                choice.within_noise,
            )
    return tuple(
        _agreement(*which, *layers[PAPER], *layers[NORMALIZED])
        for which, layers in found.items()
        if PAPER in layers and NORMALIZED in layers
    )


def recommendation(
    choices: Sequence[Preference], *, measures: Sequence[Measure] = CATALOGUE
) -> Recommendation:
    """Return the layer that most of the paper's seven measures vote for, normalized convention.

    Each measure votes for every layer within noise of its best, so one that cannot tell layers
    apart does not decide between them. Measures of views vote by misspelled copies, as the paper's.
    """
    choices = _of_the_papers_views(choices)
    seven = {measure.name for measure in measures if measure.paper_seven}
    votes = _votes(choices, seven, NORMALIZED)
    paper = _votes(choices, seven, PAPER)
    paper_layer = paper[0].layer if paper else None
    voters = len({metric for vote in votes for metric in vote.metrics})
    if not votes:
        sentence = (
            "No layer is recommended: none of the paper's measures has a value and a preferred "
            "direction in the normalized convention."
        )
        return Recommendation(None, (), 0, paper_layer, sentence)
    sentence = f"{_counted(votes[0], voters)} {_flip(votes[0].layer, paper_layer)}{CAUTION}"
    return Recommendation(votes[0].layer, votes, voters, paper_layer, sentence)


def _of_the_papers_views(choices: Sequence[Preference]) -> list[Preference]:
    """Leave out preferences on spans, and on all but the first kind of misspelled copies."""
    found: dict[tuple[str, str], Preference] = {}
    for choice in choices:
        if not of_spans(choice.perturbation):
            found.setdefault((choice.metric, choice.convention), choice)
    return list(found.values())


def _preference(
    table: pd.DataFrame,
    matrices: Mapping[tuple[str, str, str], pd.DataFrame],
    measure: Measure,
    convention: str,
    perturbation: str,
    blocks: int,
    seed: int,
) -> Preference:
    which = (measure.name, convention, perturbation)
    matrix = matrices.get(which)
    rows = of_measure(table, measure.name, convention, perturbation=perturbation)
    direction = str(measure.direction)
    middle = middle_layer(blocks)
    last_value, last_stage = _last(table, *which, blocks)
    layer, reason = _best(rows["value"], direction)
    return Preference(
        metric=measure.name,
        convention=convention,
        direction=direction,
        layer=layer,
        value=None if layer is None else float(rows["value"][layer]),
        within_noise=() if layer is None else _within_noise(matrix, layer, set(rows.index), seed),
        last_value=last_value,
        last_stage=last_stage,
        middle_layer=middle,
        middle_value=_value_at(rows, middle),
        reason=reason,
        perturbation=perturbation,
    )


def _best(values: pd.Series[float], direction: str) -> tuple[int | None, str]:
    """Return the layer of the preferred value and "", or None and why there is none."""
    if direction not in ("least", "most"):
        return None, "the measure has no preferred direction"
    if values.empty:
        return None, "the measure is defined at no layer"
    array = values.to_numpy(dtype=float)
    position = int(array.argmin() if direction == "least" else array.argmax())
    return int(values.index[position]), ""


def _last(
    table: pd.DataFrame, metric: str, convention: str, perturbation: str, blocks: int
) -> tuple[float | None, str]:
    """Return the measure on the model's own output, and the stage that is."""
    stage = FINAL_NORM if (table["stage"] == FINAL_NORM).any() else BLOCK
    return _value_at(of_measure(table, metric, convention, stage, perturbation), blocks), stage


def _value_at(rows: pd.DataFrame, layer: int) -> float | None:
    return float(rows["value"][layer]) if layer in rows.index else None


def _matrices(
    contributions: pd.DataFrame, metrics: set[str]
) -> dict[tuple[str, str, str], pd.DataFrame]:
    """Return, by metric, convention and perturbation, layer x text, NaN where undefined."""
    wanted = (contributions["stage"] == BLOCK) & contributions["metric"].isin(metrics)
    which = ["metric", "convention", "perturbation"]
    groups = contributions[wanted].fillna({"convention": ""}).groupby(which, observed=True)
    return {
        (str(metric), str(convention), str(perturbation)): rows.pivot(
            index="layer", columns="text", values="value"
        )
        for (metric, convention, perturbation), rows in groups
    }


def _within_noise(
    matrix: pd.DataFrame | None, best: int, layers: set[int], seed: int
) -> tuple[int, ...]:
    """Return the layers not told from `best`, each compared on the texts defined at both."""
    if matrix is None or best not in matrix.index:
        return (best,)
    matrix = matrix[matrix.index.isin(layers)]
    array = matrix.to_numpy(dtype=np.float64, na_value=np.nan)
    close = np.asarray(within_noise(array, list(matrix.index).index(best), seed))
    return tuple(sorted({best, *(int(layer) for layer in matrix.index[close])}))


def _agreement(
    metric: str,
    perturbation: str,
    paper: int,
    near_paper: tuple[int, ...],
    normalized: int,
    near: tuple[int, ...],
) -> Agreement:
    overlap = not set(near_paper).isdisjoint(near)
    same = paper == normalized
    return Agreement(metric, paper, normalized, same, overlap, perturbation)


def _votes(choices: Iterable[Preference], voters: set[str], convention: str) -> tuple[Vote, ...]:
    """Return the votes of one convention, most first, the shallower of equals first."""
    votes: dict[int, list[str]] = {}
    for choice in choices:
        if choice.metric in voters and choice.convention == convention:
            for layer in choice.within_noise:
                votes.setdefault(layer, []).append(choice.metric)
    ordered = sorted(votes, key=lambda layer: (-len(votes[layer]), layer))
    return tuple(Vote(layer, tuple(votes[layer])) for layer in ordered)


def _counted(vote: Vote, voters: int) -> str:
    count = len(vote.metrics)
    divided = 2 * count < voters
    return (
        f"Layer {vote.layer}: {'only ' if divided else ''}{count} of {voters} measures prefer it or "
        f"cannot tell it from their best (normalized convention)"
        f"{', so the measures do not agree on a layer' if divided else ''}."
    )


def _flip(layer: int, paper_layer: int | None) -> str:
    if paper_layer is None or paper_layer == layer:
        return ""
    return f"On raw states (paper convention) the same vote picks layer {paper_layer}. "
