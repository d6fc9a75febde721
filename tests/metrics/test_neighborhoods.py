"""What neighborhoods share, of all samples and of halves, against lists that each makes alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from layerscope.errors import UndefinedError
from layerscope.metrics import neighborhoods as module
from layerscope.metrics.estimates import half_samples
from layerscope.metrics.neighborhoods import neighborhoods
from layerscope.metrics.neighbors import nearest, octaves, overlap
from layerscope.metrics.pairs import Pairs


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def layers(n, ties):
    """Three layers; with ties on a lattice, and every sample of it twice or more."""
    found = [normal(n, 3, seed) for seed in range(3)]
    if ties:
        found = [rows.round() + torch.tensor([5.0, 0, 0]) for rows in found]
    return found


def compared(vectors, final=None):
    reads = {layer: (lambda rows=rows: rows) for layer, rows in enumerate(vectors)}
    return neighborhoods(reads, len(vectors) - 1 if final is None else final)


def sets(n):
    return [torch.arange(n), *half_samples(n)]


@pytest.mark.parametrize("n", [4, 5, 9, 61, 150])
@pytest.mark.parametrize("rows", [7, 1000], ids=["in blocks", "at once"])
@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
def test_all_that_is_shared_is_what_lists_made_alone_share(n, rows, ties, monkeypatch):
    monkeypatch.setattr(
        module, "blocks", lambda *_: ((at, min(at + rows, n)) for at in range(0, n, rows))
    )
    vectors = layers(n, ties)
    lists, found = compared(vectors)
    assert len(found) == len(sets(n))
    for members, sums in zip(sets(n), found, strict=True):
        size = len(members)
        whole = [nearest(Pairs(rows[members]), size - 1) for rows in vectors]
        for layer in range(3):
            expected = [float(overlap(whole[layer], whole[2], k).mean()) / k for k in octaves(size)]
            assert sums.shares(layer).tolist() == pytest.approx(expected, abs=1e-12)
        for pair in ((1, 0), (2, 1), (0, 2)):
            one, other = (whole[layer] for layer in pair)
            for k in {1, min(10, size - 1), min(64, size - 1)}:
                expected = float(overlap(one, other, k).mean()) / k
                assert sums.retention(*pair, k) == pytest.approx(expected, abs=1e-12)
    for layer, rows_of in enumerate(vectors):
        alone = nearest(Pairs(rows_of), min(64, n - 1))
        assert torch.equal(lists[layer].indices, alone.indices)
        assert torch.allclose(lists[layer].distances, alone.distances, atol=1e-9)


def test_trustworthiness_is_that_of_scikit_learn_in_all_samples_and_in_halves():
    x = normal(90, 6)
    vectors = [x, x @ torch.diag(torch.tensor([3.0, 2, 1, 0, 0, 0]).double())]
    _, found = compared(vectors)
    for members, sums in zip(sets(90), found, strict=True):
        one, two = (rows[members].numpy() for rows in vectors)
        for pair, (own, other) in {(0, 1): (one, two), (1, 0): (two, one)}.items():
            # scikit-learn takes one metric for both; unit vectors order by distance as by cosine
            own, other = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (own, other))
            expected = sklearn_trustworthiness(own, other, n_neighbors=10)
            assert sums.trustworthiness(*pair) == pytest.approx(expected)


def test_trustworthiness_needs_few_neighbors():
    _, (whole, *_) = compared([normal(20, 3), normal(20, 3, 1)])
    with pytest.raises(UndefinedError, match="trustworthiness needs more than 20 samples for k"):
        whole.trustworthiness(0, 1)
    _, (whole, *_) = compared([normal(21, 3), normal(21, 3)])
    assert whole.trustworthiness(0, 1) == 1


def test_without_a_final_layer_steps_are_compared_and_a_gap_is_none():
    x, y, z = layers(30, ties=False)
    _, (whole, *_) = neighborhoods({0: lambda: x, 1: lambda: y, 3: lambda: z}, 4)
    assert set(whole.kept) == {(1, 0)}
    assert set(whole.excess) == {(0, 1), (1, 0)}
    assert not whole.shared
    with pytest.raises(UndefinedError, match="needs 30 neighbors, the lists hold 29"):
        whole.retention(1, 0, 30)


def test_many_samples_take_wider_numbers():
    """Ranks of 16 bits would overflow where non-members are counted behind all samples."""
    n = 2**14
    order = torch.arange(n).roll(-1)[None]
    ranked = module._ranked(order, 0, [torch.ones(n, dtype=torch.bool)])[0]
    assert ranked.ranks.dtype == torch.int32
    assert ranked.ranks[0, 0] == n - 1
    assert ranked.listed[0].tolist() == list(range(1, 65))
