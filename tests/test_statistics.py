"""Bootstrap limits cover, are paired between layers, and tell layers from the best one."""

import numpy as np
import pytest

from layerscope.decisions.evidence import paired_limits
from layerscope.results.resampling import bootstrap_limits, resampled_means


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_limits_cover_a_known_mean():
    low, high = bootstrap_limits(normal(800, 60) + 3, seed=1)
    assert np.mean((low <= 3) & (high >= 3)) == pytest.approx(0.94, abs=0.03)


def test_limits_equal_those_of_the_normal_theory():
    values = normal(5, 2000)
    low, high = bootstrap_limits(values, seed=0, resamples=4000)
    error = values.std(-1) / np.sqrt(2000)
    np.testing.assert_allclose(low, values.mean(-1) - 1.96 * error, atol=0.004)
    np.testing.assert_allclose(high, values.mean(-1) + 1.96 * error, atol=0.004)


def test_a_narrower_level_is_narrower():
    values = normal(1, 100)
    wide, narrow = (bootstrap_limits(values, seed=0, level=level) for level in (0.95, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_one_matrix_of_weights_serves_all_rows():
    """Rows that differ by a constant have limits that differ by exactly it, whatever the axes."""
    values = normal(50)
    stack = np.stack([values, values + 5, values - 2, values]).reshape(2, 2, 50)
    low, high = bootstrap_limits(stack, seed=3)
    assert low.shape == high.shape == (2, 2)
    np.testing.assert_allclose(low - low[0, 0], [[0, 5], [-2, 0]], atol=1e-12)
    np.testing.assert_allclose(high - high[0, 0], [[0, 5], [-2, 0]], atol=1e-12)
    alone = bootstrap_limits(values, seed=3)
    np.testing.assert_allclose(alone, (low[0, 0], high[0, 0]))


def test_the_seed_decides():
    values = normal(1, 50)
    first, again, other = (bootstrap_limits(values, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_undefined_texts_take_no_part():
    values = normal(40)
    gaps = values.copy()
    gaps[::2] = np.nan
    low, high = bootstrap_limits(gaps, seed=0, resamples=4000)
    kept = values[1::2]
    error = kept.std() / np.sqrt(20)
    assert low == pytest.approx(kept.mean() - 1.96 * error, abs=0.08)
    assert high == pytest.approx(kept.mean() + 1.96 * error, abs=0.08)


def test_fewer_than_two_texts_have_no_limits():
    rows = np.array([[np.nan, np.nan, np.nan], [1, np.nan, np.nan], [1, 2, np.nan]])
    low, high = bootstrap_limits(rows, seed=0)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]
    low, high = bootstrap_limits(np.empty((2, 0)), seed=0)
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_blocks_of_weights_change_nothing(monkeypatch):
    values = normal(3, 500)
    whole = bootstrap_limits(values, seed=0)
    monkeypatch.setattr("layerscope.results.resampling.BLOCK", 500 * 7)
    np.testing.assert_allclose(bootstrap_limits(values, seed=0), whole, rtol=1e-12)


def within_noise(layers, best):
    """Which layers' paired difference from one has limits around 0."""
    low, high = paired_limits(resampled_means(layers, 0, 1000).T, best)
    return ((low <= 0) & (high >= 0)).tolist()


def test_layers_within_noise_of_the_best():
    """A common text effect cancels in the paired difference, so a small gap is seen."""
    text = 10 * normal(200)
    noise = 0.1 * normal(4, 200, seed=1)
    layers = text + noise + np.array([0, 0.001, 0.5, -0.5])[:, None]
    assert within_noise(layers, 0) == [True, True, False, False]
    assert within_noise(layers, 2) == [False, False, True, False]
    assert within_noise(layers, -1) == [False, False, False, True]


def test_equal_layers_are_within_noise():
    values = normal(30)
    assert within_noise(np.stack([values, values]), 0) == [True, True]
    assert within_noise(np.stack([values, values + 1e-3]), 0) == [True, False]
