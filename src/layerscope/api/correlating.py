"""`correlate`: do the measures go with the scores of tasks, and the `Correlations` it returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pandas as pd

from layerscope.api.deciding import RunLike, run_of
from layerscope.config import AnyPath, Count, Natural, Several, Strings, Text, To, checked
from layerscope.decisions import correlate as correlate_module
from layerscope.decisions.curves import Findings
from layerscope.errors import unknown_name
from layerscope.render import correlations, matplotlib, plotly
from layerscope.render import page as page_module
from layerscope.render.drawing import Clouds, Heatmap
from layerscope.results.display import Displayed

Kind = Literal["matrix", "scatter"]
PlotKind = Annotated[Kind, To(Text)]
KINDS: tuple[Kind, ...] = ("matrix", "scatter")


@dataclass(frozen=True, eq=False, repr=False)
class Correlations(Displayed):
    """How measures go with task scores over the layers.

    Attributes:
        findings: the records: an association for each measure, model and task, a summary for each
            measure, what was left out, and what a reader should know.
    """

    findings: Findings

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to read the numbers right."""
        return self.findings.notes

    def summary(self) -> str:
        """Return how much was compared, and which measure goes closest with the scores."""
        measures = len(self.findings.summaries)
        first = f", the closest first: {self.findings.summaries[0].measure}" if measures else ""
        return (
            f"{measures} measures against {len(self.findings.associations)} curves of scores{first}"
        )

    def table(self) -> pd.DataFrame:
        """Return a row a measure, the closest first (columns: `correlation.Summary`)."""
        return self.findings.table()

    def units(self) -> pd.DataFrame:
        """Return a row a measure, model and task (columns: `correlation.Association`)."""
        return self.findings.units()

    @checked
    def matrix(self, statistic: Text = "dcor") -> pd.DataFrame:
        """Return measures by tasks of one coefficient, the median over models; NaN where none is.

        Args:
            statistic: dcor, bias_corrected, spearman, kendall or partial.

        Raises:
            InputError: the coefficient is unknown.
        """
        return self.findings.matrix(statistic)

    @checked
    def plot(self, kind: PlotKind = "matrix", statistic: Text = "dcor") -> Any:
        """Return an interactive plotly figure: the matrix, or the score against each measure.

        Raises:
            InputError: the kind or the coefficient is unknown.
        """
        return plotly.to_plotly(self.drawing(kind, statistic))

    @checked
    def save_plot(self, path: AnyPath, kind: PlotKind = "matrix", statistic: Text = "dcor") -> None:
        """Write a plot to a .png, .svg or .pdf file (needs the extra `plots`).

        Raises:
            InputError: the kind, the coefficient or the file's ending is unknown.
        """
        matplotlib.save(self.drawing(kind, statistic), path)

    def page(self) -> str:
        """Return all of it as one self-contained HTML page."""
        return page_module.page(correlations.correlation_view(self.findings))

    @checked
    def drawing(self, kind: PlotKind = "matrix", statistic: Text = "dcor") -> Heatmap | Clouds:
        """Return what `plot` and `save_plot` draw, as plain records.

        Raises:
            InputError: the kind or the coefficient is unknown.
        """
        if kind not in KINDS:
            raise unknown_name("kind of plot", kind, KINDS)
        if kind == "matrix":
            return correlations.heatmap(self.findings, statistic)
        return correlations.clouds(self.findings)


@checked
def correlate(
    runs: Annotated[RunLike | Sequence[RunLike], To(Several[RunLike])],
    *,
    data: Text | None = None,
    scores: Strings | None = None,
    measures: Strings | None = None,
    conventions: Strings | None = None,
    stage: Text = "block",
    resamples: Count = 10_000,
    seed: Natural = 0,
) -> Correlations:
    """Return how measures go with task scores over the layers of the models in some runs.

    Args:
        runs: one or several: folders, what `scan` or `evaluate` returned, or long tables (a frame,
            or a .parquet or .csv file; see `layerscope.results.foreign`). Measures and scores of a model
            may lie in one run or in several.
        data: the texts whose measures are compared with every task; "own" for those of each task.
            By default the only data set there is, else the tasks' own.
        scores: names of tasks; by default all.
        measures: names of measures; by default the main ones, "all" for every one.
        conventions: of the measures; by default all.
        stage: of both; "final_norm" takes the blocks' outputs, but of the last layer what the
            model gives after its final norm.
        resamples: number of draws behind limits and p values.
        seed: of the draws.

    Raises:
        InputError: a run cannot be read, a name is unknown, no measure meets a score, or it is open
            which texts are meant; the message says what to do.
    """
    given = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    return Correlations(
        correlate_module.correlate(
            [run_of(run).table for run in given],
            data=data,
            scores=_names(scores),
            measures=_names(measures),
            conventions=_names(conventions),
            stage=stage,
            resamples=resamples,
            seed=seed,
        )
    )


def _names(names: Iterable[str] | None) -> Sequence[str] | None:
    return None if names is None else tuple(names)
