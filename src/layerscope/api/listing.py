"""`list_metrics` and `get_metric`: what the catalogue knows of measures."""

from __future__ import annotations

from layerscope.config import Text, checked
from layerscope.metrics import catalogue
from layerscope.metrics.measure import Measure


@checked
def list_metrics() -> tuple[Measure, ...]:
    """Return the facts of every measure: formula, range, direction, conventions, reference."""
    return catalogue.CATALOGUE


@checked
def get_metric(name: Text) -> Measure:
    """Return the facts of one measure.

    Raises:
        InputError: no measure has that name.
    """
    return catalogue.measure(name)
