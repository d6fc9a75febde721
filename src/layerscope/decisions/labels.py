"""Whether a few labels, or the choice without labels, should be believed.

The best readout by labels is taken where it gains a standard error over the choice without labels.
Whether the labels show that gain, allowing for all the readouts that were looked at, is said beside it:
the best of hundreds on 50 rows looks better than it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from layerscope.decisions.readouts import ReadoutChoice, may_be_chosen
from layerscope.errors import InputError
from layerscope.metrics.readouts import Floats, Readout
from layerscope.results.readouts import Candidate, ReadoutTable
from layerscope.results.resampling import sign_flip_lows

# Standard errors of the gain over the choice without labels from which the labels' best is taken. On two
# models and eight tasks less took worse ones where the choice without labels was good, and more kept it
# where it was not (benchmarks/results/labels.md).
LEAST_ERRORS: Final = 1.0


@dataclass(frozen=True)
class LabelChoice:
    """What a few labels say of the readouts of a run.

    Attributes:
        readout: to use.
        believes_labels: whether it is the labels' choice, not the one without labels.
        shown: whether the labels show its gain, allowing for all readouts.
        without: what was chosen without labels, by its score on the labels.
        best: the best by the labels.
        gain: of the best over the one without labels.
        gain_low: limit of that gain which holds for all readouts together.
        over_own: of the readout to use over the model's own output, on the labels.
        sentence: what to do and why, in two lines.
        table: what it was chosen from.
    """

    readout: Readout
    believes_labels: bool
    shown: bool
    without: Candidate
    best: Candidate
    gain: float
    gain_low: float
    over_own: float
    sentence: str
    table: ReadoutTable = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "readout": str(self.readout),
            "believes_labels": self.believes_labels,
            "shown": self.shown,
            "without_labels": self.without.name,
            "best_by_labels": self.best.name,
            "gain": self.gain,
            "gain_low": self.gain_low,
            "over_own": self.over_own,
            "sentence": self.sentence,
        }


def choose_with_labels(
    table: ReadoutTable,
    without: ReadoutChoice,
    *,
    pairs: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> LabelChoice:
    """Return the readout to use where a few labels are there.

    Args:
        table: readouts scored on labels, see `analysis.labels.compare_on_labels`.
        without: the choice of the run without labels.
        pairs: whether the score is a correlation, not a share of texts.
        seed: of the resampling of rows.
        resamples: their number.
        level: of the limits.

    Raises:
        InputError: the readout that was chosen without labels has no score on them.
    """
    free = next(
        (p for p, c in enumerate(table.candidates) if c.name == without.chosen.candidate.name), None
    )
    if free is None:
        raise InputError(f"the labels say nothing of the readout '{without.readout}'.")
    found = weighed(table, free, seed=seed, resamples=resamples, level=level)
    best, chosen, scores, lows = found.best, found.chosen, found.scores, found.lows
    gain, low = float(scores[best] - scores[free]), float(lows[best])
    return LabelChoice(
        readout=found.readouts[chosen],
        believes_labels=found.believes,
        shown=bool(lows[best] > 0),
        without=table.candidates[free],
        best=table.candidates[best],
        gain=gain,
        gain_low=low,
        over_own=float(scores[chosen] - scores[table.own]),
        sentence=_sentence(
            table, chosen, free, best, float(lows[chosen]), len(found.readouts), pairs
        ),
        table=table,
    )


@dataclass(frozen=True)
class Weighed:
    """Readouts as labels see them, by their places in a table.

    Attributes:
        readouts: place -> those that may be chosen.
        scores: (candidate,)
        lows: (candidate,) limits of the gains over the choice without labels, for all together.
        best: the best by the labels.
        errors: of the best, gain over the choice without labels in its standard errors.
        chosen: what to use: the best where it gains `LEAST_ERRORS`, else the choice without labels.
    """

    readouts: dict[int, Readout]
    scores: Floats
    lows: Floats
    best: int
    errors: float
    chosen: int

    @property
    def believes(self) -> bool:
        """Whether the labels are believed."""
        return self.errors >= LEAST_ERRORS


def weighed(
    table: ReadoutTable, free: int, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Weighed:
    """Weigh the readouts of a table against the one at `free`, which was chosen without labels."""
    readouts = {
        place: each.readout
        for place, each in enumerate(table.candidates)
        if each.readout is not None and (place == table.own or may_be_chosen(each.readout))
    }
    choosable = list(readouts)
    scores = np.array([each.score for each in table.candidates])
    rows = table.contributions[[free, *choosable]]
    lows = np.full(len(scores), np.nan)
    lows[choosable] = sign_flip_lows(rows, 0, seed, resamples, level)[1:]
    best = max(choosable, key=lambda place: scores[place])
    gains = table.contributions[best] - table.contributions[free]
    spread = float(np.sqrt(np.square(gains).sum()))
    errors = float(gains.sum()) / spread if spread else 0.0
    return Weighed(readouts, scores, lows, best, errors, best if errors >= LEAST_ERRORS else free)


def _sentence(
    table: ReadoutTable, chosen: int, free: int, best: int, low: float, count: int, pairs: bool
) -> str:
    """Return what to do, then on what evidence, a line each."""
    rows = table.contributions.shape[1]

    def said(place: int) -> str:
        score = table.candidates[place].score
        return f"a correlation of {score:.3f}" if pairs else f"{100 * score:.1f} % right"

    name, other = table.candidates[chosen].name, table.candidates[free].name
    of = f"On {rows} {table.crops} it has {said(chosen)}"
    own = "" if chosen == table.own else f", the model's own output {said(table.own)}"
    if chosen != free:
        gain = table.candidates[chosen].score - table.candidates[free].score
        least, more = (f"{n:.3f}" if pairs else f"{100 * n:.1f} points" for n in (low, gain))
        shown = f"at least {least} less" if low > 0 else f"{more} less, which chance can give"
        return (
            f"{'Believe' if low > 0 else 'Lean on'} the labels: use the readout '{name}'.\n{of}{own}; "
            f"the choice without labels, '{other}', has {said(free)}: {shown} to the best of {count} "
            "readouts."
        )
    if best == free:
        return f"Use the readout '{name}': labels and the choice without them agree.\n{of}{own}."
    return (
        f"Keep the choice without labels: the readout '{name}'.\n{of}{own}; the best of {count} "
        f"readouts, '{table.candidates[best].name}', has {said(best)}, which "
        "so few rows cannot tell from it."
    )
