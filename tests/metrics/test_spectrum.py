"""Closed forms of the spectral formulas, their order, and the corrected bound between two ranks."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics import spectrum as spectrum_module

ORDERS = (0, 0.25, 0.5, 1, 1.5, 2, 3, 10, math.inf)


def spectrum_of(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


spectra = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(lambda v: spectrum_of(*v))


@pytest.mark.parametrize(
    ("alpha", "entropy"),
    [
        (1, -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))),
        (2, -math.log(0.68)),
        (math.inf, -math.log(0.8)),
        (0, math.log(2)),
        (0.5, 2 * math.log(math.sqrt(0.8) + math.sqrt(0.2))),
    ],
)
def test_entropy_of_the_diagonal_two_one(alpha, entropy):
    values = spectrum_module.eigenvalues(torch.diag(spectrum_of(2, 1)))
    assert float(spectrum_module.renyi_entropy(values, alpha)) == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize(
    ("rows", "entropy"),
    [
        (torch.eye(7, dtype=torch.float64), math.log(7)),
        (torch.outer(spectrum_of(1, -2, 3, 0.5, 1), spectrum_of(1, 2, 0)), 0.0),
        (torch.eye(3, dtype=torch.float64).repeat(4, 1), math.log(3)),
    ],
    ids=["identity", "rank one", "repeated tokens"],
)
def test_entropy_of_every_order_where_all_orders_agree(rows, entropy, alpha):
    found = spectrum_module.renyi_entropy(spectrum_module.eigenvalues(rows), alpha)
    assert float(found) == pytest.approx(entropy, abs=1e-9)


def test_entropy_refuses_a_negative_order():
    with pytest.raises(InputError, match="the order of an entropy is a number from 0"):
        spectrum_module.renyi_entropy(spectrum_of(1), -1)


@pytest.mark.parametrize("alpha", ORDERS)
def test_a_zero_spectrum_has_no_entropy(alpha):
    assert math.isnan(float(spectrum_module.renyi_entropy(spectrum_of(0, 0), alpha)))


@given(spectra)
def test_entropy_falls_with_its_order_and_stays_in_range(values):
    found = [float(spectrum_module.renyi_entropy(values, alpha)) for alpha in ORDERS]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(found))
    assert found[0] <= math.log(len(values)) + 1e-9
    assert found[-1] >= -1e-9


@given(spectra, st.floats(0, 1), st.sampled_from(ORDERS))
def test_entropy_is_schur_concave(values, mix, alpha):
    """Averaging a spectrum with its own reversal makes it more even, so entropy cannot fall."""
    mixed = (1 - mix) * values + mix * values.flip(0)
    before, after = (
        spectrum_module.renyi_entropy(values, alpha),
        spectrum_module.renyi_entropy(mixed, alpha),
    )
    assert float(after) >= float(before) - 1e-9


@given(spectra)
def test_the_hill_family_is_one_spectrum_under_many_names(values):
    infinite = spectrum_module.renyi_entropy(values, math.inf).exp()
    torch.testing.assert_close(spectrum_module.stable_rank(values), infinite)
    torch.testing.assert_close(spectrum_module.top_share(values), 1 / infinite)
    torch.testing.assert_close(
        spectrum_module.participation_ratio(values), spectrum_module.renyi_entropy(values, 2).exp()
    )


def test_hill_family_closed_form():
    values = spectrum_of(4, 3, 2, 1)
    assert float(spectrum_module.stable_rank(values)) == pytest.approx(2.5)
    assert float(spectrum_module.top_share(values)) == pytest.approx(0.4)
    assert float(spectrum_module.participation_ratio(values)) == pytest.approx(100 / 30)


@pytest.mark.parametrize("alpha", [0.5, 1, 2])
def test_renyi_entropy_equals_its_definition(alpha):
    rows = random_rows(9, 5)
    gram = rows @ rows.T / (rows @ rows.T).trace()
    p = [v for v in torch.linalg.eigvalsh(gram).tolist() if v > 1e-12]
    slow = (
        -sum(v * math.log(v) for v in p)
        if alpha == 1
        else math.log(sum(v**alpha for v in p)) / (1 - alpha)
    )
    found = float(spectrum_module.renyi_entropy(spectrum_module.eigenvalues(rows), alpha))
    assert found == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4)])
def test_both_gram_matrices_have_one_spectrum(shape):
    rows = random_rows(2, *shape)
    expected = torch.linalg.svdvals(rows).square()
    torch.testing.assert_close(spectrum_module.eigenvalues(rows), expected, rtol=1e-12, atol=1e-12)


def test_effective_rank_and_rankme_closed_form():
    values = spectrum_of(4, 1)
    assert float(spectrum_module.effective_rank(values)) == pytest.approx(1.8898815748, abs=1e-9)
    assert float(spectrum_module.rankme(values, eps=0)) == pytest.approx(1.8898815748, abs=1e-9)
    p = [2 / 3 + 1e-7, 1 / 3 + 1e-7]
    slow = math.exp(-sum(v * math.log(v) for v in p))
    assert float(spectrum_module.rankme(values)) == pytest.approx(slow, abs=1e-12)


def both_ranks(rows):
    """The exponential of the entropy, and the effective rank, from singular values."""
    values = torch.linalg.svdvals(rows.double()).square()
    entropy = spectrum_module.renyi_entropy(values)
    return float(entropy.exp()), float(spectrum_module.effective_rank(values))


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 8))
def test_the_corrected_bound_holds(seed, n, d):
    entropy, rank = both_ranks(random_rows(n, d, seed=seed))
    assert entropy <= rank * (1 + 1e-9)


def test_the_printed_bound_fails():
    entropy, rank = both_ranks(torch.diag(spectrum_of(2, 1)))
    assert rank == pytest.approx(1.8898815748, abs=1e-9)
    assert entropy == pytest.approx(1.6493848885, abs=1e-9)
    assert rank > entropy + 0.2  # theorem 1 says at most


def test_the_bound_is_an_equality_for_equal_singular_values():
    entropy, rank = both_ranks(3 * torch.eye(5, dtype=torch.float64))
    assert entropy == pytest.approx(rank) == pytest.approx(5)


def test_alpha_req_recovers_the_exponent():
    ranks = torch.arange(1, 201, dtype=torch.float64)
    values = ranks.pow(-1.3)
    assert float(spectrum_module.alpha_req(values)) == pytest.approx(1.3, abs=1e-10)
    assert float(spectrum_module.alpha_req(values, weighted=False)) == pytest.approx(1.3, abs=1e-10)


def test_alpha_req_weights_and_range():
    values = random_rows(30).square().sort(descending=True).values + 0.1
    ranks = torch.arange(11, 31, dtype=torch.float64)
    design = torch.stack([torch.ones_like(ranks), ranks.log()], 1) * ranks.rsqrt()[:, None]
    target = (values[10:].log() * ranks.rsqrt())[:, None]
    slow = -torch.linalg.lstsq(design, target).solution[1]
    torch.testing.assert_close(
        spectrum_module.alpha_req(values), slow.squeeze(), rtol=1e-9, atol=1e-9
    )


def test_alpha_req_needs_five_eigenvalues():
    assert math.isnan(float(spectrum_module.alpha_req(torch.ones(14, dtype=torch.float64))))
    assert not math.isnan(float(spectrum_module.alpha_req(torch.ones(15, dtype=torch.float64))))


def test_log_det_entropy_closed_forms():
    found = spectrum_module.log_det_entropy(torch.ones(4, dtype=torch.float64), 4, 4, eps=1)
    assert float(found) == pytest.approx(2 * math.log(2))
    found = spectrum_module.log_det_entropy(spectrum_of(4, 1), 2, 2, eps=1, scaled=False)
    assert float(found) == pytest.approx((math.log(5) + math.log(2)) / 2)


def test_log_det_entropy_forgets_the_scale_unless_asked():
    values = spectrum_of(4, 1)
    same, other = (spectrum_module.log_det_entropy(factor * values, 5, 2) for factor in (1, 9))
    assert float(same) == pytest.approx(float(other))
    same, other = (
        spectrum_module.log_det_entropy(factor * values, 5, 2, scaled=False) for factor in (1, 9)
    )
    assert float(same) < float(other) - 0.5


def test_undefined_spectra_say_why():
    with pytest.raises(UndefinedError, match="all rows are zero or equal"):
        spectrum_module.of_spectrum(spectrum_module.effective_rank, torch.zeros(3))
    with pytest.raises(UndefinedError, match="no value on this spectrum"):
        spectrum_module.of_spectrum(spectrum_module.alpha_req, spectrum_of(2, 1))
