"""Coefficients, nulls and intervals: closed forms, the package dcor, and what noise does to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from layerscope.decisions import dependence
from layerscope.decisions.dependence import Unit
from layerscope.errors import InputError, UndefinedError
from layerscope.results import resampling


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def unit(measure, score, cluster: str = "model") -> Unit:
    return Unit(cluster, tuple(range(len(score))), np.asarray(measure), np.asarray(score))


@pytest.fixture(scope="module")
def dcor():
    """The package; the first import compiles for some seconds."""
    return pytest.importorskip("dcor")


# --- closed forms (SPEC I) ---


def test_distance_correlation_of_a_parabola():
    found = dependence.distance_correlation([-1, 0, 1], [1, 0, 1])
    assert found == pytest.approx(10**-0.25, abs=1e-15)


@pytest.mark.parametrize("slope", [2.0, -0.1])
def test_an_affine_map_is_complete_dependence(slope):
    x = rng().normal(size=12)
    y = 3 + slope * x
    assert dependence.distance_correlation(x, y) == pytest.approx(1, abs=1e-12)
    assert dependence.bias_corrected(x, y) == pytest.approx(1, abs=1e-12)
    assert dependence.spearman(x, y) == pytest.approx(np.sign(slope))
    assert dependence.kendall(x, y) == pytest.approx(np.sign(slope))


def test_partial_correlation_of_three_halves_is_a_third():
    # three columns whose correlations in this sample are exactly one half
    halves = np.full((3, 3), 0.5) + np.eye(3) / 2
    noise = np.column_stack([np.ones(10), rng().normal(size=(10, 3))])
    columns = np.linalg.qr(noise)[0][:, 1:] @ np.linalg.cholesky(halves).T
    assert np.corrcoef(columns.T) == pytest.approx(halves)
    found = dependence.partial_correlation(columns[:, 0], columns[:, 1], columns[:, 2])
    assert found.value == pytest.approx(1 / 3, abs=1e-12)
    t = (1 / 3) * math.sqrt(7 / (1 - 1 / 9))  # n - 2 - g = 7
    assert found.p == pytest.approx(2 * stats.t.sf(t, 7))


def test_one_covariate_is_the_formula_of_three_correlations():
    x, y, z = rng(1).normal(size=(3, 15))
    xy, xz, yz = (stats.spearmanr(a, b).statistic for a, b in ((x, y), (x, z), (y, z)))
    formula = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    found = dependence.partial_spearman(x, y, stats.rankdata(z))
    assert found.value == pytest.approx(formula, abs=1e-12)


def test_limits_of_spearman_over_31_models():
    low, high = dependence.spearman_limits(0.6, 31)
    assert (round(low, 2), round(high, 2)) == (0.28, 0.80)
    # .355 is where the two-sided p of 31 ranks crosses .05
    assert 2 * stats.t.sf(0.355 * math.sqrt(29 / (1 - 0.355**2)), 29) == pytest.approx(
        0.05, abs=5e-4
    )


def test_holm_and_benjamini_hochberg():
    p = [0.03, 0.01, 0.04, 0.02]
    assert dependence.holm(p) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert dependence.benjamini_hochberg(p) == pytest.approx([0.04] * 4)
    assert dependence.holm([0.6, 0.7]).tolist() == [1, 1]
    assert dependence.holm([]).tolist() == dependence.benjamini_hochberg([]).tolist() == []


def test_sign_test_is_binomial_and_drops_zeros():
    found = dependence.sign_test([0.2, 0.1, 0.4, 0.3, -0.1, 0.0])
    assert (found.share, found.p) == (0.8, pytest.approx(2 * 6 / 32))
    with pytest.raises(UndefinedError, match="no value differs from 0"):
        dependence.sign_test([0, 0])


# --- twins ---


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_the_package_dcor(dcor, seed, ties):
    generator = rng(seed)
    n = int(generator.integers(5, 50))
    x, y = generator.normal(size=(2, n)) * 10.0 ** generator.integers(-3, 4)
    y += generator.choice([0, 1, -0.5]) * x**2
    if ties:
        x, y = np.round(x / np.ptp(x) * 4), np.round(y / np.ptp(y) * 6)
    assert dependence.distance_correlation(x, y) == pytest.approx(
        dcor.distance_correlation(x, y, method="naive"), abs=1e-12
    )
    assert dependence.bias_corrected(x, y) == pytest.approx(
        dcor.u_distance_correlation_sqr(x, y, method="naive"), abs=1e-12
    )


def test_ranks_are_scipys():
    x, y = rng().integers(0, 6, size=(2, 20))
    assert dependence.spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert dependence.kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_shifts_are_the_distance_correlations_of_rolled_curves():
    x, y = rng().normal(size=(2, 9))
    slow = [dependence.distance_correlation(x, np.roll(y, shift)) for shift in range(9)]
    assert unit(y, x).shifts == pytest.approx(slow, abs=1e-12)


def test_the_median_of_drawn_clusters_is_the_median_of_their_units():
    values, clusters = rng().normal(size=11), list("aaaabbbbccc")
    found = resampling.cluster_bootstrap(values, clusters, resamples=300, seed=4)
    drawn = rng(4).multinomial(3, [1 / 3] * 3, 300)
    slow = [
        np.median(np.concatenate([np.repeat(values[np.array(clusters) == name], count)
                                  for name, count in zip("abc", row, strict=True)]))
        for row in drawn
    ]  # fmt: skip
    assert found == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)


# --- nulls ---


def test_one_model_has_as_many_p_values_as_layers():
    x = rng().normal(size=25)
    found = dependence.shift_test([unit(x, x)])
    assert (found.p, found.smallest) == (1 / 25, 1 / 25)


def test_tasks_of_one_model_shift_together_and_models_apart():
    x = rng().normal(size=10)
    tasks = dependence.shift_test([unit(x, x), unit(x, 2 * x)])
    assert tasks.smallest == 1 / 10
    models = dependence.shift_test([unit(x, x, "one"), unit(x, x, "two")])
    assert models.p == models.smallest == 1 / 100


def test_many_models_are_drawn_at_random_by_the_seed():
    curves = rng(3).normal(size=(5, 12))
    units = [unit(curve, curve[::-1], str(place)) for place, curve in enumerate(curves)]
    first, again, other = (
        dependence.shift_test(units, resamples=500, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.p != other.p
    assert first.smallest == 1 / 501
    assert dependence.shift_test(units[:2], resamples=500).smallest == 1 / 144


def test_a_unit_that_lacks_layers_shifts_by_the_same_share():
    generator = rng(5)
    whole, part = generator.normal(size=12), generator.normal(size=6)
    units = [unit(whole, whole[::-1]), Unit("model", (1, 2, 3, 4, 5, 6), part, part[::-1])]
    values = np.median([units[0].shifts, np.repeat(units[1].shifts, 2)], axis=0)
    expected = (values >= values[0] - 1e-12).mean()
    assert dependence.shift_test(units).p == pytest.approx(expected)


def test_blocks_change_no_number(monkeypatch):
    generator = rng(6)
    units = [unit(*generator.normal(size=(2, 9)), cluster=name) for name in "abcd"]
    values, names = generator.normal(size=4), list("abcd")
    kinds = {"resamples": 400, "seed": 2}

    def numbers():
        return [
            *dependence.walk_null(units, draws=400, seed=2),
            dependence.shift_test(units, **kinds).p,
            *resampling.cluster_bootstrap(values, names, **kinds),
        ]

    whole = numbers()
    for module in (dependence, resampling):
        monkeypatch.setattr(module, "BLOCK", 900)
    assert numbers() == pytest.approx(whole, abs=1e-12)


def test_free_permutations_are_replaced_because_drift_looks_like_dependence():
    """What the docs say of random walks over 25 layers, measured."""
    generator = rng(0)
    walks = generator.standard_normal((2, 400, 25)).cumsum(-1)
    tests = [dependence.shift_test([unit(x, y)]).p for x, y in zip(*walks, strict=True)]
    free = np.mean([dependence.distance_correlation(x, y) for x, y in zip(*walks, strict=True)])
    assert free > 0.45  # where independent points give about .34
    assert 0.12 < np.mean(np.array(tests) <= 0.04) < 0.26  # shifts alone are too lenient on drift
    noise = generator.standard_normal((2, 400, 25))
    level = np.mean([dependence.shift_test([unit(x, y)]).p <= 0.04
                     for x, y in zip(*noise, strict=True)])  # fmt: skip
    assert 0.015 < level < 0.075


def test_walks_test_at_their_level():
    generator = rng(1)
    walks = generator.standard_normal((2, 300, 13)).cumsum(-1)
    below = 0
    for x, y in zip(*walks, strict=True):
        null = dependence.walk_null([unit(y, x)], draws=200, seed=int(generator.integers(1 << 30)))
        below += (1 + (null >= dependence.distance_correlation(x, y)).sum()) / 201 <= 0.05
    assert 0.02 < below / 300 < 0.09


def test_walks_are_shared_by_the_tasks_of_a_model():
    score = rng(2).normal(size=13)
    one, two = unit(score, score), unit(score, -score)
    alone = dependence.walk_null([one], draws=50)
    assert dependence.walk_null([one, two], draws=50) == pytest.approx(alone)
    apart = dependence.walk_null([one, unit(score, -score, "other")], draws=50)
    assert apart != pytest.approx(alone)


def test_a_walk_passes_through_the_layers_that_a_unit_lacks():
    score = rng(3).normal(size=8)
    whole = unit(score, score)
    part = Unit("model", (2, 3, 4, 5, 6, 7), score[2:], score[2:])
    null = dependence.walk_null([part, whole], draws=3, seed=1)
    stream = np.random.default_rng(1).spawn(1)[0]
    slow = [
        np.median([dependence.distance_correlation(walk, score),
                   dependence.distance_correlation(walk[2:], score[2:])])
        for walk in stream.standard_normal((3, 8)).cumsum(1)
    ]  # fmt: skip
    assert null == pytest.approx(slow)


# --- what has no value ---


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2, 3], [1, 2, 4], "3 points are too few, 4 are needed"),
        ([1, 2, 3, 4], [2, 2, 2, 2], "a curve is the same at every point"),
        ([1, 2, 3, 4], [1, 2, math.nan, 4], "a curve holds values that are not finite"),
    ],
)
@pytest.mark.parametrize("name", ["bias_corrected", "spearman", "kendall"])
def test_undefined_curves_say_why(name, x, y, reason):
    with pytest.raises(UndefinedError, match=reason):
        getattr(dependence, name)(x, y)


def test_distance_correlation_of_one_point_is_undefined():
    with pytest.raises(UndefinedError, match="1 points are too few, 2 are needed"):
        dependence.distance_correlation([1], [2])


def test_curves_of_two_lengths_are_refused():
    with pytest.raises(InputError, match="expected two curves of one length"):
        dependence.spearman([1, 2, 3, 4], [1, 2, 3, 4, 5])


def test_four_points_of_two_values_have_no_bias_correction():
    with pytest.raises(UndefinedError, match="differs at too few points"):
        dependence.bias_corrected([0, 0, 0, 1], [3, 1, 4, 1])


def test_a_curve_that_only_rises_is_its_depth():
    layers = np.arange(9)
    covariates = np.column_stack([layers, layers**2])
    with pytest.raises(UndefinedError, match="the covariates explain a curve completely"):
        dependence.partial_spearman(np.exp(layers), rng().normal(size=9), covariates)


def test_covariates_need_points():
    with pytest.raises(UndefinedError, match="4 points are too few for 2 covariates"):
        dependence.partial_correlation([1, 2, 4, 3], [1, 3, 2, 4], np.eye(4)[:, :2])


def test_one_cluster_has_no_interval():
    with pytest.raises(UndefinedError, match="at least 2 to draw from, got 1"):
        resampling.cluster_bootstrap([0.1, 0.2], ["a", "a"])
    with pytest.raises(UndefinedError, match="at least 4 units for limits, got 3"):
        dependence.spearman_limits(0.5, 3)
