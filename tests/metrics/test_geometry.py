"""The record that a layer's measures share holds what each would compute alone."""

from __future__ import annotations

import math

import pytest
import torch

from layerscope.errors import UndefinedError
from layerscope.metrics.components import spanning_tree
from layerscope.metrics.dimension import gride, levina_bickel, two_nn
from layerscope.metrics.filtration import filtration, gfmi_edge, joint_counts
from layerscope.metrics.geometry import LayerStack, half_paths, known, layer_geometry
from layerscope.metrics.layers import frenet_speed
from layerscope.metrics.neighbors import nearest
from layerscope.metrics.pairs import PATH_ERROR, Closeness, Pairs, half_sample_error
from layerscope.metrics.subspaces import frenet, noise_floor


def layers(count=4, n=200, d=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator).double() * torch.arange(1, d + 1) ** -0.5
    found = []
    for _ in range(count):
        found.append(rows)
        turn = torch.randn(d, d, generator=generator).double() / math.sqrt(d)
        rows = rows + 0.4 * torch.tanh(rows @ turn)
    return found


def family(vectors, **options):
    final = layer_geometry(vectors[-1], **options)
    return [*(layer_geometry(rows, final, **options) for rows in vectors[:-1]), final]


def speed_error(found, k):
    return half_sample_error([(one.speed, other.speed) for one, other in half_paths(found, k)])


def test_the_record_holds_what_each_measure_computes_alone():
    vectors = layers()
    found = family(vectors, components=True)
    pairs, last = Pairs(vectors[1]), Pairs(vectors[-1])
    near = nearest(pairs, 64, Closeness.EUCLIDEAN)
    dimensions = {"two_nn": two_nn(near), "gride_n32": gride(near, 32),
                  "levina_bickel_k20": levina_bickel(near, 20)}  # fmt: skip
    for name, expected in dimensions.items():
        assert known(found[1].dimensions[name]).value == pytest.approx(expected, rel=1e-12)
    expected = gfmi_edge(joint_counts(filtration(pairs), filtration(last)))
    assert gfmi_edge(known(found[1].joint)) == pytest.approx(expected)
    assert gfmi_edge(known(found[-1].joint)) == pytest.approx(1)
    assert known(found[1].tree).lengths.tolist() == spanning_tree(pairs).lengths.tolist()
    assert found[1].filtration is None
    assert layer_geometry(vectors[0]).tree is None


def test_a_constant_layer_has_a_record_of_reasons():
    vectors = layers()
    vectors[0] = torch.ones_like(vectors[0])
    found = family(vectors)
    for part in (*found[0].dimensions.values(), found[0].joint, found[0].thresholds):
        with pytest.raises(UndefinedError, match="all vectors are equal"):
            known(part)
    assert known(found[1].joint).sum() == 200 * 199 // 2
    with pytest.raises(UndefinedError, match="constant layer 0"):
        _ = frenet([layer.frame for layer in found], 8).displacement
    assert speed_error(found, 8).isnan().tolist() == [True, False, False]
    backwards = family(vectors[::-1])
    with pytest.raises(UndefinedError, match="in the final layer all vectors are equal"):
        known(backwards[0].joint)


def test_a_layer_that_is_not_final_cannot_stand_for_it():
    vectors = layers(3)
    inner = family(vectors)[0]
    with pytest.raises(ValueError, match="made against another layer"):
        layer_geometry(vectors[1], inner)


def test_a_handful_of_samples():
    found = family([rows[:4] for rows in layers()])
    assert 0 <= gfmi_edge(known(found[0].joint)) <= 1
    alone = layer_geometry(torch.randn(2, 5, generator=torch.Generator().manual_seed(0)))
    assert alone.frame.width == 1
    with pytest.raises(UndefinedError, match="at least 4"):
        known(alone.joint)


def test_limits_of_a_path_allow_for_what_halves_leave_out():
    vectors = layers(n=120, d=40)
    stack = LayerStack(lambda layer: vectors[layer], len(vectors), components=False)
    expected = PATH_ERROR * speed_error(family(vectors), 16)
    found = [row.error for row in frenet_speed(stack) if row.metric == "frenet_speed_k16"]
    assert found == pytest.approx((expected / stack.path(16).largest).tolist())


def test_errors_from_halves_are_those_of_new_samples():
    """Over fresh samples the speed varies as the halves of one sample say."""
    runs = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(300, 20, generator=generator).double() * torch.arange(1, 21) ** -0.7
        fixed = torch.randn(20, 20, generator=torch.Generator().manual_seed(99)).double() / 4
        moved = rows + 0.5 * torch.tanh(rows @ fixed)
        found = family([rows, moved, moved + torch.tanh(moved @ fixed)])
        path = frenet([layer.frame for layer in found], 4)
        runs.append((path.speed, speed_error(found, 4)))
        assert noise_floor(found[0].halves, 4) > 0
    speeds, errors = (torch.stack(column) for column in zip(*runs, strict=True))
    ratio = errors.mean(0) / speeds.std(0)
    assert (ratio > 0.4).all()
    assert (ratio < 2.5).all()
