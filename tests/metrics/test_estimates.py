"""Limits from halves of the texts hold what they say, and are the same halves everywhere."""

import math

import pytest
import torch

from layerscope.errors import UndefinedError
from layerscope.metrics import inputs as inputs_module
from layerscope.metrics import layers, samples, views
from layerscope.metrics.dimension import gride, levina_bickel, two_nn
from layerscope.metrics.estimates import Estimate, from_halves, half_samples, of_halves
from layerscope.metrics.geometry import LayerStack
from layerscope.metrics.inputs import SampleInputs, ViewInputs
from layerscope.metrics.neighbors import nearest, retention
from layerscope.metrics.pairs import Closeness, Pairs
from layerscope.results.resampling import bootstrap_limits
from layerscope.settings import Convention

PAPER, NORMALIZED = Convention.PAPER, Convention.NORMALIZED


def rows(n: int, d: int = 24, seed: int = 0) -> torch.Tensor:
    """Heavy-tailed rows of a falling spectrum, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(n, d, dtype=torch.float64, generator=generator)
    return (found + 0.15 * found.square()) * torch.linspace(0.3, 2, d, dtype=torch.float64) + 1


MEASURES = {
    "effective_rank normalized": lambda x: samples.effective_rank(SampleInputs(x), NORMALIZED),
    "rankme": lambda x: samples.rankme(SampleInputs(x)),
    "dataset_entropy paper": lambda x: samples.dataset_entropy(SampleInputs(x), PAPER),
    "mean cosine": lambda x: samples.anisotropy_mean_cosine(SampleInputs(x)),
    "dime": lambda x: views.dime(ViewInputs(x.view(-1, 2, x.shape[1])), PAPER, count=2),
}


def limits(estimates: list[Estimate]) -> torch.Tensor:
    """Return the lower and upper limits as tables have them, (2, estimate)."""
    numbers = torch.stack([estimate.contributions for estimate in estimates]).numpy()
    return torch.stack([torch.from_numpy(ends) for ends in bootstrap_limits(numbers, 0, 400)])


@pytest.mark.parametrize("name", MEASURES)
def test_limits_hold_the_mean_over_samples_as_often_as_they_say(name):
    """Of the measure's mean at this number of texts, over fresh draws of the texts."""
    found = [MEASURES[name](rows(64, seed=seed)) for seed in range(60)]
    values = torch.tensor([estimate.value for estimate in found])
    low, high = limits(found)
    inside = (low <= values.mean()) & (values.mean() <= high)
    assert 0.85 <= float(inside.double().mean()) <= 1
    assert float(((high - low) / 3.92).square().mean().sqrt() / values.std()) < 1.8


