"""The token states of one site -> what stays of them: pooled vectors and per-text numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from layerscope.analysis.threads import side_by_side
from layerscope.config import NonFinite, Pooling
from layerscope.errors import NonFiniteError
from layerscope.metrics.inputs import TokenInputs
from layerscope.metrics.measure import Measure
from layerscope.metrics.similarity import token_cosines
from layerscope.metrics.tokens import reference_pooling_rows
from layerscope.settings import Convention
from layerscope.states.extract import Site, TokenStates
from layerscope.states.pooling import mean, pool
from layerscope.states.store import Array

POOLED = "pooled"
REFERENCE = "reference"
PROMPT = "prompt"
FINITE = "finite"
CROSSED = "crossed"


def key(site: Site, kind: str) -> str:
    """Name the rows of a site in the store."""
    return f"{kind}/{site}"


@dataclass(frozen=True)
class Column:
    """A number that is kept of each text.

    Attributes:
        measure: of the tokens of one text.
        convention: None where it has none.
        first: number of tokens from the start that it is measured on; None for all.
    """

    measure: Measure
    convention: Convention | None
    first: int | None = None

    @property
    def label(self) -> str:
        """What the table's perturbation column says."""
        return "none" if self.first is None else f"first {self.first} tokens"


@dataclass(frozen=True)
class Reduction:
    """The reducer that extraction calls for every site and batch.

    Attributes:
        pooling: how a text's tokens become one vector.
        columns: numbers to keep of each text; none for views.
        reference: whether the vectors that the authors' code pools are wanted too.
        alpha: order of the entropies.
        non_finite: what to do with states that are not finite.
        crossings: whether to keep how far each block turns the tokens of a text.
    """

    pooling: Pooling
    columns: Sequence[Column] = field(default=())
    reference: bool = False
    alpha: float = 1.0
    non_finite: NonFinite = NonFinite.RAISE
    crossings: bool = False

    def __call__(self, tokens: TokenStates) -> dict[str, Array]:
        """Return arrays with one row a text, by kind.

        Raises:
            NonFiniteError: states that are not finite, unless they are to be dropped.
        """
        rows = {}
        if self.non_finite is NonFinite.DROP:
            tokens, finite = _blank_non_finite(tokens)
            rows[FINITE] = finite
        rows[POOLED] = pool(tokens, self.pooling).float()
        if self.crossings and tokens.entered is not None:
            crossed = token_cosines(tokens.entered, tokens.states, tokens.counted)
            rows[CROSSED] = torch.stack([crossed.sums, crossed.counts], dim=1)
        if self.columns or self.reference:
            parts = list(side_by_side(self._of_tokens, _parts(tokens)))
            rows |= {kind: torch.cat([part[kind] for part in parts]) for kind in parts[0]}
        elif not bool(rows[POOLED].isfinite().all()):
            raise NonFiniteError("the states hold NaN or infinite numbers")
        return {kind: value.cpu().numpy() for kind, value in rows.items()}

    def _of_tokens(self, part: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return what is measured of the tokens of some texts: states and which of them count."""
        with torch.no_grad():  # a thread of its own has its own mode
            inputs, rows = TokenInputs(*part), {}
            if self.reference:
                unit = reference_pooling_rows(inputs)
                rows[REFERENCE] = mean(unit, inputs.mask.to(unit.dtype)).float()
            if self.columns:
                rows[PROMPT] = torch.stack(self._numbers(inputs), dim=1)
            return rows

    def _numbers(self, inputs: TokenInputs) -> list[Tensor]:
        """Return the numbers (text,) of each column; NaN for texts with fewer tokens than it reads."""
        found = []
        for first, columns in itertools.groupby(self.columns, key=lambda column: column.first):
            long = inputs.lengths >= (first or 0)
            own = inputs if first is None else inputs.first(first, long)
            for column in columns:
                numbers = call(column.measure, own, column.convention, self.alpha)
                found.append(_spread(numbers, long) if first else numbers)
        return found


def _spread(numbers: Tensor, texts: Tensor) -> Tensor:
    """Return the numbers of some texts as those of all (text,), NaN for the others."""
    everywhere = numbers.new_full(texts.shape, torch.nan)
    everywhere[texts] = numbers
    return everywhere


def _parts(tokens: TokenStates) -> list[tuple[Tensor, Tensor]]:
    """Return states and marks of texts, a part for each thread on the CPU."""
    count = torch.get_num_threads() if tokens.states.device.type == "cpu" else 1
    chunks = tokens.states.chunk(count), tokens.counted.chunk(count)
    return list(zip(*chunks, strict=True))


def call(measure: Measure, inputs: Any, convention: Convention | None, alpha: float) -> Any:
    """Call a measure's function with what it takes: a convention and an order only where it has one."""
    given = () if convention is None else (convention,)
    options = {"alpha": alpha} if measure.takes_alpha else {}
    return measure.function(inputs, *given, **options)


def _blank_non_finite(tokens: TokenStates) -> tuple[TokenStates, Tensor]:
    """Return the states with those of bad texts set to zero, and which texts are good."""
    bad_token = ~tokens.states.isfinite().all(dim=-1) & tokens.real
    finite = ~bad_token.any(dim=1)
    clean = torch.where(finite[:, None, None], tokens.states, 0)
    return replace(tokens, states=clean), finite
