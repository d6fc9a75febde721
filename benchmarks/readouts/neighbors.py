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

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmarks import corpora
from layerscope.metrics.neighbors import nearest
from layerscope.metrics.pairs import Pairs
from layerscope.metrics.readouts import Floats

K = 10
TEXTS = 500  # of a task
OWN, CONSENSUS, LEXICAL = "own output", "consensus", "tf-idf"
CRITERIA = {
    OWN: (OWN,),
    CONSENSUS: (CONSENSUS,),
    LEXICAL: (LEXICAL,),
    "consensus and tf-idf": (CONSENSUS, LEXICAL),
    "consensus and WikiText": (CONSENSUS, "WikiText"),
    "tf-idf and WikiText": (LEXICAL, "WikiText"),
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
