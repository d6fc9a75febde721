"""Which readout to use, from the contributions of texts and the costs alone.

A trained embedder's own output must not be given up for an advantage that is small or chosen by
chance, so the choice goes up in the order of simplicity: the model's own output, one layer without a
map, one layer with a map, several layers. A step up needs a gain whose limit allows for all the
candidates that were looked at; the step away from the model's own output needs a margin as well.
Within the last step the simplest map within noise of the best is taken, and of those the best score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from layerscope.errors import InputError, unknown_name
from layerscope.metrics.readouts import Readout, split_map
from layerscope.results.readouts import Candidate, Costs, ReadoutTable
from layerscope.results.resampling import simultaneous_lows, within_noise

Preference = Literal["quality", "cheap"]

# By how much of the own output's score the lower limit of the gain must exceed 0 before that output is
# given up. Readouts of MPNet that find crops .004 better than its own output, which is 0.7 % of its
# score, score up to 3 points lower on tasks: so small an advantage says nothing of tasks, however many
# texts show it. Seven times that. A share, as scores go from .06 (stories260k) to .6 (MPNet).
MARGIN: Final = 0.05
KINDS: Final = ("the model's own output", "one layer", "one layer with a map", "several layers")
# Full whitening is compared and never chosen: it can harm classification (arXiv 2407.12886), and where it
# retrieved crops best (SmolLM2, stories260k) tasks that the choice was not made on scored less with it.
MOST_WHITENING: Final = 0.5
_MAP_ORDER: Final = ("none", "center", "z-score", "abtt", "whitening")


@dataclass(frozen=True)
class ReadoutRow:
    """A candidate as the choice saw it.

    Attributes:
        candidate: See `ReadoutTable`.
        kind: 0 to 3, its place in `KINDS`; None for a baseline that cannot be chosen.
        gain: Score less that of the model's own output.
        gain_low: Lower limit of the gain that holds for all candidates together.
        beats_own: Whether that limit is above the margin's share of the own score.
        within_noise: Whether the texts cannot tell it from the best of those that may be chosen.
    """

    candidate: Candidate
    kind: int | None
    gain: float
    gain_low: float
    beats_own: bool
    within_noise: bool


@dataclass(frozen=True)
class ReadoutChoice:
    """The readout to use, and on what evidence.

    Attributes:
        readout: What to use.
        prefer: What was preferred.
        margin: See `choose_readout`.
        rows: All candidates, the best score first.
        chosen: The row of the readout.
        own: The row of the model's own output.
        sentence: What to do and why, a line each; a third says what could change it.
        table: What it was chosen from.
    """

    readout: Readout
    prefer: Preference
    margin: float
    rows: tuple[ReadoutRow, ...] = field(repr=False)
    chosen: ReadoutRow
    own: ReadoutRow
    sentence: str
    table: ReadoutTable = field(repr=False)

    @property
    def keeps_own(self) -> bool:
        """Whether the model's own output is the choice."""
        return self.chosen is self.own

    def as_dict(self) -> dict[str, Any]:
        """Return plain values: the choice, and a row a candidate."""
        return {
            "readout": str(self.readout),
            "prefer": self.prefer,
            "margin": self.margin,
            "sentence": self.sentence,
            "candidates": [_as_dict(row, self.table.costs) for row in self.rows],
        }


