"""Hartigan's dip: closed forms, the definition, another implementation, and a scan of two corpora."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

import layerscope
from layerscope.decisions import bimodality as module
from layerscope.decisions.bimodality import bimodality, dip, dip_test
from layerscope.errors import InputError, UndefinedError
from tiny import WORDS, tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([0] * 50 + [1] * 50, 1 / 4),
        ([0] * 20 + [1] * 80, 1 / 10),  # a jump at the mode, half of the rest
        (range(10), 1 / 20),
        (range(1000), 1 / 2000),
        ([3.0, 3.0, 3.0, 3.0], 1 / 8),  # the least for 4 values
        ([0, 1, 1, 1, 2, 2], 1 / 6),
        (np.linspace(0, 1, 9) ** 3, 1 / 18),  # one mode, at the left end
    ],
)
def test_closed_forms(sample, expected):
    assert dip(sample) == pytest.approx(expected, abs=1e-12)


def dip_by_definition(sample: list[int]) -> float:
    """The distance from the nearest unimodal distribution: the least over all modes."""
    x, counts = np.unique(sample, return_counts=True)
    high = np.cumsum(counts) / len(sample)
    low = high - counts / len(sample)
    return min(distance_with_mode(mode, x, low, high) for mode in range(len(x)))


def distance_with_mode(mode: int, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """A linear program. The unknowns are G just before and at each value, and the distance.

    G is convex before the mode, where alone it may jump, and concave after it. Between values it is
    linear, which loses nothing.
    """
    size = len(x)
    rows: list[np.ndarray] = []
    limits: list[float] = []

    def at_most(entries: dict[int, float], limit: float = 0.0) -> None:
        row = np.zeros(2 * size + 1)
        row[list(entries)] = list(entries.values())
        rows.append(row)
        limits.append(limit)

    for i in range(size):
        # A continuous G passes near both ends of the jump of F; at the mode each side has its own.
        sides = [(i, low[i]), (size + i, high[i])]
        others = [(i, high[i]), (size + i, low[i])]
        for place, value in sides if i == mode else [*sides, *others]:
            at_most({place: 1, 2 * size: -1}, value)
            at_most({place: -1, 2 * size: -1}, -value)
        at_most({i: 1, size + i: -1})
        if i != mode:
            at_most({i: -1, size + i: 1})
    for i in range(size - 1):
        at_most({size + i: 1, i + 1: -1})
    for i in {*range(1, size - 1)} - {mode}:
        before, after = x[i] - x[i - 1], x[i + 1] - x[i]
        sign = 1 if i < mode else -1  # of the slope before, minus the slope after
        bend = {size + i - 1: -1 / before, i: 1 / before, size + i: 1 / after, i + 1: -1 / after}
        at_most({place: sign * factor for place, factor in bend.items()})
    goal = np.zeros(2 * size + 1)
    goal[-1] = 1
    bounds = [(0, 1)] * (2 * size) + [(0, None)]
    return linprog(goal, A_ub=np.array(rows), b_ub=limits, bounds=bounds).fun


@given(st.lists(st.integers(0, 12), min_size=2, max_size=14))
def test_the_dip_is_the_distance_from_the_nearest_unimodal_distribution(sample):
    expected = max(dip_by_definition(sample), 1 / (2 * len(sample)))
    assert dip(sample) == pytest.approx(expected, abs=1e-7)


def test_the_dip_is_that_of_the_package_diptest():
    diptest = pytest.importorskip("diptest", reason="a twin; pip install diptest")
    generator = np.random.default_rng(0)
    for number in range(300):
        n = int(generator.integers(5, 80))
        kinds = [
            generator.random(n),
            np.r_[generator.normal(size=n), generator.normal(4, 1, n)],
            generator.integers(0, 8, n).astype(float),
        ]
        sample = kinds[number % 3]
        assert dip(sample) == pytest.approx(diptest.dipstat(sample), abs=1e-12)
    sample = np.r_[generator.normal(size=40), generator.normal(4, 1, 40)]
    _, p = diptest.diptest(sample, boot_pval=True, n_boot=5000, seed=1)
    assert dip_test(sample).p == pytest.approx(p, abs=0.01)


@given(st.lists(st.floats(-10, 10, width=16), min_size=2, max_size=30))
def test_shift_and_scale_change_nothing(sample):
    moved = [-4 * value + 64 for value in sample]
    assert dip(moved) == pytest.approx(dip(sample), abs=1e-9)


@pytest.mark.parametrize("sample", [[], [1.0, np.nan], [[1.0, 2.0]], [np.inf, 1.0]])
def test_what_has_no_dip(sample):
    with pytest.raises(UndefinedError, match="a dip needs one or more finite numbers"):
        dip(sample)


def test_p_is_small_for_two_groups_and_even_for_uniform_samples():
    generator = np.random.default_rng(3)
    two = np.r_[generator.normal(size=60), generator.normal(5, 1, 60)]
    assert dip_test(two).p == 1 / (module.DRAWS + 1)
    assert dip_test(generator.normal(size=120)).p > 0.3
    p = np.array([dip_test(generator.random(60)).p for _ in range(400)])
    # 400 even p: the share below 0.1 has a standard error of 0.015.
    assert abs((p < 0.1).mean() - 0.1) < 0.05
    assert abs(p.mean() - 0.5) < 0.06


def test_a_scan_of_two_kinds_of_texts():
    """Long texts of many words beside short ones of one word have other entropies."""
    generator = np.random.default_rng(0)
    long = [" ".join(generator.choice(WORDS, 30)) for _ in range(30)]
    short = [f"{word} {word} {letter}" for word in WORDS for letter in "abc"]
    given = {"tokenizer": tiny_tokenizer(), "metrics": "prompt_entropy", "views": 0}
    both = layerscope.scan(tiny_model("gpt2"), [*long, *short], **given).bimodality()
    alone = layerscope.scan(tiny_model("gpt2"), long, **given).bimodality()
    assert list(both["convention"].unique()) == ["paper", "normalized"]
    assert list(both["layer"]) == [0, 1, 2, 3, 4] * 2
    assert (both["p_corrected"] < 0.01).all()
    assert (alone["p_corrected"] > 0.05).all()
    assert (alone["p_corrected"] >= alone["p"]).all()
    assert set(both["n"]) == {60}


def test_a_scan_without_a_number_for_each_text():
    found = layerscope.scan(
        tiny_model("gpt2"),
        [" ".join(WORDS[i:]) for i in range(6)],
        tokenizer=tiny_tokenizer(),
        metrics="curvature",
        views=0,
    )
    with pytest.raises(InputError, match="unknown measure of these texts 'prompt_entropy'"):
        found.bimodality()
    assert bimodality(found.contributions(), "curvature").empty  # fewer than 20 texts
