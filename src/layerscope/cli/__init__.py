"""The command line: options in, one public call, what people or machines read out."""

from layerscope.cli import evaluate, metrics, scan
from layerscope.cli.app import app, main

__all__ = ["app", "evaluate", "main", "metrics", "scan"]
