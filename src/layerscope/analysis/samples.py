"""Samples and their views as tokens, and which tokens count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Final

import numpy as np

from layerscope.analysis.measure import ViewSet
from layerscope.config import Augmentation, FirstToken
from layerscope.data.image_views import ImageViewConfig
from layerscope.data.misspellings import AugmentationConfig
from layerscope.data.texts import SAMPLE, Texts, read_texts
from layerscope.data.tokens import TokenizedText
from layerscope.data.views import SpanConfig, SpanKind, Style, Views, view_kind, views_of
from layerscope.errors import InputError
from layerscope.models.backbone import Backbone
from layerscope.models.processing import read
from layerscope.settings import ScanConfig
from layerscope.states.extract import Progress

# So many of the user's texts, or half of fewer, are enough to take spans of them.
ENOUGH: Final = 100


def read_samples(
    backbone: Backbone, samples: Sequence[Any], settings: ScanConfig, limit: int
) -> list[TokenizedText]:
    """Return samples as tokens: texts after the prompt, or images."""
    prompt = settings.prompt
    return read(backbone, [prompt + text for text in samples] if prompt else samples, limit)


def counted(text: TokenizedText, settings: ScanConfig) -> list[bool]:
    """For each token of a text, whether it counts under the settings."""
    return text.counted(
        special_tokens=bool(settings.special_tokens),
        first_token=settings.first_token is not FirstToken.DROP,
    )


@dataclass(frozen=True)
class Made:
    """Views of one kind, as strings or images.

    Attributes:
        style: how they were made.
        views: they, and of which texts.
        given: number of the user's texts.
        fitting: how many of those are long enough.
        corpus: what they were made of instead, None for the user's texts.
    """

    style: Style
    views: Views
    given: int
    fitting: int
    corpus: Texts | None = None

    @property
    def label(self) -> str:
        """What the table's perturbation column says."""
        return self.style.label + (f", built-in {self.corpus.name}" if self.corpus else "")


# Crops of an image that keep more of it overlap so far that the embeddings find most of them.
CROPS_OF_IMAGES: Final = ImageViewConfig(kind="crops", smallest=0.1, largest=0.4)


def styles(settings: ScanConfig, *, images: bool = False) -> tuple[Style, ...]:
    """Return how views of each kind are made."""
    if images:
        kinds = {
            Augmentation.DEFAULT: ImageViewConfig(),
            Augmentation.CROPS: CROPS_OF_IMAGES.changed(draws=settings.draws),
        }
        return tuple(kinds[kind] for kind in settings.augmentation)
    return tuple(_style(kind, settings) for kind in settings.augmentation)


def _style(kind: Augmentation, settings: ScanConfig) -> Style:
    match kind:
        case Augmentation.DEFAULT:
            return AugmentationConfig(first_words=settings.view_words)
        case Augmentation.AUTHORS:
            return AugmentationConfig.authors().changed(first_words=settings.view_words)
        case _:
            return SpanConfig(kind=SpanKind(kind), words=settings.span_words, draws=settings.draws)


def make_views(
    texts: Sequence[Any], kinds: Sequence[Style], settings: ScanConfig, progress: Progress
) -> list[Made]:
    """Make the views of every kind, spans from a corpus where the texts are too short for them.

    Raises:
        InputError: the texts are too short for misspelled copies.
    """
    done = 0
    total = len(kinds) * len(texts)

    def tell() -> None:
        nonlocal done
        progress("making views", done, total)
        done += 1

    made = []
    for style in kinds:
        most = None if view_kind(style.label).of_spans else settings.view_texts
        found = views_of(texts, style, settings.views, settings.seed, tell, most)
        own = Made(style, found, len(texts), len(texts) - found.short)
        made.append(_from_corpus(own, settings) if _too_few(own, settings.views) else own)
    progress("making views", total, total)
    return made


def _too_few(made: Made, count: int) -> bool:
    """Whether spans are to be taken from a corpus.

    Shorter spans of the user's short texts would be another way out, but the two parts of a short
    text measured less well against task scores than short spans of paragraphs did.
    """
    if isinstance(made.style, SpanConfig):
        return made.fitting < min(ENOUGH, made.given / 2)
    if made.fitting < min(3, made.given):
        raise InputError(
            f"only {made.fitting} of {made.given} texts allow {count} distinct views; give longer "
            "texts, or fewer --views (0 for none)."
        )
    return False


def _from_corpus(made: Made, settings: ScanConfig) -> Made:
    corpus = read_texts(SAMPLE, limit=None)
    found = views_of(corpus.texts, made.style, settings.views, settings.seed, lambda: None)
    if not found.texts:
        raise InputError(
            f"neither the texts nor the built-in sample are long enough for {made.style.label}; "
            "give longer texts, or fewer --span-words."
        )
    return replace(made, views=found, corpus=corpus)


def tokenized_views(
    made: Sequence[Made], start: int, settings: ScanConfig, backbone: Backbone, limit: int
) -> tuple[list[ViewSet], list[TokenizedText]]:
    """Return the views by kind and their tokens, whose items begin at `start`.

    Texts of which a view has no token that counts, so that it has no mean, are left out.
    """
    sets: list[ViewSet] = []
    tokens: list[TokenizedText] = []
    for each in made:
        found = read_samples(backbone, each.views.made, settings, limit)
        places = each.views.texts
        count = len(found) // max(1, len(places))
        groups = [found[number * count :][:count] for number in range(len(places))]
        good = [all(any(counted(view, settings)) for view in group) for group in groups]
        first = start + len(tokens)
        tokens += [view for group, kept in zip(groups, good, strict=True) if kept for view in group]
        sets.append(
            ViewSet(
                perturbation=each.label,
                items=np.arange(first, start + len(tokens)).reshape(-1, count),
                texts=np.array(places, dtype=int)[np.array(good, dtype=bool)],
                width=each.given if each.corpus is None else len(each.corpus),
                corpus=each.corpus is not None,
            )
        )
    return sets, tokens


def notes_on(made: Made, views: ViewSet) -> list[str]:
    """Return what a reader should know of the texts that views are made of."""
    if made.corpus is not None:
        return [
            f"{made.fitting} of {made.given} texts are long enough for {made.style.label}: those are "
            f"taken from the {len(views.texts)} long paragraphs of the built-in {made.corpus.name} "
            "instead, and what is measured on them says nothing of your texts."
        ]
    left = made.views.short + len(made.views.texts) - len(views.texts)
    if not left:
        return []
    return [
        f"{left} texts are too short for {views.items.shape[1]} distinct views ({views.perturbation}); "
        "the view measures leave them out."
    ]


def view_facts(made: Made, views: ViewSet) -> dict[str, Any]:
    """Return what the record says of views of one kind."""
    facts: dict[str, Any] = {"texts": len(views.texts), "views": int(views.items.shape[1])}
    if made.views.distances:
        facts["mean_edit_distance"] = fmean(made.views.distances)
    if made.corpus is not None:
        facts |= {"corpus": made.corpus.name, "fingerprint": made.corpus.fingerprint}
    return facts
