"""Crops under a readout, and how well each finds its text's other crop, in several ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from layerscope.metrics.readouts import Floats, Readout, Rows, fit

NEIGHBORS = 10  # of CSLS and of the margin
TIE = 1e-9

Pairs = Mapping[int, Rows]  # position -> (2, text, dim), the two crops of each text


@dataclass(frozen=True, eq=False)
class Crops:
    """The pooled vectors of a model's crops; hashed as the object it is, for caches.

    Attributes:
        wikitext: words of a crop -> crops.
        own: set of tasks -> task -> crops of its own texts.
    """

    wikitext: Mapping[int, Pairs]
    own: Mapping[str, Mapping[str, Pairs]]


@dataclass(frozen=True)
class Fold:
    """The cosines of crops under a map that was not fitted on the scored ones.

    Attributes:
        cosines: (text, text) of every first with every second crop.
        scored: (scored,) which texts are scored.
    """

    cosines: Floats
    scored: Floats

    def ways(self, *, whole: bool = False) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Return similarities (query, gallery) and each query's own place in it, for both directions.

        Args:
            whole: search all texts, not the scored ones alone.
        """
        gallery = np.arange(len(self.cosines)) if whole else self.scored
        own = self.scored if whole else np.arange(len(self.scored))
        forth = self.cosines[np.ix_(self.scored, gallery)]
        back = self.cosines[np.ix_(gallery, self.scored)].T
        return (forth, own), (back, own)


@lru_cache(maxsize=8)
def folds(crops: Crops, readout: Readout, words: int, seed: int = 0) -> tuple[Fold, Fold]:
    """Return both folds of WikiText's crops, split as `CropRetrieval` does; maps are of the other."""
    pairs = crops.wikitext[words]
    count = next(iter(pairs.values())).shape[1]
    order = np.random.default_rng(seed).permutation(count)
    halves = np.sort(order[: count // 2]), np.sort(order[count // 2 :])

    def scored_on(fitting: Floats, scored: Floats) -> Fold:
        fitted = fit(readout, {place: _flat(rows[:, fitting]) for place, rows in pairs.items()})
        rows = _applied(fitted.apply, pairs)
        return Fold(_cosines(rows - rows[:, fitting].mean((0, 1))), scored)

    return scored_on(*halves), scored_on(*halves[::-1])


@lru_cache(maxsize=8)
def own_folds(crops: Crops, readout: Readout, tasks: str) -> tuple[Fold, Fold, Floats]:
    """Return both folds of the own crops of some tasks together, and each text's task (text,).

    Every second text of a task is in the first fold. The map is fitted on WikiText.
    """
    own = crops.own[tasks]
    fitted = fit(readout, {place: _flat(rows) for place, rows in crops.wikitext[20].items()})
    rows = np.concatenate([_applied(fitted.apply, pairs) for pairs in own.values()], 1)
    counts = [next(iter(pairs.values())).shape[1] for pairs in own.values()]
    task_of = np.repeat(np.arange(len(counts)), counts)
    first = np.concatenate([np.arange(count) % 2 == 0 for count in counts])

    def scored_on(half: Floats) -> Fold:
        return Fold(_cosines(rows - rows[:, ~half].mean((0, 1))), np.flatnonzero(half))

    return scored_on(first), scored_on(~first), task_of


def _flat(rows: Rows) -> Rows:
    return rows.reshape(-1, rows.shape[-1])


def _applied(apply: Callable[[Pairs], Floats], pairs: Pairs) -> Floats:
    return np.stack(
        [apply({place: rows[view] for place, rows in pairs.items()}) for view in (0, 1)]
    )


def _cosines(rows: Floats) -> Floats:
    first, second = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    found: Floats = first @ second.T
    return found


# --- one query's success in [0, 1] ---------------------------------------------------------------


def ranks(similarities: Floats, own: Floats) -> Floats:
    """Return (query,) the rank of each query's own in (query, gallery); equals share a rank."""
    values = np.take_along_axis(similarities, own[:, None], 1)
    greater = (similarities > values + TIE).sum(1)
    at_least = (similarities >= values - TIE).sum(1)
    found: Floats = (greater + at_least + 1) / 2
    return found


def reciprocal(similarities: Floats, own: Floats) -> Floats:
    """Return 1 / rank."""
    return 1 / ranks(similarities, own)


def top_one(similarities: Floats, own: Floats) -> Floats:
    """Return 1 where the own is first, 1/2 where one other equals it, and so on; else 0."""
    found = ranks(similarities, own)
    return np.where((similarities.max(1) - _own(similarities, own)) > TIE, 0, 1 / (2 * found - 1))


def less_hubs(similarities: Floats, own: Floats) -> Floats:
    """Return 1 / rank by CSLS: cosines less half the mean of both crops' ten highest ones."""
    corrected = 2 * similarities - _highest(similarities, 1) - _highest(similarities, 0)
    return reciprocal(corrected, own)


def margin(similarities: Floats, own: Floats) -> Floats:
    """Return the logistic of (own cosine less the mean of the ten highest others) / others' spread."""
    others = similarities.copy()
    np.put_along_axis(others, own[:, None], -np.inf, 1)
    others = np.sort(others, 1)[:, 1:]
    gap = _own(similarities, own) - others[:, -NEIGHBORS:].mean(1)
    return 1 / (1 + np.exp(-gap / others.std(1)))


def _own(similarities: Floats, own: Floats) -> Floats:
    return np.take_along_axis(similarities, own[:, None], 1)[:, 0]


def _highest(similarities: Floats, axis: int) -> Floats:
    """Return the mean of the ten highest along an axis, which stays."""
    places = range(-min(NEIGHBORS, similarities.shape[axis]), 0)
    found: Floats = np.sort(similarities, axis).take(places, axis).mean(axis, keepdims=True)
    return found
