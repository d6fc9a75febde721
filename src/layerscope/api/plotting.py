"""`concat`: any number of runs as one table and one figure, and the `Runs` that it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Unpack

import pandas as pd

from layerscope.api.common import Result
from layerscope.api.correlating import Correlations, correlate
from layerscope.api.deciding import run_of
from layerscope.api.keywords import PlotSettings
from layerscope.api.plans import part, with_settings
from layerscope.config import AnyPath, Kind, Listed, Text, To, checked
from layerscope.decisions import comparisons
from layerscope.decisions.bimodality import bimodality
from layerscope.decisions.rank import Ranking, rank_runs
from layerscope.decisions.readouts import choose_readout
from layerscope.decisions.select import decide
from layerscope.errors import InputError
from layerscope.render import matplotlib, plotly, points
from layerscope.render import page as page_module
from layerscope.render.comparisons import differing, runs_view
from layerscope.render.distributions import distributions
from layerscope.render.drawing import Clouds, Figure, Heatmap
from layerscope.render.overlay import overlay, shown_together
from layerscope.render.view import View
from layerscope.results.display import Displayed
from layerscope.results.folder import versions
from layerscope.results.runs import (
    RUN,
    NamedRun,
    finished_cells,
    is_study,
    joined,
    labels_of,
    layer_scores,
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

    @checked
    def differences(self, base: Text) -> pd.DataFrame:
        """Return how far each model is from one of them at each layer, as means over the same texts.

        Raises:
            InputError: see `decisions.comparisons.differences`.
        """
        return comparisons.differences(self.table(), self.contributions(), base)

    def settling(self) -> pd.DataFrame:
        """Return how much each layer changes over training, and from which step on it stays as it ends.

        Raises:
            InputError: the runs are not named by training steps.
        """
        return comparisons.settling(self.table())

    def across_data(self) -> pd.DataFrame:
        """Return how measures of data sets go with the scores on them, at each layer of each model.

        Raises:
            InputError: fewer than five data sets with both.
        """
        return comparisons.across_data(self.table())

    @checked
    def bimodality(self, metric: Text = "prompt_entropy") -> pd.DataFrame:
        """Return the dip of a measure of single texts at each layer of each run, corrected over layers.

        Raises:
            InputError: the runs have no per-text numbers of that measure.
        """
        own = labels_of(self.table(), ("model", "data"))
        found = [
            bimodality(numbers, metric).assign(model=own["model"][run], data=own["data"][run])
            for run, numbers in self.contributions().groupby(RUN, sort=False)
        ]
        frame = pd.concat(found, ignore_index=True)
        return frame[["model", "data", *frame.columns.drop(["model", "data"])]]

    def correlations(self) -> Correlations:
        """Return how measures go with task scores over the layers.

        The label-free score of each layer (crop retrieval) counts as a measure, where scans have it.

        Raises:
            InputError: see `correlate`.
        """
        retrieval = [layer_scores(run) for run in self._whole()]
        return correlate([self.table().drop(columns=RUN), *retrieval])

    def selection(self) -> pd.DataFrame:
        """Return what each rule chooses for each model, and how the chosen layers score.

        Raises:
            InputError: a model has several scans, or its scan lacks what a rule needs.
        """
        found = [decide(run).table() for run in joined(self._whole())]
        return pd.concat(found, ignore_index=True)

    def ranking(self) -> Ranking:
        """Return the models in the order that RankMe predicts without labels, beside their scores.

        Raises:
            InputError: a model has several scans, or a scan lacks RankMe.
        """
        runs = joined(self._whole())
        return rank_runs([(str(run.record["model"]["name"]), run) for run in runs])

    def _whole(self) -> list[Run]:
        """Return all runs as they were saved, with the names of models and data that the table has."""
        return [replace(each.read(), table=each.table) for each in self.runs]

    @with_settings(PlotConfig)
    def plot(self, **settings: Unpack[PlotSettings]) -> Any:
        """Return an interactive plotly figure of all runs; settings are those of `PlotConfig`."""
        return plotly.to_plotly(self._figure(settings))

    @with_settings(PlotConfig)
    def save_plot(self, path: AnyPath, **settings: Unpack[PlotSettings]) -> None:
        """Write the figure to a .png, .svg or .pdf file (needs the extra `plots`)."""
        matplotlib.save(self._figure(settings), path)

    @with_settings(PlotConfig)
    def view(self, **settings: Unpack[PlotSettings]) -> View:
        """Return what a page shows: a row a run, and a chart a measure with a line a run.

        By default a line is what differs between the runs: model, revision, data, perturbation.
        """
        table = self.table()
        config = part(PlotConfig, settings, self.config.changed(draw="lines"))
        config = config.changed(
            by=config.by or differing(table) or (RUN,),
            metric=config.metric or shown_together(table),
        )
        return runs_view(
            table, overlay(self._lines(config), config), self._answers(),
            f"{len(self.runs)} runs side by side",
            versions()["layerscope"],
        )  # fmt: skip

    def page(self, **settings: Unpack[PlotSettings]) -> str:
        """Return a self-contained interactive page of all runs; settings as of `view`."""
        return page_module.page(self.view(**settings))

    def _answers(self) -> dict[str, str]:
        """Return the readout that each scan chooses without labels; nothing for other runs."""
        tables = {each.name: each.read().readouts for each in self.runs}
        chosen = {name: choose_readout(each) for name, each in tables.items() if each is not None}
        return {
            name: "own output" if found.keeps_own else str(found.readout)
            for name, found in chosen.items()
        }

    def _figure(self, settings: Any) -> Figure | Heatmap | Clouds:
        config = part(PlotConfig, settings, self.config)
        match config.draw:
            case "distribution":
                return distributions(self.table(), self.contributions(), config)
            case "matrix" | "scatter":
                return self.correlations().drawing(config.draw)
            case "data":
                return points.of_data(self.table(), config)
            case "models":
                return points.of_models(self.ranking(), config)
            case _:
                return overlay(self._lines(config), config)

    def _lines(self, config: PlotConfig) -> pd.DataFrame:
        """Return the table whose lines are drawn, with the band that is asked for."""
        if config.minus is not None:
            return self.differences(config.minus)
        if config.band == "spread":
            return comparisons.with_spread(self.table(), self.contributions())
        return self.table()


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
