"""Heal a model without some of its blocks: maps in their place, folded into the blocks before them.

Each run of removed blocks is healed in the block before it, from the first run to the last: the states
that a map is fitted on are those of the model as it is by then; what they should become is what the full
model has after the run. No weight is added. See `metrics.healing` for the fit, `models.residual` for
where a map can be folded into, and arXiv 2505.02819 (ReplaceMe) for the idea.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.export.judge import (
    JUDGED,
    Criterion,
    Judge,
    Judgment,
    criteria,
    first_texts,
)
from layerscope.export.patches import (
    Goals,
    HealingTexts,
    Patch,
    Step,
    fitted_patches,
    refuse_few,
    runs_of,
)
from layerscope.export.shorten import refuse_quantized
from layerscope.export.trial import output_site
from layerscope.models.backbone import Backbone
from layerscope.models.residual import Writer, writer_of
from layerscope.settings import VectorConfig
from layerscope.states.encode import TokenPolicy
from layerscope.states.extract import Progress, batches, extract

_EVERY: Final = 5  # one text of so many is held out, to choose by


@dataclass(frozen=True)
class Healing:
    """What healing came to.

    Attributes:
        patches: run by run.
        kept: whether they are in the model that is tried and saved.
        judgments: one for each criterion; the first also chose between forms of a map.
        tokens: that maps were fitted on.
        seconds: all in all.
        left_out: blocks whose maps made the model worse, where all maps together did not help.
    """

    patches: tuple[Patch, ...]
    kept: bool
    judgments: tuple[Judgment, ...]
    tokens: int
    seconds: float
    left_out: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return vars(self) | {
            "patches": [patch.as_dict() for patch in self.patches],
            "judgments": [vars(each) for each in self.judgments],
        }

    def sentence(self) -> str:
        """Return what came of it, for people."""
        into = ", ".join(
            f"{patch.block}{' (diagonal)' if patch.form == 'diagonal' else ''}"
            for patch in self.patches
        )
        said = "; ".join(map(str, self.judgments))
        worse = ""
        if self.left_out:
            blocks = f"block{'s' * (len(self.left_out) > 1)} {', '.join(map(str, self.left_out))}"
            worse = f" Maps in {blocks} made the model worse and were left out."
        return (
            f"Healed by linear maps folded into block{'s' * (len(self.patches) > 1)} {into}, fitted on "
            f"{self.tokens:,} tokens.{worse} {said[0].upper()}{said[1:]}. "
            f"{'Kept' if self.kept else 'Not kept'}."
        )


def divided(texts: Sequence[TokenizedText], settings: VectorConfig) -> HealingTexts:
    """Hold out every fifth text.

    Args:
        texts: as tokens.
        settings: how texts become vectors, and what a batch holds.

    Raises:
        InputError: there are too few texts for that.
    """
    if len(texts) < 2:
        raise InputError(
            "expected at least 2 texts to heal by, one to fit on and one to choose by, got "
            f"{len(texts)}; give more texts, or pass --heal off."
        )
    every = min(_EVERY, len(texts))
    return HealingTexts(
        tuple(text for place, text in enumerate(texts) if (place + 1) % every),
        tuple(text for place, text in enumerate(texts) if not (place + 1) % every),
        settings.batch_tokens,
        TokenPolicy.of_config(settings),
        settings.pools,
    )


def refuse_unhealable(
    backbone: Backbone, removed: Iterable[int], texts: HealingTexts
) -> tuple[Writer, ...]:
    """Return where each run of removed blocks is healed.

    Raises:
        InputError: a run has no block before it or none that takes a map, weights are packed, or texts
            are too few.
    """
    refuse_quantized(backbone)
    runs = runs_of(removed)
    if runs[0][0] == 1:
        raise InputError(
            f"block {', '.join(map(str, runs[0]))} has no block before it to be healed in; protect the "
            "first block (--protect 1,1), or pass --heal off."
        )
    writers = tuple(writer_of(backbone, run[0] - 1) for run in runs)
    refuse_few(backbone, writers, texts.fit)
    return writers


def heal(
    backbone: Backbone,
    removed: Sequence[int],
    texts: HealingTexts,
    progress: Progress,
    *,
    judge: Judge | None = None,
    always: bool = False,
) -> Healing:
    """Fit a map for each run of removed blocks, and judge them all on held-out texts.

    They are kept where the model is better for them by every criterion. Where it is not, one map may
    undo what the others give back: each is then judged by itself, from the first to the last, and those
    that make the model better are kept.

    Args:
        backbone: the full model.
        removed: blocks, from 1.
        texts: to fit on and to choose by.
        progress: called with stage, done and total.
        judge: of the same model and texts, which knows the full model once it has judged; None makes
            one, by the criteria of a model of whose vectors nothing is known.
        always: whether the maps are kept even where the model is no better for them.

    Raises:
        InputError: it cannot be healed, see `refuse_unhealable`.
        NonFiniteError: states of the full model are NaN or infinite.
    """
    started = time.perf_counter()
    writers = refuse_unhealable(backbone, removed, texts)
    judge = judge or Judge(backbone, texts, criteria(backbone, vectors=False))
    full = judge.full
    layers = [run[-1] for run in runs_of(removed)]
    with (
        Goals(texts.fit, layers, backbone.info.dim) as fit,
        Goals(texts.held_out, layers, backbone.info.dim) as held_out,
    ):
        fitter = _Fitter(removed, writers, (fit, held_out), texts.budget, judge, progress)
        patches, score = fitter.all()
        dropped, found = judge(removed), score or judge(removed, patches)
        left_out: tuple[int, ...] = ()
        if len(patches) > 1 and not always and not _better(found, dropped):
            helping = fitter.helping(patches)
            if helping:
                into = {each.block for each in helping}
                left_out = tuple(each.block for each in patches if each.block not in into)
                patches, found = helping, judge(removed, helping)
    judgments = tuple(map(Judgment, judge.by, full, dropped, found, *judge.facts))
    return Healing(
        tuple(patches),
        always or _better(found, dropped),
        judgments,
        tokens=sum(len(text.ids) for text in texts.fit),
        seconds=round(time.perf_counter() - started, 1),
        left_out=left_out,
    )


def _better(found: Iterable[float], than: Iterable[float]) -> bool:
    return all(one < other for one, other in zip(found, than, strict=True))


@dataclass(frozen=True)
class _Fitter:
    """Fits maps run by run, from the first to the last.

    Attributes:
        removed: blocks.
        writers: of each run, the one that it is healed in.
        goals: of the texts to fit on, and of those to choose by.
        budget: padded tokens in one forward pass.
        judge: of the full model.
        progress: called with stage, done and total.
    """

    removed: Sequence[int]
    writers: Sequence[Writer]
    goals: tuple[Goals, Goals]
    budget: int
    judge: Judge
    progress: Progress

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        return runs_of(self.removed)

    def all(self) -> tuple[list[Patch], tuple[float, ...]]:
        """Return a map for each run, and the judgment of them all, if choosing the last one gave it."""
        patches: list[Patch] = []
        score: tuple[float, ...] = ()
        for place in range(len(self.runs)):
            self.progress("healing", place, len(self.runs))
            patch, score = self._fitted(place, patches)
            patches.append(patch)
        self.progress("healing", len(self.runs), len(self.runs))
        return patches, score if len(self.judge.by) == 1 else ()

    def helping(self, known: Sequence[Patch]) -> list[Patch]:
        """Return the maps that make the model better, each judged without the blocks up to its run.

        After the first that does not, they are fitted anew, to the states of the model without it.

        Args:
            known: the maps of all runs.
        """
        patches: list[Patch] = []
        for place, run in enumerate(self.runs):
            self.progress("healing one by one", place, len(self.runs))
            same = len(patches) == place
            patch = known[place] if same else self._fitted(place, patches)[0]
            gone = self._gone(run[-1])
            if self.judge.first(gone, (*patches, patch)) < self.judge.first(gone, patches):
                patches.append(patch)
        self.progress("healing one by one", len(self.runs), len(self.runs))
        return patches

    def _fitted(self, place: int, patches: Sequence[Patch]) -> tuple[Patch, tuple[float, ...]]:
        """Return the best map of a run, and the model's score with it, if it had to be chosen by that."""
        run = self.runs[place]
        candidates = fitted_patches(
            self.judge.backbone, Step(run[0] - 1, run[-1]), self.removed, self.writers[place],
            patches, self.goals, self.budget,
        )  # fmt: skip
        if len(candidates) == 1:  # after a norm the errors of two forms cannot be compared
            return candidates[0], ()
        gone = self._gone(run[-1])
        scores = [self.judge.first(gone, (*patches, each)) for each in candidates]
        return candidates[scores.index(min(scores))], (min(scores),)

    def _gone(self, layer: int) -> list[int]:
        """Return the removed blocks up to a layer."""
        return [block for block in self.removed if block <= layer]


def seconds_to_heal(
    backbone: Backbone, texts: HealingTexts, runs: Iterable[int], by: Sequence[Criterion]
) -> float:
    """Return about how long it takes to heal, from the time of one batch.

    Each run takes a pass over all texts; two forms of a map are judged before one is chosen.

    Args:
        backbone: the full model.
        texts: to fit on and to choose by.
        runs: how many runs of blocks each model lacks.
        by: criteria.
    """
    fitted, tokens = list(texts.fit), sum(len(text.ids) for text in (*texts.fit, *texts.held_out))
    judged = sum(len(text.ids) for text in first_texts(texts.held_out, JUDGED)) * len(by)
    batch = next(
        batches(backbone, fitted, [[True] * len(text.ids) for text in fitted], texts.budget)
    )
    site, seconds = output_site(backbone), 0.0
    for _ in range(2):  # the first run warms up
        started = time.perf_counter()
        for _ in extract(backbone, [batch], (site,), lambda tokens: float(tokens.states[0, 0, 0])):
            pass
        seconds = time.perf_counter() - started
    timed = sum(len(fitted[item].ids) for item in batch.items)
    passes = sum(each * tokens + (2 * each + 2) * judged for each in runs) + judged
    return seconds * passes / timed
