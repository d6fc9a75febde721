"""The public functions: every command of the command line, with the same names and options."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from layerscope.api.correlating import Correlations, correlate
    from layerscope.api.cutting import cut
    from layerscope.api.deciding import run_of, select
    from layerscope.api.diagnosing import doctor
    from layerscope.api.evaluating import Evaluation, evaluate
    from layerscope.api.listing import get_metric, list_metrics
    from layerscope.api.plotting import Runs, concat
    from layerscope.api.pruning import prune
    from layerscope.api.ranking import is_run, rank
    from layerscope.api.scanning import (
        Scan,
        default_folder,
        load,
        scan,
        scan_states,
    )

_HOMES: Final = {
    "correlating": ("Correlations", "correlate"),
    "cutting": ("cut",),
    "deciding": ("run_of", "select"),
    "diagnosing": ("doctor",),
    "evaluating": ("Evaluation", "evaluate"),
    "listing": ("get_metric", "list_metrics"),
    "plotting": ("Runs", "concat"),
    "pruning": ("prune",),
    "ranking": ("is_run", "rank"),
    "scanning": (
        "Scan",
        "default_folder",
        "load",
        "scan",
        "scan_states",
    ),
}
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


def __getattr__(name: str) -> Any:
    """Import a function from its module when it is first asked for: some need none of torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"layerscope.api.{module}"), name)
    raise AttributeError(f"module 'layerscope.api' has no attribute {name!r}")
