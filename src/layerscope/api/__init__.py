"""The public functions: every command of the command line, with the same names and options."""

from layerscope.api.correlating import Correlations, correlate
from layerscope.api.cutting import cut
from layerscope.api.deciding import run_of, select
from layerscope.api.diagnosing import doctor
from layerscope.api.evaluating import Evaluation, evaluate
from layerscope.api.plotting import Runs, concat
from layerscope.api.pruning import prune
from layerscope.api.ranking import is_run, rank
from layerscope.api.scanning import (
    Scan,
    default_folder,
    get_metric,
    list_metrics,
    load,
    scan,
    scan_states,
)

__all__ = [
    "Correlations",
    "Evaluation",
    "Runs",
    "Scan",
    "concat",
    "correlate",
    "cut",
    "default_folder",
    "doctor",
    "evaluate",
    "get_metric",
    "is_run",
    "list_metrics",
    "load",
    "prune",
    "rank",
    "run_of",
    "scan",
    "scan_states",
    "select",
]  # fmt: skip
