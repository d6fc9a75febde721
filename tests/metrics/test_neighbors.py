"""Neighbor measures against closed forms, slow twins, scikit-learn and scikit-dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from layerscope.errors import InputError, RunError, UndefinedError
from layerscope.metrics import neighbors as neighbors_module
from layerscope.metrics.neighbors import Neighbors, nearest
from layerscope.metrics.pairs import Closeness, Pairs

EUCLIDEAN = Closeness.EUCLIDEAN


def points(*positions):
    return torch.tensor(positions, dtype=torch.float64)[:, None]


def normal(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() + shift


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed)).Q


def lists(vectors, k, kind=Closeness.COSINE, **options):
    return nearest(Pairs(vectors, **options), k, kind)


def slow_lists(vectors, k, kind):
    """Neighbors by their definition: sort all others by distance, then by index."""
    rows = vectors.numpy()
    if kind is Closeness.CENTERED_COSINE:
        rows = rows - rows.mean(0)
    if kind is not EUCLIDEAN:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for i, row in enumerate(rows):
        distances = np.linalg.norm(rows - row, axis=1)
        others = [j for j in range(len(rows)) if j != i]
        found.append(sorted(others, key=lambda j: (round(distances[j], 9), j))[:k])
    return found


@pytest.mark.parametrize("kind", Closeness)
@pytest.mark.parametrize("budget", [0, 10**9])
def test_lists_are_those_of_the_definition(kind, budget):
    vectors = normal(90, 7, shift=1.0)
    found = lists(vectors, 12, kind, budget=budget, block=1000)
    assert found.indices.tolist() == slow_lists(vectors, 12, kind)


@pytest.mark.parametrize("kind", Closeness)
def test_ties_and_duplicates_go_to_the_lower_index(kind):
    lattice = torch.cartesian_prod(*[torch.arange(1.0, 5)] * 3).double()
    vectors = torch.cat([lattice, lattice[:9]])
    vectors[0] = torch.tensor([1.0, 1.0, 1.5])  # the centered lattice must have no zero row
    found = lists(vectors, 9, kind)
    assert found.indices.tolist() == slow_lists(vectors, 9, kind)


def test_cosines_that_are_all_near_one_keep_their_order():
    vectors = normal(60, 5) * 1e-4 + 100 * torch.ones(5, dtype=torch.float64)
    cosines = [[math.nan] * 60 for _ in range(60)]
    import decimal

    decimal.getcontext().prec = 50
    exact = [[decimal.Decimal(x) for x in row] for row in vectors.tolist()]
    lengths = [sum(x * x for x in row).sqrt() for row in exact]
    for i in range(60):
        for j in range(60):
            cosines[i][j] = sum(map(decimal.Decimal.__mul__, exact[i], exact[j]))
            cosines[i][j] /= lengths[i] * lengths[j]
    expected = [
        sorted((j for j in range(60) if j != i), key=lambda j: -cosines[i][j])[:8]
        for i in range(60)
    ]
    assert lists(vectors, 8).indices.tolist() == expected


def test_distances_are_euclidean():
    vectors = normal(50, 6, shift=30.0)
    found = lists(vectors, 4, EUCLIDEAN)
    expected = (vectors[:, None] - vectors[found.indices]).norm(dim=-1)
    assert found.distances.numpy() == pytest.approx(expected.numpy(), rel=1e-9)
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    found = lists(vectors, 4)
    expected = (unit[:, None] - unit[found.indices]).norm(dim=-1)
    assert found.distances.numpy() == pytest.approx(expected.numpy(), rel=1e-9)


def test_distances_of_duplicates_are_zero():
    vectors = normal(20, 300, shift=5.0)
    vectors[11] = vectors[3]
    found = lists(vectors, 2, EUCLIDEAN)
    assert found.indices[3, 0] == 11
    assert found.distances[3, 0] == found.distances[11, 0] == 0


def test_two_neighbors_that_swap():
    x, y = points(0, 1, 2.1, 3.3), points(0, 2.1, 1, 3.3)
    one, other = lists(x, 3, EUCLIDEAN), lists(y, 3, EUCLIDEAN)
    assert neighbors_module.retention(one, other, 1) == 0
    assert neighbors_module.above_chance(0, 4, 1) == pytest.approx(-1 / 2)
    assert neighbors_module.retention(one, other, 2) == pytest.approx(3 / 4)
    assert neighbors_module.above_chance(3 / 4, 4, 2) == pytest.approx(1 / 4)
    shared = neighbors_module.overlap(one, other, 2)
    assert float((shared / (4 - shared)).mean()) == pytest.approx(2 / 3)
    assert neighbors_module.retention(one, other, 3) == 1
    with pytest.raises(UndefinedError, match="chance keeps all"):
        neighbors_module.above_chance(1, 4, 3)


def test_retention_is_the_mean_overlap_and_the_same_layer_keeps_all():
    one, other = lists(normal(80, 5), 10), lists(normal(80, 5, 1), 10)
    found = neighbors_module.retention(one, other, 10)
    sets = [
        len(set(a) & set(b)) / 10
        for a, b in zip(one.indices.tolist(), other.indices.tolist(), strict=True)
    ]
    assert found == pytest.approx(np.mean(sets))
    assert neighbors_module.retention(one, one, 10) == 1


def test_unrelated_layers_keep_what_chance_keeps():
    n, k = 400, 10
    counts = torch.cat([
        neighbors_module.overlap(lists(normal(n, 30, 2 * s), k), lists(normal(n, 30, 2 * s + 1), k), k)
        for s in range(5)
    ])  # fmt: skip
    assert float(counts.mean()) / k == pytest.approx(
        neighbors_module.chance_retention(n, k), rel=0.1
    )
    assert float(counts.var()) == pytest.approx(hypergeom(n - 1, k, k).var(), rel=0.2)


CHANGES = {
    "rotation": (lambda x: x @ orthogonal(x.shape[1]), set(Closeness)),
    "scaling": (lambda x: 7 * x, set(Closeness)),
    "translation": (lambda x: x + 3, {EUCLIDEAN, Closeness.CENTERED_COSINE}),
    "scaling of each row": (
        lambda x: x * torch.linspace(1, 9, len(x), dtype=torch.float64)[:, None],
        {Closeness.COSINE},
    ),
    "stretching an axis": (
        lambda x: x * torch.linspace(1, 30, x.shape[1], dtype=torch.float64),
        set(),
    ),
}


@pytest.mark.parametrize("kind", Closeness)
@pytest.mark.parametrize("how", CHANGES)
def test_declared_invariances_of_the_lists(kind, how):
    change, invariant = CHANGES[how]
    vectors = normal(120, 8, shift=0.4)
    same = torch.equal(lists(vectors, 6, kind).indices, lists(change(vectors), 6, kind).indices)
    assert same is (kind in invariant)


def test_permuting_samples_in_all_layers_changes_nothing():
    x, y = normal(70, 5), normal(70, 5) + 0.3 * normal(70, 5, 1)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    before = neighbors_module.retention(lists(x, 5), lists(y, 5), 5)
    after = neighbors_module.retention(lists(x[order], 5), lists(y[order], 5), 5)
    assert before == pytest.approx(after)
    assert neighbors_module.retention(lists(x, 5), lists(y[order], 5), 5) < before / 2


def slow_cknna(x, y, k):
    """CKNNA from whole masked Gram matrices, as it is defined."""
    grams, masks = [], []
    for rows in (x, y):
        unit = (rows / rows.norm(dim=-1, keepdim=True)).numpy()
        gram = unit @ unit.T
        mask = np.zeros_like(gram)
        for i, row in enumerate(slow_lists(rows, k, Closeness.COSINE)):
            mask[i, row] = 1
        grams.append(gram)
        masks.append(mask)

    def hsic(one, other):
        n = len(one)
        trace = np.trace(one @ other)
        total = one.sum() * other.sum() / ((n - 1) * (n - 2))
        return (trace + total - 2 / (n - 2) * (one @ other).sum()) / (n * (n - 3))

    both = masks[0] * masks[1]
    own = [hsic(m * g, m * g) for m, g in zip(masks, grams, strict=True)]
    return hsic(both * grams[0], both * grams[1]) / math.sqrt(own[0] * own[1])


def test_cknna_is_that_of_whole_matrices():
    x = normal(60, 6)
    y = torch.cat([x[:, :4], normal(60, 5, 1)], 1)
    k = 7
    found = neighbors_module.cknna(x, lists(x, k), y, lists(y, k), k)
    assert found == pytest.approx(slow_cknna(x, y, k))
    assert neighbors_module.cknna(
        x, lists(x, k), 3 * x @ orthogonal(6), lists(x, k), k
    ) == pytest.approx(1)
    with pytest.raises(UndefinedError, match="at least 4"):
        neighbors_module.cknna(x[:3], lists(x[:3], 1), x[:3], lists(x[:3], 1), 1)


def test_too_few_samples_are_refused():
    with pytest.raises(UndefinedError, match="10 neighbors need at least 11 samples, got 6"):
        lists(normal(6, 3), 10)
    short = lists(normal(6, 3), 5)
    with pytest.raises(UndefinedError, match="needs 10 neighbors, the lists hold 5"):
        neighbors_module.retention(short, short, 10)
    with pytest.raises(InputError, match="same samples in the same order"):
        neighbors_module.retention(short, lists(normal(7, 3), 5), 5)
    assert lists(normal(4, 3), 3).indices.sort(1).values.tolist() == [
        [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2],
    ]  # fmt: skip


@pytest.mark.parametrize("kind", Closeness)
def test_constant_layers_have_no_neighbors(kind):
    with pytest.raises(UndefinedError, match="all vectors are equal"):
        lists(torch.full((30, 4), 0.1), 5, kind)
    with pytest.raises(
        UndefinedError, match="all vectors are equal, so no two are nearer than others"
    ):
        next(Pairs(torch.full((30, 4), 0.1)).keys(kind))


def test_cknna_needs_an_alignment_of_each_layer_with_itself():
    """Two clouds that mirror each other: neighbors agree less than all samples do."""
    vectors = torch.cat([torch.ones(8, 3), torch.zeros(1, 3)])
    same = Neighbors(torch.zeros(9, 2, dtype=torch.int64), torch.zeros(9, 2).double(), EUCLIDEAN)
    with pytest.raises(UndefinedError, match="a layer's alignment with itself is not positive"):
        neighbors_module.cknna(0 * vectors, same, 0 * vectors, same, 2)


def test_vectors_without_a_direction_are_refused_where_one_is_needed():
    vectors = normal(20, 3)
    vectors[4] = 0
    with pytest.raises(
        UndefinedError, match="1 of 20 vectors are zero and have no direction; leave"
    ):
        lists(vectors, 3)
    assert lists(vectors, 3, EUCLIDEAN).n == 20
    symmetric = torch.cat([vectors[5:], -vectors[5:], torch.zeros(1, 3)])
    with pytest.raises(UndefinedError, match="equal to the mean"):
        lists(symmetric, 3, Closeness.CENTERED_COSINE)


def test_what_is_no_matrix_of_finite_numbers_is_refused():
    with pytest.raises(InputError, match="expected floating-point vectors"):
        Pairs(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(RunError, match="NaN"):
        Pairs(torch.full((3, 3), math.nan))
