"""Views of many texts, of whatever kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Final

from layerscope.augmentation.characters import AugmentationSettings, mean_edit_distance, views
from layerscope.augmentation.spans import SpanSettings, spans
from layerscope.errors import InputError

Style = AugmentationSettings | SpanSettings


class ViewKind(StrEnum):
    """What the views of a text are."""

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
_EDITS: Final = r"(?: cap=\d+)?(?: words>=\d+)?(?: edits=\S+)?"
_SPAN: Final = r"(?: of \d+ words?(?:, \d+ draws)?)?(?:, built-in sample)?"
_LABELS: Final = {
    ViewKind.CHARACTERS: rf"characters(?:, the authors'| p=\S+{_EDITS})?",
    ViewKind.CROPS: rf"crops{_SPAN}",
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
    """Views of those texts that allow them.

    Attributes:
        texts: which of the given texts these are.
        made: their views, as many of each, text by text.
        distances: of each text, how far its views are from it on average: relative edit distance.
            Empty for spans, which are no edits.
    """

    texts: list[int] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)


def views_of(
    texts: Sequence[str], style: Style, count: int, seed: int, told: Callable[[], None]
) -> Views:
    """Make views of texts; those that are too short for so many are left out.

    Args:
        texts: the originals.
        style: how.
        count: misspelled copies of a text; spans have a number of their own.
        seed: of the draws.
        told: called before every text.
    """
    found = Views()
    for place, text in enumerate(texts):
        told()
        try:
            if isinstance(style, SpanSettings):
                found.made.extend(spans(text, settings=style, seed=seed))
            else:
                copies = views(text, count, settings=style, seed=seed)
                found.made.extend(copy.text for copy in copies)
                found.distances.append(mean_edit_distance(copies))
        except InputError:  # too short
            continue
        found.texts.append(place)
    return found
