"""The command line: options in, one public call, what people or machines read out."""

from layerscope.cli import correlate, doctor, evaluate, metrics, scan, select
from layerscope.cli.app import app, main

__all__ = ["app", "correlate", "doctor", "evaluate", "main", "metrics", "scan", "select"]
