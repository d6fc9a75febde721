"""A place in a model where states are read, and the token states read there, with named axes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from layerscope.errors import RunError


@dataclass(frozen=True, order=True)
class Site:
    """One place in a model: a layer (0 is the embedding output) and its stage."""

    layer: int
    stage: str = "block"

    def __str__(self) -> str:
        return f"{self.stage}.{self.layer}"


@dataclass(frozen=True)
class TokenStates:
    """The states of one site for a batch of texts, in memory only while they are reduced.

    Attributes:
        site: the place in the model.
        states: (text, token, dim), float32 or float64, padding included.
        real: (text, token), True where a token is not padding.
        counted: (text, token), True where a token counts: real, and neither a special token nor a
            first token that the settings exclude.
        entered: (text, token, dim), the block's input if the site is a block's output.
    """

    site: Site
    states: Tensor
    real: Tensor
    counted: Tensor
    entered: Tensor | None = None

    def __post_init__(self) -> None:
        expected = tuple(self.states.shape[:2])
        if self.states.ndim != 3 or {tuple(self.real.shape), tuple(self.counted.shape)} != {
            expected
        }:
            raise RunError(
                f"expected states (text, token, dim) with masks (text, token) at {self.site}, got "
                f"{tuple(self.states.shape)}, {tuple(self.real.shape)}, {tuple(self.counted.shape)}."
            )


def layer_number(layer: int, depth: int) -> int:
    """Return the number of a layer that may be negative (-1 is the last layer).

    >>> layer_number(-1, 12), layer_number(3, 12)
    (12, 3)
    """
    return depth + 1 + layer if layer < 0 else layer
