"""Blocks dropped by a measured rule, beside as many dropped at random."""

from layerscope.pruning.baseline import DRAWS, Against, Subsets, against, random_subsets
from layerscope.pruning.orders import (
    ALIASES,
    RULES,
    Budget,
    Measured,
    Removal,
    Rule,
    budgets,
    eligible_blocks,
    measured_by,
    one_by_one,
    refuse_too_many,
    rule,
)

__all__ = [
    "ALIASES", "DRAWS", "RULES", "Against", "Budget", "Measured", "Removal", "Rule", "Subsets",
    "against", "budgets", "eligible_blocks", "measured_by", "one_by_one", "random_subsets",
    "refuse_too_many", "rule",
]  # fmt: skip
