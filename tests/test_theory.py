"""The numbers of `benchmarks/theory.py` against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from benchmarks import theory as tables
from scipy.special import zeta

from layerscope.metrics.spectrum import effective_rank, eigenvalues, renyi_entropy
from layerscope.studies import theory


def test_theorem_1_holds_the_other_way_round():
    printed, reversed_ = theory.effective_rank_and_entropy(200)
    assert (printed, reversed_) == (0.0, 1.0)
    values = eigenvalues(torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)))
    thirds, fifths = np.array([2, 1]) / 3, np.array([4, 1]) / 5
    rank = math.exp(-(thirds * np.log(thirds)).sum())
    entropy = -(fifths * np.log(fifths)).sum()
    assert float(effective_rank(values)) == pytest.approx(rank)
    assert float(renyi_entropy(values)) == pytest.approx(entropy)
    assert rank > math.exp(entropy)
    flat = torch.ones(7, dtype=torch.float64)  # where all are equal, so are both
    assert float(effective_rank(flat)) == pytest.approx(7)
    assert float(renyi_entropy(flat).exp()) == pytest.approx(7)


def test_prompt_entropy_does_not_decide_the_dataset_entropy():
    found = {}
    for name, make in theory.EXTREMES.items():
        found[name] = theory.order_2(make(torch.Generator().manual_seed(1)))
    largest, least, same = found.values()
    n, length = theory.PROMPTS, theory.TOKENS
    assert [each[0] for each in found.values()] == pytest.approx(
        [math.log(length), 0, math.log(length)], abs=1e-9
    )
    expected = theory.expected_order_2()
    assert [largest[2], least[2]] == pytest.approx([expected] * 2, abs=0.02)
    # Without the trace they differ by it: means of unit vectors have squared norms 1 / L and 1.
    assert [largest[1], least[1]] == pytest.approx(
        [expected - 2 * math.log(n / length), expected - 2 * math.log(n)], abs=0.02
    )
    assert same[1:] == pytest.approx([-2 * math.log(n / length), 0], abs=1e-9)


def test_theorem_3_needs_the_entropy_of_the_values_not_that_of_the_matrix():
    for k in (4, 20):  # orthogonal groups: nothing is lost
        assert theory.infonce_and_entropies(k, 64) == pytest.approx([math.log(k)] * 3, abs=1e-9)
    bound, entropy, matrix = theory.infonce_and_entropies(20, 2)
    # A vector at angle a from the query weighs exp(cos a / 0.01).
    weights = np.exp((np.cos(2 * math.pi * np.arange(20) / 20) - 1) / 0.01)
    assert bound == pytest.approx(math.log(20 / weights.sum()), abs=1e-9)
    assert matrix == pytest.approx(math.log(2))
    assert matrix < bound < entropy == math.log(20)


@pytest.mark.parametrize("decay", theory.DECAYS)
def test_entropies_of_power_laws(decay):
    spectrum = theory.power_law(decay)
    i = np.arange(1, theory.SIZE + 1)

    def harmonic(power: float) -> float:
        return float((i**-power).sum())

    for order in (0.5, 2.0, 5.0):
        expected = math.log(harmonic(order * decay)) - order * math.log(harmonic(decay))
        assert float(renyi_entropy(spectrum, order)) == pytest.approx(expected / (1 - order))
    mean_log = float((np.log(i) * i**-decay).sum()) / harmonic(decay)
    assert float(renyi_entropy(spectrum, 1)) == pytest.approx(
        decay * mean_log + math.log(harmonic(decay))
    )
    assert float(renyi_entropy(spectrum, 0)) == pytest.approx(math.log(theory.SIZE))
    assert float(renyi_entropy(spectrum, math.inf)) == pytest.approx(math.log(harmonic(decay)))


def test_of_many_eigenvalues_the_limits_are_zeta_functions():
    values = theory.power_law(3.0, 100_000)
    assert float(renyi_entropy(values, math.inf)) == pytest.approx(math.log(zeta(3)), abs=1e-9)
    expected = 2 * math.log(zeta(3)) - math.log(zeta(6))
    assert float(renyi_entropy(values, 2.0)) == pytest.approx(expected, abs=1e-9)


def test_larger_orders_are_ruled_by_larger_eigenvalues():
    found = pd.DataFrame(theory.orders())
    for _, own in found[found["decay"] > 0].groupby("decay"):
        assert own["share_of_first_10"].is_monotonic_increasing
        assert own["entropy"].is_monotonic_decreasing
    flat = found[found["decay"] == 0]
    np.testing.assert_allclose(flat["entropy"], math.log(theory.SIZE))


def test_the_written_results_are_those_of_now():
    folder = Path(tables.__file__).parent / "results"
    assert tables.main().strip() in (folder / "theory.md").read_text()
    written = pd.read_csv(folder / "entropy-orders.csv")
    pd.testing.assert_frame_equal(written, pd.DataFrame(theory.orders()))