def choose_readout(
    table: ReadoutTable,
    *,
    prefer: Preference = "quality",
    margin: float = MARGIN,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> ReadoutChoice:
    """Return the readout to use.

    Args:
        table: see `analysis.readouts.compare_readouts`.
        prefer: `quality`; or `cheap`, the readout with the lowest highest layer within noise of that,
            where a single layer without a map may also take the place of the model's own output
            without beating it.
        margin: see `MARGIN`; 0 asks only that the gain is not chance.
        seed: of the resampling of texts.
        resamples: their number.
        level: of the limits.

    Raises:
        InputError: an unknown preference or a negative margin.
    """
    if prefer not in ("quality", "cheap"):
        raise unknown_name("preference", prefer, ("quality", "cheap"))
    if not margin >= 0:
        raise InputError(f"expected a margin of 0 or more, a share of the own score, got {margin}.")
    view = _View(table, margin, seed, resamples, level)
    chosen = view.chosen(prefer)
    rows = view.rows()
    choice = rows[chosen]
    halves = [_View(half, margin, seed, resamples, level) for half in _halves(table, seed)]
    names = [table.candidates[half.chosen(prefer)].name for half in halves]
    apart = _apart(names, choice.candidate.name)
    return ReadoutChoice(
        readout=view.readouts[chosen],
        prefer=prefer,
        margin=margin,
        rows=tuple(sorted(rows, key=lambda row: -row.candidate.score)),
        chosen=choice,
        own=rows[table.own],
        sentence=_sentence(
            choice, rows[table.own], rows[view.best], len(view.choosable) - 1, _texts(table)
        )
        + apart,
        table=table,
    )


_LEAST_HALVED: Final = 100  # texts, below which halves are too few to choose from


def _halves(table: ReadoutTable, seed: int) -> list[ReadoutTable]:
    """Return the table on two random halves of the texts; nothing where there are few."""
    texts = table.contributions.shape[1]
    if texts < _LEAST_HALVED:
        return []
    order = np.random.default_rng(seed).permutation(texts)
    return [_only(table, np.sort(half)) for half in np.array_split(order, 2)]


def _only(table: ReadoutTable, texts: NDArray[np.int64]) -> ReadoutTable:
    rows = table.contributions[:, texts]
    counts = (~np.isnan(rows)).sum(-1)
    scores = np.nansum(rows, -1) / np.where(counts, counts, np.nan)
    pairs = zip(table.candidates, scores.tolist(), strict=True)
    scored = tuple(replace(candidate, score=score) for candidate, score in pairs)
    return replace(table, candidates=scored, contributions=rows)


def _apart(halves: Sequence[str], chosen: str) -> str:
    """Return a sentence where a half of the texts alone would choose something else."""
    others = [f"'{name}'" for name in halves if name != chosen]
    if not others:
        return ""
    if len(others) == 1:
        return f"\nOne half of the texts alone would choose {others[0]}."
    both = " and ".join(dict.fromkeys(others))
    return f"\nHalves of the texts would choose {both}."


def _as_dict(row: ReadoutRow, costs: Costs | None) -> dict[str, Any]:
    candidate = row.candidate
    kind = None if row.kind is None else KINDS[row.kind]
    facts = {name: getattr(candidate, name) for name in ("name", "highest", "score", "low", "high")}
    limits = {"gain": row.gain, "gain_low": None if np.isnan(row.gain_low) else row.gain_low}
    if costs is not None:
        limits |= {"bytes": costs.size(candidate), "texts_per_second": costs.speed(candidate)}
    return (
        facts
        | limits
        | {"kind": kind, "beats_own": row.beats_own, "within_noise": row.within_noise}
    )


class _View:
    """What is computed of a table once for all questions."""

    def __init__(
        self, table: ReadoutTable, margin: float, seed: int, resamples: int, level: float
    ) -> None:
        self.table = table
        self.numbers = seed, resamples, level
        self.readouts = {
            place: candidate.readout
            for place, candidate in enumerate(table.candidates)
            if candidate.readout is not None
            and not np.isnan(candidate.score)
            and (place == table.own or may_be_chosen(candidate.readout))
        }
        self.choosable = list(self.readouts)
        self.kinds = {p: _kind(p == table.own, readout) for p, readout in self.readouts.items()}
        self.scores = np.array([candidate.score for candidate in table.candidates])
        self.best = self._best(self.choosable)
        self.lows = self._lows(table.own, self.choosable)
        least = margin * self.scores[table.own]
        self.cleared = [p for p in self.choosable if p != table.own and self.lows[p] > least]

    def _lows(self, reference: int, others: Sequence[int]) -> NDArray[np.float64]:
        """Return simultaneous limits of gains over a candidate (candidate,), NaN but for others."""
        rows = self.table.contributions[[reference, *others]]
        lows = np.full(len(self.scores), np.nan)
        lows[[*others]] = simultaneous_lows(rows, 0, *self.numbers)[1:]
        return lows

    def _alike(self, best: int, pool: Sequence[int]) -> list[int]:
        """Return those of a pool that the texts cannot tell from its best."""
        rows = self.table.contributions[[best, *pool]]
        same = within_noise(rows, 0, *self.numbers)[1:]
        return [place for place, alike in zip(pool, same, strict=True) if alike]

    def _best(self, pool: Sequence[int]) -> int:
        return max(pool, key=lambda place: self.scores[place])

    def chosen(self, prefer: Preference) -> int:
        """Return the place of the candidate to use."""
        quality = self.simplest_alike(self.best_quality())
        return quality if prefer == "quality" else self.cheapest_alike(quality)

    def best_quality(self) -> int:
        """Climb from the model's own output to a more complex kind where it is clearly better."""
        holder = self.table.own
        for kind in (1, 2, 3):
            members = [place for place in self.cleared if self.kinds[place] == kind]
            if holder != self.table.own and members:
                lows = self._lows(holder, members)
                members = [place for place in members if lows[place] > 0]
            if members:
                holder = self._best(members)
        return holder

    def simplest_alike(self, best: int) -> int:
        """Return, of the same kind and within noise of the best, the simplest map's best score."""
        pool = [place for place in self.cleared if self.kinds[place] == self.kinds[best]]
        return min(self._alike(best, pool), key=self._simplicity) if pool else best

    def cheapest_alike(self, chosen: int) -> int:
        """Return the candidate with the lowest highest layer within noise of the chosen one.

        Besides those that beat the model's own output, single layers as they are may be taken: they
        do no harm beyond what the texts show.
        """
        raw = [place for place in self.choosable if self.kinds[place] == 1]
        pool = sorted({chosen, *self.cleared, *raw})
        return min(self._alike(chosen, pool), key=self._cost)

    def _simplicity(self, place: int) -> tuple[float, ...]:
        kind, _ = split_map(self.readouts[place].map)
        return (_MAP_ORDER.index(kind), -self.scores[place])

    def _cost(self, place: int) -> tuple[float, ...]:
        return (
            self.table.candidates[place].highest,
            self.kinds[place],
            len(self.readouts[place].layers),
            *self._simplicity(place),
        )

    def rows(self) -> list[ReadoutRow]:
        """Return the rows in the order of the table."""
        own, alike = self.scores[self.table.own], self._alike(self.best, self.choosable)
        return [
            ReadoutRow(
                candidate,
                self.kinds.get(place),
                float(self.scores[place] - own),
                float(self.lows[place]),
                place in self.cleared,
                place in alike,
            )
            for place, candidate in enumerate(self.table.candidates)
        ]


def may_be_chosen(readout: Readout) -> bool:
    """Whether a readout may be an answer: full whitening never is, see `MOST_WHITENING`."""
    kind, number = split_map(readout.map)
    return kind != "whitening" or number <= MOST_WHITENING


def _kind(own: bool, readout: Readout) -> int:
    """Return the place in `KINDS` of a readout that may be chosen."""
    if own:
        return 0
    if len(readout.layers) > 1:
        return 3
    return 1 if readout.map == "none" else 2


def _texts(table: ReadoutTable) -> str:
    """Return what a readout is judged on, in words."""
    texts = sum(table.galleries)
    if "built-in" in table.crops:
        return f"{texts:,} paragraphs of the built-in sample (your texts are too short for crops)"
    return f"{texts:,} texts"


def _sentence(
    chosen: ReadoutRow, own: ReadoutRow, best: ReadoutRow, others: int, texts: str
) -> str:
    """Return what to do, then on what evidence, a line each that a terminal holds."""
    score = own.candidate.score
    if chosen is own:
        start = f"Keep the model's own output (layer {own.candidate.name})."
        if best is own:
            return f"{start}\nOn {texts} none of {others} others finds crops better ({score:.3f})."
        return (
            f"{start}\nOn {texts} none of {others} others clearly finds crops better: {score:.3f}, "
            f"best {best.candidate.score:.3f}."
        )
    readout = chosen.candidate.readout
    layers = "" if readout is None else _in_words(readout)
    scores = f"{chosen.candidate.score:.3f} against {score:.3f}"
    why = f"On {texts} none is clearly better at finding crops: {scores} of its own output."
    if chosen.beats_own:
        why = f"On {texts} it finds crops better: {scores}, at least {chosen.gain_low:.3f} more."
    count = chosen.candidate.highest
    run = "no block must run" if not count else f"{count} block{'s' if count > 1 else ''} must run"
    return f"Read {layers}: {run}.\n{why}"


def _in_words(readout: Readout) -> str:
    *before, last = map(str, readout.layers)
    layers = f"layers {', '.join(before)} and {last}" if before else f"layer {last}"
    kind, number = split_map(readout.map)
    words = {
        "none": "as it is" if not before else "averaged",
        "center": "less the mean",
        "z-score": "dimensions scaled alike (z-score)",
        "abtt": f"without the top {number:.0f} components",
        "whitening": f"whitened by the power {number:g}",
    }
    return f"{layers}, {words[kind]}"