@pytest.mark.parametrize("n", [16, 17, 33, 64, 100])
def test_halves_are_balanced(n):
    halves = torch.zeros(15, n, dtype=torch.float64)
    for half, row in zip(half_samples(n), halves, strict=True):
        assert half.tolist() == sorted(set(half.tolist()))
        row[half] = 1
    assert halves.sum(1).tolist() == [n // 16 * 8] * 15
    used = halves.any(0)
    assert int(used.sum()) == n - n % 16
    signs = 2 * halves[:, used] - 1
    expected = int(used.sum()) * torch.eye(15, dtype=torch.float64)
    torch.testing.assert_close(signs @ signs.T, expected, rtol=0, atol=1e-12)


def test_of_a_mean_they_say_what_its_groups_say():
    """Student's limits of the mean of 16 group means, one degree of freedom given to the halves' mean."""
    numbers = torch.randn(160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = of_halves(float(numbers.mean()), [numbers[h].mean() for h in half_samples(160)], 160)
    assert float(found.contributions.mean()) == pytest.approx(found.value)
    groups = torch.stack([numbers[found.contributions == c] for c in found.contributions.unique()])
    assert groups.shape == (16, 10)
    error = float(found.contributions.std(correction=0)) / math.sqrt(160)
    by_groups = float(groups.mean(1).std()) / 4
    assert error == pytest.approx(by_groups * 2.1448 / 1.96, rel=0.1)


def test_they_depend_on_the_number_of_texts_alone():
    """Two layers differ by what their difference itself says: all are measured on the same halves."""
    one, other = rows(64), rows(64, seed=1) + rows(64)
    found = [samples.anisotropy_mean_cosine(SampleInputs(x)) for x in (one, other)]
    halves = [
        samples.anisotropy_mean_cosine(SampleInputs(other[h])).value
        - samples.anisotropy_mean_cosine(SampleInputs(one[h])).value
        for h in half_samples(64)
    ]
    difference = of_halves(found[1].value - found[0].value, halves, 64)
    torch.testing.assert_close(
        found[1].contributions - found[0].contributions, difference.contributions
    )


def test_what_a_half_has_computed_serves_every_measure(monkeypatch):
    inputs, asked = SampleInputs(rows(40)), []
    original = inputs_module.eigenvalues
    monkeypatch.setattr(inputs_module, "eigenvalues", lambda x: asked.append(1) or original(x))
    samples.participation_ratio(inputs)
    assert len(asked) == 16  # all texts and 15 halves
    samples.nesum(inputs)
    samples.alpha_req(inputs)
    assert len(asked) == 16


def test_halves_keep_the_rounding_of_the_given_dtype():
    equal = torch.full((32, 6), 0.1) + 1e-8 * torch.arange(32)[:, None]
    inputs = SampleInputs(equal)
    assert {half.eps for half in inputs.halves} == {torch.finfo(torch.float32).eps}
    given = ViewInputs(rows(64).view(32, 2, 24), seed=3, permutations=torch.arange(32)[None])
    assert {(half.seed, half.permutations, half.n) for half in given.halves} == {(3, None, 16)}


@pytest.mark.parametrize("n", [2, 3, 7, 15])
def test_few_texts_have_no_limits(n):
    found = samples.participation_ratio(SampleInputs(rows(n)))
    assert found.value > 0
    assert found.contributions.shape == (n,)
    assert bool(found.contributions.isnan().all())


def test_without_a_value_on_every_half_there_are_no_limits():
    def compute(inputs: SampleInputs) -> float:
        if inputs.n == 16 and 0 in inputs.vectors[:, 0]:
            raise UndefinedError("a half has no value")
        return 1.0

    found = from_halves(compute, SampleInputs(torch.arange(32.0)[:, None]))
    assert bool(found.contributions.isnan().all())
    with pytest.raises(UndefinedError, match="a half has no value"):
        from_halves(compute, SampleInputs(torch.arange(16.0)[:, None]))


def test_a_rank_near_the_most_that_is_possible_spreads_by_how_much_is_lacking():
    """The ranks of halves crowd below their number of texts; those of all have more room."""
    halves = [14.0 + 0.1 * k for k in range(15)]  # of at most 16 directions
    found = of_halves(20.0, halves, 32, log=True, most=(32, 16)).contributions
    logits = [math.log(each / (16 - each)) for each in halves]
    expected = of_halves(20.0, [20 * 12 / 32 * logit for logit in logits], 32).contributions
    torch.testing.assert_close(found, expected)
    assert float(found.std()) > 2 * float(of_halves(20.0, halves, 32, log=True).contributions.std())
    full = of_halves(32.0, [16.0] * 15, 32, log=True, most=(32, 16))
    assert full.contributions.tolist() == [32.0] * 32


@pytest.mark.parametrize(
    ("name", "most"),
    [("effective_rank normalized", (39, 15)), ("rankme", (40, 16)), ("coding rate", None)],
)
def test_ranks_and_the_coding_rate_are_compared_with_the_most_that_is_possible(name, most):
    x = rows(40, d=60)
    compute = {**MEASURES, "coding rate": lambda x: samples.log_det_entropy(SampleInputs(x))}[name]
    if most is None:  # as many equal eigenvalues as there are directions
        most = tuple(r / 2 * math.log1p(4 * 60 / r) for r in (39, 15))
    found = compute(x)
    values = [compute(x[half]).value for half in half_samples(40)]
    expected = of_halves(found.value, values, 40, log=True, most=most)
    torch.testing.assert_close(found.contributions, expected.contributions)


@pytest.mark.parametrize(("k", "in_halves"), [(5, 5), (10, 10), (20, 10), (50, 25)])
def test_long_lists_hold_as_large_a_share_of_a_half_as_of_all_texts(k, in_halves):
    """Short ones keep their length: of fewer than 10 neighbors, how many are kept is left to chance."""
    both = [rows(208), rows(208) + rows(208, seed=1)]
    stack = LayerStack(lambda layer: both[layer], 2, components=False)
    [found] = [row for row in layers.nrs(stack) if row.metric == f"nrs_k{k}"]
    lists = [[nearest(Pairs(layer[half]), 50) for layer in both] for half in half_samples(208)]
    kept = [retention(one, other, in_halves) for one, other in lists]
    expected = of_halves(found.value, kept, 208).contributions
    torch.testing.assert_close(found.contributions, expected)


@pytest.mark.parametrize(
    ("name", "compute", "in_halves"),
    [
        ("two_nn", lambda listed, _: two_nn(listed), 1),
        ("gride_n2", gride, 2),
        ("gride_n4", gride, 4),
        ("gride_n8", gride, 4),
        ("gride_n32", gride, 16),
        ("levina_bickel_k20", levina_bickel, 10),
    ],
)
def test_a_dimension_is_compared_at_one_distance(name, compute, in_halves):
    layer = rows(208)
    stack = LayerStack(lambda _: layer, 2, components=False)
    every = [
        row
        for make in (layers.two_nn, layers.gride, layers.levina_bickel)
        for row in make(stack)
        if not row.layer
    ]
    [found] = [row for row in every if row.metric == name]
    lists = [nearest(Pairs(layer[half]), 64, Closeness.EUCLIDEAN) for half in half_samples(208)]
    values = [compute(listed, in_halves) for listed in lists]
    expected = of_halves(found.value, values, 208, log=True).contributions
    torch.testing.assert_close(found.contributions, expected)


def test_ranks_spread_on_the_log_scale():
    """The half of the texts has half the directions, and the spread of all is twice the half's."""
    halves = [10.0 + 0.1 * k for k in range(15)]
    plain, log = (of_halves(20.0, halves, 32, log=log).contributions for log in (False, True))
    assert float(log.std() / plain.std()) == pytest.approx(20 / 10.7, rel=0.01)
    kept = of_halves(0.0, [0.0] * 15, 32, log=True)
    assert kept.contributions.tolist() == [0.0] * 32


def standard_error(contributions: torch.Tensor) -> float:
    return float(contributions.std() / math.sqrt(len(contributions)))


def jackknife_error(measure, n: int) -> float:
    """Standard error by leaving out each of n texts; `measure` takes the texts that stay."""
    without = torch.tensor(
        [measure(torch.tensor([j for j in range(n) if j != i])).value for i in range(n)]
    )
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def viewed(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(n, 1, d, dtype=torch.float64, generator=generator)
    view = torch.randn(n, 3, d, dtype=torch.float64, generator=generator)
    return text * torch.linspace(0.3, 2, d, dtype=torch.float64) + 0.6 * view


INFONCE = {
    "infonce": lambda x: views.infonce(x, PAPER),
    "infonce_cross": lambda x: views.infonce_cross(x, PAPER),
    "infonce_mi_bound": lambda x: views.infonce_mi_bound(x, PAPER),
}


@pytest.mark.parametrize("name", INFONCE)
def test_a_text_moves_infonce_as_a_negative_too(name):
    """In a narrow cone of many dimensions some texts are near to all others."""
    measure, vectors = INFONCE[name], viewed(60, 120) + 1.5

    def on(kept: torch.Tensor):
        return measure(ViewInputs(vectors[kept]))

    found = standard_error(on(torch.arange(60)).contributions)
    assert found == pytest.approx(jackknife_error(on, 60), rel=0.05)
