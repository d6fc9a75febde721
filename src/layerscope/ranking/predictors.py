"""What models are ordered by: three scores of the whole model, three of its last layer, its size.

All can be compared between models of different width. Those of the last layer are over the largest
value that they can have, because that depends on the width or the tokenizer; see docs/rank.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from layerscope.errors import unknown_name
from layerscope.metrics.catalogue import measure
from layerscope.metrics.inputs import Convention

RANDOM: Final = "random"
_LRD: Final = "Jiang, Yang, Tam 2026, abstract: goes with MTEB scores over 31 models"
_SIZE: Final = "larger models score higher more often than not"


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """One number of a model by which models can be ordered.

    Attributes:
        name: what it is asked for by.
        title: for headings.
        metric: the measure behind it, as tables name it; of trivial ones the fact of the model.
        convention: of the measure.
        kind: whether the measure is of the whole model or of its last layer, or the fact is of its
            size.
        direction: which models should be better.
        source: who says so.
        bound: of the number of texts and the width, what the measure is divided by.
        formula: what it is, in words or signs.
    """

    name: str
    title: str
    metric: str
    convention: str = ""
    kind: Literal["model", "last layer", "size"]
    direction: Literal["most", "least"]
    source: str
    bound: Callable[[int, int], float] | None = None
    formula: str

    def oriented(self, value: float) -> float:
        """Return the value so that more should be better."""
        return value if self.direction == "most" else -value


def _of_last_layer(
    name: str, title: str, metric: str, formula: str,
    *, convention: str = "", bound: Callable[[int, int], float] | None = None,
) -> Predictor:  # fmt: skip
    """Return a predictor whose direction is the catalogue's."""
    record = measure(metric)
    return Predictor(
        name=name, title=title, metric=metric, convention=convention, kind="last layer",
        direction="most" if record.direction == "most" else "least",
        source=f"{record.direction_source} (over layers or trainings)",
        bound=bound, formula=formula,
    )  # fmt: skip


PREDICTORS: Final = (
    Predictor(
        name="d_0L",
        title="d_0,L",
        metric="frenet_displacement_sample_k32",
        kind="model",
        direction="most",
        source=_LRD,
        formula="distance of the first and last layer's 32 leading patterns over texts / its largest",
    ),
    Predictor(
        name="mean_nrs",
        title="mean NRS",
        metric="mean_nrs_k10",
        kind="model",
        direction="most",
        source=_LRD,
        formula="share of the 10 nearest neighbors that a block keeps, mean over blocks",
    ),
    Predictor(
        name="mean_gfmi",
        title="mean GFMI",
        metric="mean_gfmi_edge",
        kind="model",
        direction="most",
        source=_LRD,
        formula="mutual information of a layer's and the last layer's graphs, mean over layers",
    ),
    _of_last_layer(
        "rankme", "RankMe", "rankme", "RankMe of the last layer / min(N, D)",
        bound=lambda n, d: float(min(n, d)),
    ),
    _of_last_layer(
        "dataset_entropy", "dataset entropy", "dataset_entropy",
        "dataset entropy of the last layer, centered unit rows, / ln min(N - 1, D)",
        convention=Convention.NORMALIZED, bound=lambda n, d: math.log(min(n - 1, d)),
    ),
    _of_last_layer(
        "prompt_entropy", "prompt entropy", "prompt_entropy_normalized",
        "prompt entropy of the last layer, centered unit rows, / ln min(T - 1, D)",
        convention=Convention.NORMALIZED,
    ),
)  # fmt: skip

TRIVIAL: Final = tuple(
    Predictor(
        name=name, title=name, metric=metric, kind="size", direction="most", source=_SIZE,
        formula=formula,
    )
    for name, metric, formula in (
        ("width", "dim", "D, the width of a hidden state"),
        ("depth", "blocks", "L, the number of blocks"),
        ("parameters", "parameters", "ln of the number of parameters"),
    )
)  # fmt: skip

ALL: Final = (*PREDICTORS, *TRIVIAL)
DEFAULT: Final = PREDICTORS[0].name


def predictor(name: str) -> Predictor:
    """Return the predictor of that name, or of that measure.

    Raises:
        InputError: there is none; the message offers the closest.
    """
    for each in ALL:
        if name in (each.name, each.metric):
            return each
    raise unknown_name("predictor", name, [each.name for each in ALL])


def needed() -> tuple[str, ...]:
    """Return the measures that a scan must make for a ranking."""
    return tuple(each.metric for each in PREDICTORS)
