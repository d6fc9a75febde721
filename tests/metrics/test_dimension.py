"""Estimates of the intrinsic dimension against closed forms and scikit-dimension."""

from __future__ import annotations

import math

import pytest
import torch

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics import dimension
from layerscope.metrics.estimates import half_samples
from layerscope.metrics.neighbors import Neighbors, nearest
from layerscope.metrics.pairs import Closeness, Pairs

EUCLIDEAN = Closeness.EUCLIDEAN


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed)).Q


def lists(vectors, k, kind=Closeness.COSINE):
    return nearest(Pairs(vectors), k, kind)


def ladder(n, d, k):
    """Every sample's j-th neighbor at distance e^(j / d)."""
    steps = torch.exp(torch.arange(1, k + 1, dtype=torch.float64) / d)
    return Neighbors(torch.zeros(n, k, dtype=torch.int64), steps.repeat(n, 1), EUCLIDEAN)


def test_dimension_of_a_ladder_of_distances():
    n, d = 50, 3.0
    assert dimension.two_nn(ladder(n, d, 2)) == pytest.approx(d * (n - 1) / n)
    assert dimension.levina_bickel(ladder(n, d, 5), 5) == pytest.approx(4 * d / 10)


def cloud(n=1000, d=4, ambient=12, seed=0):
    return normal(n, d, seed) @ orthogonal(ambient, seed + 1)[:d]


def test_every_estimator_finds_the_dimension_of_a_cloud():
    found = lists(cloud(3000), 64, EUCLIDEAN)
    for estimate in (
        dimension.two_nn(found),
        dimension.gride(found, 4),
        dimension.levina_bickel(found),
    ):
        assert estimate == pytest.approx(4, rel=0.1)
    assert dimension.gride(found, 1) == pytest.approx(dimension.two_nn(found))


@pytest.mark.parametrize("near", [1, 2, 8])
def test_gride_is_where_its_likelihood_is_largest(near):
    found = lists(cloud(500), 16, EUCLIDEAN)
    logs = (found.distances[:, 2 * near - 1] / found.distances[:, near - 1]).log()

    def likelihood(d):
        gap = torch.log(torch.expm1(d * logs)).sum() if near > 1 else 0
        return float(499 * math.log(d) + (near - 1) * gap - ((2 * near - 1) * d + 1) * logs.sum())

    best = dimension.gride(found, near)
    assert likelihood(best) > max(likelihood(best * 0.999), likelihood(best * 1.001))


def test_dimensions_do_not_change_with_rotation_scale_translation():
    vectors = cloud(300)
    moved = 5 * vectors @ orthogonal(12, 9) + 2
    before, after = lists(vectors, 16, EUCLIDEAN), lists(moved, 16, EUCLIDEAN)
    for measure in (dimension.two_nn, dimension.gride):
        assert measure(before) == pytest.approx(measure(after), rel=1e-7)
    bent = lists(vectors**3, 16, EUCLIDEAN)
    assert dimension.two_nn(bent) != pytest.approx(dimension.two_nn(before), rel=1e-4)


def test_duplicates_are_left_out_of_the_dimension():
    vectors = cloud(300)
    vectors[7] = vectors[100]
    found = lists(vectors, 2, EUCLIDEAN)
    kept = [i for i in range(300) if i not in (7, 100)]
    others = Neighbors(found.indices[kept], found.distances[kept], EUCLIDEAN)
    assert dimension.two_nn(found) == dimension.two_nn(others)


def test_a_lattice_has_no_dimension():
    lattice = torch.cartesian_prod(*[torch.arange(8.0)] * 2).double()
    with pytest.raises(UndefinedError, match="lattice-like"):
        dimension.two_nn(lists(lattice, 2, EUCLIDEAN))
    corners = lists(torch.eye(8), 5, EUCLIDEAN)
    with pytest.raises(UndefinedError, match="all neighbors are equally far, so distances"):
        dimension.levina_bickel(corners, 5)
    with pytest.raises(InputError, match="needs Euclidean"):
        dimension.two_nn(lists(cloud(50), 2))
    same = Neighbors(torch.zeros(5, 2, dtype=torch.int64), torch.zeros(5, 2).double(), EUCLIDEAN)
    with pytest.raises(UndefinedError, match="not duplicates"):
        dimension.two_nn(same)


@pytest.mark.filterwarnings("ignore:divide by zero")  # its own, at F = 1
def test_dimensions_are_those_of_scikit_dimension():
    skdim = pytest.importorskip("skdim", reason="scikit-dimension is a cross-check only")
    vectors = cloud(400)
    found = lists(vectors, 64, EUCLIDEAN)
    two = found.distances[:, :2].numpy()
    likely = skdim.id.TwoNN(dist=True, method="mle", discard_fraction=0).fit(two).dimension_
    assert dimension.two_nn(found) == pytest.approx(likely, rel=1e-9)
    for near in (1, 2, 16):
        theirs = skdim.id.GRIDE(n1=near, n2=2 * near).fit(vectors.numpy()).dimension_
        mine = dimension.gride(found, near)
        assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("together", [False, True], ids=["mixed", "a half apart"])
def test_neighbors_inside_a_half_are_those_that_it_has_alone(together):
    """Also where all neighbors that are listed of all samples are in the other half."""
    vectors = normal(700, 5)
    half = half_samples(700)[3]
    if together:
        vectors[half] *= 1e3
        vectors[half[0]] = 0
    listed = lists(vectors, 256, EUCLIDEAN)
    found = dimension._inside(listed, half, vectors)
    alone = lists(vectors[half], 64, EUCLIDEAN)
    assert torch.equal(found.indices, alone.indices)
    assert torch.allclose(found.distances, alone.distances, rtol=1e-9)


def test_limits_come_from_the_halves():
    pairs = Pairs(cloud(400))
    found = dimension.dimensions(pairs)
    assert set(found) == {"two_nn", "levina_bickel_k20", *(f"gride_n{n}" for n in dimension.SCALES)}
    lists_of_half = nearest(Pairs(pairs.vectors[half_samples(400)[0]]), 64, EUCLIDEAN)
    for name, near in (("gride_n4", 4), ("gride_n32", 16)):
        estimate = found[name]
        assert float(estimate.contributions.mean()) == pytest.approx(estimate.value)
        assert estimate.contributions.std() > 0
        assert dimension.gride(lists_of_half, near) == pytest.approx(4, rel=0.4)
