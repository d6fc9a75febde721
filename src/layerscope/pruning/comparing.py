"""What a removal changed, beside what as many blocks removed at random change."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from layerscope.pruning.baseline import Against, against
from layerscope.pruning.orders import Budget, Removal
from layerscope.pruning.trial import PERPLEXITY, Trial

MEAN: Final = "mean of the tasks"
Change = Callable[[Trial], float]


@dataclass(frozen=True)
class Comparison:
    """One test: its value in the full model and without the blocks, and the change in percent.

    Attributes:
        name: of the task, "perplexity", or "mean of the tasks".
        full: in the full model; None for the mean of the tasks, as their scores are unlike.
        pruned: without the blocks, likewise.
        change: in percent of the full model's value.
        random: that change beside those of random subsets; None where none were tried.
        lacking: random subsets without a value, which are left out.
    """

    name: str
    full: float | None
    pruned: float | None
    change: float
    random: Against | None = None
    lacking: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one budget came to.

    Attributes:
        budget: how many blocks.
        removal: which, in the order in which they go, and by what scores.
        kinds: of these blocks, in ascending order of the blocks: the config's layer types, or the
            class of the block.
        trial: of the model without them, None if nothing was tried.
        comparisons: test by test.
        subsets: the trials of the random subsets.
        total: the number of all subsets of this size.
    """

    budget: Budget
    removal: Removal
    kinds: tuple[str, ...]
    trial: Trial | None = None
    comparisons: tuple[Comparison, ...] = ()
    subsets: tuple[Trial, ...] = field(default=(), repr=False)
    total: int = 0

    @property
    def removed(self) -> tuple[int, ...]:
        """The blocks that go, ascending."""
        return tuple(sorted(self.removal.blocks))


def comparisons(
    full: Trial, pruned: Trial, others: Sequence[Trial], *, exhaustive: bool
) -> tuple[Comparison, ...]:
    """Compare every test that both models have a value of.

    Args:
        full: the trial of the full model.
        pruned: of the model without the chosen blocks.
        others: of random subsets.
        exhaustive: whether those are all subsets of the size.
    """
    tasks = [task for task in full.scores if task in pruned.scores and full.scores[task] > 0]
    found = [
        _comparison(
            task, full.scores[task], pruned.scores[task], pruned, others,
            _of_task(full, task), exhaustive=exhaustive,
        )
        for task in tasks
    ]  # fmt: skip
    if len(tasks) > 1:
        changes = [_of_task(full, task) for task in tasks]

        def mean(trial: Trial) -> float:
            return fmean(change(trial) for change in changes)

        found.append(_comparison(MEAN, None, None, pruned, others, mean, exhaustive=exhaustive))
    if full.perplexity and pruned.perplexity:
        found.append(
            _comparison(
                PERPLEXITY, full.perplexity, pruned.perplexity, pruned, others,
                _of_perplexity(full.perplexity), exhaustive=exhaustive, lower=True,
            )
        )  # fmt: skip
    return tuple(found)


def _of_task(full: Trial, task: str) -> Change:
    """Return a trial's change of a score in percent; NaN where it has none."""
    return lambda trial: 100 * (trial.scores.get(task, math.nan) / full.scores[task] - 1)


def _of_perplexity(full: float) -> Change:
    return lambda trial: 100 * ((trial.perplexity or math.nan) / full - 1)


def _comparison(
    name: str,
    full: float | None,
    value: float | None,
    pruned: Trial,
    others: Sequence[Trial],
    change: Change,
    *,
    exhaustive: bool,
    lower: bool = False,
) -> Comparison:
    changes = [change(trial) for trial in others]
    known = [each for each in changes if not math.isnan(each)]
    own = change(pruned)
    lacking = len(changes) - len(known)
    beside = (
        against(own, known, exhaustive=exhaustive and not lacking, lower=lower) if known else None
    )
    return Comparison(name, full, value, own, beside, lacking)
