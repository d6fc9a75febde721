"""Tables that a study makes of its finished cells; each is a CSV file in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pandas as pd

from layerscope.api.plotting import Runs
from layerscope.results.table import BLOCK


@dataclass(frozen=True)
class Report:
    """A table of a study.

    Attributes:
        make: from the finished cells.
        shown: the columns that a terminal has room for.
    """

    make: Callable[[Runs], pd.DataFrame]
    shown: tuple[str, ...]


def _differences(runs: Runs) -> pd.DataFrame:
    return runs.differences(runs.config.minus or str(runs.table()["model"].iloc[0]))


def _settling(runs: Runs) -> pd.DataFrame:
    found = runs.settling()
    return found[found["stage"] == BLOCK]


def _bimodality(runs: Runs) -> pd.DataFrame:
    return runs.bimodality((runs.config.metric or ("prompt_entropy",))[0])


def _values(runs: Runs) -> pd.DataFrame:
    return runs.table()[["metric", "perturbation", "value"]]


_RULED: Final = ("rule", "model", "layer", "score", "over_last", "share")
REPORTS: Final = {
    "differences": Report(
        _differences, ("model", "metric", "convention", "layer", "value", "low", "high")
    ),
    "settling": Report(
        _settling,
        ("model", "metric", "convention", "layer", "first", "last", "range", "near"),
    ),
    "bimodality": Report(_bimodality, ("data", "convention", "layer", "n", "dip", "p_corrected")),
    "across-data": Report(
        lambda runs: runs.across_data(),
        ("metric", "convention", "layer", "sets", "spearman", "low", "high", "p_holm"),
    ),
    "correlations": Report(
        lambda runs: runs.correlations().table(),
        ("metric", "convention", "perturbation", "dcor", "spearman", "p_holm"),
    ),
    "selection": Report(lambda runs: runs.selection(), _RULED),
    "ranking": Report(lambda runs: runs.ranking().table(), ("predictor", "rank", "model", "value")),
    "theorems": Report(_values, ("metric", "perturbation", "value")),
    "agreement": Report(
        lambda runs: runs.ranking().agreement_table(),
        ("predictor", "models", "spearman", "kendall", "p"),
    ),
}
