"""Pooling: every way against its definition, with padding on either side."""

from __future__ import annotations

import pytest
import torch

from layerscope.config import Pooling
from layerscope.states.extract import Site, TokenStates
from layerscope.states.pooling import pool


def tokens(side: str) -> TokenStates:
    """Two texts of 4 and 2 real tokens; the first real token of each is special."""
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    counted = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]]).bool()
    states = torch.arange(16.0).reshape(2, 4, 2)
    states[1, 2:] = torch.nan
    if side == "left":
        states[1], real[1], counted[1] = states[1].roll(2, 0), real[1].roll(2), counted[1].roll(2)
    return TokenStates(Site(1), states, real, counted)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.FIRST, [[0, 1], [8, 9]]),
        (Pooling.LAST, [[6, 7], [10, 11]]),
        (Pooling.MEAN, [[4, 5], [10, 11]]),
        (Pooling.MAX, [[6, 7], [10, 11]]),
        (Pooling.WEIGHTED_MEAN, [[(2 + 8 + 18) / 6, (3 + 10 + 21) / 6], [10, 11]]),
    ],
)
def test_pooling_follows_its_definition(side, pooling, expected):
    torch.testing.assert_close(pool(tokens(side), pooling), torch.tensor(expected).float())
