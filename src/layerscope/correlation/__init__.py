"""Do the measures go with the scores of tasks, over the layers of a model?

Tables -> curves in pairs -> associations -> summaries. Within each model and task a measure's curve
over the layers is compared with the score's; then the associations are brought together over tasks
and models. Measures and scores may come from one run or from several of the same model.
"""

from layerscope.correlation.associations import correlate
from layerscope.correlation.pairing import ALL, OWN
from layerscope.correlation.records import (
    STATISTICS,
    Association,
    Curve,
    Findings,
    LeftOut,
    MeasureKey,
    ScoreKey,
    Summary,
    labels,
    refuse_statistic,
)

__all__ = [
    "ALL", "OWN", "STATISTICS", "Association", "Curve", "Findings", "LeftOut", "MeasureKey",
    "ScoreKey", "Summary", "correlate", "labels", "refuse_statistic",
]  # fmt: skip
