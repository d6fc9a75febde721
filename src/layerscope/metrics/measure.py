"""The record of a measure, all of which are in `catalogue.CATALOGUE`.

A record names its function without importing it: who only reads the facts needs no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from layerscope.settings import Convention

Level = Literal["prompt", "dataset", "view", "pair"]

SUBSPACES: Final = (32, 16, 64)
"""Dimensions k of the layer subspace, the default first."""

NEIGHBORHOODS: Final = (10, 5, 20, 50)
"""Neighbors k of NRS, the default first."""

SCALES: Final = (2, 4, 8, 16, 32)
"""Neighbors n of GRIDE, which looks at n and 2 n."""

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
class Deferred:
    """A function of a module that is imported when it is first called."""

    module: str
    name: str

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call the function."""
        return self.resolved(*given, **named)

    @property
    def resolved(self) -> Callable[..., Any]:
        """The function itself."""
        found: Callable[..., Any] = getattr(importlib.import_module(self.module), self.name)
        return found


@dataclass(frozen=True)
class Functions:
    """The functions of a module of this room, each deferred."""

    module: str

    def __getattr__(self, name: str) -> Deferred:
        """Return a deferred function; a test resolves those of all records."""
        if name.startswith("_"):
            raise AttributeError(name)
        return Deferred(f"layerscope.metrics.{self.module}", name)


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
