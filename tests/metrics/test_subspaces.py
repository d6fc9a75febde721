"""Subspaces against closed forms, a slow twin, random-matrix laws and declared invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from layerscope.errors import InputError, UndefinedError
from layerscope.metrics import subspaces
from layerscope.metrics.pairs import half_sample_error, half_sample_limits, halvings
from layerscope.metrics.subspaces import (
    Space,
    frame,
    frenet,
    geodesic_distance,
    principal_angles,
    trajectory,
)

PI = math.pi


def line(angle):
    return torch.tensor([[math.cos(angle)], [math.sin(angle)]], dtype=torch.float64)


def torus(a, b):
    """A plane in R^4 that leans by a in one plane and by b in another."""
    basis = torch.zeros(4, 2, dtype=torch.float64)
    basis[0, 0], basis[2, 0] = math.cos(a), math.sin(a)
    basis[1, 1], basis[3, 1] = math.cos(b), math.sin(b)
    return basis


def orthogonal(n, k=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(n, k or n, dtype=torch.float64, generator=generator)
    return torch.linalg.qr(full).Q


def layers(count=5, n=200, d=40, seed=0, step=0.4):
    """Vectors that move smoothly over depth, with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    rows = torch.randn(n, d, dtype=torch.float64, generator=generator) * scales
    found = [rows]
    for _ in range(count - 1):
        turn = torch.randn(d, d, dtype=torch.float64, generator=generator) / math.sqrt(d)
        rows = rows + step * torch.tanh(rows @ turn)
        found.append(rows)
    return found


def path(vectors, k=8, **options):
    return frenet([frame(rows) for rows in vectors], k, **options)


def flat_turning(bases):
    """Turning from three distances as if space were flat, which is at least the turning."""
    found = []
    for one, here, other in zip(bases, bases[1:], bases[2:], strict=False):
        before, after = geodesic_distance(one, here), geodesic_distance(here, other)
        cosine = (before**2 + after**2 - geodesic_distance(one, other) ** 2) / (2 * before * after)
        found.append(PI - math.acos(max(-1, min(1, cosine))))
    return torch.tensor(found, dtype=torch.float64)


def test_a_product_plane_has_the_two_angles_that_it_was_tilted_by():
    a, b = 0.3, 0.7
    angles = principal_angles(torus(0, 0), torus(a, b)).angles
    assert angles.tolist() == pytest.approx([a, b])
    assert geodesic_distance(torus(0, 0), torus(a, b)) == pytest.approx(math.hypot(a, b))
    chordal = (torus(0, 0) @ torus(0, 0).T - torus(a, b) @ torus(a, b).T).norm() / math.sqrt(2)
    assert float(angles.sin().norm()) == pytest.approx(float(chordal))
    assert float(angles.cos().prod()) == pytest.approx(math.cos(a) * math.cos(b))


@pytest.mark.parametrize("tiny", [1e-3, 1e-7, 1e-10])
def test_angles_are_right_at_both_ends(tiny):
    assert float(principal_angles(line(0), line(tiny)).angles) == pytest.approx(tiny, rel=1e-5)
    far = float(principal_angles(line(0), line(PI / 2 - tiny)).angles)
    assert PI / 2 - far == pytest.approx(tiny, rel=1e-5)


def test_lines_on_a_circle():
    steady = trajectory([line(x) for x in (0, 0.3, 0.6, 0.9)])
    assert steady.speed.tolist() == pytest.approx([0.3] * 3)
    assert steady.turning.tolist() == pytest.approx([0, 0], abs=1e-7)
    assert steady.straightness == pytest.approx(1)
    back = trajectory([line(x) for x in (0, 0.3, 0)])
    assert back.turning.tolist() == pytest.approx([PI])
    assert back.straightness == 0
    folded = trajectory([line(x) for x in (0, 1.2, 2.4)])
    assert folded.displacement == pytest.approx(PI - 2.4)
    assert folded.straightness <= folded.straightness_bound


