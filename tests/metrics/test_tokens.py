"""Prompt entropy and curvature: closed forms, slow twins, padding and edges."""

import itertools
import math

import pytest
import torch

from layerscope.metrics.inputs import TokenInputs
from layerscope.metrics.tokens import (
    curvature,
    prompt_entropy,
    prompt_entropy_normalized,
    prompt_entropy_per_log_length,
    reference_pooling_rows,
)
from layerscope.settings import Convention

PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE
MEASURES = (
    prompt_entropy,
    prompt_entropy_normalized,
    prompt_entropy_per_log_length,
    curvature,
)


def one_text(rows) -> TokenInputs:
    rows = torch.as_tensor(rows, dtype=torch.float64)
    return TokenInputs(rows[None], torch.ones(1, len(rows), dtype=torch.bool))


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slow_curvature(rows: torch.Tensor) -> float:
    steps = [after - before for before, after in itertools.pairwise(rows)]
    angles = [
        math.acos(float(before @ after / (before.norm() * after.norm())))
        for before, after in itertools.pairwise(steps)
    ]
    return sum(angles) / len(angles)


def polygon(corners: int) -> torch.Tensor:
    turn = 2 * math.pi * torch.arange(corners + 1, dtype=torch.float64) / corners
    return torch.stack([turn.cos(), turn.sin()], 1)


# --- entropy -------------------------------------------------------------------------------------


def test_entropy_of_signed_axes_is_full():
    rows = torch.cat([torch.eye(4), -torch.eye(4)])
    assert float(prompt_entropy(one_text(rows), NORMALIZED)) == pytest.approx(math.log(4))


def test_entropy_of_two_centered_tokens_is_zero_but_not_in_the_authors_code():
    inputs = one_text(random_rows(2, 5))
    assert float(prompt_entropy(inputs, NORMALIZED)) == pytest.approx(0, abs=1e-9)
    assert float(prompt_entropy(inputs, REFERENCE)) == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, 2, math.inf])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
def test_entropy_equals_its_definition(shape, alpha):
    rows = random_rows(*shape)
    centered = rows - rows.mean(0)
    prepared = {PAPER: rows, NORMALIZED: centered / centered.norm(dim=-1, keepdim=True)}
    for convention, given in prepared.items():
        squares = torch.linalg.svdvals(given).square()
        p = [v for v in (squares / squares.sum()).tolist() if v > 1e-12]
        slow = {
            0: lambda p: math.log(len(p)),
            1: lambda p: -sum(v * math.log(v) for v in p),
            math.inf: lambda p: -math.log(max(p)),
        }.get(alpha, lambda p: math.log(sum(v**alpha for v in p)) / (1 - alpha))(p)
        found = float(prompt_entropy(one_text(rows), convention, alpha=alpha))
        assert found == pytest.approx(slow, abs=1e-9)


def test_normalized_forms_divide_by_the_maximum_and_by_the_log_length():
    for shape in ((5, 9), (9, 4)):
        inputs = one_text(random_rows(*shape))
        tokens, dim = shape
        for convention in Convention:
            entropy = float(prompt_entropy(inputs, convention))
            rank = min(tokens - (convention is NORMALIZED), dim)
            found = float(prompt_entropy_normalized(inputs, convention))
            assert found == pytest.approx(entropy / math.log(rank))
            found = float(prompt_entropy_per_log_length(inputs, convention))
            assert found == pytest.approx(entropy / math.log(tokens))


def test_one_huge_token_rules_paper_and_above_t_times_the_others_normalized_too():
    """Centering subtracts 1/T of the huge token from all others, which then point away from it."""
    rows = random_rows(32, 64)
    for factor, least in ((1, 3.0), (10, 2.5), (1000, 0.0)):
        huge = rows.clone()
        huge[0] *= factor
        normalized = float(prompt_entropy(one_text(huge), NORMALIZED))
        assert normalized > least
        if factor > 1:
            assert float(prompt_entropy(one_text(huge), PAPER)) < 0.6 * max(normalized, 0.1)
    assert normalized < 0.01


@pytest.mark.parametrize("convention", [PAPER, NORMALIZED])
@pytest.mark.parametrize("shape", [(8, 128, 96), (8, 64, 96)])
def test_float32_is_within_1e_5_nats(shape, convention):
    states = random_rows(*shape)
    states[:, 0] *= 1e3
    mask = torch.ones(shape[:2], dtype=torch.bool)
    exact = prompt_entropy(TokenInputs(states, mask), convention)
    found = prompt_entropy(TokenInputs(states.float(), mask), convention)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)


# --- curvature -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0, 0], [1, 1], [3, 3], [4, 4]], 0),
        ([[1, 0], [0, 1], [-1, 0], [0, -1]], math.pi / 2),
        ([[0], [1], [0], [1]], math.pi),
        ([[0, 0], [1, 0], [1, 0], [1, 1], [2, 1]], math.pi / 2),
        (polygon(7), 2 * math.pi / 7),
    ],
    ids=["line", "square", "back and forth", "a repeated token", "heptagon"],
)
def test_curvature_closed_forms(rows, expected):
    assert float(curvature(one_text(rows), PAPER)) == pytest.approx(expected, abs=1e-12)


