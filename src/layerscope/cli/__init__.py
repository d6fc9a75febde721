"""The command line: options in, one public call, what people or machines read out."""

from layerscope.cli import (
    correlate,
    cut,
    doctor,
    evaluate,
    merge,
    metrics,
    plot,
    prune,
    rank,
    report,
    scan,
    select,
    study,
)
from layerscope.cli.app import app, main

__all__ = [
    "app",
    "correlate",
    "cut",
    "doctor",
    "evaluate",
    "main",
    "merge",
    "metrics",
    "plot",
    "prune",
    "rank",
    "report",
    "scan",
    "select",
    "study",
]
