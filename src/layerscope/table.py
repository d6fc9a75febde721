"""The results table: one long frame that measures, task scores, decisions and plots all share."""

from __future__ import annotations

from typing import Final

import pandas as pd

COLUMNS: Final = {
    "model": "string",
    "revision": "string",
    "data": "string",
    "perturbation": "string",
    "level": "string",
    "layer": "Int64",
    "depth": "Float64",
    "stage": "string",
    "other_layer": "Int64",
    "metric": "string",
    "convention": "string",
    "value": "Float64",
    "low": "Float64",
    "high": "Float64",
    "n": "Int64",
    "seed": "Int64",
}
