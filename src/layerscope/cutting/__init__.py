"""A model cut after a block: which blocks it keeps, what it must give, and the saving of it."""

from layerscope.cutting.making import cut_model
from layerscope.cutting.placing import refuse_layer, refuse_model, refuse_no_layer
from layerscope.cutting.records import Cut, CutEstimates, CutSettings

__all__ = [
    "Cut",
    "CutEstimates",
    "CutSettings",
    "cut_model",
    "refuse_layer",
    "refuse_model",
    "refuse_no_layer",
]
