"""The record of a measure, all of which are in `catalogue.CATALOGUE`, and the values between layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor

from layerscope.errors import UndefinedError
from layerscope.metrics.estimates import Estimate
from layerscope.metrics.pairs import half_sample_limits
from layerscope.settings import Convention

Level = Literal["prompt", "dataset", "view", "pair"]
Place = tuple[int, int | None]  # a layer, and the one that it is compared with

Invariances = Mapping[str, frozenset[str]]
INVARIANCES: Final = {
    "orthogonal": "one rotation or reflection of all rows",
    "scaling": "one positive factor on everything",
    "row scaling": "a positive factor on each row",
    "translation": "one vector added to all rows",
    "permutation": "another order of the rows (tokens of a text, or texts)",
    "token reversal": "the tokens of a text from last to first",
    "layer rotation": "another rotation or reflection for each layer",
    "layer scaling": "another positive factor for each layer",
    "layer translation": "another vector added to all rows of each layer",
}


@dataclass(frozen=True)
class Null:
    """The value of a measure on states without structure.

    Attributes:
        label: what those states are.
        level: (number of rows n, number of dimensions d) -> the value.
        varies: whether it depends on n or d.
    """

    label: str
    level: Callable[[int, int], float]
    varies: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The facts about one measure.

    Attributes:
        name: its name in tables, commands and Python.
        title: a few words for headings.
        function: (inputs, and the convention where the measure has any) -> a tensor
            (text,) for prompt measures, an `Estimate` for those of one layer, and the
            `Between` rows of a whole `geometry.LayerStack` for pair measures.
        level: what it measures: the tokens of a prompt, the pooled vectors of a dataset, views of
            texts, or several layers together.
        conventions: its preprocessings; empty where there is only one.
        formula: the formula in plain text.
        unit: of the value.
        range: of the value; T tokens, N texts, D dimensions.
        direction: of the layers that its paper selects: least or most of it.
        direction_source: the source of the direction.
        invariances: convention ("" where there is none) -> names of `INVARIANCES`.
        undefined: a sentence that says when it has no value.
        reference: the paper.
        note: a sentence on how to read it, or "".
        takes_alpha: whether the function has an order `alpha`, as entropies do.
        null: its value on states without structure, if known.
        main: whether it is one of the main measures.
        paper_seven: whether it is one of the seven of Skean et al. 2025.
        variants: names of its other rows: with another k, scale or sign.
        place: where a pair measure has values: at each step of one block, at each layer, for each
            layer and the final one, for every two layers, or once for the model.
        crosses_blocks: whether it needs every token before and after each block.
        on_spans: whether a view measure uses parts of texts rather than misspelled copies.
    """

    name: str
    title: str
    function: Callable[..., Any]
    level: Level
    conventions: tuple[Convention, ...] = ()
    formula: str
    unit: str
    range: str
    direction: Literal["least", "most", "none"]
    direction_source: str
    invariances: Invariances
    undefined: str
    reference: str
    note: str = ""
    takes_alpha: bool = False
    null: Null | None = None
    main: bool = False
    paper_seven: bool = False
    variants: tuple[str, ...] = ()
    place: Literal["", "step", "layer", "final", "matrix", "model"] = ""
    crosses_blocks: bool = False
    on_spans: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Between:
    """One number of a stack of layers.

    Attributes:
        metric: name of the measure, with its variant.
        layer: the layer index at which the value is reported: the later one of a step, L for a model.
        other_layer: the layer it is compared with, None where there is none.
        value: None where it is undefined.
        contributions: (sample,) numbers whose mean is the value, where it is such a mean.
        error: standard error from halves of the samples, where there are no contributions.
        bounds: the least and the greatest possible value.
        null: value on unrelated layers, where it is known.
        floor: value that estimation noise alone would give.
        reason: why the value is undefined.
        note: a sentence on how to read the value in this run.
        dimension: of the subspaces, where it is lower than the k of the name.
    """

    metric: str
    layer: int
    other_layer: int | None
    value: float | None
    contributions: Tensor | None = None
    error: float | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    null: float | None = None
    floor: float | None = None
    reason: str = ""
    note: str = ""
    dimension: int | None = None

    @property
    def limits(self) -> tuple[float, float] | None:
        """The 95 % limits that the error gives, kept inside the bounds."""
        if self.value is None or self.error is None:
            return None
        ends = half_sample_limits(torch.tensor(self.value), torch.tensor(self.error))
        low, high = (min(max(float(end), self.bounds[0]), self.bounds[1]) for end in ends)
        return low, high


Number = float | Estimate


def between(
    metric: str,
    places: Sequence[Place],
    compute: Callable[[int, int], Number],
    *,
    error: Callable[[int, int], float | None] = lambda _layer, _other: None,
    floor: Callable[[int, int], float | None] = lambda _layer, _other: None,
    null: float | Callable[[], float] | None = None,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    note: str = "",
) -> tuple[Between, ...]:
    """Return a measure at its places; where it has no value, the reason.

    Args:
        metric: name of the measure, with its variant.
        places: (layer, other layer) for each row.
        compute: (layer, other layer) -> the value; the layer twice where there is no other.
        error: the same -> standard error, where there are no contributions.
        floor: the same -> value that estimation noise alone would give.
        null: value on unrelated layers.
        bounds: the least and the greatest possible value.
        note: of every row.
    """
    found = []
    for layer, other in places:
        row = partial(Between, metric=metric, layer=layer, other_layer=other, note=note)
        pair = (layer, layer if other is None else other)
        try:
            number = compute(*pair)
            found.append(
                row(
                    value=number.value if isinstance(number, Estimate) else number,
                    contributions=_contributions(number),
                    error=_finite(error(*pair)),
                    floor=_finite(floor(*pair)),
                    null=_finite(null() if callable(null) else null),
                    bounds=bounds,
                )
            )
        except UndefinedError as reason:
            found.append(row(value=None, reason=str(reason)))
    return tuple(found)


def _contributions(number: Number) -> Tensor | None:
    """Return the contributions of the samples, None where no sample has one."""
    if not isinstance(number, Estimate) or bool(number.contributions.isnan().all()):
        return None
    return number.contributions


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else number
