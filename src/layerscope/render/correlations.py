"""Views of how measures go with task scores over layers, and of an order of models without scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from layerscope.decisions.agreement import FEWEST, Agreement, Correlation
from layerscope.decisions.curves import Association, Findings, Summary, labels
from layerscope.decisions.orders import Place, leaders
from layerscope.decisions.predictors import PREDICTORS, RANDOM, TRIVIAL, Predictor, predictor
from layerscope.decisions.rank import Ranking
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.render import words
from layerscope.render.drawing import Cloud, Clouds, Dot, Heatmap, Series, symbol
from layerscope.render.view import (
    LEAST,
    MOST,
    NONE,
    Answer,
    Cell,
    Chart,
    Charts,
    Head,
    Notes,
    Style,
    Table,
    View,
    heads,
    section,
    sections,
)
from layerscope.results.display import in_percent, in_words_of
from layerscope.results.folder import versions

_TITLES: Final = {
    "dcor": "distance correlation",
    "bias_corrected": "squared distance correlation, bias-corrected",
    "spearman": "Spearman correlation",
    "kendall": "Kendall's tau-b",
    "partial": "Spearman correlation given depth and its square",
}
UNITS: Final = {measure.name: measure.unit for measure in CATALOGUE}
_SHOWN: Final = ("dcor", "spearman", "partial")  # a heatmap each
MOST_ROWS: Final = 40
_READING: Final = (
    "medians over pairs of a model and a task: distance correlation, its bias-corrected square, "
    "Spearman, Kendall's tau, Spearman given depth and depth squared"
)


def correlation_view(findings: Findings) -> View:
    """Return a row a measure, the closest first, with what to read it by, and the charts."""
    scores = [each.score for each in findings.associations]
    models = sorted({score.cluster for score in scores})
    tasks = sorted({score.name for score in scores})
    layers = sorted({len(each.curve.layers) for each in findings.associations})
    ends = " to ".join(map(str, dict.fromkeys((layers[0], layers[-1]))))
    most = max(summary.units for summary in findings.summaries)
    pairs = f" ({most} pairs)" if len(models) > 1 < len(tasks) else ""
    more = len(findings.summaries) - MOST_ROWS
    hidden = [f"{more} more measures: --json, or table() in Python, has all"] if more > 0 else []
    notes = tuple(f"- {note}" for note in (*hidden, _READING, *findings.notes))
    model = words.counted(models, "models")
    heat = [heatmap(findings, statistic) for statistic in _SHOWN]
    return View(
        f"{model} on {words.counted(tasks, 'tasks')}{pairs}, over {ends} layers",
        subject=f"Measures and task scores, {model}",
        lines=(),
        answers=(_answer(findings),),
        sections=sections(
            section("Measures", _table(findings, most)),
            section("Measures and tasks", _heatmaps(heat), page=True),
            section("Score against measure", _clouds(clouds(findings)), page=True),
            section("Pairs and mean curves", _more(findings), page=True, folded=True),
            section("Notes", Notes(notes), more=True),
        ),
        version=versions()["layerscope"],
    )


def _answer(findings: Findings) -> Answer:
    """Return which measures go with the scores more closely than chance."""
    named = labels(summary.measure for summary in findings.summaries)
    held = [summary for summary in findings.summaries if summary.holds]
    first = findings.summaries[0]
    closest = f"{named[first.measure]}, distance correlation {words.coefficient(first.dcor)}"
    if not held:
        return Answer(
            "No measure goes with the scores more than chance", f"closest: {closest}.", False
        )
    count = f"{len(held)} of {len(findings.summaries)} measures"
    return Answer(f"{count} go with the scores more than chance", f"closest: {closest}.")


def _table(findings: Findings, most: int) -> Table:
    named = labels(summary.measure for summary in findings.summaries)
    lines = []
    for summary in findings.summaries[:MOST_ROWS]:
        style: Style = "good" if summary.holds else ""
        own = named[summary.measure].removeprefix(summary.measure.metric).strip(" ,")
        few = "" if summary.units == most else f"n = {summary.units}"
        lines.append(
            (
                Cell(summary.measure.metric, style, below="\n".join(filter(None, (own, few)))),
                Cell(words.coefficient(summary.dcor), "strong"),
                Cell(words.coefficient(summary.bias_corrected)),
                Cell(_limited(summary)),
                Cell(words.coefficient(summary.kendall)),
                Cell(words.coefficient(summary.partial)),
                Cell(words.p_value(summary.p_shift)),
                Cell(words.p_value(summary.p_walk)),
                Cell(words.p_value(summary.p_holm), style),
            )
        )
    named_heads = heads(
        "measure", "dCor", "bias\ncorr.", "Spearman\n[95 % limits]", "tau", "given\ndepth",
        "p\nshift", "p\nwalk", "p\nHolm",
    )  # fmt: skip
    return Table(named_heads, tuple(lines))


def _more(findings: Findings) -> Table:
    """Return what a terminal has no room for."""
    named = labels(summary.measure for summary in findings.summaries)
    lines = (
        (
            Cell(named[each.measure]),
            Cell(str(each.units)),
            Cell(words.coefficient(each.dcor_of_means)),
            Cell(NONE if each.positive is None else in_percent(each.positive)),
        )
        for each in findings.summaries
    )
    return Table(heads("measure", "pairs", "dCor\nof mean curves", "positive"), tuple(lines))


def _limited(summary: Summary) -> str:
    middle = words.coefficient(summary.spearman)
    if summary.low is None or summary.high is None:
        return middle
    return f"{middle} [{words.coefficient(summary.low)}, {words.coefficient(summary.high)}]"


# --- charts -----------------------------------------------------------------------------------------


def models_of(findings: Findings) -> str:
    """Return the model, or how many there are."""
    return words.counted(sorted({each.score.cluster for each in findings.associations}), "models")


def heatmap(findings: Findings, statistic: str = "dcor") -> Heatmap:
    """Return one coefficient of every measure with every task, the median over models.

    Raises:
        InputError: the coefficient is unknown.
    """
    values = findings.matrix(statistic).T
    title = _TITLES[statistic]
    return Heatmap(
        metric=statistic,
        title=f"{title[0].upper()}{title[1:]} over layers, {models_of(findings)}",
        unit=title,
        rows=tuple(values.index),
        columns=tuple(values.columns),
        values=tuple(
            tuple(None if np.isnan(value) else float(value) for value in row)
            for row in values.to_numpy(dtype=float)
        ),
        low=0.0 if statistic == "dcor" else -1.0,
    )


def _heatmaps(found: Sequence[Heatmap]) -> Charts:
    return Charts(
        tuple(
            Chart(f"matrix-{index}", heat, heat.unit, height=160 + 22 * len(heat.rows), wide=True)
            for index, heat in enumerate(found)
        )
    )


def clouds(findings: Findings) -> Clouds:
    """Return the scores against each measure, the closest first.

    Where a model has several tasks, both are means over them, the same tasks at every layer.
    """
    names = labels(summary.measure for summary in findings.summaries)
    panels = []
    for summary in findings.summaries:
        group = [each for each in findings.associations if each.measure == summary.measure]
        panels.append(_cloud(names[summary.measure], summary, group))
    return Clouds(f"Score against measure, a dot a layer, {models_of(findings)}", tuple(panels))


def _clouds(found: Clouds) -> Charts:
    series = {each.name: each.symbol for cloud in found.panels for each in cloud.series}
    signs = ((f"{symbol}: {name}") for name, symbol in series.items())
    return Charts(
        tuple(
            Chart(f"cloud-{index}", cloud, cloud.title, f"{cloud.below}; {cloud.y_title}", 260)
            for index, cloud in enumerate(found.panels)
        ),
        signs=(
            ("", "a dot a layer, joined in their order"),
            ("depth", "depth 0 to 1"),
            *(("", sign) for sign in (signs if len(series) > 1 else ())),
        ),
    )


def _cloud(name: str, summary: Summary, group: Sequence[Association]) -> Cloud:
    models = sorted({each.score.cluster for each in group})
    series = []
    for index, model in enumerate(models):
        own = [each for each in group if each.score.cluster == model]
        series.append(Series(model, symbol(index), _dots(own)))
    tasks = sorted({each.score.name for each in group})
    return Cloud(
        title=name,
        below=f"median dCor {summary.dcor:.2f}, Spearman {summary.spearman:z.2f}",
        x_title=UNITS.get(summary.measure.metric, summary.measure.metric),
        y_title=words.score_over(tasks),
        series=tuple(series),
    )


def _dots(group: Sequence[Association]) -> tuple[Dot, ...]:
    """Return the means over tasks at the layers that all of them have."""
    common = sorted(set.intersection(*(set(each.curve.layers) for each in group)))
    dots = []
    for layer in common:
        places = [each.curve.layers.index(layer) for each in group]
        pairs = list(zip(group, places, strict=True))
        dots.append(
            Dot(
                x=float(np.mean([each.curve.values[place] for each, place in pairs])),
                y=float(np.mean([each.scores[place] for each, place in pairs])),
                layer=layer,
                depth=group[0].curve.depths[places[0]],
            )
        )
    return tuple(dots)


# --- a ranking --------------------------------------------------------------------------------------

_NAMES: Final = {"d_0L": "d_0,L", "dataset_entropy": "dataset\nentropy", "rankme": "RankMe",
                 "prompt_entropy": "prompt\nentropy", "mean_nrs": "mean\nNRS",
                 "mean_gfmi": "mean\nGFMI", "parameters": "param."}  # fmt: skip


def ranking_view(found: Ranking) -> View:
    """Return what `rank` found: the order and how sure it is, sizes, and what orders are worth."""
    lead, _, evidence = found.sentence.partition(": ")
    view = View(
        "",
        lines=(),
        answers=(Answer(lead, evidence, good=found.first is not None),),
        sections=sections(
            section("Order", _order(found)),
            section("Other predictors", _others(found)),
            section("Agreement with scores", _agreements(found)),
            section("Notes", Notes(tuple(f"- {note}" for note in found.notes)), more=True),
        ),
    )
    return in_words_of({"data": found.data}, view)


def _order(found: Ranking) -> Table:
    """Return a row a model, in order: what it is ordered by, how sure that is, size, mean score."""
    scores = found.scores
    means = {} if scores is None else dict(zip(scores.models, scores.means.tolist(), strict=True))
    by = predictor(found.by)
    sized = by.kind == "size"
    measured = () if sized else (" ".join(_name(by).split()), "95 %", "within noise")
    named = {model.name: model for model in found.models}
    lines = []
    for place in found.places:
        values = (f"{place.value:.3f}" if place.value is not None else NONE, _shares(place),
                  _tied(place, found))  # fmt: skip
        sizes = (named[place.model].values[each.name].raw for each in TRIVIAL)
        scored = (words.score(means.get(place.model)),) if means else ()
        cells = (*(() if sized else values), *(words.count(size) for size in sizes), *scored)
        lines.append((*_label(place, found), *(Cell(cell) for cell in cells)))
    note = (
        "95 %: limits over texts. within noise: models, by their #, that these texts cannot tell "
        "from this one"
    )
    return _packed(
        (*measured, *(_name(each) for each in TRIVIAL), *(("score",) if means else ())),
        lines,
        () if sized else (note,),
    )


def _others(found: Ranking) -> Table | None:
    """Return a row a model, in order: other predictors that a run has, with their limits."""
    others = [e for e in PREDICTORS if e.name != found.by and e.name in found.orders]
    if not others:
        return None
    lines = [
        (
            *_label(place, found),
            *(
                _value(found.place(place.model, each.name), found.orders[each.name], each)
                for each in others
            ),
        )
        for place in found.places
    ]
    note = (
        f"{MOST} or {LEAST} comes first by that predictor, of which most or least is better, told "
        "apart from all others. RankMe "
        "and the entropies are of the last layer, after the final norm where there is one, as shares "
        "of the most that texts, width and tokens allow."
    )
    return _packed([_name(each) for each in others], lines, (note,))


def _packed(
    named: Iterable[str], lines: Sequence[tuple[Cell, ...]], notes: tuple[str, ...]
) -> Table:
    """Return a table whose first columns are a number and a name, which takes the room left."""
    made = (Head("#"), Head("model", left=True, fills=True), *(Head(name) for name in named))
    return Table(made, tuple(lines), notes=notes, tight=True)


def _name(each: Predictor) -> str:
    return _NAMES.get(each.name, each.name)


def _label(place: Place, found: Ranking) -> tuple[Cell, Cell]:
    first = place.model == found.first
    rank = NONE if place.rank is None else str(place.rank)
    return Cell(rank), Cell(place.model, "good" if first else "")


def _tied(place: Place, found: Ranking) -> str:
    """Return the ranks of the models within noise of one."""
    if place.unsure and not place.tied:
        return "unknown"
    ranks = {each.model: each.rank for each in found.places}
    return words.layer_ranges({rank for name in place.tied if (rank := ranks[name]) is not None})


def _value(place: Place, places: Sequence[Place], by: Predictor) -> Cell:
    """Return a value with a sign where it alone is the first, and its limits below."""
    if place.value is None:
        return Cell(NONE)
    sign = MOST if by.direction == "most" else LEAST
    first = leaders(places) == (place.model,)
    text = f"{place.value:.3f}{sign if first else ''}"
    return Cell(text, "strong" if first else "", below=_shares(place))


def _shares(place: Place) -> str:
    """Return the limits of shares, which lie within 0 and 1, in few signs."""
    if place.low is None or place.high is None:
        return ""
    return "-".join(f"{limit:.3f}".removeprefix("0") for limit in (place.low, place.high))


def _agreements(found: Ranking) -> Table | None:
    """Return a row a predictor: correlations with the scores, given sizes, regret and recall."""
    if not found.agreements:
        return None
    correlated = any(each.spearman for each in found.agreements)
    named = ("Spearman", "p", "tau", "by\ntask", "given\nwidth", "depth", "par.", "all")
    lines = [
        (
            Cell(each.predictor, "good" if each.predictor == found.by else ""),
            *(_correlations(each) if correlated else ()),
            Cell(f"{100 * each.regret:.1f}"),
            Cell(NONE if each.recall is None else f"{each.recall:.2f}"),
        )
        for each in found.agreements
    ]
    made = (Head("predictor", left=True, fills=True),
            *(Head(name) for name in (*(named if correlated else ()), "regret", "top3")))  # fmt: skip
    return Table(made, tuple(lines), notes=(_reading(correlated),), tight=True)


def _correlations(each: Agreement) -> tuple[Cell, ...]:
    partial = [each.partial.get(name) for name in (*(size.name for size in TRIVIAL), "all")]
    return (
        _correlation(each.spearman),
        Cell("" if each.p is None else words.p_value(each.p)),
        _correlation(each.kendall),
        Cell(words.coefficient(each.spearman_by_task)),
        *(Cell(words.coefficient(value)) for value in partial),
    )


def _correlation(found: Correlation | None) -> Cell:
    if found is None:
        return Cell(NONE)
    return Cell(words.coefficient(found.value), below=words.limits(found.low, found.high, "z.1f"))


def _reading(correlated: bool) -> str:
    said = (
        "regret: points of score lost by taking the model that comes first. top3: share of the three "
        f"best that are among the first three. {RANDOM}: a random order, in expectation."
    )
    if not correlated:
        return f"{said} Correlations take {FEWEST} models with scores."
    return (
        "With the mean score over models, + where the better by the predictor score higher; below, "
        "95 % limits over models; p: of other orders of the models; by task: mean Spearman within "
        f"tasks; given: Spearman's left when sizes are taken out. {said}"
    )
