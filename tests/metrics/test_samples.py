"""Dataset measures: closed forms, slow twins, edges."""

import math

import pytest
import torch

from layerscope.errors import UndefinedError
from layerscope.metrics import samples
from layerscope.metrics.inputs import SampleInputs
from layerscope.settings import Convention

PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE


def inputs_of(rows, reference=None) -> SampleInputs:
    return SampleInputs(torch.as_tensor(rows, dtype=torch.float64), reference)


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shares(rows: torch.Tensor) -> torch.Tensor:
    squares = torch.linalg.svdvals(rows).square()
    return squares[squares > 1e-12 * squares[0]] / squares.sum()


def entropy(p: torch.Tensor) -> float:
    return -sum(v * math.log(v) for v in p.tolist())


SHAPES = [(9, 4), (4, 9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_spectral_measures_equal_their_definitions(shape):
    rows = random_rows(*shape) + 0.5
    inputs = inputs_of(rows)
    centered = rows - rows.mean(0)
    unit = centered / centered.norm(dim=-1, keepdim=True)
    raw, spread, turned = shares(rows), shares(centered), shares(unit)
    roots = {PAPER: raw.sqrt() / raw.sqrt().sum(), NORMALIZED: turned.sqrt() / turned.sqrt().sum()}
    n, d = shape
    expected = {
        samples.dataset_entropy(inputs, PAPER): entropy(raw),
        samples.dataset_entropy(inputs, NORMALIZED): entropy(turned),
        samples.dataset_entropy(inputs, PAPER, alpha=3): math.log(sum(raw**3)) / -2,
        samples.dataset_entropy_centered(inputs): entropy(spread),
        samples.effective_rank(inputs, PAPER): math.exp(entropy(roots[PAPER])),
        samples.effective_rank(inputs, NORMALIZED): math.exp(entropy(roots[NORMALIZED])),
        samples.rankme(inputs): math.exp(entropy(roots[PAPER] + 1e-7)),
        samples.participation_ratio(inputs): float(1 / (spread**2).sum()),
        samples.stable_rank(inputs): float(1 / raw[0]),
        samples.nesum(inputs): float(1 / spread[0]),
        samples.anisotropy_top_share(inputs): float(spread[0]),
        samples.log_det_entropy(inputs): 0.5 * sum(math.log(1 + 4 * d * v) for v in spread),
    }
    for estimate, slow in expected.items():
        assert estimate.value == pytest.approx(slow, rel=1e-6)
        assert estimate.contributions.shape == (n,)


@pytest.mark.parametrize("shape", SHAPES)
def test_pair_measures_equal_their_definitions(shape):
    rows = random_rows(*shape) + 0.5
    unit = rows / rows.norm(dim=-1, keepdim=True)
    n, d = shape
    cosines = [float(unit[i] @ unit[j]) for i in range(n) for j in range(n) if i != j]
    expected_squares = n + n * (n - 1) / d
    squares = n + sum(cosine**2 for cosine in cosines)
    inputs = inputs_of(rows)
    found = samples.anisotropy_mean_cosine(inputs).value
    assert found == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)
    slow = (squares - expected_squares) / (n**2 - expected_squares)
    assert samples.self_cluster(inputs).value == pytest.approx(slow, abs=1e-12)
    found = samples.dataset_entropy_order2(inputs).value
    assert found == pytest.approx(-math.log(squares / n**2), abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "cosine", "cluster"),
    [
        (torch.ones(4, 3), 1, 1),
        (torch.eye(4), 0, -1 / 3),
        ([[1, 0], [-1, 0], [0, 1], [0, -1]], -1 / 3, -1 / 3),
    ],
    ids=["equal rows", "orthonormal", "signed axes"],
)
def test_pair_measures_closed_forms(rows, cosine, cluster):
    inputs = inputs_of(rows)
    assert samples.anisotropy_mean_cosine(inputs).value == pytest.approx(cosine, abs=1e-12)
    assert samples.self_cluster(inputs).value == pytest.approx(cluster, abs=1e-12)


def test_opposite_vectors():
    rows = [[1.0, 0], [-2, 0], [0, 0], [3, 0]]
    found = samples.anisotropy_mean_cosine(inputs_of(rows))
    assert found.value == pytest.approx(-1 / 3)


def test_order_two_entropy_of_random_directions_matches_its_null():
    """The mean of exp(-S_2) over draws is the exact (1 + (n - 1) / d) / n."""
    n, d = 6, 4
    draws = [
        math.exp(-samples.dataset_entropy_order2(inputs_of(random_rows(n, d, seed=seed))).value)
        for seed in range(400)
    ]
    null = samples.random_directions_entropy(n, d)
    assert math.exp(-null) == pytest.approx((1 + 5 / 4) / 6)
    assert sum(draws) / len(draws) == pytest.approx(math.exp(-null), rel=0.02)


