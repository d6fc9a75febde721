"""A table's curves over the layers: table -> plain description -> drawing.

The description is frozen records of numbers and words, so that what a plot says can be tested
without drawing it, and every backend draws the same thing.
"""

from layerscope.plots.description import (
    CURVES,
    STYLES,
    Figure,
    Heatmap,
    Level,
    Line,
    Panel,
    Point,
    compare,
    describe,
    has_curves,
    heatmaps,
    run_names,
    ticks,
    x_range,
)
from layerscope.plots.images import save, to_matplotlib
from layerscope.plots.interactive import panel_traces, to_plotly

__all__ = [
    "CURVES", "STYLES", "Figure", "Heatmap", "Level", "Line", "Panel", "Point", "compare", "describe",
    "has_curves", "heatmaps", "panel_traces", "run_names", "save", "ticks", "to_matplotlib",
    "to_plotly", "x_range",
]  # fmt: skip
