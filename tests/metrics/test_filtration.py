"""GFMI against closed forms, brute force, scikit-learn, SciPy and its declared invariances."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_mutual_info_score

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics import components as components_module
from layerscope.metrics import filtration as filtration_module
from layerscope.metrics.filtration import Sign
from layerscope.metrics.neighborhoods import neighborhoods
from layerscope.metrics.neighbors import nearest, retention
from layerscope.metrics.pairs import Closeness, Pairs, half_sample_error, halvings

EUCLIDEAN = Closeness.EUCLIDEAN
PAIRS_OF_FOUR = ["01", "02", "03", "12", "13", "23"]


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double()


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed)).Q


def ordered(*edges, levels=(1, 2, 3)):
    """The filtration of 4 samples whose edges enter in the given order."""
    ranks = [edges.index(pair) + 1 for pair in PAIRS_OF_FOUR]
    codes = torch.tensor([sum(rank > level for level in levels) for rank in ranks])
    return filtration_module.Filtration(
        codes.to(torch.uint8), levels, torch.zeros(len(levels)), 4, Closeness.CENTERED_COSINE
    )


LAYER = ("01", "23", "02", "13", "03", "12")
FINAL = ("01", "02", "23", "12", "13", "03")


def edge(x, y, kind=Closeness.CENTERED_COSINE, sign=Sign.CLIP, levels=None):
    parts = [filtration_module.filtration(Pairs(rows), kind, levels) for rows in (x, y)]
    return filtration_module.gfmi_edge(filtration_module.joint_counts(*parts), sign)


def slow_edge(x, y, kind=Closeness.CENTERED_COSINE):
    """GFMI by its definition, from whole matrices and sorted pairs."""
    n = len(x)
    upper = np.triu_indices(n, 1)
    orders = []
    for rows in (x.numpy(), y.numpy()):
        if kind is Closeness.CENTERED_COSINE:
            rows = rows - rows.mean(0)
        if kind is EUCLIDEAN:
            away = ((rows[:, None] - rows) ** 2).sum(-1)[upper]
        else:
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            away = -(unit @ unit.T)[upper]
        orders.append(np.argsort(np.argsort(away)))
    total, scores, degree = len(upper[0]), [], 1
    while degree <= (n - 1) / 2:
        m = math.floor(degree * n / 2 + 0.5)
        a, b = (order < m for order in orders)
        information, entropy = 0.0, 0.0
        for u in (a, ~a):
            entropy -= u.mean() * math.log(u.mean())
            for v in (b, ~b):
                if (u & v).any():
                    information += (u & v).mean() * math.log((u & v).mean() / (u.mean() * v.mean()))
        below = (a & b).sum() * total < m * m
        scores.append(0.0 if below else information / entropy)
        degree *= 2
    return float(np.mean(scores))


def test_four_samples_by_hand():
    joint = filtration_module.joint_counts(ordered(*LAYER), ordered(*FINAL))
    information = math.log(1.5) / 6 + math.log(0.75) / 3 + math.log(9 / 8) / 2
    assert information == pytest.approx(0.03057501, abs=1e-8)
    assert filtration_module.level_scores(joint).tolist() == pytest.approx(
        [1, 0.04803508, 1], abs=1e-8
    )
    assert filtration_module.gfmi_edge(joint) == pytest.approx(0.68267836, abs=1e-8)


def test_the_complement_shows_the_sign():
    one = ordered(*LAYER, levels=(3,))
    complement = ordered(*reversed(LAYER), levels=(3,))
    joint = filtration_module.joint_counts(one, complement)
    found = {sign: filtration_module.gfmi_edge(joint, sign) for sign in Sign}
    assert found == {Sign.CLIP: 0, Sign.SIGNED: pytest.approx(-1), Sign.NONE: pytest.approx(1)}


@pytest.mark.parametrize("kind", Closeness)
@pytest.mark.parametrize("budget", [0, 10**9])
def test_edges_are_those_of_brute_force(kind, budget):
    x = normal(150, 6) + 0.3
    y = x + 0.5 * normal(150, 6, 1)
    parts = [filtration_module.filtration(Pairs(rows, budget, 3000), kind) for rows in (x, y)]
    assert filtration_module.gfmi_edge(filtration_module.joint_counts(*parts)) == pytest.approx(
        slow_edge(x, y, kind), rel=1e-9
    )


def test_brute_force_at_two_thousand_samples():
    x = normal(2000, 24) * torch.arange(1, 25) ** -0.5
    y = x + 0.7 * normal(2000, 24, 1)
    assert edge(x, y) == pytest.approx(slow_edge(x, y), abs=1e-6)


def test_levels_are_numbers_of_edges():
    found = filtration_module.filtration(Pairs(normal(60, 5)))
    assert found.levels == (30, 60, 120, 240, 480)
    counts = [int((found.codes <= level).sum()) for level in range(5)]
    assert counts == list(found.levels)
    assert filtration_module.degree_levels(4) == (2,)
    assert filtration_module.degree_levels(5) == (3, 5)


def test_pairs_that_tie_enter_together():
    square = torch.tensor([[0.0, 0], [0, 1], [1, 1], [1, 0]]).double()
    found = filtration_module.filtration(Pairs(square), EUCLIDEAN, levels=(1, 5))
    assert [int((found.codes <= level).sum()) for level in (0, 1)] == [4, 6]
    assert found.thresholds.tolist() == [1, 2]
    same = filtration_module.joint_counts(found, found)
    assert filtration_module.level_scores(same).isnan().tolist() == [False, True]
    assert filtration_module.gfmi_edge(same) == pytest.approx(1)
    complete = filtration_module.filtration(Pairs(square), EUCLIDEAN, levels=(6,))
    joint = filtration_module.joint_counts(complete, complete)
    with pytest.raises(UndefinedError, match="connect all"):
        filtration_module.gfmi_edge(joint)


@pytest.mark.parametrize("kind", Closeness)
def test_lattices_and_duplicates_tie_alike_however_they_are_turned(kind):
    lattice = torch.cartesian_prod(*[torch.arange(1.0, 5)] * 3).double()
    vectors = torch.cat([lattice + torch.tensor([0, 0, 0.25]), lattice[:9]])
    turned = 3 * vectors @ orthogonal(3)
    one, other = (
        filtration_module.filtration(Pairs(vectors), kind),
        filtration_module.filtration(Pairs(turned), kind),
    )
    assert torch.equal(one.codes, other.codes)


def test_the_same_layer_is_aligned_and_unrelated_ones_are_not():
    x = normal(300, 20)
    assert edge(x, x) == pytest.approx(1)
    null = [edge(normal(300, 20, 2 * s + 1), normal(300, 20, 2 * s + 2)) for s in range(5)]
    assert 0 <= np.mean(null) < 8e-4


CHANGES = {
    "rotation": (lambda x: x @ orthogonal(x.shape[1]), set(Closeness)),
    "scaling": (lambda x: 7 * x, set(Closeness)),
    "translation": (lambda x: x + 3, {EUCLIDEAN, Closeness.CENTERED_COSINE}),
    "stretching an axis": (lambda x: x * torch.linspace(1, 30, x.shape[1]), set()),
}


@pytest.mark.parametrize("kind", Closeness)
@pytest.mark.parametrize("how", CHANGES)
def test_declared_invariances(kind, how):
    change, invariant = CHANGES[how]
    x, y = normal(100, 8) + 0.5, normal(100, 8) + 0.5 * normal(100, 8, 1)
    same = edge(x, y, kind) == pytest.approx(edge(change(x), y, kind), abs=1e-12)
    assert same is (kind in invariant)


def test_monotone_transforms_of_distance_change_nothing():
    line = normal(80, 1)
    angles = torch.cat([torch.cos(line / 9), torch.sin(line / 9)], 1)
    # The chord of an arc is a rising function of its length.
    other = normal(80, 2, 1)
    assert edge(line, other, EUCLIDEAN) == pytest.approx(edge(angles, other, EUCLIDEAN))
    assert edge(line**3, other, EUCLIDEAN) != pytest.approx(edge(line, other, EUCLIDEAN))


def test_permuting_samples_in_both_layers_changes_nothing():
    x, y = normal(90, 6), normal(90, 6) + 0.4 * normal(90, 6, 1)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(1))
    assert edge(x[order], y[order]) == pytest.approx(edge(x, y), abs=1e-12)
    assert edge(x[order], y) < edge(x, y) / 5


@pytest.mark.parametrize("kind", Closeness)
def test_constant_layers_and_few_samples_are_refused(kind):
    with pytest.raises(UndefinedError, match="all vectors are equal"):
        filtration_module.filtration(Pairs(torch.full((20, 3), 0.1)), kind)
    with pytest.raises(UndefinedError, match="at least 4 samples"):
        filtration_module.filtration(Pairs(normal(3, 3)), kind)
    assert 0 <= edge(normal(4, 3), normal(4, 3, 1), kind) <= 1


def test_what_cannot_be_compared_is_refused():
    one, other = (
        filtration_module.filtration(Pairs(normal(20, 3))),
        filtration_module.filtration(Pairs(normal(21, 3))),
    )
    with pytest.raises(InputError, match="20 and 21 samples"):
        filtration_module.joint_counts(one, other)
    with pytest.raises(UndefinedError, match="at every level both graphs connect all samples"):
        filtration_module.gfmi_edge(torch.tensor([[9]]))
    for levels in ((), (3, 2), (0, 4), (7,)):
        with pytest.raises(InputError, match="rising numbers of edges from 1 to 6"):
            filtration_module.filtration(Pairs(normal(4, 3)), levels=levels)


def slow_knn_information(one, other, n):
    """Normalized information of two boolean neighbor matrices over ordered pairs."""
    off = ~np.eye(n, dtype=bool)
    a, b = one[off], other[off]
    cells = [(a & b).mean(), (a & ~b).mean(), (~a & b).mean(), (~a & ~b).mean()]
    rho = a.mean()
    entropy = -rho * math.log(rho) - (1 - rho) * math.log(1 - rho)
    joint = -sum(cell * math.log(cell) for cell in cells if cell > 0)
    return (2 * entropy - joint) / entropy


def by_lists(x, y):
    _, (whole, *_) = neighborhoods({0: lambda: x, 1: lambda: y}, 1)
    return filtration_module.gfmi_knn(whole.shares(0), len(x))


def test_the_neighbor_form_is_the_information_on_directed_edges():
    x = normal(40, 3)
    y = x + 0.5 * normal(40, 3, 1)
    one, other = nearest(Pairs(x), 16), nearest(Pairs(y), 16)
    expected = []
    for k in (1, 2, 4, 8, 16):
        matrices = np.zeros((2, 40, 40), dtype=bool)
        for matrix, lists in zip(matrices, (one, other), strict=True):
            np.put_along_axis(matrix, lists.indices[:, :k].numpy(), True, axis=1)
        expected.append(slow_knn_information(*matrices, 40))
        kept = torch.tensor(retention(one, other, k), dtype=torch.float64)
        assert float(filtration_module.retention_information(kept, k / 39)) == pytest.approx(
            expected[-1]
        )
    found = by_lists(x, y)
    assert found == pytest.approx(np.mean(expected))


def test_the_neighbor_form_rises_with_retention_and_is_zero_at_chance():
    shares = torch.linspace(0.1, 1, 50, dtype=torch.float64)
    found = torch.stack([filtration_module.retention_information(share, 0.1) for share in shares])
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert (found.diff() > 0).all()
    assert found[-1] == pytest.approx(1)
    below = torch.tensor(0.02, dtype=torch.float64)
    signs = [float(filtration_module.retention_information(below, 0.1, sign)) for sign in Sign]
    assert signs[0] == 0
    assert signs[1] == -signs[2] < 0


def test_the_neighbor_form_at_its_ends():
    x = normal(30, 4)
    assert by_lists(x, x) == pytest.approx(1)
    assert 0 <= by_lists(normal(300, 9), normal(300, 9, 1)) < 1e-3
    with pytest.raises(UndefinedError, match="at least 4"):
        by_lists(normal(3, 2), normal(3, 2))


@pytest.mark.parametrize("kind", [EUCLIDEAN, Closeness.CENTERED_COSINE])
@pytest.mark.parametrize("budget", [0, 10**9])
def test_the_tree_is_single_linkage(kind, budget):
    vectors = normal(70, 4)
    found = components_module.spanning_tree(Pairs(vectors, budget, 500), kind)
    rows = (vectors - vectors.mean(0)).numpy()
    if kind is not EUCLIDEAN:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    merges = linkage(rows, "single")
    lengths = merges[:, 2] ** 2 * (1 if kind is EUCLIDEAN else 0.5)
    assert found.lengths == pytest.approx(lengths, rel=1e-5)
    for count in (10, 50, 65):
        expected = fcluster(merges, 70 - count, "maxclust")
        mine = components_module.components(found, count)
        assert components_module.adjusted_information(mine, expected) == 1


def test_the_tree_of_a_lattice_and_of_duplicates_has_no_cycle():
    lattice = torch.cartesian_prod(*[torch.arange(4.0)] * 3).double()
    vectors = torch.cat([lattice, lattice[:9]])
    found = components_module.spanning_tree(Pairs(vectors), EUCLIDEAN)
    assert len(set(components_module.components(found, len(vectors) - 1))) == 1
    assert found.lengths.tolist() == [0] * 9 + [1] * 63
    assert len(components_module.spanning_tree(Pairs(normal(4, 2)), EUCLIDEAN).edges) == 3


def test_adjusted_information_by_hand():
    one, other = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    expected = components_module._expected_information(np.array([2, 2]), np.array([3, 1]), 4)
    assert expected == pytest.approx(0.21576155, abs=1e-8)
    assert components_module.adjusted_information(one, other) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_adjusted_information_is_that_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    one = np.minimum(generator.geometric(0.05, 200), 40)
    other = np.where(generator.random(200) < 0.6, one, generator.integers(0, 60, 200))
    expected = adjusted_mutual_info_score(one, other)
    assert components_module.adjusted_information(one, other) == pytest.approx(expected, abs=1e-9)


def test_adjusted_information_at_its_ends():
    singletons, whole, two = np.arange(9), np.zeros(9, dtype=int), np.arange(9) % 2
    assert components_module.adjusted_information(singletons, singletons) == 1
    assert components_module.adjusted_information(whole, two) == 0
    assert components_module.adjusted_information(singletons, two) == pytest.approx(0, abs=1e-12)
    assert components_module.adjusted_information(two, 5 - two) == 1


def slow_component(x, y):
    """The component form from whole graphs, with scikit-learn's AMI."""
    from scipy.sparse.csgraph import connected_components

    n, scores = len(x), []
    upper = np.triu_indices(n, 1)
    away = []
    for rows in (x.numpy(), y.numpy()):
        unit = rows - rows.mean(0)
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        away.append((1 - unit @ unit.T)[upper])
    for m in filtration_module.degree_levels(n):
        parts = []
        for distances in away:
            chosen = np.argsort(distances)[:m]
            graph = np.zeros((n, n))
            graph[upper[0][chosen], upper[1][chosen]] = 1
            parts.append(connected_components(graph, directed=False)[1])
        if max(len(set(part)) for part in parts) > 1:
            scores.append(adjusted_mutual_info_score(*parts))
    return np.mean(scores)


