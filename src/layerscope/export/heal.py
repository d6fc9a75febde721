"""Heal a model without some of its blocks: maps in their place, folded into the blocks before them.

Each run of removed blocks is healed in the block before it, from the first run to the last: the states
that a map is fitted on are those of the model as it is by then; what they should become is what the full
model has after the run. No weight is added. See `metrics.healing` for the fit, `models.residual` for
where a map can be folded into, and arXiv 2505.02819 (ReplaceMe) for the idea.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Final, Literal

import torch
from torch import Tensor

from layerscope.data.tokens import TokenizedText
from layerscope.errors import InputError
from layerscope.export.patches import (
    Goals,
    HealingTexts,
    Patch,
    Step,
    fitted_patches,
    healed,
    refuse_few,
    runs_of,
)
from layerscope.export.shorten import refuse_quantized
from layerscope.export.trial import output_site, perplexity
from layerscope.models.backbone import Backbone, non_finite_states, writes_text
from layerscope.models.residual import Writer, writer_of
from layerscope.settings import VectorConfig
from layerscope.states.encode import TokenPolicy
from layerscope.states.extract import Progress, TokenStates, batches, extract
from layerscope.states.pooling import pool

Criterion = Literal["perplexity", "distance of vectors"]
_EVERY: Final = 5  # one text of so many is held out, to choose by
_JUDGED: Final = 4096  # tokens that models are judged on


@dataclass(frozen=True)
class Judgment:
    """A measure of three models on texts that no map was fitted on; less is better.

    Attributes:
        by: the measure.
        full: its value for the full model.
        dropped: for the model without the blocks, as it is.
        healed: for the healed one.
        tokens: how many these texts have.
        of: which texts they are.
    """

    by: Criterion
    full: float
    dropped: float
    healed: float
    tokens: int
    of: str

    @property
    def recovered(self) -> float:
        """The share of what dropping the blocks cost that healing gives back; NaN if it cost nothing."""
        cost = self.dropped - self.full
        return (self.dropped - self.healed) / cost if cost > 0 else math.nan

    def __str__(self) -> str:
        """Return the three values in words."""
        return (
            f"{self.by} on {self.tokens:,} tokens of {self.of}: {self.full:.4g} in the full model, "
            f"{self.dropped:.4g} without the blocks, {self.healed:.4g} healed"
        )


@dataclass(frozen=True)
class Healing:
    """What healing came to.

    Attributes:
        patches: run by run.
        kept: whether they are in the model that is tried and saved.
        judgments: one for each criterion; the first also chose between forms of a map.
        tokens: that maps were fitted on.
        seconds: all in all.
    """

    patches: tuple[Patch, ...]
    kept: bool
    judgments: tuple[Judgment, ...]
    tokens: int
    seconds: float

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
        return (
            f"Healed by linear maps folded into block{'s' * (len(self.patches) > 1)} {into}, fitted on "
            f"{self.tokens:,} tokens. {said[0].upper()}{said[1:]}. "
            f"{'Kept' if self.kept else 'Not kept'}."
        )


def criteria(backbone: Backbone, *, vectors: bool, text: bool = False) -> tuple[Criterion, ...]:
    """Return what a healed model must not be worse by: what it is used for.

    A model that writes text is judged by its perplexity, any other by its vectors; one that writes text
    and whose vectors are used as well, by both.

    Args:
        backbone: the full model.
        vectors: whether its vectors are used (tasks are scored, or it serves vectors).
        text: whether the text that it writes is used even so; False leaves it to the vectors.
    """
    if not writes_text(backbone):
        return ("distance of vectors",)
    if not vectors:
        return ("perplexity",)
    return ("perplexity", "distance of vectors") if text else ("distance of vectors",)


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

    They are kept where the model is better for them by every criterion.

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
    runs = runs_of(removed)
    judge = judge or Judge(backbone, texts, criteria(backbone, vectors=False))
    full = judge.full
    patches: list[Patch] = []
    found: tuple[float, ...] = ()
    layers = [run[-1] for run in runs]
    with (
        Goals(texts.fit, layers, backbone.info.dim) as fit,
        Goals(texts.held_out, layers, backbone.info.dim) as held_out,
    ):
        for number, (run, writer) in enumerate(zip(runs, writers, strict=True)):
            progress("healing", number, len(runs))
            step = Step(run[0] - 1, run[-1])
            candidates = fitted_patches(
                backbone, step, removed, writer, patches, (fit, held_out), texts.budget
            )
            gone = [block for block in removed if block <= step.goal]
            chosen, found = candidates[0], ()
            if len(candidates) > 1:  # after a norm the errors of two forms cannot be compared
                scores = [judge.first(gone, (*patches, each)) for each in candidates]
                chosen = candidates[scores.index(min(scores))]
                found = (min(scores),) if len(judge.by) == 1 else ()
            patches.append(chosen)
    progress("healing", len(runs), len(runs))
    dropped, found = judge(removed), found or judge(removed, patches)
    judgments = tuple(map(Judgment, judge.by, full, dropped, found, *judge.facts))
    return Healing(
        tuple(patches),
        always or all(each.healed < each.dropped for each in judgments),
        judgments,
        tokens=sum(len(text.ids) for text in texts.fit),
        seconds=round(time.perf_counter() - started, 1),
    )


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
    judged = sum(len(text.ids) for text in _first(texts.held_out, _JUDGED)) * len(by)
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


class Judge:
    """How far a model is from the full one on texts that no map saw; less is better.

    By each criterion, on the first texts of so many tokens: held-out ones, or for vectors `vectors_of`.
    The distance of vectors is 1 - cosine of each text's vector with the full model's, in the mean.
    """

    def __init__(
        self,
        backbone: Backbone,
        texts: HealingTexts,
        by: Sequence[Criterion],
        tokens: int = _JUDGED,
        *,
        vectors_of: Sequence[TokenizedText] = (),
    ) -> None:
        self.backbone, self.budget, self.by = backbone, texts.budget, tuple(by)
        self.policy, self.pooling = texts.policy, texts.pooling
        self.texts = _first(texts.held_out, tokens)
        self.read = _first(vectors_of, tokens) or self.texts
        self.of = "the tasks' texts" if vectors_of else "held-out texts"

    @property
    def facts(self) -> tuple[list[int], list[str]]:
        """The tokens of the texts of each criterion, and what texts they are."""
        vectors = [each == "distance of vectors" for each in self.by]
        read = [self.read if each else self.texts for each in vectors]
        tokens = [sum(len(text.ids) for text in texts) for texts in read]
        return tokens, [self.of if each else "held-out texts" for each in vectors]

    @cached_property
    def full(self) -> tuple[float, ...]:
        """The values of the full model.

        Raises:
            NonFiniteError: its states are NaN or infinite.
        """
        finite = "distance of vectors" not in self.by or bool(self.expected.isfinite().all())
        found = tuple(
            0.0 if each == "distance of vectors" else self._perplexity(self.backbone)
            for each in self.by
        )
        if not (finite and all(map(math.isfinite, found))):
            raise non_finite_states(self.backbone, " on held-out texts")
        return found

    @cached_property
    def expected(self) -> Tensor:
        """The full model's vectors, (text, dim)."""
        return self._vectors(self.backbone)

    def __call__(self, removed: Iterable[int], patches: Iterable[Patch] = ()) -> tuple[float, ...]:
        """Judge the model without some blocks and with patches; infinite if a state is not finite."""
        return self._values(removed, patches, self.by)

    def first(self, removed: Iterable[int], patches: Iterable[Patch] = ()) -> float:
        """Judge it by the first criterion alone."""
        return self._values(removed, patches, self.by[:1])[0]

    def _values(
        self, removed: Iterable[int], patches: Iterable[Patch], by: Sequence[Criterion]
    ) -> tuple[float, ...]:
        if "distance of vectors" in by:
            _ = self.expected  # of the full model, before blocks are out
        with healed(self.backbone, removed, patches) as model:
            return tuple(
                self._distance(model) if each == "distance of vectors" else self._perplexity(model)
                for each in by
            )

    def _perplexity(self, model: Backbone) -> float:
        return perplexity(model, self.texts) or math.inf

    def _distance(self, model: Backbone) -> float:
        cosines = torch.cosine_similarity(self._vectors(model), self.expected, dim=1)
        found = 1 - float(cosines.mean())
        return found if math.isfinite(found) else math.inf

    def _vectors(self, model: Backbone) -> Tensor:
        texts, site = self.read, output_site(model)
        counted = [self.policy.counted(text) for text in texts]

        def pooled(tokens: TokenStates) -> Tensor:
            return pool(tokens, self.pooling).double().cpu()

        found: dict[int, Tensor] = {}
        planned = batches(model, texts, counted, self.budget)
        for result in extract(model, planned, (site,), pooled):
            found |= dict(zip(result.items, result.by_site[site], strict=True))
        return torch.stack([found[place] for place in range(len(texts))])


def _first(texts: Sequence[TokenizedText], tokens: int) -> tuple[TokenizedText, ...]:
    """Return the first texts that have so many tokens together, at least one."""
    lengths = accumulate(len(text.ids) for text in texts)
    return tuple(text for text, end in zip(texts, lengths, strict=True)
                 if end - len(text.ids) < tokens)  # fmt: skip
