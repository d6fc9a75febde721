"""layerscope: measure every layer of a Hugging Face model on your own texts, in one pass.

>>> import layerscope
>>> layerscope.metrics("curvature").unit
'radians'

Nothing heavy is imported until a function that needs it is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.api import (
        Correlations,
        Evaluation,
        Pruning,
        Scan,
        correlate,
        cut,
        doctor,
        evaluate,
        load,
        metrics,
        prune,
        rank,
        scan,
        select,
    )
    from layerscope.errors import InputError, LayerscopeError, RunError
    from layerscope.settings import ScanSettings

__version__ = "0.1.0"

_HOMES = {
    "Correlations": "api",
    "Evaluation": "api",
    "InputError": "errors",
    "LayerscopeError": "errors",
    "Pruning": "api",
    "RunError": "errors",
    "Scan": "api",
    "ScanSettings": "settings",
    "correlate": "api",
    "cut": "api",
    "doctor": "api",
    "evaluate": "api",
    "load": "api",
    "metrics": "api",
    "prune": "api",
    "rank": "api",
    "scan": "api",
    "select": "api",
}
__all__ = [
    "Correlations",
    "Evaluation",
    "InputError",
    "LayerscopeError",
    "Pruning",
    "RunError",
    "Scan",
    "ScanSettings",
    "__version__",
    "correlate",
    "cut",
    "doctor",
    "evaluate",
    "load",
    "metrics",
    "prune",
    "rank",
    "scan",
    "select",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home the first time that it is asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'layerscope' has no attribute {name!r}")
    return getattr(importlib.import_module(f"layerscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__


class _Package(ModuleType):
    """The package, whose `metrics` stays the function when the folder of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