def component(x, y):
    pairs = Pairs(x), Pairs(y)
    trees = [components_module.spanning_tree(part) for part in pairs]
    limits = [filtration_module.filtration(part).thresholds for part in pairs]
    return components_module.gfmi_component(
        *trees, *limits
    ), components_module.gfmi_component_counts(*trees)


def test_the_component_form_is_that_of_whole_graphs():
    x = normal(120, 3)
    y = x + 0.4 * normal(120, 3, 1)
    found, by_count = component(x, y)
    assert found == pytest.approx(slow_component(x, y), abs=1e-9)
    assert 0 < by_count < 1
    assert component(x, x) == (1, 1)
    assert component(x, normal(120, 3, 5))[0] < 0.1
    assert component(3 * x @ orthogonal(3) + 1, y) == pytest.approx((found, by_count))


def test_component_forms_that_have_no_value():
    tree = components_module.spanning_tree(Pairs(normal(20, 3)), EUCLIDEAN)
    everything = torch.tensor([1e9])
    with pytest.raises(UndefinedError, match="both graphs are connected"):
        components_module.gfmi_component(tree, tree, everything, everything)
    with pytest.raises(InputError, match="expected trees of the same samples"):
        components_module.gfmi_component_counts(
            tree, components_module.spanning_tree(Pairs(normal(21, 3)))
        )


