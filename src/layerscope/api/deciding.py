"""`select`: the layer to use, without labels, and with task scores what each choice gained."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd

from layerscope.api.evaluating import Evaluation
from layerscope.api.scanning import Scan
from layerscope.config import Count, Kind, Listed, Natural, Strings, Text, To, checked
from layerscope.decisions.readouts import Preference
from layerscope.decisions.rules import RULES, Rule
from layerscope.decisions.select import Selection, decide
from layerscope.results.foreign import from_long, read_long
from layerscope.results.table import Run, load_run

RunLike = Annotated[
    str | Path | Run | Scan | Evaluation | pd.DataFrame,
    Kind("a run's folder, a scan, an evaluation or a long table"),
]
RuleLike = Annotated[str | Rule, Kind("the name of a rule or a Rule")]


@checked
def select(
    run: RunLike,
    *,
    rule: RuleLike | None = None,
    rules: Annotated[Iterable[Rule], To(Listed[Annotated[Rule, Kind("a Rule")]])] = RULES,
    tasks: Strings | None = None,
    convention: Text | None = None,
    seed: Natural = 0,
    resamples: Count = 1000,
    prefer: Preference = "quality",
) -> Selection:
    """Return which layer to use by a rule that needs no labels, with all other rules beside it.

    Args:
        run: a run's folder, a scan, an evaluation, or any long table with our columns or the
            published ones (a frame, or a .parquet or .csv file; see `layerscope.results.foreign`).
        rule: the name of a rule, or a `layerscope.decisions.rules.Rule` of your own; by default
            `rules.DEFAULT_RULE`, and where the run lacks its measures, the middle layer.
        rules: the rules to show beside it.
        tasks: the tasks to count gains over, where the run has scores; by default all of mteb's.
        convention: to decide in; by default normalized, or what the run has.
        seed: of the resampling of texts and of tasks.
        resamples: their number.
        prefer: "quality", or "cheap" for the readout of the lowest layer within noise of the best.

    Raises:
        InputError: the run cannot be read, no rule or task has that name, or the run lacks a
            measure that the rule needs; the message says how to get it.
    """
    return decide(
        run_of(run), rule, rules=rules, tasks=tasks, convention=convention, seed=seed,
        resamples=resamples, prefer=prefer,
    )  # fmt: skip


@checked
def run_of(given: RunLike) -> Run:
    """Return the run that a caller names or gives.

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(given, Run):
        return given
    if isinstance(given, Scan | Evaluation):
        return given.run
    if isinstance(given, pd.DataFrame):
        return from_long(given)
    return read_long(given) if Path(given).is_file() else load_run(given)
