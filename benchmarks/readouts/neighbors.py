"""Neighbors' agreement as a criterion for texts too short for crops, declared first.

Where the user's texts are too short for crops, readouts are compared on paragraphs of another kind.
Do the user's own short texts choose better, by whether a readout's nearest neighbors are those of
another space?

Texts. Those that a readout may be fitted on without labels (`corpora.own_texts`), at most 500 a
task. Every task is one of short texts: at most 6 % of any task's texts have the words that two
crops of 20 take. A user has the texts of one task, so each task has values and picks of its own;
today's pick, made on WikiText, is one for all.

Values. Each text contributes the share of its 10 nearest texts under the readout, by cosine, that
are among its 10 nearest in the other space; candidates, and their maps fitted on WikiText, are
those of `criteria`, whose scores are known. The other space:

- `own output`: of the model. Information: it takes the own output by definition.
- `consensus`: every other candidate, the mean over them.
- `tf-idf`: of words, by scikit-learn with default settings, fitted on the same texts. Only texts
  that have a word in common are neighbors: where they are fewer than 10 (ties by order), so many
  are compared, and a text without any is left out.
- `consensus and tf-idf`, `consensus and WikiText`, `tf-idf and WikiText`: the mean of both values,
  WikiText being today's criterion.

Picks, choice of the criterion and verdict are as in `criteria`, with the Spearman correlation taken
task by task and averaged: `rule` is `choose_readout` with its default settings; the criterion with
the highest mean task score of its `rule` picks on `CHOOSING` models and the development tasks is
chosen (of equals the one with the higher Spearman), and is better than today's if the interval of
its gain over today's on `HELD_OUT` models and the untouched tasks is above 0. Otherwise today's
stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks import corpora
from benchmarks.readouts.choice import fitted_on
from benchmarks.readouts.criteria import TODAY, candidates, on_wikitext, pooled
from benchmarks.readouts.criteria_results import (
    CELLS,
    FOUND,
    MODELS,
    Cell,
    by_rule,
    said,
    stacked,
)
from benchmarks.readouts.layers import readable
from benchmarks.readouts.retrieval import Crops
from benchmarks.readouts.scores import SETS
from benchmarks.readouts.vectors import RESULTS, Vectors, say
from benchmarks.tables import markdown
from layerscope.data.files import write_atomically
from layerscope.metrics.neighbors import nearest
from layerscope.metrics.pairs import Pairs
from layerscope.metrics.readouts import Floats

K = 10
TEXTS = 500  # of a task
AGREEMENTS = RESULTS / "readouts-neighbors.json"
OWN, CONSENSUS, LEXICAL, WIKITEXT = "own output", "consensus", "tf-idf", "WikiText"
CRITERIA = {
    OWN: (OWN,),
    CONSENSUS: (CONSENSUS,),
    LEXICAL: (LEXICAL,),
    "consensus and tf-idf": (CONSENSUS, LEXICAL),
    "consensus and WikiText": (CONSENSUS, WIKITEXT),
    "tf-idf and WikiText": (LEXICAL, WIKITEXT),
}
INFORMATION = (OWN,)


def texts_of(task: str) -> list[str]:
    """Return the unlabelled texts of a task whose neighbors are compared."""
    return corpora.some(corpora.own_texts(task), TEXTS, f"{task} neighbors")


def listed(rows: Floats) -> Floats:
    """Return the nearest K others (text, K) of every vector (text, dim), nearest first."""
    return nearest(Pairs(torch.from_numpy(np.asarray(rows, np.float64))), K).indices.numpy()


def lexical(texts: list[str]) -> list[Floats]:
    """Return for every text its at most K nearest others by tf-idf that share a word with it."""
    rows = TfidfVectorizer().fit_transform(texts)
    cosines = (rows @ rows.T).toarray()
    np.fill_diagonal(cosines, 0)
    order = np.argsort(-cosines, 1, kind="stable")[:, :K]
    return [places[cosines[text, places] > 0] for text, places in enumerate(order)]


def kept(one: Floats, other: Floats) -> Floats:
    """Return the share of neighbors (text, K) that two lists have in common, (text,)."""
    found: Floats = (one[:, :, None] == other[:, None]).any(2).mean(1)
    return found


def kept_lexical(one: Floats, other: list[Floats]) -> Floats:
    """Return the same of lists of any length; texts with an empty one are left out."""
    found = [
        np.isin(own[: len(words)], words).mean()
        for own, words in zip(one, other, strict=True)
        if len(words)
    ]
    return np.array(found)


def agreements(lists: list[Floats], texts: list[str], own: int) -> dict[str, Floats]:
    """Return the contributions (candidate, text) to each space's agreement.

    Args:
        lists: the neighbors (text, K) under each candidate.
        texts: whose neighbors they are.
        own: place of the model's own output among the candidates.
    """
    words = lexical(texts)
    shares = np.array([[kept(one, other) for other in lists] for one in lists])
    return {
        OWN: shares[:, own],
        CONSENSUS: (shares.sum(1) - 1) / (len(lists) - 1),  # all neighbors are its own
        LEXICAL: np.stack([kept_lexical(one, words) for one in lists]),
    }


# --- figures of one model ------------------------------------------------------------------------


def values_and_picks(model: str, known: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Return each criterion's picks on every task, and how its values go with the task's scores.

    Args:
        model: encoded, its candidates scored.
        known: what `criteria` found for it.
    """
    vectors = Vectors(model)
    readouts = candidates(vectors.blocks)
    pairs = stacked(*vectors.crops())
    crops, today = Crops({20: pairs}, {}), on_wikitext()
    wikitext = np.stack([today(crops, readout) for readout in readouts])
    makers = [fitted_on(vectors, readout, pairs) for readout in readouts]
    own = [str(readout) for readout in readouts].index(str(vectors.blocks))
    scores = np.array(list(known["scores"].values()))
    found: dict[str, dict[str, list[Any]]] = {
        name: {"rule": [], "best": [], "spearman": []} for name in (TODAY, *CRITERIA)
    }
    for place, task in enumerate(corpora.TASKS):
        texts = texts_of(task)
        parts = agreements([listed(make(texts)) for make in makers], texts, own)
        parts[WIKITEXT] = wikitext
        for name, spaces in {TODAY: (WIKITEXT,), **CRITERIA}.items():
            rows = [pooled([parts[space][each] for space in spaces]) for each in range(len(makers))]
            values = np.mean(rows, 1)
            found[name]["rule"].append(by_rule(readouts, np.stack(rows), vectors.blocks))
            found[name]["best"].append(str(readouts[int(values.argmax())]))
            correlation = spearmanr(values.round(9), scores[:, place]).statistic
            found[name]["spearman"].append(round(float(correlation), 4))
    say(f"{model}: neighbors of {len(corpora.TASKS)} tasks under {len(readouts)} readouts")
    return found


