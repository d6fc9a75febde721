"""Judge models without some blocks by what the full model is used for, on texts that no map saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final, Literal

import torch
from torch import Tensor

from layerscope.data.tokens import TokenizedText
from layerscope.export.patches import HealingTexts, Patch, healed
from layerscope.export.trial import output_site, perplexity
from layerscope.models.backbone import Backbone, non_finite_states, writes_text
from layerscope.states.extract import TokenStates, batches, extract
from layerscope.states.pooling import pool

Criterion = Literal["perplexity", "distance of vectors"]
JUDGED: Final = 4096  # tokens that models are judged on


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
        tokens: int = JUDGED,
        *,
        vectors_of: Sequence[TokenizedText] = (),
    ) -> None:
        self.backbone, self.budget, self.by = backbone, texts.budget, tuple(by)
        self.policy, self.pooling = texts.policy, texts.pooling
        self.texts = first_texts(texts.held_out, tokens)
        self.read = first_texts(vectors_of, tokens) or self.texts
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


def first_texts(texts: Sequence[TokenizedText], tokens: int) -> tuple[TokenizedText, ...]:
    """Return the first texts that have so many tokens together, at least one."""
    lengths = accumulate(len(text.ids) for text in texts)
    return tuple(text for text, end in zip(texts, lengths, strict=True)
                 if end - len(text.ids) < tokens)  # fmt: skip
