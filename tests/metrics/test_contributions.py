"""The spread that contributions tell is that of leaving texts out, and of drawing new ones."""

import math

import pytest
import torch

from layerscope.metrics import samples, views
from layerscope.metrics.inputs import SampleInputs, ViewInputs
from layerscope.settings import Convention

PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE


def standard_error(contributions: torch.Tensor) -> float:
    return float(contributions.std() / math.sqrt(len(contributions)))


def jackknife_error(measure, n: int) -> float:
    """Standard error by leaving out each of n texts; `measure` takes the texts that stay."""
    without = torch.tensor(
        [measure(torch.tensor([j for j in range(n) if j != i])).value for i in range(n)]
    )
    return float(((n - 1) / n * (without - without.mean()).square().sum()).sqrt())


def skewed(n: int, d: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (rows + 0.15 * rows.square()) * torch.linspace(0.3, 2, d, dtype=torch.float64) + 1


DATASET = {
    "dataset_entropy paper": lambda x: samples.dataset_entropy(x, PAPER),
    "dataset_entropy normalized": lambda x: samples.dataset_entropy(x, NORMALIZED),
    "dataset_entropy reference": lambda x: samples.dataset_entropy(x, REFERENCE),
    "dataset_entropy_centered": samples.dataset_entropy_centered,
    "dataset_entropy_order2": samples.dataset_entropy_order2,
    "effective_rank paper": lambda x: samples.effective_rank(x, PAPER),
    "effective_rank normalized": lambda x: samples.effective_rank(x, NORMALIZED),
    "rankme": samples.rankme,
    "participation_ratio": samples.participation_ratio,
    "stable_rank": samples.stable_rank,
    "anisotropy_mean_cosine": samples.anisotropy_mean_cosine,
    "self_cluster": samples.self_cluster,
    "log_det_entropy": samples.log_det_entropy,
}


@pytest.mark.parametrize("name", DATASET)
def test_dataset_spread_is_that_of_the_jackknife(name):
    measure, rows = DATASET[name], skewed(200, 20)

    def on(kept: torch.Tensor):
        return measure(SampleInputs(rows[kept], rows[kept] - 1))

    found = standard_error(on(torch.arange(200)).contributions)
    assert found == pytest.approx(jackknife_error(on, 200), rel=0.1)


VIEW = {
    "infonce paper": lambda x: views.infonce(x, PAPER),
    "lidar paper": lambda x: views.lidar(x, PAPER),
    "lidar normalized": lambda x: views.lidar(x, NORMALIZED),
    "dip_order2": views.dip_order2,
    "retrieval": views.retrieval,
}


def viewed(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(n, 1, d, dtype=torch.float64, generator=generator)
    view = torch.randn(n, 3, d, dtype=torch.float64, generator=generator)
    return text * torch.linspace(0.3, 2, d, dtype=torch.float64) + 0.6 * view


@pytest.mark.parametrize("name", VIEW)
def test_view_spread_is_that_of_the_jackknife(name):
    measure, vectors = VIEW[name], viewed(150, 6)

    def on(kept: torch.Tensor):
        return measure(ViewInputs(vectors[kept]))

    found = standard_error(on(torch.arange(150)).contributions)
    assert found == pytest.approx(jackknife_error(on, 150), rel=0.1)


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


def test_dime_spread_is_that_of_new_texts():
    """Leaving a text out redraws the permutations, so the spread over fresh texts is the judge."""
    estimates = [views.dime(ViewInputs(viewed(100, 6, seed)), PAPER) for seed in range(40)]
    told = sum(standard_error(estimate.contributions) for estimate in estimates) / 40
    seen = float(torch.tensor([estimate.value for estimate in estimates]).std())
    assert told == pytest.approx(seen, rel=0.3)
