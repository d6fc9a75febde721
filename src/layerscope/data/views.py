"""Views of samples: altered copies, or parts such as two disjoint crops of a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, Final

import numpy as np

from layerscope.config import Config, Count
from layerscope.data.image_views import ImageViewConfig
from layerscope.data.misspellings import (
    AugmentationConfig,
    Draws,
    cut_long,
    mean_edit_distance,
    views,
)
from layerscope.errors import InputError


class SpanKind(StrEnum):
    """Which two parts of a text make a pair."""

    CROPS = "crops"
    HALVES = "halves"
    CLOZE = "cloze"


_NAMES = {
    SpanKind.CROPS: "crops",
    SpanKind.HALVES: "halves",
    SpanKind.CLOZE: "inverse cloze",
}


class SpanConfig(Config):
    """How parts are taken from a text."""

    kind: SpanKind = SpanKind.CROPS
    """Two disjoint crops at random places; the first half and the second; or a span at a random place
    and the rest."""
    words: Count = 20
    """Length of a crop or span; halves have none. Words are what white space separates, longer runs
    than 20 characters cut into fives for scripts without spaces."""
    draws: Count = 1
    """Pairs taken from each text; halves can be taken only once."""

    @property
    def count(self) -> int:
        """Views of a text: two a draw."""
        return 2 if self.kind is SpanKind.HALVES else 2 * self.draws

    @property
    def shortest(self) -> int:
        """Words that a text must have: both parts of a pair have at least the words of a span."""
        return 2 if self.kind is SpanKind.HALVES else 2 * self.words

    @property
    def label(self) -> str:
        """What the table's perturbation column says; different settings, different labels.

        >>> SpanConfig().label, SpanConfig(kind="cloze", words=5, draws=3).label
        ('crops of 20 words', 'inverse cloze of 5 words, 3 draws')
        """
        if self.kind is SpanKind.HALVES:
            return _NAMES[self.kind]
        draws = "" if self.draws == 1 else f", {self.draws} draws"
        return f"{_NAMES[self.kind]} of {self.words} word{'s' * (self.words > 1)}{draws}"


def spans(text: str, *, settings: SpanConfig, seed: int) -> tuple[str, ...]:
    """Return the views of a text, the two parts of a draw side by side.

    Draw k is the same whatever the number of draws. Which crop comes first is drawn too, so that
    first and second views are alike on average; of a cloze the span is first, the rest second.

    >>> spans("one two three four", settings=SpanConfig(kind="halves"), seed=0)
    ('one two', 'three four')

    Raises:
        InputError: the text is too short.
    """
    words = _words(text)
    if len(words) < settings.shortest:
        raise InputError(
            f"expected a text of at least {settings.shortest} words for {settings.label}, "
            f"{len(words)} came."
        )
    if settings.kind is SpanKind.HALVES:
        middle = len(words) // 2
        return _part(text, words[:middle]), _part(text, words[middle:])
    take = _crops if settings.kind is SpanKind.CROPS else _cloze
    found: list[str] = []
    for index in range(settings.draws):
        draws = Draws(f"{settings.kind}\n{text}", seed, index, 0)
        found.extend(take(text, words, settings.words, draws))
    return tuple(found)


_Words = list[tuple[int, int]]


def _words(text: str) -> _Words:
    runs = (match.span() for match in re.finditer(r"\S+", text))
    return [piece for start, end in runs for piece in cut_long(start, end)]


def _part(text: str, words: _Words) -> str:
    return text[words[0][0] : words[-1][1]]


def _crops(text: str, words: _Words, size: int, draws: Draws) -> tuple[str, str]:
    """Return two disjoint spans, any two places equally likely."""
    slack = len(words) - 2 * size
    one, other = draws.sample(slack + 2, 2)
    other += size - 1
    pair = (_part(text, words[one : one + size]), _part(text, words[other : other + size]))
    return pair if draws.below(2) else (pair[1], pair[0])


def _cloze(text: str, words: _Words, size: int, draws: Draws) -> tuple[str, str]:
    """Return a span and what is left of the text when it is taken out."""
    start = draws.below(len(words) - size + 1)
    before, after = text[: words[start][0]], text[words[start + size - 1][1] :]
    return _part(text, words[start : start + size]), f"{before.rstrip()} {after.lstrip()}".strip()


Style = AugmentationConfig | SpanConfig | ImageViewConfig


class ViewKind(StrEnum):
    """What the views of a sample are; `characters` are altered copies: misspelled, augmented images."""

    CHARACTERS = "characters"
    CROPS = "crops"
    HALVES = "halves"
    CLOZE = "cloze"
    OTHER = "other"

    @property
    def of_spans(self) -> bool:
        """Whether they are parts of the text."""
        return self in (ViewKind.CROPS, ViewKind.HALVES, ViewKind.CLOZE)


# The labels that the settings write, whole; published tables have some with fewer details.
_EDITS: Final = r"(?: cap=\d+)?(?: words>=\d+)?(?: edits=[a-z+]+)?(?:, first \d+ words)?"
_SPAN: Final = r"(?: of \d+ words?(?:, \d+ draws)?)?(?:, built-in sample)?"
_LABELS: Final = {
    ViewKind.CHARACTERS: rf"characters(?:, the authors'| p=[\d.e+-]+{_EDITS})?|augmented images",
    ViewKind.CROPS: rf"crops{_SPAN}|crops of images(?:, \d+ draws)?",
    ViewKind.HALVES: r"halves(?:, built-in sample)?",
    ViewKind.CLOZE: rf"inverse cloze{_SPAN}",
}


@cache
def view_kind(perturbation: str) -> ViewKind:
    """Return the kind of the views that a label of the table's perturbation column names.

    >>> view_kind("crops of 20 words, built-in sample"), view_kind("croppings")
    (<ViewKind.CROPS: 'crops'>, <ViewKind.OTHER: 'other'>)
    """
    for kind, label in _LABELS.items():
        if re.fullmatch(label, perturbation):
            return kind
    return ViewKind.OTHER


def of_spans(perturbation: str) -> bool:
    """Whether a label of the perturbation column is one of parts of texts.

    >>> of_spans("crops of 20 words, built-in sample"), of_spans("characters p=0.3")
    (True, False)
    """
    return view_kind(perturbation).of_spans


@dataclass(frozen=True)
class Views:
    """Views of those samples that allow them.

    Attributes:
        texts: which of the given samples these are.
        made: their views, as many of each, sample by sample.
        distances: of each text, how far its views are from it on average: relative edit distance.
            Empty for spans and images, which are no edits.
        short: how many texts were tried and too short.
    """

    texts: list[int] = field(default_factory=list)
    made: list[Any] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    short: int = 0


def views_of(
    texts: Sequence[Any],
    style: Style,
    count: int,
    seed: int,
    told: Callable[[], None],
    most: int | None = None,
) -> Views:
    """Make views of texts or images; texts that are too short for so many are left out.

    Args:
        texts: the originals, strings or images.
        style: how.
        count: altered copies of a sample; spans have a number of their own.
        seed: of the draws.
        told: called before every text.
        most: texts of which copies are made, drawn by the seed from those that are long enough; None
            takes all, as spans always do.
    """
    made: dict[int, tuple[Any, ...]] = {}
    distances: dict[int, float] = {}
    short = 0
    order = np.arange(len(texts))
    if most is not None:
        order = np.random.default_rng(seed).permutation(order)
    for place in order.tolist():
        told()
        try:
            if isinstance(style, SpanConfig):
                made[place] = spans(texts[place], settings=style, seed=seed)
            elif len(made) == most:
                continue
            elif isinstance(style, ImageViewConfig):
                made[place] = style.views(texts[place], count, seed)
            else:
                copies = views(texts[place], count, settings=style, seed=seed)
                made[place] = tuple(copy.text for copy in copies)
                distances[place] = mean_edit_distance(copies)
        except InputError:
            short += 1
    places = sorted(made)
    return Views(
        texts=places,
        made=[view for place in places for view in made[place]],
        distances=[distances[place] for place in places if place in distances],
        short=short,
    )
