"""`concat`: any number of runs as one table and one figure, and the `Runs` that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerscope.api.common import Result
from layerscope.api.deciding import run_of
from layerscope.api.keywords import PlotSettings
from layerscope.api.plans import part, with_settings
from layerscope.config import AnyPath, Kind, Listed, To, checked
from layerscope.errors import InputError
from layerscope.render import matplotlib, plotly
from layerscope.render.drawing import Figure
from layerscope.render.overlay import overlay
from layerscope.results.display import Displayed
from layerscope.results.runs import (
    NamedRun,
    finished_cells,
    is_study,
    named_apart,
    one_table,
    one_table_of_texts,
    read_study,
)
from layerscope.results.table import Run
from layerscope.settings import PlotConfig

_COUNTED = {"model": "model", "data": "data set", "metric": "measure"}


@dataclass(frozen=True, eq=False, repr=False)
class Runs(Displayed):
    """Several runs together.

    Attributes:
        runs: their names and tables, and how each is read as a whole.
        config: how they are drawn where nothing else is said.
    """

    runs: tuple[NamedRun, ...]
    config: PlotConfig = field(default_factory=PlotConfig)

    def summary(self) -> str:
        """Return how many runs there are, and of what."""
        table = self.table()
        counts = [
            (len(self.runs), "run"),
            *((table[name].nunique(), word) for name, word in _COUNTED.items()),
        ]
        said = ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in counts)
        return f"{said}, {len(table):,} rows"

    def table(self) -> pd.DataFrame:
        """Return all rows of all runs; the column `run` names the run."""
        return one_table(self.runs)

    def contributions(self) -> pd.DataFrame:
        """Return the per-text numbers of all runs; the column `run` names the run."""
        return one_table_of_texts(self.runs)

    @with_settings(PlotConfig)
    def plot(self, **settings: Unpack[PlotSettings]) -> Any:
        """Return an interactive plotly figure of all runs; settings are those of `PlotConfig`."""
        return plotly.to_plotly(self._figure(settings))

    @with_settings(PlotConfig)
    def save_plot(self, path: AnyPath, **settings: Unpack[PlotSettings]) -> None:
        """Write the figure to a .png, .svg or .pdf file (needs the extra `plots`)."""
        matplotlib.save(self._figure(settings), path)

    def _figure(self, settings: Any) -> Figure:
        return overlay(self.table(), part(PlotConfig, settings, self.config))


OneOfRuns = Annotated[
    str | Path | Run | Result | pd.DataFrame | Runs,
    Kind("the folder of a run or a study, a scan, an evaluation or a long table"),
]


@checked
def concat(runs: Annotated[OneOfRuns | Sequence[OneOfRuns], To(Listed[OneOfRuns])]) -> Runs:
    """Return several runs together, as one table and one figure.

    Args:
        runs: folders of runs and of studies, scans, evaluations, long tables, or what this returned; a
            single study is drawn as its file says where nothing else is asked for.

    Raises:
        InputError: none are given, or one cannot be read.
    """
    given: Any = runs
    found: list[NamedRun] = []
    for each in given:
        if isinstance(each, Runs):
            found += each.runs
        elif isinstance(each, str | Path) and is_study(Path(each)):
            found += finished_cells(Path(each))
        else:
            found.append(NamedRun.of(_name(each), run_of(each)))
    if not found:
        raise InputError("expected at least one finished run to put together, got none.")
    names = named_apart([each.name for each in found])
    config = PlotConfig()
    if len(given) == 1 and isinstance(given[0], str | Path) and is_study(Path(given[0])):
        config = PlotConfig(**read_study(Path(given[0]))["plot"])
    named = zip(names, found, strict=True)
    return Runs(tuple(replace(each, name=name) for name, each in named), config)


def _name(given: Any) -> str:
    if isinstance(given, str | Path):
        return str(given)
    run = given if isinstance(given, Run) else getattr(given, "run", None)
    if isinstance(given, Result) and given.folder is not None:
        return str(given.folder)
    return str((run.record.get("model") or {}).get("name", "run")) if run is not None else "run"
