"""`select`: the layer to use, without labels, and with task scores what each choice gained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Unpack

import numpy as np
import pandas as pd

from layerscope.analysis.labels import LabelledRows, compare_on_labels, row_vectors
from layerscope.api.common import (
    Data,
    Labelled,
    Model,
    Pictures,
    Tokenizer,
    loaded,
    refuse_other_model,
    refuse_tokenizer,
    texts_of,
)
from layerscope.api.evaluating import Evaluation
from layerscope.api.keywords import ModelOptionsKeywords
from layerscope.api.plans import ShowProgress, part, shown_progress, with_settings
from layerscope.api.scanning import Scan
from layerscope.config import Count, Kind, Listed, Natural, Strings, Text, To, checked
from layerscope.decisions.labels import choose_with_labels
from layerscope.decisions.readouts import Preference
from layerscope.decisions.rules import RULES, Rule
from layerscope.decisions.select import Selection, decide
from layerscope.errors import InputError
from layerscope.evaluation.images import table_of_images
from layerscope.evaluation.tables import Table, read_table
from layerscope.models.backbone import Backbone
from layerscope.results.display import in_words_of
from layerscope.results.foreign import from_long, read_long
from layerscope.results.table import Run, load_run
from layerscope.settings import ModelOptions
from layerscope.states.extract import Progress

RunLike = Annotated[
    str | Path | Run | Scan | Evaluation | pd.DataFrame,
    Kind("a run's folder, a scan, an evaluation or a long table"),
]
RuleLike = Annotated[str | Rule, Kind("the name of a rule or a Rule")]


@with_settings(ModelOptions)
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
    table: Labelled | None = None,
    images: Pictures | None = None,
    model: Model | None = None,
    tokenizer: Tokenizer = None,
    data: Data = "sample",
    show_progress: ShowProgress = True,
    **settings: Unpack[ModelOptionsKeywords],
) -> Selection:
    """Return which layer to use by a rule that needs no labels, with all other rules beside it.

    A few labels (`table`) are weighed against the choice without them: the model reads their texts, and
    every readout that the scan compared is scored on them.

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
        table: 50 labelled rows or more: a file, folder or table in Python with texts and labels, or two
            texts and a score or label.
        images: labelled images in place of a table, as for `evaluate`, of a scan of images. Maps are
            fitted on crops of the same images, whose labels they do not see.
        model: that was scanned, which reads the table; by default what the run names.
        tokenizer: of a loaded model, which needs it.
        data: texts without labels that maps are fitted on, best those of the scan.
        show_progress: as of `scan`.
        settings: any field of `ModelOptions` (how the model is loaded).

    Raises:
        InputError: the run cannot be read, no rule or task has that name, or the run lacks a
            measure that the rule needs; the message says how to get it.
    """
    options = part(ModelOptions, settings)
    given = run_of(run)
    found = decide(
        given, rule, rules=rules, tasks=tasks, convention=convention, seed=seed,
        resamples=resamples, prefer=prefer,
    )  # fmt: skip
    if table is None and images is None:
        return found
    if table is not None and images is not None:
        raise InputError("expected a table or images, got both; leave table or images out.")
    if given.readouts is None or found.readout is None:
        raise InputError(
            "labels are weighed against readouts, which this run has not compared; scan again with "
            "crops, and leave --rule out."
        )
    rows = labelled_rows(table) if images is None else labelled_images(images)
    refuse_tokenizer(model, tokenizer)
    texts = texts_of(data).texts if images is None else ()
    with shown_progress(show_progress) as progress:
        sees = images is not None
        backbone = _scanned_model(given, model, tokenizer, options, progress, images=sees)
        vectors = row_vectors(
            backbone, given.record["settings"], rows, texts, seed=seed, progress=progress
        )
        scored = compare_on_labels(
            rows, vectors, given.readouts, seed=seed, resamples=resamples, progress=progress
        )
    pairs = rows.second is not None
    labels = choose_with_labels(scored, found.readout, pairs=pairs, seed=seed, resamples=resamples)
    return replace(found, labels=in_words_of(given.record, labels))


def _scanned_model(
    run: Run, model: Any, tokenizer: Any, options: ModelOptions, progress: Progress, *, images: bool
) -> Backbone:
    """Load the model that was scanned, by the name that the run has for it if none is given."""
    if model is not None:
        backbone = loaded(model, tokenizer, options, progress, images=images)
    else:
        name = str(run.record["model"]["name"])
        try:
            backbone = loaded(name, tokenizer, options, progress, images=images)
        except InputError as error:
            raise InputError(
                f"the model {name!r} that the run names cannot be loaded ({error}) Name it by --model."
            ) from error
    refuse_other_model(run, backbone)
    return backbone


LEAST_ROWS: Final = 50


def labelled_images(given: Any) -> LabelledRows:
    """Return labelled images as rows, their splits joined.

    Raises:
        InputError: they cannot be read, have fewer than two classes, or are too few.
    """
    table, pictures = table_of_images(given)
    return replace(labelled_rows(table), pictures=pictures)


def labelled_rows(given: Any) -> LabelledRows:
    """Return the rows of a labelled table, its splits joined.

    Raises:
        InputError: it cannot be read, is of another kind than labels or pairs, or is too short.
    """
    table = given if isinstance(given, Table) else read_table(given)
    if table.kind not in ("Classification", "PairClassification", "STS"):
        raise InputError(
            f"expected texts with labels, or pairs with a score or label, got a {table.kind} in "
            f"{table.source!r}; score that by layerscope evaluate."
        )
    rows = pd.concat(list(table.splits.values()), ignore_index=True)
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"expected at least {LEAST_ROWS} labelled rows, got {len(rows)} in {table.source!r}."
        )
    first, *others = rows.columns
    values = rows[others[-1]].to_numpy(dtype=np.float64)
    second = tuple(rows[others[0]]) if len(others) > 1 else None
    return LabelledRows(table.name, tuple(rows[first]), values, second)


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
