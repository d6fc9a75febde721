"""Every layer of a model scored on labelled tasks by mteb, from one pass over their texts."""

from layerscope.evaluation.estimates import EvaluationEstimates, estimate_tasks
from layerscope.evaluation.runner import Outcome, Score, quiet, score_tasks
from layerscope.evaluation.settings import PROBES, EvaluationSettings, require_extra
from layerscope.evaluation.tasks import TaskPlan, resolve

__all__ = [
    "PROBES",
    "EvaluationEstimates",
    "EvaluationSettings",
    "Outcome",
    "Score",
    "TaskPlan",
    "estimate_tasks",
    "quiet",
    "require_extra",
    "resolve",
    "score_tasks",
]
