"""Seeded views of a text: misspelled copies of it, or parts of it, for the measures of invariance.

A view depends on nothing but the text, the settings, the seed and the index of the view: not on the
model, the layer, the batch, the order of the texts, the process or the version of a library.
"""

from layerscope.augmentation.characters import (
    AugmentationSettings,
    Edit,
    View,
    mean_edit_distance,
    views,
)
from layerscope.augmentation.making import (
    Style,
    ViewKind,
    Views,
    of_spans,
    view_kind,
    views_of,
)
from layerscope.augmentation.spans import SpanKind, SpanSettings, spans

__all__ = [
    "AugmentationSettings", "Edit", "SpanKind", "SpanSettings", "Style", "View",
    "ViewKind", "Views", "mean_edit_distance", "of_spans", "spans", "view_kind", "views", "views_of",
]  # fmt: skip
