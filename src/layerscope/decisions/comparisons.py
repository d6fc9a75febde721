"""What several runs say together: models text by text, checkpoints of a training, data sets.

Each function takes tables of several runs as `results.runs` makes them, with the column `run`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from layerscope.decisions.agreement import permutation_p
from layerscope.decisions.dependence import holm, spearman, spearman_limits
from layerscope.errors import InputError, unknown_name
from layerscope.results.resampling import bootstrap_limits
from layerscope.results.runs import RUN, blanked, labels_of, numbered
from layerscope.results.table import BLOCK, COLUMNS, FINAL_NORM, TASK

FEWEST_SETS: Final = 5  # data sets that a correlation is worth taking over
_SITE: Final = ("layer", "stage", "metric", "convention")
_PLACE: Final = ("model", "metric", "convention", "perturbation", "layer")
_NEAR: Final = 0.1  # of the range over a training
_SEED: Final = 0


def differences(table: pd.DataFrame, contributions: pd.DataFrame, base: str) -> pd.DataFrame:
    """Return how far each model is from one of them, as means of differences of the same texts.

    Args:
        table: of the runs.
        contributions: their per-text numbers.
        base: the model that is subtracted from the others, as the table names it.

    Returns:
        Rows as in the long table; the model is "other - base", the limits are those of the paired
        differences (bootstrap over texts).

    Raises:
        InputError: no such model, no other, models of different depth, or a text that has two values.
    """
    models = list(dict.fromkeys(table["model"]))
    if base not in models:
        raise unknown_name("model of these runs", base, models)
    if len(models) < 2:
        raise InputError(f"expected another model to compare {base!r} with, got it alone.")
    own = labels_of(table, ("model", "data", "seed"))
    numbers = contributions.astype(dict.fromkeys(("stage", "metric", "convention"), str))
    numbers = numbers.assign(perturbation=numbers["perturbation"].astype(str)).join(own, on=RUN)
    keys = ["data", "perturbation", "seed", *_SITE, "text"]
    if numbers.duplicated(["model", *keys]).any():
        raise InputError(
            "expected one run of each model on the same texts, got several to subtract."
        )
    found = []
    for model in models:
        if model != base:
            _refuse_other_depth(table, model, base)
            pair = [numbers[numbers["model"] == name].set_index(keys) for name in (model, base)]
            found.append(_difference(pair[0]["value"] - pair[1]["value"], f"{model} - {base}"))
    depths = table.drop_duplicates("layer").set_index("layer")["depth"]
    rows = pd.concat(found, ignore_index=True)
    whole = rows.assign(depth=rows["layer"].map(depths), level="prompt")
    return whole.reindex(columns=[RUN, *COLUMNS]).astype(COLUMNS)


def _refuse_other_depth(table: pd.DataFrame, model: str, base: str) -> None:
    blocks = {name: table.loc[table["model"] == name, "layer"].max() for name in (model, base)}
    if blocks[model] != blocks[base]:
        raise InputError(
            f"expected models with as many blocks as {base!r} ({blocks[base]}), {model!r} has "
            f"{blocks[model]}: their layers cannot be subtracted."
        )


def _difference(values: pd.Series[float], name: str) -> pd.DataFrame:
    """Return the mean and its limits of per-text differences at each site."""
    wide = values.dropna().unstack("text")
    low, high = bootstrap_limits(wide.to_numpy(), _SEED)
    rows = wide.index.to_frame(index=False)
    numbers = {"value": wide.mean(axis=1).to_numpy(), "low": low, "high": high}
    return rows.assign(model=name, **numbers, n=wide.notna().sum(axis=1).to_numpy(), **{RUN: name})


def with_spread(table: pd.DataFrame, contributions: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the 10 and 90 % quantiles of the texts' numbers in place of limits."""
    keys = [RUN, "perturbation", *_SITE]
    named = {name: str for name in keys if name != "layer"}
    numbers = contributions.astype(named).groupby(keys)["value"]
    spread = pd.DataFrame({"low": numbers.quantile(0.1), "high": numbers.quantile(0.9)})
    places = pd.MultiIndex.from_frame(blanked(table, named)[keys])
    found = spread.reindex(places).set_axis(table.index)
    return table.assign(low=found["low"].astype("Float64"), high=found["high"].astype("Float64"))


