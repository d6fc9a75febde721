"""What a scan, a choice and the catalogue look like in a terminal of 80 columns.

Everything returned here is a rich renderable. Least and greatest are told by a sign, not by color
alone, and a terminal that is not UTF-8 gets the same in ASCII.
"""

from layerscope.terminal.catalogue import catalogue_table, estimate_table, measure_page
from layerscope.terminal.correlation import correlation_table
from layerscope.terminal.doctor import diagnosis_table
from layerscope.terminal.evaluation import evaluation_estimate_table, evaluation_summary
from layerscope.terminal.pruning import pruning_summary
from layerscope.terminal.ranking import ranking_estimate_table, ranking_summary
from layerscope.terminal.scan import preference_table, scan_summary
from layerscope.terminal.selection import selection_summary
from layerscope.terminal.shipping import cut_estimate_table, cut_summary, pruning_estimate_table
from layerscope.terminal.words import (
    Column,
    column,
    decimals,
    layer_ranges,
    main_columns,
    settings_lines,
    undefined_reasons,
)

__all__ = [
    "Column",
    "catalogue_table",
    "column",
    "correlation_table",
    "cut_estimate_table",
    "cut_summary",
    "decimals",
    "diagnosis_table",
    "estimate_table",
    "evaluation_estimate_table",
    "evaluation_summary",
    "layer_ranges",
    "main_columns",
    "measure_page",
    "preference_table",
    "pruning_estimate_table",
    "pruning_summary",
    "ranking_estimate_table",
    "ranking_summary",
    "scan_summary",
    "selection_summary",
    "settings_lines",
    "undefined_reasons",
]  # fmt: skip
