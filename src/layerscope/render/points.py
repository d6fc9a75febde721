"""Scores against measures, a dot for each data set or for each model."""

from __future__ import annotations

from typing import Final

import pandas as pd

from layerscope.decisions.comparisons import across_data, paired_over_data
from layerscope.decisions.rank import Ranking
from layerscope.errors import InputError
from layerscope.render import words
from layerscope.render.correlations import UNITS
from layerscope.render.drawing import Cloud, Clouds, Dot, Series, symbol
from layerscope.render.overlay import in_convention
from layerscope.settings import PlotConfig

_MOST_LAYERS: Final = 3


def of_data(table: pd.DataFrame, config: PlotConfig) -> Clouds:
    """Return the score of each data set against its measures at some layers, models in colors.

    Raises:
        InputError: see `across_data`.
    """
    found = across_data(table)
    wanted = config.metric or tuple(dict.fromkeys(found["metric"]))
    found = in_convention(found[found["metric"].isin(wanted)], config.convention)
    if found.empty:
        raise InputError("the runs hold no value to draw in that convention and at those layers.")
    panels = []
    for (metric, convention), own in found.groupby(["metric", "convention"], sort=False):
        for layers in _columns(own, config):
            series, said = [], []
            for place, (model, part) in enumerate(own.groupby("model", sort=False)):
                row = part[part["layer"] == layers[str(model)]].iloc[-1]
                pairs = paired_over_data(table, row)
                depth = layers[str(model)] / max(1, int(part["layer"].max()))
                dots = tuple(
                    Dot(float(x), float(y), int(row["layer"]), depth, str(name))
                    for name, x, y in pairs.itertuples()
                )
                series.append(Series(str(model), symbol(place), dots))
                said.append(f"{row['spearman']:z.2f} (p {row['p']:.2g})")
            at = ", ".join(f"{layer}" for layer in dict.fromkeys(layers.values()))
            below = f"layer {at}; Spearman {', '.join(said)}"
            unit = (
                f"{UNITS.get(str(metric), str(metric))}{f' ({convention})' if convention else ''}"
            )
            panels.append(Cloud(str(metric), below, unit, str(row["score"]), tuple(series)))
    return Clouds("Scores of data sets against their measures", tuple(panels), layers=False)


def _columns(rows: pd.DataFrame, config: PlotConfig) -> list[dict[str, int]]:
    """Return the layers of each panel, by model: the first, middle and last, or those asked for."""
    tops = {str(model): int(own["layer"].max()) for model, own in rows.groupby("model", sort=False)}
    if config.layers is not None:
        return [dict.fromkeys(tops, layer) for layer in config.layers]
    shares = [place / (_MOST_LAYERS - 1) for place in range(_MOST_LAYERS)]
    return [{model: round(share * top) for model, top in tops.items()} for share in shares]


def of_models(ranking: Ranking, config: PlotConfig) -> Clouds:
    """Return the mean score of each model against each predictor.

    Raises:
        InputError: the ranking has no scores, or not the predictors asked for.
    """
    if ranking.scores is None:
        raise InputError(
            "expected models with task scores to draw against, found none in these runs."
        )
    scored = words.score_over(ranking.scores.tasks)
    scores = dict(zip(ranking.scores.models, ranking.scores.means.tolist(), strict=True))
    panels = []
    for name, places in ranking.orders.items():
        if config.metric is not None and name not in config.metric:
            continue
        dots = [
            Series(
                each.model,
                symbol(number),
                (_dot(each.model, each.value, scores),),
            )
            for number, each in enumerate(sorted(places, key=lambda place: place.model))
            if each.value is not None and each.model in scores
        ]
        if dots:
            panels.append(Cloud(name, _agreed(ranking, name), name, scored, tuple(dots)))
    if not panels:
        raise InputError("the runs hold none of these predictors of a model's score.")
    return Clouds(
        "Scores of models against what predicts them without labels", tuple(panels), layers=False
    )


def _dot(model: str, value: float, scores: dict[str, float]) -> Dot:
    return Dot(float(value), scores[model], 0, 1.0, model)


def _agreed(ranking: Ranking, name: str) -> str:
    found = ranking.agreement(name)
    if found is None or found.spearman is None:
        return "no agreement can be measured"
    return f"Spearman {found.spearman.value:z.2f} over {len(ranking.models)} models"