def test_the_error_from_halves_is_that_of_new_samples():
    values, errors = [], []
    for seed in range(14):
        x = normal(200, 6, 2 * seed)
        y = x + 0.5 * normal(200, 6, 2 * seed + 1)
        values.append(edge(x, y))
        splits = halvings(200)
        levels = [filtration_module.filtration(Pairs(rows)) for rows in (x, y)]
        halves = filtration_module.gfmi_edge_halves(
            filtration_module.half_joint_counts(*levels, splits)
        )
        errors.append(float(half_sample_error(list(halves))))
    assert 0.5 < np.mean(errors) / np.std(values, ddof=1) < 2
    same = filtration_module.gfmi_edge_halves(
        filtration_module.half_joint_counts(levels[0], levels[0], splits)
    )
    assert same.flatten().tolist() == pytest.approx([1] * 10)


def test_pairs_inside_halves_are_counted_as_one_by_one():
    x, y = normal(11, 5), normal(11, 5, 1)
    one, other = (filtration_module.filtration(Pairs(rows, block=30)) for rows in (x, y))
    splits = halvings(11, 2)
    found = filtration_module.half_joint_counts(one, other, splits)
    pairs = list(combinations(range(11), 2))
    expected = torch.zeros_like(found)
    for number, split in enumerate(splits):
        for half, chosen in enumerate(split):
            inside = set(chosen.tolist())
            for pair, u, v in zip(pairs, one.codes.tolist(), other.codes.tolist(), strict=True):
                expected[number, half, u, v] += inside.issuperset(pair)
    assert torch.equal(found, expected)
