"""A few labels against the choice without them: which is better, and does `select --table` know it.

Every classification of the tables lends labelled rows of its training split; what is true is mteb's score
on its test split. The candidates and the choice without labels are those of `criteria` (crops of
WikiText, the rule's pick). Ten draws of rows a task and number of rows; a task with fewer rows is left
out at that number. Maps are fitted on WikiText crops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import corpora
from benchmarks.readouts.criteria import TODAY, candidates
from benchmarks.readouts.criteria_results import FOUND, stacked
from benchmarks.readouts.vectors import Vectors
from benchmarks.tables import markdown
from layerscope.decisions.labels import weighed
from layerscope.errors import UndefinedError
from layerscope.metrics.labelled import left_out_right
from layerscope.metrics.readouts import Floats, Readout, fit
from layerscope.results.readouts import Candidate, ReadoutTable

MODELS = ("SmolLM2 135M", "MiniLM")
TASKS = tuple(task for task, subset in corpora.TASKS.items() if subset.a_label)
ROWS = (50, 100, 200, 500)
DRAWS = 10


def draws_of(model: str) -> list[dict[str, Any]]:
    """Return a row a draw: true scores of the choices, and whom the sentence believes."""
    kept = json.loads(FOUND.read_text())
    found = kept["models"][model]
    tasks = [task for some in kept["tasks"].values() for task in some]
    vectors = Vectors(model)
    readouts = candidates(vectors.blocks)
    free = [str(each) for each in readouts].index(found["criteria"][TODAY]["rule"])
    own = readouts.index(Readout((vectors.blocks,)))
    pairs = stacked(*vectors.crops())
    crops = {place: both.reshape(-1, both.shape[-1]) for place, both in pairs.items()}
    fitted = [fit(readout, {k: crops[k] for k in readout.layers}) for readout in readouts]
    rows = []
    for task in TASKS:
        truth = [found["scores"][str(each)][tasks.index(task)] for each in readouts]
        train = corpora.frames_of(task)["train"]
        labels = np.unique(train["label"], return_inverse=True)[1]
        layers = dict(enumerate(vectors.layers(list(train["text"])).astype(np.float64)))
        made = [each.apply(layers) for each in fitted]
        for count in (n for n in ROWS if n <= len(train)):
            for draw in range(DRAWS):
                chosen = np.random.default_rng([draw, count]).permutation(len(train))[:count]
                row = _weighed(readouts, [each[chosen] for each in made], labels[chosen], own, free)
                if row is not None:
                    best, taken, believes = row
                    rows.append(
                        {"task": task, "rows": count, "own": truth[own], "free": truth[free],
                         "labels": truth[best], "taken": truth[taken], "believes": believes,
                         "oracle": max(truth)}
                    )  # fmt: skip
    return rows


def _weighed(
    readouts: Sequence[Readout], made: Sequence[Floats], labels: Any, own: int, free: int
) -> tuple[int, int, bool] | None:
    """Return the best by labels, what is taken and whether labels are believed; None if undefined."""
    codes = np.unique(labels, return_inverse=True)[1]
    try:
        right = np.stack([left_out_right(each, codes) for each in made])
    except UndefinedError:
        return None
    candidates = tuple(
        Candidate(str(each), each, max(each.layers), float(row.mean()), 0.0, 1.0)
        for each, row in zip(readouts, right, strict=True)
    )
    count = right.shape[1]
    found = weighed(ReadoutTable(candidates, right, own, {}, (count, count), 0.0), free)
    return found.best, found.chosen, found.believes


def table(models: Sequence[str] = MODELS) -> str:
    """Return a row a model and number of labelled rows."""
    lines = []
    for model in models:
        draws = draws_of(model)
        for count in ROWS:
            some = [each for each in draws if each["rows"] == count]
            if not some:
                continue
            mean = {name: 100 * np.mean([each[name] for each in some])
                    for name in ("own", "free", "labels", "taken", "oracle")}  # fmt: skip
            better = np.array([each["labels"] > each["free"] for each in some])
            believed = np.array([each["believes"] for each in some])
            right = np.array([each["taken"] > each["free"] for each in some])
            kept_right = np.array([each["labels"] <= each["free"] for each in some])
            lines.append(
                {"model": model, "labelled rows": count, "tasks": len({e["task"] for e in some}),
                 "draws": len(some), "own output": f"{mean['own']:.1f}",
                 "without labels": f"{mean['free']:.1f}", "best by labels": f"{mean['labels']:.1f}",
                 "taken": f"{mean['taken']:.1f}", "best of all, known after": f"{mean['oracle']:.1f}",
                 "labels' best is better": f"{100 * better.mean():.0f} %",
                 "labels believed": f"{100 * believed.mean():.0f} %",
                 "of those right": _share(right, believed),
                 "kept, and right to": _share(kept_right, ~believed)}
            )  # fmt: skip
    return markdown(lines)


def _share(right: Any, among: Any) -> str:
    return f"{100 * right[among].mean():.0f} % of {int(among.sum())}" if among.any() else "none"
