"""Layer similarities against closed forms, U-statistics, slow twins and declared invariances."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes as scipy_procrustes

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics import similarity as similarity_module
from layerscope.metrics.similarity import kernel


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed)).Q


def cka(x, y):
    return similarity_module.cka(kernel(x), kernel(y))


def biased_cka(x, y):
    """Linear CKA as first published: near 1 for unrelated layers where D far exceeds N."""
    x, y = x - x.mean(0), y - y.mean(0)
    across, own, other = (one.T @ two for one, two in ((x, y), (x, x), (y, y)))
    return float(across.norm() ** 2 / (own.norm() * other.norm()))


def slow_hsic(x, y):
    """The unbiased criterion as the mean over ordered quadruples of different samples."""
    k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return np.mean(terms)


def test_vectors_on_a_line_by_hand():
    x = column(1, -1, 0, 0)
    assert biased_cka(x, column(0, 0, 1, -1)) == 0
    assert biased_cka(x, column(1, -1, 1, -1)) == pytest.approx(0.5)
    assert similarity_module.procrustes_angle(x, column(1, -1, 1, -1)) == pytest.approx(math.pi / 4)
    distance = 2 - 2 * math.cos(similarity_module.procrustes_angle(x, column(1, -1, 1, -1)))
    assert distance == pytest.approx(2 - math.sqrt(2))


@pytest.mark.parametrize("n", [4, 5, 7])
def test_the_criterion_is_the_mean_over_quadruples(n):
    x, y = normal(n, 3), normal(n, 2, 1)
    found = similarity_module.criteria([kernel(x), kernel(y)])
    assert float(found.values[0, 1]) == pytest.approx(slow_hsic(x, y))
    assert float(found.values[0, 0]) == pytest.approx(slow_hsic(x, x))


@pytest.mark.parametrize("d", [3, 40])
def test_leaving_a_sample_out_is_leaving_it_out(d):
    x, y = normal(12, d), normal(12, d, 1) + normal(12, d)
    without = similarity_module.criteria([kernel(x), kernel(y)]).without
    for i in range(12):
        keep = torch.arange(12) != i
        fewer = similarity_module.criteria([kernel(x[keep]), kernel(y[keep])]).values
        assert without[..., i].numpy() == pytest.approx(fewer.numpy(), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (14, 5), (10, 60)])
def test_features_and_blocks_give_the_same(n, d, monkeypatch):
    layers = [kernel(normal(n, d, seed)) for seed in range(2)]
    whole = similarity_module.cka_matrix(layers)
    monkeypatch.setattr(
        similarity_module,
        "blocks",
        lambda columns, rows, entries: [(i, i + 1) for i in range(rows)],
    )
    again = similarity_module.cka_matrix(layers)
    assert torch.allclose(whole.values, again.values)
    assert torch.allclose(whole.contributions, again.contributions)


def test_four_samples_have_a_value_and_no_error():
    found = cka(normal(4, 3), normal(4, 3) + 0.1 * normal(4, 3, 1))
    assert found.value > 0.5
    assert found.contributions.isnan().all()
    with pytest.raises(UndefinedError, match="at least 4 samples, got 3"):
        cka(normal(3, 3), normal(3, 3))


def test_alignment_with_itself_is_one_and_with_the_unrelated_none():
    x = normal(200, 30)
    assert cka(x, x).value == pytest.approx(1)
    assert abs(np.mean([cka(x, normal(200, 30, s)).value for s in range(1, 9)])) < 0.005
    assert biased_cka(normal(40, 400), normal(40, 400, 1)) > 0.8
    assert abs(cka(normal(40, 400), normal(40, 400, 1)).value) < 0.1


def test_contributions_have_the_value_as_mean_and_give_its_spread():
    values, errors = [], []
    for seed in range(60):
        x = normal(100, 6, 2 * seed)
        found = cka(x, x + normal(100, 6, 2 * seed + 1))
        assert float(found.contributions.mean()) == pytest.approx(found.value, abs=2e-2)
        values.append(found.value)
        errors.append(float(found.contributions.std()) / 10)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.25)


def test_the_matrix_holds_every_pair_and_marks_constant_layers():
    layers = [normal(30, 4), normal(30, 9, 1), torch.ones(30, 5) * 0.1, normal(30, 4) ** 2]
    found = similarity_module.cka_matrix([kernel(rows) for rows in layers])
    assert float(found.values[0, 3]) == pytest.approx(cka(layers[0], layers[3]).value)
    assert float(found.values[0, 1]) == pytest.approx(cka(layers[0], layers[1]).value)
    assert torch.equal(found.values[2].isnan(), torch.ones(4, dtype=torch.bool))
    assert found.estimate(3, 0).value == pytest.approx(found.estimate(0, 3).value)
    with pytest.raises(UndefinedError, match="nothing to align"):
        found.estimate(0, 2)
    with pytest.raises(InputError, match=r"layers hold \[30, 31\] samples; expected one number"):
        similarity_module.cka_matrix([kernel(normal(30, 2)), kernel(normal(31, 2))])


CHANGES = {
    "rotation": lambda x: x @ orthogonal(x.shape[1]),
    "scaling": lambda x: 7 * x,
    "translation": lambda x: x + 3,
    "stretching an axis": lambda x: x * torch.linspace(1, 30, x.shape[1]),
}


@pytest.mark.parametrize(
    "measure", [lambda x, y: cka(x, y).value, similarity_module.procrustes_angle]
)
@pytest.mark.parametrize("how", CHANGES)
def test_declared_invariances_of_whole_layer_measures(measure, how):
    x, y = normal(60, 6), normal(60, 6) + normal(60, 6, 1)
    same = measure(CHANGES[how](x), y) == pytest.approx(measure(x, y), rel=1e-9)
    assert same is (how != "stretching an axis")


@pytest.mark.parametrize(("n", "d"), [(40, 6), (12, 30)])
def test_procrustes_is_that_of_scipy(n, d):
    x, y = normal(n, d), normal(n, d) + normal(n, d, 1)
    disparity = scipy_procrustes(x.numpy(), y.numpy())[2]  # 1 - |X'Y|_*^2
    assert math.cos(similarity_module.procrustes_angle(x, y)) == pytest.approx(
        math.sqrt(1 - disparity)
    )
    assert similarity_module.procrustes_angle(x, 2 * x @ orthogonal(d) + 1) == pytest.approx(
        0, abs=1e-6
    )
    assert similarity_module.procrustes_angle(x, y[:, :3]) > similarity_module.procrustes_angle(
        x, y
    )


def test_procrustes_needs_something_to_rotate():
    with pytest.raises(UndefinedError, match="nothing to rotate"):
        similarity_module.procrustes_angle(normal(9, 2), torch.ones(9, 2))
    with pytest.raises(InputError, match="layers hold 9 and 8 samples"):
        similarity_module.procrustes_angle(normal(9, 2), normal(8, 2))


def influence(before, after, mask):
    return similarity_module.block_influence([similarity_module.token_cosines(before, after, mask)])


def test_block_influence_by_hand():
    before = torch.tensor([[[1.0, 0], [0, 2]]])
    after = torch.tensor([[[1.0, math.sqrt(3)], [0, 5]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert influence(before, after, mask).value == pytest.approx(0.25)
    assert influence(before, -before, mask).value == pytest.approx(2)


def test_block_influence_skips_padding_and_zero_states_and_adds_over_batches():
    before, after = torch.randn(2, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(6, 7, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[4] = False
    before[0, 0] = 0
    after[~mask] = torch.nan
    kept = mask.clone()
    kept[0, 0] = False
    cosines = torch.nn.functional.cosine_similarity(before[kept], after[kept], dim=-1)
    whole = influence(before, after, mask)
    assert whole.value == pytest.approx(1 - float(cosines.mean()), rel=1e-6)
    assert float(whole.contributions.mean()) == pytest.approx(whole.value)
    halves = [
        similarity_module.token_cosines(before[part], after[part], mask[part])
        for part in (slice(0, 2), slice(2, 6))
    ]
    assert similarity_module.block_influence(halves).value == pytest.approx(whole.value)


def test_block_influence_invariances():
    before, after = torch.randn(2, 6, 7, 5, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.ones(6, 7, dtype=torch.bool)
    value = influence(before, after, mask).value
    q = orthogonal(5)
    scale = torch.rand(6, 7, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert influence(before @ q, after @ q, mask).value == pytest.approx(value)
    assert influence(before * scale, after, mask).value == pytest.approx(value)
    assert influence(before @ q, after, mask).value != pytest.approx(value)
    assert influence(before + 1, after + 1, mask).value != pytest.approx(value)


def test_block_influence_needs_tokens():
    states = torch.ones(2, 3, 4)
    with pytest.raises(UndefinedError, match="no token that counts has a direction"):
        influence(states, states, torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="before and after a block and a mask"):
        influence(states, states[:1], torch.ones(2, 3, dtype=torch.bool))


def test_angular_distance_by_hand():
    one = torch.tensor([[1.0, 0], [0, 3], [0, 0]])
    other = torch.tensor([[0.5, math.sqrt(3) / 2], [math.sqrt(3), 1], [1, 1]])
    found = similarity_module.angular_distance(one, other)
    assert found.value == pytest.approx(1 / 3, abs=1e-7)
    assert found.contributions.isnan().tolist() == [False, False, True]
    tiny = similarity_module.angular_distance(
        column(1).repeat(1, 2), torch.tensor([[1, 1 + 1e-9]], dtype=torch.float64)
    )
    assert tiny.value == pytest.approx(5e-10 / math.pi, rel=1e-5)
    with pytest.raises(UndefinedError, match="nonzero vector in both"):
        similarity_module.angular_distance(torch.zeros(3, 2), one)
    with pytest.raises(InputError, match="one shape"):
        similarity_module.angular_distance(one, other[:2])


def test_angular_distance_invariances():
    x, y = normal(20, 5), normal(20, 5, 1)
    value = similarity_module.angular_distance(x, y).value
    q = orthogonal(5)
    rows = torch.linspace(0.1, 4, 20, dtype=torch.float64)[:, None]
    assert similarity_module.angular_distance(x @ q, y @ q).value == pytest.approx(value)
    assert similarity_module.angular_distance(x * rows, y).value == pytest.approx(value)
    assert similarity_module.angular_distance(x @ q, y).value != pytest.approx(value)
    assert similarity_module.angular_distance(x + 1, y + 1).value != pytest.approx(value)