def settling(table: pd.DataFrame) -> pd.DataFrame:
    """Return how each layer changes over training, and from which step on it stays as it ends.

    Args:
        table: of runs whose revisions or models are named by steps, such as step1000.

    Returns:
        For each model, data set, measure and layer the value at the first and the last step, their
        difference, the range over all steps, `near`, the first step from which on every value is nearer
        to the last one than a tenth of the range, and `settled`, the same for the limits of the last
        one (NaN where it has none). Those that change most come first.

    Raises:
        InputError: names without steps.
    """
    single = table["other_layer"].isna() & table["value"].notna() & table["layer"].notna()
    rows = numbered(table[single & table["stage"].isin([BLOCK, FINAL_NORM])], "step")
    keys = ["model", "data", "metric", "convention", "perturbation", "layer", "stage"]
    rows = blanked(rows, [name for name in keys if name != "layer"])
    found = []
    for key, part in rows.sort_values("at").groupby(keys, sort=False):
        values, end = part["value"].to_numpy(float), part.iloc[-1]
        width, steps = float(np.ptp(values)), part["at"].to_numpy()
        near = abs(values - values[-1]) <= _NEAR * width
        known = pd.notna(end["low"])
        inside = (values >= end["low"]) & (values <= end["high"]) if known else None
        found.append(
            dict(zip(keys, key, strict=True))
            | {
                "first": values[0], "last": values[-1], "change": values[-1] - values[0],
                "range": width, "near": _settled(steps, near), "settled": _settled(steps, inside),
                "steps": len(values),
            }
        )  # fmt: skip
    order = ["model", "data", "metric", "convention", "perturbation"]
    return pd.DataFrame(found).sort_values(
        [*order, "range"], ascending=[*[True] * len(order), False], ignore_index=True
    )


def _settled(steps: np.ndarray, inside: pd.Series[bool] | np.ndarray | None) -> float:
    if inside is None:
        return float("nan")
    outside = np.flatnonzero(~np.asarray(inside, dtype=bool))
    return float(steps[outside[-1] + 1] if len(outside) else steps[0])


def across_data(table: pd.DataFrame) -> pd.DataFrame:
    """Return how measures of data sets go with the scores on them, at each layer of each model.

    Args:
        table: of scans and of scores, with the same names of data sets; a score counts where the model
            itself gives its output, at its last layer.

    Returns:
        For each model, score, measure and layer the Spearman correlation over the data sets with its
        95 % limits, p by permutation, and p corrected over all of them (Holm).

    Raises:
        InputError: scores or measures on fewer than five data sets.
    """
    scores, measures = _halves(table)
    found: list[dict[str, Any]] = []
    for (model, score), own in scores.groupby(["model", "metric"], sort=False):
        for key, part in measures[measures["model"] == model].groupby(list(_PLACE), sort=False):
            pairs = _pairs(part, own)
            if len(pairs) >= FEWEST_SETS and pairs["x"].nunique() > 1 < pairs["y"].nunique():
                row = dict[str, Any](zip(_PLACE, key, strict=True)) | {"score": score}
                found.append(row | _correlated(pairs["x"].to_numpy(), pairs["y"].to_numpy()))
    if not found:
        raise InputError(
            f"expected scores and measures of a model on at least {FEWEST_SETS} data sets of the same "
            "names, found fewer."
        )
    return pd.DataFrame(found).assign(p_holm=holm([float(row["p"]) for row in found]))


def paired_over_data(table: pd.DataFrame, row: pd.Series[Any]) -> pd.DataFrame:
    """Return the measure `x` and the score `y` of each data set behind a row of `across_data`."""
    scores, measures = _halves(table)
    own = scores[(scores["model"] == row["model"]) & (scores["metric"] == row["score"])]
    same = (measures[list(_PLACE)] == row[list(_PLACE)]).all(axis=1)
    return _pairs(measures[same], own)


def _halves(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of the models' own outputs, and the measures of single layers."""
    known = blanked(table, ("convention", "perturbation"))[table["value"].notna()]
    scores = known[known["level"] == TASK]
    top = scores.groupby("model")["layer"].transform("max")
    single = known["other_layer"].isna() & (known["stage"] == BLOCK)
    return scores[scores["layer"] == top], known[(known["level"] != TASK) & single]


def _pairs(measures: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    x, y = (
        rows.drop_duplicates("data", keep="last").set_index("data")["value"].astype(float)
        for rows in (measures, scores)
    )
    return pd.DataFrame({"x": x, "y": y}).dropna()


def _correlated(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    rho = spearman(x, y)
    most = 1 - 1e-12  # of a perfect correlation the limits would be infinite
    low, high = spearman_limits(min(max(rho, -most), most), len(x))
    p = permutation_p(x, y)
    return {"sets": len(x), "spearman": rho, "low": low, "high": high, "p": p}
