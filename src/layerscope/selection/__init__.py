"""Which layer to use, without labels: what each measure prefers, and what a rule makes of them.

Every function takes the results of one model on one set of texts; the layers compared are the
blocks' outputs 0..L, never sub-block stages.
"""

from layerscope.rules import CAUTION, middle_layer, two_thirds_layer
from layerscope.selection.choosing import Choice, choice_of, choose, choose_all, sentence
from layerscope.selection.evidence import Evidence, evidences
from layerscope.selection.preferences import (
    Agreement,
    Preference,
    Recommendation,
    Vote,
    agreement,
    preferences,
    recommendation,
)
from layerscope.selection.reading import (
    NORMALIZED,
    PAPER,
    REFERENCE,
    layer_name,
    measured,
    number_of_blocks,
    of_measure,
    of_path,
    perturbation_of,
    perturbations,
)
from layerscope.table import BLOCK, FINAL_NORM, TASK

__all__ = [
    "BLOCK", "CAUTION", "FINAL_NORM", "NORMALIZED", "PAPER", "REFERENCE", "TASK", "Agreement",
    "Choice", "Evidence", "Preference", "Recommendation", "Vote", "agreement", "choice_of",
    "choose", "choose_all", "evidences", "layer_name", "measured", "middle_layer",
    "number_of_blocks", "of_measure", "of_path", "perturbation_of", "perturbations",
    "preferences", "recommendation", "sentence", "two_thirds_layer",
]  # fmt: skip
