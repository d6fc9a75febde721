"""Hidden states are checked once, and prepared as each convention says."""

import pytest
import torch

from layerscope.errors import InputError, RunError, UndefinedError
from layerscope.metrics.inputs import SampleInputs, TokenInputs, ViewInputs, centered, unit_rows
from layerscope.settings import Convention


def states(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def mask(*lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32(dtype):
    inputs = TokenInputs(states(2, 3, 4).to(dtype), mask(3, 2, width=3))
    assert inputs.states.dtype == torch.float32
    assert inputs.unit.dtype == torch.float32


def test_float64_stays():
    assert TokenInputs(states(2, 3, 4), mask(3, 2, width=3)).unit.dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        (states(2, 3), mask(3, 2, width=3)),
        (states(2, 3, 4), mask(3, 2, width=2)),
        (states(2, 3, 4), mask(3, 2, width=3).long()),
    ],
)
def test_shapes_are_checked(given, tokens):
    with pytest.raises(InputError, match=r"expected states \(text, token, dim\) and a boolean"):
        TokenInputs(given, tokens)


def test_integers_are_refused():
    with pytest.raises(InputError, match=r"expected floating-point states, got torch.int64"):
        TokenInputs(torch.ones(1, 2, 3, dtype=torch.int64), mask(2, width=2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_token_that_counts_must_be_finite(bad):
    given = states(2, 3, 4)
    given[1, 0, 2] = bad
    with pytest.raises(RunError, match="hidden states hold 1 NaN or infinite of 24 numbers"):
        TokenInputs(given, mask(3, 2, width=3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_padding_may_hold_anything(bad):
    given = states(2, 3, 4)
    given[1, 2] = bad
    inputs = TokenInputs(given, mask(3, 2, width=3))
    assert bool(inputs.unit.isfinite().all())
    assert not inputs.unit[1, 2].any()


def test_the_caller_keeps_its_states():
    given = states(2, 3, 4)
    before = given.clone()
    _ = TokenInputs(given, mask(3, 2, width=3)).unit
    assert torch.equal(given, before)


def test_unit_tokens_are_centered_then_scaled():
    given = states(2, 5, 4)
    unit = TokenInputs(given, mask(5, 3, width=5)).unit
    for text, length in enumerate((5, 3)):
        rows = given[text, :length] - given[text, :length].mean(0)
        expected = rows / rows.norm(dim=-1, keepdim=True)
        torch.testing.assert_close(unit[text, :length], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_never_becomes_a_direction(dtype):
    """Equal rows differ from their computed mean by rounding, which must not be scaled up."""
    row = 1e3 + states(1, 1, 64, dtype=dtype)
    assert not TokenInputs(row.expand(1, 7, 64), mask(7, width=7)).unit.any()
    assert not centered(row[0].expand(7, 64)).any()


def test_gaps_close_and_left_padding_is_no_different():
    given = states(1, 6, 4)
    tokens = torch.tensor([[False, True, False, True, True, False]])
    compact = TokenInputs(given[:, [1, 3, 4]], mask(3, width=3))
    inputs = TokenInputs(given, tokens)
    torch.testing.assert_close(inputs.states, compact.states)
    assert torch.equal(inputs.mask, compact.mask)


def test_no_text_and_no_token_are_fine():
    assert TokenInputs(states(0, 3, 4), mask(width=3).reshape(0, 3)).unit.shape[0] == 0
    assert TokenInputs(states(1, 3, 4), mask(0, width=3)).states.shape == (1, 0, 4)


def test_spectra_are_computed_once_and_in_the_dtype_of_the_states():
    inputs = TokenInputs(states(2, 3, 4, dtype=torch.float32), mask(3, 2, width=3))
    for convention in (Convention.PAPER, Convention.NORMALIZED):
        assert inputs.eigenvalues(convention) is inputs.eigenvalues(convention)
        assert inputs.eigenvalues(convention).dtype == torch.float32
    with pytest.raises(InputError, match="reference convention clamps"):
        inputs.eigenvalues(Convention.REFERENCE)


def test_zero_rows_stay_zero():
    rows = unit_rows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    torch.testing.assert_close(rows, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize(("kind", "shape"), [(SampleInputs, (5, 3)), (ViewInputs, (5, 2, 3))])
def test_pooled_vectors_are_checked(kind, shape):
    with pytest.raises(InputError, match=r"expected floating-point vectors \(sample, "):
        kind(states(*shape)[0])
    with pytest.raises(InputError, match=r"expected reference vectors of shape \(5, "):
        kind(states(*shape), states(*shape)[:4])
    with pytest.raises(RunError, match="pooled vectors hold"):
        kind(states(*shape) / 0)
    with pytest.raises(RunError, match="reference vectors hold"):
        kind(states(*shape), states(*shape) * torch.nan)
    with pytest.raises(UndefinedError, match="pooled from centered unit tokens"):
        kind(states(*shape)).reference()
    inputs = kind(states(*shape, dtype=torch.float32), states(*shape, dtype=torch.float32))
    assert inputs.vectors.dtype == inputs.reference().dtype == torch.float64
    assert inputs.n == 5


def test_views_are_centered_jointly():
    inputs = ViewInputs(states(5, 2, 3))
    rows = inputs.vectors - inputs.vectors.mean((0, 1))
    torch.testing.assert_close(inputs.normalized, rows / rows.norm(dim=-1, keepdim=True))


def test_view_inputs_compute_once():
    inputs, calls = ViewInputs(states(5, 2, 3)), []
    for _ in range(2):
        assert inputs.once("key", lambda: calls.append(1) or 7) == 7
    assert calls == [1]
