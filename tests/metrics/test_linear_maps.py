"""Maps in place of blocks: closed forms beside slow twins."""

from __future__ import annotations

import pytest
import torch

from layerscope.errors import InputError
from layerscope.metrics.healing import RIDGES, LinearMap, Moments, best_fit, fit

TOKENS, DIM = 60, 5


def drawn(seed: int = 0, tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Written states, wanted changes and weights, unrelated."""
    generator = torch.Generator().manual_seed(seed)
    states, wanted = (
        torch.randn(tokens, DIM, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    return states, wanted, torch.rand(tokens, generator=generator, dtype=torch.float64) + 0.1


def moments(
    states: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, *, offset: bool = False
) -> Moments:
    found = Moments(DIM, offset=offset)
    for part in zip(states.split(7), wanted.split(7), weights.split(7), strict=True):
        found.add(*part)
    return found


def twin(states, wanted, weights, ridge, *, offset):
    """Least squares on rows: weighted tokens, then one row for each entry that the ridge shrinks."""
    penalty = ridge * (weights[:, None] * states.square()).sum(dim=0).mean()
    if offset:
        states = torch.cat((states, torch.ones(len(states), 1)), dim=1)
    shrink = penalty.sqrt() * torch.eye(DIM, states.shape[1], dtype=torch.float64)
    rows = torch.cat((weights.sqrt()[:, None] * states, shrink))
    goals = torch.cat((weights.sqrt()[:, None] * wanted, torch.zeros(DIM, wanted.shape[1])))
    return torch.linalg.lstsq(rows, goals).solution


@pytest.mark.parametrize("offset", [False, True])
def test_a_full_map_is_weighted_ridge_regression(offset):
    states, wanted, weights = drawn()
    found = fit(moments(states, wanted, weights, offset=offset), 0.1)
    expected = twin(states, wanted, weights, 0.1, offset=offset)
    assert torch.allclose(found.change, expected[:DIM])
    assert (found.offset is None) is not offset
    if offset:
        assert torch.allclose(found.offset, expected[DIM])
    assert torch.equal(found.matrix, torch.eye(DIM, dtype=torch.float64) + found.change)


@pytest.mark.parametrize("offset", [False, True])
def test_a_diagonal_map_is_one_regression_for_each_dimension(offset):
    states, wanted, weights = drawn()
    found = fit(moments(states, wanted, weights, offset=offset), 0.1, diagonal=True)
    penalty = 0.1 * (weights[:, None] * states.square()).sum(dim=0).mean()
    for dim in range(DIM):
        columns = [states[:, dim], *([torch.ones(TOKENS, dtype=torch.float64)] if offset else [])]
        rows = weights.sqrt()[:, None] * torch.stack(columns, dim=1)
        shrink = torch.zeros(1, len(columns), dtype=torch.float64)
        shrink[0, 0] = penalty.sqrt()
        goals = torch.cat((weights.sqrt() * wanted[:, dim], torch.zeros(1)))
        expected = torch.linalg.lstsq(torch.cat((rows, shrink)), goals[:, None]).solution[:, 0]
        assert found.change[dim] == pytest.approx(float(expected[0]))
        if offset:
            assert found.offset[dim] == pytest.approx(float(expected[1]))
    assert torch.equal(found.matrix, 1 + found.change)


def test_a_linear_change_is_found_again():
    states, change, weights = drawn()
    change = change[:DIM]
    found = fit(moments(states, states @ change + 3, weights, offset=True), 1e-12)
    assert torch.allclose(found.change, change)
    assert torch.allclose(found.offset, torch.full((DIM,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("offset", [False, True])
def test_what_is_left_is_the_share_of_the_squared_error(diagonal, offset):
    states, wanted, weights = drawn()
    found = fit(moments(states, wanted, weights, offset=offset), 0.01, diagonal=diagonal)
    states, wanted, weights = drawn(seed=1)
    mapped = states * found.change if diagonal else states @ found.change
    off = wanted - mapped - (0 if found.offset is None else found.offset)
    share = (weights * off.square().sum(dim=1)).sum() / (weights * wanted.square().sum(dim=1)).sum()
    left = moments(states, wanted, weights, offset=offset).left(found)
    assert left == pytest.approx(float(share))
    nothing = LinearMap(torch.zeros(DIM, DIM))
    assert moments(states, wanted, weights, offset=offset).left(nothing) == pytest.approx(1)
    assert moments(states, 0 * wanted, weights).left(nothing) == 0


def test_the_ridge_is_chosen_on_held_out_tokens():
    """Of noise the strongest ridge leaves least, of a linear change the weakest."""
    few, noise, even = drawn(tokens=8)
    others = moments(*drawn(seed=2))
    assert best_fit(moments(few, noise, even), others).ridge == max(RIDGES)
    states, _, weights = drawn(seed=3)
    linear = moments(states, 2 * states, weights)
    assert best_fit(moments(few, 2 * few, even), linear).ridge == min(RIDGES)


def test_a_sink_neither_decides_the_fit_nor_is_left_out():
    """One token a thousand times as long as the others, weighted by its own length."""
    states, change, _ = drawn(tokens=200)
    change = 0.1 * change[:DIM]
    states[0] = 1000 * states[0]
    wanted = states @ change
    wanted[0] = 0  # what the sink is, it should stay
    weights = 1 / states.square().sum(dim=1)
    found = fit(moments(states, wanted, weights), 1e-4)
    off = (states @ found.change - wanted).norm(dim=1) / states.norm(dim=1)
    assert off.median() < 0.02
    assert off[0] < (states[0] @ change).norm() / states[0].norm()
    even = fit(moments(states, wanted, torch.ones(200)), 1e-4)
    worse = (states @ even.change - wanted).norm(dim=1) / states.norm(dim=1)
    assert worse.median() > 5 * off.median()


def test_too_few_tokens_are_refused_with_their_number():
    few = moments(*drawn(tokens=5), offset=True)
    with pytest.raises(
        InputError, match="expected at least 6 tokens to fit a map of 6 rows on, got 5; give more"
    ):
        fit(few, 0.1)
    assert fit(few, 0.1, diagonal=True).diagonal


def test_moments_say_whether_all_was_finite():
    states, wanted, weights = drawn()
    assert moments(states, wanted, weights).finite
    states[3, 2] = torch.nan
    assert not moments(states, wanted, weights).finite