def test_curvature_is_undefined_where_no_angle_is_left():
    found = curvature(one_text([[0, 0], [1, 0], [1, 0], [1, 1]]), PAPER)
    assert bool(found.isnan())


def test_curvature_equals_its_definition():
    rows = random_rows(11, 6)
    centered = rows - rows.mean(0)
    unit = centered / centered.norm(dim=-1, keepdim=True)
    inputs = one_text(rows)
    assert float(curvature(inputs, PAPER)) == pytest.approx(slow_curvature(rows), abs=1e-12)
    assert float(curvature(inputs, NORMALIZED)) == pytest.approx(slow_curvature(unit), abs=1e-12)
    slow = sum(math.acos(float(a @ b)) for a, b in itertools.pairwise(unit)) / 10
    assert float(curvature(inputs, REFERENCE)) == pytest.approx(slow, abs=1e-12)


def test_reference_curvature_of_a_line():
    line = torch.outer(torch.arange(4.0), torch.tensor([1.0, 0.0]))
    assert float(curvature(one_text(line), REFERENCE)) == pytest.approx(math.pi / 3, abs=1e-12)


def test_curvature_of_independent_tokens_and_of_a_random_walk():
    rows = random_rows(400, 2000)
    assert float(curvature(one_text(rows), PAPER)) == pytest.approx(2 * math.pi / 3, abs=0.01)
    walk = curvature(one_text(rows.cumsum(0)), PAPER)
    assert float(walk) == pytest.approx(math.pi / 2, abs=0.01)


def test_small_angles_are_accurate_in_float32():
    """Where the arc cosine of a float32 cosine is exactly 0; the rows themselves are exact."""
    steps = torch.stack([torch.full((50,), 8192.0), torch.arange(50.0)], 1)
    rows = steps.cumsum(0)[None]
    found = curvature(TokenInputs(rows, torch.ones(1, 50, dtype=torch.bool)), PAPER)
    assert float(found) == pytest.approx(1 / 8192, rel=1e-4)


# --- batches and edges ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize("measure", MEASURES)
def test_a_padded_batch_equals_its_texts(measure, convention, side):
    lengths, width, dim = (12, 3, 7, 2, 1), 12, 5
    states = random_rows(len(lengths), width, dim) * 9  # padding holds numbers, too
    places = torch.arange(width).expand(len(lengths), width)
    counts = torch.tensor(lengths)[:, None]
    mask = places >= width - counts if side == "left" else places < counts
    found = measure(TokenInputs(states, mask), convention)
    alone = [measure(one_text(rows[m]), convention) for rows, m in zip(states, mask, strict=True)]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-12, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize("measure", MEASURES)
def test_texts_without_a_value_are_nan_and_do_not_touch_the_others(measure, convention):
    states = random_rows(4, 6, 5)
    states[2] = states[2, 0]  # all tokens equal
    mask = torch.arange(6) < torch.tensor([6, 1, 6, 0])[:, None]
    found = measure(TokenInputs(states, mask), convention)
    torch.testing.assert_close(found[:1], measure(one_text(states[0]), convention))
    assert bool(found[[1, 3]].isnan().all())
    constant = float(found[2])
    if convention is PAPER and measure is not curvature:
        assert constant == pytest.approx(0, abs=1e-9)  # one direction
    elif not (convention is REFERENCE and measure is curvature):
        assert math.isnan(constant)


def test_zero_states_have_no_entropy():
    assert bool(prompt_entropy(one_text(torch.zeros(4, 3)), PAPER).isnan())


@pytest.mark.parametrize("convention", Convention)
@pytest.mark.parametrize("measure", MEASURES)
def test_an_empty_batch_has_no_numbers(measure, convention):
    inputs = TokenInputs(torch.zeros(0, 4, 3), torch.zeros(0, 4, dtype=torch.bool))
    found = measure(inputs, convention)
    assert found.shape == (0,)
    assert found.dtype == torch.float64


def test_reference_pooling_rows_are_the_centered_unit_tokens():
    inputs = one_text(random_rows(6, 3))
    rows = reference_pooling_rows(inputs)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(1, 6, dtype=torch.float64))
    assert rows.mean(1).norm() < 1


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 5, 3), (1, 3, 5)])
def test_the_authors_entropy_of_equal_tokens_is_no_number(alpha, shape):
    states = torch.full(shape, 0.3, dtype=torch.float64)
    inputs = TokenInputs(states, torch.ones(shape[:2], dtype=torch.bool))
    assert prompt_entropy(inputs, Convention.REFERENCE, alpha=alpha).isnan().all()
