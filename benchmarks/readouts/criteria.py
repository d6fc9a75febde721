"""Criteria that choose a readout without labels, declared before any of their figures was seen.

Today's criterion is the mean reciprocal rank of crop retrieval, both directions, among the texts of a
fold (`metrics.crop_retrieval`). `CRITERIA` lists the others that are tried. Declared with them:

Candidates. A fixed set a model, `candidates`: the layers at six depths under three maps that `scan`
tries, and four sets of layers with unit weights under the same maps. Maps are fitted on both crops of
20 words of 1,000 WikiText paragraphs, as in the other tables; mteb scores all candidates on all tasks.

Fitting. Criteria on WikiText fit a map on one fold and score the other, and the reverse; crops of 8 words
are of the same 1,000 paragraphs, those of 50 words of 400, as encoding them takes long. Criteria on the
tasks' own texts (crops of 5 words, 60 texts a task, no labels) use the map that is scored, fitted on
WikiText, and take the mean of the other half of the own texts away.

Picks. `best` takes the highest value, with no caution. `rule` is `decisions.readouts.choose_readout` with
its default settings, whatever the criterion: all contributions lie in [0, 1], so that its margin, a
share of the own output's score, has a meaning. A criterion without contributions has no `rule` pick.

Choice of the criterion. On `CHOOSING` models and the development tasks: the highest mean over models of
the task score of the `rule` pick; of equals (within 1e-9) the highest mean over models of the Spearman
correlation between its values and the candidates' mean scores. Criteria marked as information cannot
be chosen.

Verdict. On the `HELD_OUT` models and the untouched tasks: the chosen criterion is better than today's if
the paired interval of the gain of its `rule` pick over today's, tasks resampled and the models'
mean taken, is above 0. Otherwise today's stays. The same for Spearman is shown and decides nothing.
The three other cells (models x tasks) and the other criteria are information: among eleven others in
four cells, some interval lies above 0 by chance alone.

What is not held out: today's criterion and its margin were found on the development tasks with all five
models, and its picks on the other tasks have been seen. That can only favor today's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import corpora
from benchmarks.readouts.retrieval import (
    Crops,
    Fold,
    folds,
    less_hubs,
    margin,
    own_folds,
    reciprocal,
    top_one,
)
from layerscope.analysis.readouts import layer_sets
from layerscope.metrics.readouts import Floats, Readout

CHOOSING = ("MiniLM", "Gemma 3 270M", "stories260k")
HELD_OUT = ("SmolLM2 135M", "MPNet base")
MAPS = ("none", "z-score", "whitening-0.5")
DEPTHS = (0, 1 / 3, 1 / 2, 2 / 3, 0.85, 1)
LAYER_SETS = ("first and last", "last 4", "upper half", "all")
SHORT, LONG = corpora.LENGTHS


def candidates(blocks: int) -> tuple[Readout, ...]:
    """Return the readouts of a model that every criterion chooses from; the own output is among them.

    >>> len(candidates(12)), [str(each) for each in candidates(12)[3:6]]
    (30, ['4', '4, z-score', '4, whitening-0.5'])
    """
    depths = tuple(dict.fromkeys(round(depth * blocks) for depth in DEPTHS))
    sets = layer_sets(range(blocks + 1))
    readouts = [Readout((depth,), name) for depth in depths for name in MAPS]
    readouts += [Readout(sets[layers], name, "unit") for layers in LAYER_SETS for name in MAPS]
    return tuple({readout.key: readout for readout in readouts}.values())


Success = Callable[[Floats, Floats], Floats]


def pooled(parts: Sequence[Floats]) -> Floats:
    """Return contributions (text,) whose mean is the mean of the parts' means."""
    total = sum(map(len, parts))
    return np.concatenate([part * total / len(part) / len(parts) for part in parts])


def on_wikitext(
    success: Success = reciprocal, *, words: int = 20, whole: bool = False, directions: int = 2
) -> Callable[[Crops, Readout], Floats]:
    """Return the contributions of WikiText's crops to a criterion, as a function of the readout."""

    def of(crops: Crops, readout: Readout) -> Floats:
        both = folds(crops, readout, words)
        found = np.empty(len(both[0].cosines))
        for fold in both:
            ways = fold.ways(whole=whole)[:directions]
            found[fold.scored] = np.mean([success(*way) for way in ways], 0)
        return found

    return of


def on_own_texts(
    tasks: str = "development", *, within: bool = False
) -> Callable[[Crops, Readout], Floats]:
    """Return the contributions of crops of a set of tasks' own texts, equal weight a task.

    Args:
        tasks: name of the set.
        within: search the texts of the same task alone, not those of all the set.
    """

    def of(crops: Crops, readout: Readout) -> Floats:
        *both, task_of = own_folds(crops, readout, tasks)
        found = np.empty(len(task_of))
        for fold in both:
            groups = [fold.scored[task_of[fold.scored] == task] for task in np.unique(task_of)]
            for scored in groups if within else [fold.scored]:
                ways = Fold(fold.cosines, scored).ways()
                found[scored] = np.mean([reciprocal(*way) for way in ways], 0)
        return pooled([found[task_of == task] for task in np.unique(task_of)])

    return of


def together(*criteria: Callable[[Crops, Readout], Floats]) -> Callable[[Crops, Readout], Floats]:
    """Return the contributions to the mean of some criteria."""
    return lambda crops, readout: pooled([each(crops, readout) for each in criteria])


@dataclass(frozen=True)
class Criterion:
    """A way to value a readout without labels.

    Attributes:
        name: in the tables.
        of: crops of a model, readout -> contributions (text,) in [0, 1] up to their weights; None
            where the value is the mean rank among the candidates by the criteria in `over`.
        over: names of criteria.
        information: shown, cannot be chosen.
    """

    name: str
    of: Callable[[Crops, Readout], Floats] | None
    over: tuple[str, ...] = ()
    information: bool = False


TODAY = "today's"
_OF_LENGTHS = (f"{SHORT} words", TODAY, f"{LONG} words")
CRITERIA = (
    Criterion(TODAY, on_wikitext()),
    Criterion("one direction", on_wikitext(directions=1)),
    Criterion("top one", on_wikitext(top_one)),
    Criterion("less hubs (CSLS)", on_wikitext(less_hubs)),
    Criterion("all texts as gallery", on_wikitext(whole=True)),
    Criterion("margin", on_wikitext(margin)),
    Criterion(f"{SHORT} words", on_wikitext(words=SHORT)),
    Criterion(f"{LONG} words", on_wikitext(words=LONG)),
    Criterion(
        "mean of lengths", together(*(on_wikitext(words=words) for words in (SHORT, 20, LONG)))
    ),
    Criterion("mean rank over lengths", None, over=_OF_LENGTHS, information=True),
    Criterion("own texts", on_own_texts()),
    Criterion("own texts, within a task", on_own_texts(within=True)),
    Criterion("own texts and WikiText", together(on_own_texts(), on_wikitext())),
    Criterion("own texts of the other tasks", on_own_texts("untouched"), information=True),
)
