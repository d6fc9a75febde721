"""Blocks dropped by a measured rule, beside as many dropped at random."""

from layerscope.pruning.baseline import DRAWS, Against, Subsets, against, random_subsets
from layerscope.pruning.comparing import MEAN, Comparison, Outcome, comparisons
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
    parsed_budget,
    refuse_lacking,
    refuse_too_many,
    rule,
)
from layerscope.pruning.saving import Saving, kinds_of, save_pruned, texts_to_compare, usage_of
from layerscope.pruning.trial import PERPLEXITY, Cost, Trial, TrialPlan, without

__all__ = [
    "ALIASES", "DRAWS", "MEAN", "PERPLEXITY", "RULES", "Against", "Budget", "Comparison", "Cost",
    "Measured", "Outcome", "Removal", "Rule", "Saving", "Subsets", "Trial", "TrialPlan", "against",
    "budgets", "comparisons", "eligible_blocks", "kinds_of", "measured_by", "one_by_one",
    "parsed_budget", "random_subsets", "refuse_lacking", "refuse_too_many", "rule", "save_pruned",
    "texts_to_compare", "usage_of", "without",
]  # fmt: skip
