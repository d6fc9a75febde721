"""A model cut after a block: which blocks it keeps, what it must give, and the saving of it."""

from layerscope.cutting.making import CutPlan, cut_model, plan_cut
from layerscope.cutting.placing import possible_layer, refuse_layer, refuse_model, refuse_no_layer
from layerscope.cutting.records import Cut, CutEstimates, CutSettings

__all__ = [
    "Cut",
    "CutEstimates",
    "CutPlan",
    "CutSettings",
    "cut_model",
    "plan_cut",
    "possible_layer",
    "refuse_layer",
    "refuse_model",
    "refuse_no_layer",
]