def test_order_two_without_eigenvalues_equals_the_spectrum():
    rows = random_rows(7, 5)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    slow = samples.dataset_entropy(inputs_of(unit), PAPER, alpha=2)
    found = samples.dataset_entropy_order2(inputs_of(rows))
    assert found.value == pytest.approx(slow.value, abs=1e-12)


def test_alpha_req_of_a_power_law():
    n, d = 400, 60
    left = torch.linalg.qr(torch.cat([torch.ones(n, 1), random_rows(n, d).float()], 1).double()).Q
    roots = torch.arange(1, d + 1, dtype=torch.float64).pow(-1.3 / 2)
    rows = left[:, 1:] * roots + 3
    assert samples.alpha_req(inputs_of(rows)).value == pytest.approx(1.3, abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "rows", "reason"),
    [
        (samples.alpha_req, random_rows(15, 40), "needs a rank of 15"),
        (samples.alpha_req, random_rows(40, 3) @ random_rows(3, 40), "no value on this spectrum"),
        (samples.anisotropy_mean_cosine, random_rows(2, 3), "at least 3 nonzero vectors, got 2"),
        (samples.self_cluster, random_rows(9, 1), "needs D >= 2"),
        (samples.dataset_entropy_order2, torch.zeros(4, 3), "at least 1 nonzero vectors, got 0"),
        (samples.rankme, torch.zeros(4, 3), "all rows are zero or equal"),
        (samples.rankme, torch.zeros(0, 3), "no vectors to measure: 0 rows of 3"),
        (samples.nesum, torch.full((4, 3), 7.7), "all rows are zero or equal"),
        (samples.participation_ratio, random_rows(1, 3), "all rows are zero or equal"),
        (
            lambda inputs: samples.effective_rank(inputs, NORMALIZED),
            torch.full((5, 3), 1e8 / 3),
            "all rows are zero or equal",
        ),
        (
            lambda inputs: samples.effective_rank(inputs, REFERENCE),
            random_rows(5, 3),
            "authors' code does not compute",
        ),
        (
            lambda inputs: samples.dataset_entropy(inputs, REFERENCE),
            random_rows(5, 3),
            "pooled from centered unit tokens",
        ),
    ],
)
def test_undefined_says_why(measure, rows, reason):
    with pytest.raises(UndefinedError, match=reason):
        measure(inputs_of(rows))


def test_reference_entropy_of_zero_vectors_is_undefined():
    with pytest.raises(UndefinedError, match="all rows are zero or equal"):
        samples.dataset_entropy(inputs_of(random_rows(4, 3), torch.zeros(4, 3)), REFERENCE)


def test_one_vector_has_one_direction():
    inputs = inputs_of(random_rows(1, 3))
    assert samples.dataset_entropy(inputs, PAPER).value == pytest.approx(0, abs=1e-12)
    assert samples.rankme(inputs).value == pytest.approx(1, abs=1e-4)


def test_identical_texts_have_one_direction():
    inputs = inputs_of(random_rows(1, 5).expand(6, 5))
    assert samples.effective_rank(inputs, PAPER).value == pytest.approx(1, abs=1e-6)
    assert samples.stable_rank(inputs).value == pytest.approx(1, abs=1e-9)
    assert samples.anisotropy_mean_cosine(inputs).value == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_order_zero_is_the_log_of_the_rank_for_every_text(shape):
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double() + 1
    vectors[1] = vectors[0]
    inputs = SampleInputs(vectors, vectors)
    for convention, rank in (
        (PAPER, min(shape[0] - 1, shape[1])),
        (NORMALIZED, min(shape[0] - 2, shape[1])),
    ):
        found = samples.dataset_entropy(inputs, convention, alpha=0)
        assert found.value == pytest.approx(math.log(rank))
    found = samples.dataset_entropy_centered(inputs, alpha=0)
    assert found.value == pytest.approx(math.log(min(shape[0] - 2, shape[1])))
    samples.dataset_entropy(inputs, Convention.REFERENCE, alpha=0)


@pytest.mark.parametrize("alpha", [0, 1, 2])
def test_the_authors_entropy_of_nothing_is_undefined(alpha):
    inputs = SampleInputs(torch.ones(5, 3), torch.zeros(5, 3))
    with pytest.raises(UndefinedError, match="all rows are zero or equal"):
        samples.dataset_entropy(inputs, Convention.REFERENCE, alpha=alpha)
