"""Which model to use, without labels: models ordered by what was measured on the same texts.

Runs -> candidates -> an order by each predictor, with what the texts cannot tell apart. Where task
scores are known, how well each order agrees with them, beside the trivial predictors and chance.
"""

from layerscope.ranking.agreement import FEWEST, Agreement, Correlation, agreement_of
from layerscope.ranking.ordering import Place, order
from layerscope.ranking.predictors import (
    ALL,
    DEFAULT,
    PREDICTORS,
    RANDOM,
    TRIVIAL,
    Predictor,
    needed,
    predictor,
)
from layerscope.ranking.reading import Candidate, Value, candidates, check_comparable, lacking
from layerscope.ranking.results import Ranking, rank_runs
from layerscope.ranking.scores import TaskScores, known_scores, read_scores

__all__ = [
    "ALL", "DEFAULT", "FEWEST", "PREDICTORS", "RANDOM", "TRIVIAL", "Agreement", "Candidate",
    "Correlation", "Place", "Predictor", "Ranking", "TaskScores", "Value", "agreement_of",
    "candidates", "check_comparable", "known_scores", "lacking", "needed", "order", "predictor",
    "rank_runs", "read_scores",
]  # fmt: skip
