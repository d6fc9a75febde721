"""The public functions: every command of the command line, with the same names and options."""

from layerscope.api.evaluating import Evaluation, evaluate
from layerscope.api.scanning import Scan, default_folder, estimate_scan, load, metrics, scan

__all__ = [
    "Evaluation", "Scan", "default_folder", "estimate_scan", "evaluate", "load", "metrics", "scan",
]  # fmt: skip
