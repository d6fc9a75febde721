"""layerscope: measure every layer of a Hugging Face model on your own texts, in one pass.

>>> import layerscope
>>> layerscope.get_metric("curvature").unit
'radians'

Nothing heavy is imported until a function that needs it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.api import (
        Correlations,
        Evaluation,
        Runs,
        Scan,
        concat,
        correlate,
        cut,
        doctor,
        evaluate,
        get_metric,
        list_metrics,
        load,
        prune,
        rank,
        scan,
        scan_states,
        select,
    )
    from layerscope.decisions.rank import Ranking
    from layerscope.decisions.select import Selection
    from layerscope.diagnosis.results import Diagnosis
    from layerscope.errors import InputError, LayerscopeError, RunError
    from layerscope.export.cut import Cut
    from layerscope.export.pruning import Pruning
    from layerscope.settings import CutConfig, EvaluateConfig, ModelOptions, ScanConfig
    from layerscope.studies.study import Study, load_study, merge, study

__version__ = "0.1.0"

_HOMES = {
    "Correlations": "api",
    "Cut": "export.cut",
    "CutConfig": "settings",
    "Diagnosis": "diagnosis.results",
    "EvaluateConfig": "settings",
    "Evaluation": "api",
    "InputError": "errors",
    "LayerscopeError": "errors",
    "ModelOptions": "settings",
    "Pruning": "export.pruning",
    "Ranking": "decisions.rank",
    "RunError": "errors",
    "Runs": "api",
    "Scan": "api",
    "ScanConfig": "settings",
    "Selection": "decisions.select",
    "Study": "studies.study",
    "concat": "api",
    "correlate": "api",
    "cut": "api",
    "doctor": "api",
    "evaluate": "api",
    "get_metric": "api",
    "list_metrics": "api",
    "load": "api",
    "load_study": "studies.study",
    "merge": "studies.study",
    "prune": "api",
    "rank": "api",
    "scan": "api",
    "scan_states": "api",
    "select": "api",
    "study": "studies.study",
}
__all__ = [
    "Correlations",
    "Cut",
    "CutConfig",
    "Diagnosis",
    "EvaluateConfig",
    "Evaluation",
    "InputError",
    "LayerscopeError",
    "ModelOptions",
    "Pruning",
    "Ranking",
    "RunError",
    "Runs",
    "Scan",
    "ScanConfig",
    "Selection",
    "Study",
    "__version__",
    "concat",
    "correlate",
    "cut",
    "doctor",
    "evaluate",
    "get_metric",
    "list_metrics",
    "load",
    "load_study",
    "merge",
    "prune",
    "rank",
    "scan",
    "scan_states",
    "select",
    "study",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home, or a room of the package, when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"layerscope.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"layerscope.{name}")
    raise AttributeError(f"module 'layerscope' has no attribute {name!r}")


_ROOMS = (
    "analysis", "config", "data", "decisions", "diagnosis", "errors", "evaluation", "export",
    "integrations", "metrics", "models", "render", "results", "settings", "states", "studies",
)  # fmt: skip


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
