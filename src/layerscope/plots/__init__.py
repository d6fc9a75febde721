"""A table's curves over the layers: table -> plain description -> drawing.

The description is frozen records of numbers and words, so that what a plot says can be tested
without drawing it, and every backend draws the same thing.
"""

from layerscope.plots.chosen import chosen_scores
from layerscope.plots.correlation import Cloud, Clouds, Matrix, clouds, matrix, models_of
from layerscope.plots.correlation_drawing import (
    cloud_traces,
    correlation_to_plotly,
    matrix_parts,
    save_correlation,
)
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
    "CURVES", "STYLES", "Cloud", "Clouds", "Figure", "Heatmap", "Level", "Line", "Matrix", "Panel",
    "Point", "chosen_scores", "cloud_traces", "clouds", "compare", "correlation_to_plotly",
    "describe", "has_curves", "heatmaps", "matrix", "matrix_parts", "models_of", "panel_traces",
    "run_names", "save", "save_correlation", "ticks", "to_matplotlib", "to_plotly", "x_range",
]  # fmt: skip