def test_a_corner_on_a_flat_torus():
    a, b = 0.4, 0.6
    bases = [torus(0, 0), torus(a, 0), torus(a, b)]
    corner = trajectory(bases)
    assert float(corner.turning) == pytest.approx(PI / 2)
    assert float(flat_turning(bases)) == pytest.approx(PI / 2)
    assert corner.displacement == pytest.approx(math.hypot(a, b))
    assert corner.straightness == pytest.approx(math.hypot(a, b) / (a + b))
    assert float(corner.curvature) == pytest.approx(PI / (a + b))
    assert corner.arc_length == pytest.approx(a + b)


def test_a_corner_on_a_sphere_closes_faster_than_in_the_plane():
    a, b = 0.5, 0.7
    north = torch.tensor([[1.0], [0], [0]], dtype=torch.float64)
    first = torch.tensor([[math.cos(a)], [math.sin(a)], [0]], dtype=torch.float64)
    second = torch.tensor([[math.cos(b)], [0], [math.sin(b)]], dtype=torch.float64)
    corner = trajectory([first, north, second])
    assert corner.displacement == pytest.approx(math.acos(math.cos(a) * math.cos(b)))
    assert float(corner.turning) == pytest.approx(PI / 2)
    assert float(corner.turning) < float(flat_turning([first, north, second]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", Space)
def test_toponogov_holds_on_smooth_trajectories(seed, space):
    bases = [frame(rows).basis(space, 6) for rows in layers(8, seed=seed)]
    turning, flat = trajectory(bases).turning, flat_turning(bases)
    assert (turning <= flat + 1e-9).all()
    assert (turning < flat - 1e-3).any()


def test_random_subspaces_follow_the_law():
    table = {(32, 384): 0.8448, (32, 640): 0.8802, (32, 768): 0.8907, (32, 1024): 0.9053,
             (32, 2048): 0.9330, (32, 4096): 0.9526, (64, 384): 0.7775}  # fmt: skip
    for (k, ambient), expected in table.items():
        assert subspaces.random_distance(k, ambient) == pytest.approx(expected, abs=5e-5)
    k, ambient = 24, 60
    drawn = [
        geodesic_distance(orthogonal(ambient, k, 2 * i), orthogonal(ambient, k, 2 * i + 1))
        for i in range(20)
    ]
    expected = subspaces.random_distance(k, ambient) * subspaces.largest_distance(k, ambient)
    assert np.mean(drawn) == pytest.approx(expected, rel=1e-2)
    cosines = [
        float((orthogonal(60, 24, i).T @ orthogonal(60, 24, i + 99)).square().sum())
        for i in range(40)
    ]
    assert np.mean(cosines) == pytest.approx(24**2 / 60, rel=0.02)
    assert subspaces.random_distance(40, 60) == subspaces.random_distance(20, 60)
    for k in (0, 60):
        said = f"all subspaces of dimension {k} in 60 dimensions are equal"
        with pytest.raises(UndefinedError, match=said):
            subspaces.random_distance(k, 60)


def test_independent_subspaces_turn_by_a_right_angle_and_noise_by_more():
    unrelated = trajectory([orthogonal(300, 16, seed) for seed in range(12)])
    assert unrelated.mean_turning == pytest.approx(PI / 2, abs=0.06)
    base = orthogonal(300, 16)
    noisy = [torch.linalg.qr(base + 0.01 * orthogonal(300, 16, seed)).Q for seed in range(1, 20)]
    assert trajectory(noisy).mean_turning == pytest.approx(2 * PI / 3, abs=0.05)


def test_log_map_is_the_textbook_formula_and_leads_to_the_other_subspace():
    one, other = orthogonal(30, 5, 1), orthogonal(30, 5, 2)
    found = principal_angles(one, other).there()
    inverse = torch.linalg.inv(one.T @ other)
    q, tangents, r = torch.linalg.svd(
        (other - one @ (one.T @ other)) @ inverse, full_matrices=False
    )
    assert torch.allclose(found, (q * tangents.arctan()) @ r, atol=1e-10)
    assert float((one.T @ found).abs().max()) < 1e-12
    assert float(found.norm()) == pytest.approx(geodesic_distance(one, other))
    turned = other @ orthogonal(5, seed=3)
    assert torch.allclose(principal_angles(one, turned).there(), found, atol=1e-10)
    spin = orthogonal(5, seed=4)
    assert torch.allclose(principal_angles(one @ spin, other).there(), found @ spin, atol=1e-10)


def test_a_standstill_has_no_turning():
    found = trajectory([line(0), line(0), line(0.3)])
    assert found.speed[0] == 0
    assert found.turning.isnan().all()
    still = trajectory([line(0)] * 3)
    with pytest.raises(UndefinedError, match="same in every layer"):
        _ = still.straightness
    with pytest.raises(UndefinedError, match="no inner layer"):
        _ = still.mean_turning


def test_unequal_dimensions_add_a_right_angle_each():
    assert geodesic_distance(torus(0, 0), torus(0, 0)[:, :1]) == pytest.approx(PI / 2)
    vectors = layers(4, d=12)
    vectors[1] = vectors[1] @ orthogonal(12, 3) @ orthogonal(12, 3).T
    lowered = path(vectors, k=8)
    assert lowered.dimensions == (3, 3, 3, 3)
    free = trajectory([frame(rows).feature[:, :8] for rows in vectors])
    assert free.dimensions == (8, 3, 8, 8)
    assert float(free.speed[0]) >= math.sqrt(5) * PI / 2
    assert free.turning.isnan().tolist() == [True, True]


def test_the_frame_is_the_singular_decomposition():
    for n, d in ((50, 20), (20, 50)):
        rows = layers(1, n, d)[0] + 3
        u, s, v = np.linalg.svd(rows.numpy() - rows.numpy().mean(0), full_matrices=False)
        found = frame(rows, width=6)
        assert found.singular_values.numpy() == pytest.approx(s[:6])
        for mine, theirs in ((found.feature, v[:6].T), (found.sample, u[:, :6])):
            assert abs(mine.numpy().T @ theirs) == pytest.approx(np.eye(6), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(300, 200), (200, 300)])
def test_the_randomized_frame_agrees_with_the_exact_one(n, d):
    rows = layers(1, n, d)[0]
    rows = rows * torch.exp(-torch.arange(d, dtype=torch.float64) / 8)
    exact, quick = frame(rows, 16), frame(rows, 16, exact_limit=10)
    for space in Space:
        assert geodesic_distance(exact.basis(space, 16), quick.basis(space, 16)) < 1e-6
    assert quick.singular_values.numpy() == pytest.approx(exact.singular_values.numpy())


def test_distances_agree_with_scipy_and_sample_angles_with_canonical_correlations():
    one, other = layers(2)
    frames = frame(one), frame(other)
    for space in Space:
        bases = [found.basis(space, 7) for found in frames]
        expected = scipy.linalg.subspace_angles(bases[0].numpy(), bases[1].numpy())
        assert principal_angles(*bases).angles.flip(0).numpy() == pytest.approx(expected)
    scores = [np.linalg.qr((rows - rows.mean(0)).numpy() @ found.feature[:, :7].numpy())[0]
              for rows, found in zip((one, other), frames, strict=True)]  # fmt: skip
    correlations = np.linalg.svd(scores[0].T @ scores[1])[1]
    angles = principal_angles(*(found.basis(Space.SAMPLE, 7) for found in frames)).angles
    assert angles.cos().numpy() == pytest.approx(correlations)


def changed(vectors, how):
    d = vectors[0].shape[1]
    match how:
        case "one rotation":
            return [rows @ orthogonal(d) for rows in vectors]
        case "a rotation a layer":
            return [rows @ orthogonal(d, seed=i) for i, rows in enumerate(vectors)]
        case "scaling":
            return [rows * (i + 0.5) for i, rows in enumerate(vectors)]
        case "translation":
            return [rows + i for i, rows in enumerate(vectors)]
        case "permutation":
            order = torch.randperm(len(vectors[0]), generator=torch.Generator().manual_seed(0))
            return [rows[order] for rows in vectors]
        case "zero columns":
            return [torch.cat([rows, torch.zeros(len(rows), 3)], 1) for rows in vectors]
        case "a stretch of each axis":
            return [rows * torch.linspace(1, 4, d, dtype=torch.float64) for rows in vectors]


ALWAYS = ("one rotation", "scaling", "translation", "permutation", "zero columns")


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize("how", [*ALWAYS, "a rotation a layer", "a stretch of each axis"])
def test_declared_invariances_hold_and_undeclared_ones_fail(space, how):
    vectors = layers(4)
    before, after = path(vectors, space=space), path(changed(vectors, how), space=space)
    same = torch.allclose(before.speed, after.speed, atol=1e-6) and torch.allclose(
        before.turning, after.turning, atol=1e-5
    )
    expected = how in ALWAYS or (how == "a rotation a layer" and space is Space.SAMPLE)
    assert same is expected


def test_a_constant_first_layer_is_refused_with_its_likely_cause():
    vectors = layers(4)
    vectors[0] = torch.ones_like(vectors[0]) * 0.1
    found = path(vectors)
    assert found.dimensions == (0, 8, 8, 8)
    assert found.speed.isnan().tolist() == [True, False, False]
    for name in ("displacement", "arc_length", "straightness", "straightness_bound"):
        with pytest.raises(UndefinedError, match=r"constant layer 0 \(CLS/EOS pooling\?\)"):
            getattr(found, name)
    assert path(vectors[1:]).displacement > 0


def test_other_constant_layers_are_named():
    vectors = layers(4)
    vectors[2] = torch.zeros_like(vectors[2])
    with pytest.raises(UndefinedError, match=r"equal in layers \[2\]"):
        _ = path(vectors).arc_length
    assert path(vectors).displacement > 0
    vectors[3] = torch.zeros_like(vectors[3])
    with pytest.raises(UndefinedError, match="last layer"):
        _ = path(vectors).displacement
    constant = path([torch.zeros(9, 4)] * 3)
    assert constant.speed.isnan().all()
    with pytest.raises(UndefinedError, match="dimension 0"):
        _ = constant.random


def test_four_samples_span_three_directions():
    found = path([torch.randn(4, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    assert found.k == 3


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="of 4 and 2 coordinates"):
        geodesic_distance(torus(0, 0), line(0))
    with pytest.raises(InputError, match="2 or more layers"):
        frenet([frame(torch.eye(4))])
    with pytest.raises(InputError, match="k from 1 to 84"):
        frenet([frame(torch.eye(4))] * 2, k=85)


@pytest.mark.parametrize(("n", "d"), [(400, 120), (120, 200)])
def test_half_bases_give_the_noise_of_exact_halves(n, d):
    rows = layers(1, n, d)[0]
    splits = halvings(n, 5, 0)
    bases = subspaces.half_bases(rows, frame(rows), splits)
    for k, tolerance in ((8, 0.01), (32, 0.02)):
        exact = [
            geodesic_distance(frame(rows[a], k).feature, frame(rows[b], k).feature) / 2
            for a, b in splits
        ]
        assert subspaces.noise_floor(bases, k) == pytest.approx(np.mean(exact), rel=tolerance)


def test_halves_are_disjoint_and_alike_in_every_layer():
    for one, other in halvings(11, 3, seed=5):
        assert len(one) == len(other) == 5
        assert len(set(one.tolist()) | set(other.tolist())) == 10
    assert all(
        torch.equal(a, b) for x, y in zip(halvings(9), halvings(9), strict=True)
        for a, b in zip(x, y, strict=True)
    )  # fmt: skip
    with pytest.raises(UndefinedError, match="halving needs at least 2 samples"):
        halvings(1)


def test_the_error_from_halves_is_that_of_a_mean():
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [(x[a].mean(), x[b].mean()) for a, b in halvings(4000, 200)]
    error = half_sample_error(values)
    assert float(error) == pytest.approx(4000**-0.5, rel=0.15)
    low, high = half_sample_limits(x.mean(), error, count=200)
    assert float(high - low) == pytest.approx(2 * 1.97 * float(error), rel=0.01)
