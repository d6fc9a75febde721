"""The public functions: every command of the command line, with the same names and options."""

from layerscope.api.correlating import Correlations, correlate
from layerscope.api.cutting import cut, estimate_cut
from layerscope.api.deciding import run_of, select
from layerscope.api.diagnosing import doctor
from layerscope.api.evaluating import Evaluation, estimate_evaluation, evaluate
from layerscope.api.pruning import Pruning, PruningEstimates, estimate_prune, prune
from layerscope.api.ranking import estimate_ranking, is_run, rank
from layerscope.api.scanning import (
    Scan,
    default_folder,
    estimate_scan,
    get_metric,
    list_metrics,
    load,
    scan,
)

__all__ = [
    "Correlations",
    "Evaluation",
    "Pruning",
    "PruningEstimates",
    "Scan",
    "correlate",
    "cut",
    "default_folder",
    "doctor",
    "estimate_cut",
    "estimate_evaluation",
    "estimate_prune",
    "estimate_ranking",
    "estimate_scan",
    "evaluate",
    "get_metric",
    "is_run",
    "list_metrics",
    "load",
    "prune",
    "rank",
    "run_of",
    "scan",
    "select",
]  # fmt: skip