def measure(models: Sequence[str] = MODELS) -> dict[str, Any]:
    """Value the candidates of models that `criteria` has scored; keep it in `AGREEMENTS`."""
    known = json.loads(FOUND.read_text())
    found = json.loads(AGREEMENTS.read_text()) if AGREEMENTS.exists() else {}
    for model in models:
        found[model] = values_and_picks(model, known["models"][model])
    write_atomically(AGREEMENTS, readable(found).encode())
    return {**known, "neighbors": {model: found[model] for model in MODELS if model in found}}


# --- tables --------------------------------------------------------------------------------------


class TaskCell(Cell):
    """The same of criteria that pick for every task by itself."""

    def __init__(self, found: Mapping[str, Any], models: Sequence[str], tasks: str) -> None:
        super().__init__(found, models, tasks)
        self.neighbors = {model: found["neighbors"][model] for model in models}

    def pick(self, criterion: str, how: str) -> Floats:
        """Return the scores of what a criterion picks (model, task)."""
        return np.stack(
            [
                [
                    self.of(model, each[criterion][how][at])[task]
                    for task, at in enumerate(self.places)
                ]
                for model, each in self.neighbors.items()
            ]
        )

    def correlations(self, criterion: str) -> Floats:
        """Return Spearman within each task (model, task)."""
        rows = [each[criterion]["spearman"] for each in self.neighbors.values()]
        found: Floats = np.array(rows)[:, self.places]
        return found


def chosen_criterion(found: Mapping[str, Any]) -> str:
    """Return the criterion that the declared statistic chooses."""
    cell = TaskCell(found, *CELLS["chosen on"])

    def statistic(name: str) -> tuple[float, float]:
        mean = float(cell.pick(name, "rule").mean())
        return round(mean, 9), float(cell.correlations(name).mean())

    return max((name for name in (TODAY, *CRITERIA) if name not in INFORMATION), key=statistic)


def tables(found: Mapping[str, Any]) -> str:
    """Return the tables of the cells that decide, and which criterion is chosen."""
    parts = [f"Chosen by the declared statistic: **{chosen_criterion(found)}**."]
    for name in ("chosen on", "held out"):
        models, tasks = CELLS[name]
        title = f"{name}: {', '.join(models)}; {len(SETS[tasks])} {tasks} tasks"
        cell = TaskCell(found, models, tasks)
        parts += [f"#### {title[0].upper()}{title[1:]}", markdown(_rows(cell))]
    return "\n\n".join(parts)


def _rows(cell: TaskCell) -> list[dict[str, str]]:
    last = np.stack([cell.last(model) for model in cell.models])
    rows = []
    for name in (TODAY, *CRITERIA):
        row = {"criterion": f"*{name}*" if name in INFORMATION else name}
        for how in ("rule", "best"):
            picked, today = (cell.pick(each, how) for each in (name, TODAY))
            row[how] = f"{picked.mean():.2f}"
            row[f"{how} over today's"] = said(cell.gain(picked, today))
        row["rule over last"] = said(cell.gain(cell.pick(name, "rule"), last))
        own, today = (cell.correlations(each) for each in (name, TODAY))
        mean, low, high = cell.gain(own, today)
        row["Spearman"] = f"{own.mean():.2f} ({mean:+.2f}, {low:+.2f} to {high:+.2f})"
        rows.append(row)
    rows.append({"criterion": "last", "rule": f"{last.mean():.2f}", "best": f"{last.mean():.2f}"})
    return rows
