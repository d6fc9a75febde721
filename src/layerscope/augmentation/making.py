"""Views of many texts, of whatever kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from layerscope.augmentation.characters import AugmentationSettings, mean_edit_distance, views
from layerscope.augmentation.spans import SpanSettings, spans
from layerscope.errors import InputError

Style = AugmentationSettings | SpanSettings


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
