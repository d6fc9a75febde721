"""The record of a measure: what it is, and what is true of it. `catalogue.CATALOGUE` holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from layerscope.settings import Convention

Level = Literal["prompt", "dataset", "view", "pair"]

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
    """The level that a measure takes on states without structure.

    Attributes:
        label: what those states are.
        level: the level from the number of rows n and of dimensions d.
        varies: whether it depends on them.
    """

    label: str
    level: Callable[[int, int], float]
    varies: bool = False


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What there is to know about one measure.

    Attributes:
        name: its name in tables, commands and Python.
        title: a few words for headings.
        function: of the inputs, and of the convention where the measure has any, to a tensor
            (text,) for prompt measures, to an `Estimate` for those of one layer, and to the
            `layers.Between` of a whole `layers.LayerStack` for pair measures.
        level: what it is measured on: the tokens of a prompt, a dataset's pooled vectors, views, or
            the layers of a model together.
        conventions: the preprocessings it comes in; empty where there is only one way.
        formula: the formula in plain text.
        unit: of the value.
        range: between what it lies; T tokens, N texts, D dimensions.
        direction: which layers its paper, or the paper it comes from, selects by it.
        direction_source: who says so.
        invariances: by convention ("" where there is none), names out of `INVARIANCES`.
        undefined: when it has no value, one sentence.
        reference: the paper.
        note: what a reader must know to read it right, or "".
        takes_alpha: whether the function has an order `alpha`, as entropies do.
        null: its level on states without structure, if known.
        main: whether it is one of the few to look at first.
        paper_seven: whether it is one of the seven of Skean et al. 2025.
        variants: names of rows that come with it: the same with another k, scale or sign.
        place: where a pair measure stands: at a step of one block, at a layer, against the final
            layer, at every two layers, or once for the model.
        crosses_blocks: whether it needs every token before and after each block.
        on_spans: whether a view measure is read on parts of texts rather than on misspelled copies.
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
    invariances: Mapping[str, frozenset[str]]
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
