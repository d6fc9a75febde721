"""Measures of several layers: every record held to what it declares, and what stands where."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch

from layerscope.errors import UndefinedError
from layerscope.metrics import dimension, layers, neighbors, similarity, subspaces
from layerscope.metrics.between import Between
from layerscope.metrics.catalogue import CATALOGUE, measure
from layerscope.metrics.filtration import filtration, gfmi_edge, joint_counts
from layerscope.metrics.geometry import LayerStack
from layerscope.metrics.layers import frenet_displacement_sample
from layerscope.metrics.measure import INVARIANCES, Measure
from layerscope.metrics.pairs import Closeness, Pairs
from layerscope.metrics.similarity import TokenCosines, token_cosines

PAIRS = [record for record in CATALOGUE if record.level == "pair"]
# More samples than dimensions and fewer, with room beside a subspace of 32 dimensions in the first.
SHAPES = [(60, 40), (45, 60)]
COUNT = 4


def random_tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moving_layers(n: int, d: int, count: int = COUNT) -> list[torch.Tensor]:
    found = [random_tensor(n, d) * torch.linspace(2, 0.5, d).double() + 0.4]
    for layer in range(1, count):
        found.append(found[-1] + 0.5 * random_tensor(n, d, seed=layer))
    return found


def stack_of(vectors: list[torch.Tensor], **options) -> LayerStack:
    def crossed(layer: int) -> TokenCosines:  # a token a text
        before, after = (rows[:, None] for rows in vectors[layer - 1 : layer + 1])
        return token_cosines(before, after, torch.ones(before.shape[:2], dtype=torch.bool))

    return LayerStack(vectors.__getitem__, len(vectors), **{"crossed": crossed} | options)


@cache
def changed_stack(name: str, shape: tuple[int, int]) -> LayerStack:
    return stack_of(changed(name, moving_layers(*shape)))


def rows_of(record: Measure, stack: LayerStack) -> list[Between]:
    return [row for row in record.function(stack) if row.metric == record.name]


def values(record: Measure, stack: LayerStack) -> torch.Tensor:
    found = rows_of(record, stack)
    assert [row.reason for row in found if row.value is None] == []
    return torch.tensor([row.value for row in found], dtype=torch.float64)


def changed(name: str, vectors: list[torch.Tensor]) -> list[torch.Tensor]:
    n, d = vectors[0].shape
    turns = [torch.linalg.qr(random_tensor(d, d, seed=50 + i)).Q for i in range(COUNT)]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(2))
    change = {
        "": lambda rows, _: rows,
        "orthogonal": lambda rows, _: rows @ turns[0],
        "layer rotation": lambda rows, i: rows @ turns[i],
        "scaling": lambda rows, _: 0.01 * rows,
        "layer scaling": lambda rows, i: (0.1 + i) * rows,
        "row scaling": lambda rows, _: rows * random_tensor(n, 1, seed=3).exp(),
        "translation": lambda rows, _: rows + random_tensor(d, seed=4),
        "layer translation": lambda rows, i: rows + random_tensor(d, seed=60 + i),
        "permutation": lambda rows, _: rows[order],
    }[name]
    return [change(rows, i) for i, rows in enumerate(vectors)]


@pytest.mark.parametrize("name", [name for name in INVARIANCES if name != "token reversal"])
@pytest.mark.parametrize("record", PAIRS, ids=lambda record: record.name)
def test_declared_invariances_hold_and_others_visibly_fail(record, name):
    changes = []
    for shape in SHAPES:
        before, after = (values(record, changed_stack(way, shape)) for way in ("", name))
        changes.append(float(((after - before).abs() / before.abs().clamp(min=0.1)).max()))
    if name in record.invariances[""]:
        assert max(changes) < 1e-7
    else:
        assert max(changes) > 1e-4


def expected_places(place: str, last: int) -> set[tuple[int, int | None]]:
    return {
        "step": {(layer, layer - 1) for layer in range(1, last + 1)},
        "final": {(layer, last) for layer in range(last)},
        "matrix": {(one, two) for two in range(last + 1) for one in range(two)},
        "model": {(last, 0)},
    }[place]


@pytest.mark.parametrize("record", PAIRS, ids=lambda record: record.name)
def test_rows_stand_where_the_record_says_with_names_that_it_knows(record):
    found = record.function(changed_stack("", SHAPES[0]))
    assert {row.metric for row in found} == {record.name, *record.variants}
    own = [(row.layer, row.other_layer) for row in found if row.metric == record.name]
    assert len(own) == len(set(own))
    if record.place == "layer":
        inner = record.name.startswith("frenet")
        assert own == [(layer, None) for layer in (range(1, 3) if inner else range(COUNT))]
    else:
        assert set(own) == expected_places(record.place, COUNT - 1)


@pytest.mark.parametrize("record", PAIRS, ids=lambda record: record.name)
def test_nulls_of_rows_are_those_of_the_record(record):
    n, d = SHAPES[0]
    for row in rows_of(record, changed_stack("", SHAPES[0])):
        if record.null is None or record.place == "matrix":
            continue
        tolerance = 0.05 if "gfmi_edge" in row.metric else 1e-12
        assert row.null == pytest.approx(record.null.level(n, d), abs=tolerance)


@pytest.mark.parametrize("record", PAIRS, ids=lambda record: record.name)
def test_contributions_average_to_the_value_and_limits_hold_it(record):
    for row in rows_of(record, changed_stack("", (200, 40))):
        if row.contributions is not None:
            assert float(row.contributions.nanmean()) == pytest.approx(row.value, abs=1e-9)
        if row.limits:
            low, high = row.limits
            assert row.bounds[0] <= low <= row.value <= high <= row.bounds[1]
    limited = row.contributions is not None or row.limits is not None
    assert limited != ("No limits" in record.note)


def test_displacement_over_samples_spreads_as_its_error_says():
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        z, own = (torch.randn(160, 60, generator=generator) for _ in range(2))
        scale = torch.arange(1, 61) ** -0.6
        found = frenet_displacement_sample(
            stack_of([z * scale, (z + own) * scale.roll(7)], crossed=None)
        )
        return next((row.value, row.error) for row in found if row.metric.endswith("_k16"))

    values, errors = torch.tensor([drawn(seed) for seed in range(24)]).T
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.35)


def test_too_few_samples_leave_displacement_over_samples_without_limits():
    found = frenet_displacement_sample(stack_of(moving_layers(60, 40)))
    assert [row.metric for row in found if row.limits] == ["frenet_displacement_sample_k16"]


def test_values_are_those_of_the_functions_behind_them():
    vectors = moving_layers(*SHAPES[0])
    frames = [subspaces.frame(rows) for rows in vectors]
    path = subspaces.frenet(frames, 16)
    found = {
        (row.metric, row.layer): row.value
        for name in ("frenet_speed_k32", "frenet_turning_k32", "nrs_k10", "gfmi_edge", "two_nn")
        for row in measure(name).function(stack_of(vectors))
    }
    lists = [neighbors.nearest(Pairs(rows), 20) for rows in vectors]
    arc = {row.metric: row.value for row in layers.frenet_arc_length(stack_of(vectors))}
    length = path.arc_length / path.largest
    assert arc["frenet_arc_length_k16"] == pytest.approx(length, rel=1e-12)  # not in float32
    assert found["frenet_speed_k16", 2] == pytest.approx(float(path.speed[1]) / path.largest)
    assert found["frenet_turning_k16", 2] == pytest.approx(float(path.turning[1]))
    assert found["nrs_k20", 3] == neighbors.retention(lists[2], lists[3], 20)
    levels = [filtration(Pairs(rows)) for rows in vectors]
    assert found["gfmi_edge", 1] == gfmi_edge(joint_counts(levels[1], levels[3]))
    near = neighbors.nearest(Pairs(vectors[0]), 2, Closeness.EUCLIDEAN)
    assert found["two_nn", 0] == pytest.approx(dimension.two_nn(near))


def test_noise_floor_and_null_lie_on_both_sides_of_a_real_motion():
    rows = random_tensor(400, 90) * torch.linspace(2, 0.1, 90).double()
    moved = rows[:, torch.randperm(90, generator=torch.Generator().manual_seed(0))]
    speed = rows_of(measure("frenet_speed_k32"), stack_of([rows, 0.5 * (rows + moved)]))[0]
    assert 0 < speed.floor < speed.value < speed.null
    still = rows_of(measure("frenet_speed_k32"), stack_of([rows, rows + 1e-9 * moved]))[0]
    assert still.value < 1e-6 < still.floor == pytest.approx(speed.floor, rel=0.5)


def test_a_constant_layer_0_has_no_subspace_and_the_others_do():
    vectors = moving_layers(60, 90)
    vectors[0] = torch.ones_like(vectors[0])
    stack = stack_of(vectors)
    assert {row.reason for row in layers.frenet_displacement(stack)} == {
        "constant layer 0 (CLS/EOS pooling?)"
    }
    for name in ("nrs_k10", "gfmi_edge", "cka_unbiased", "frenet_speed_k32", "continuity_k10"):
        found = rows_of(measure(name), stack)
        assert [row.value is None for row in found] == [True, False, False], name
    for record in PAIRS:
        for row in record.function(stack):
            assert (row.value is None) == bool(row.reason)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 21])
def test_few_samples_give_a_number_or_a_reason(n):
    stack = stack_of(moving_layers(n, 6))
    for record in PAIRS:
        for row in record.function(stack):
            assert (row.value is None) == bool(row.reason), row.metric
            assert row.value is None or math.isfinite(row.value), row.metric


def test_duplicated_samples_give_a_number_or_a_reason():
    vectors = [
        torch.cat([rows, rows[:30], rows[:1].repeat(20, 1)]) for rows in moving_layers(40, 30)
    ]
    stack = stack_of(vectors)
    for record in PAIRS:
        for row in record.function(stack):
            assert (row.value is None) == bool(row.reason), row.metric
    assert all(row.value == 1 for row in layers.nrs(stack_of([vectors[0]] * 3)))


def test_notes_say_what_is_not_as_asked_for():
    few = stack_of(moving_layers(30, 50))
    assert few.subspace_note == (
        "Frenet: k is 29, the least rank of a layer, instead of 32, 64; 30 texts are fewer than 4 k "
        "for k = 16, 29, so estimation noise rules those subspaces; "
        "their paths have no limits."
    )
    assert few.neighbor_note.startswith("NRS: k = 5, 10, 20 is more than a tenth of 30 texts")
    many = stack_of(moving_layers(600, 90))
    assert (many.subspace_note, many.neighbor_note) == ("", "")


def test_independent_layers_stand_at_their_null():
    vectors = [random_tensor(300, 80, seed=seed) for seed in range(3)]
    stack = stack_of(vectors)
    corrected = partial(layers.nrs, place="final", corrected=True)
    for function in (layers.nrs, corrected, layers.gfmi_edge, layers.cka):
        for row in function(stack):
            assert row.value == pytest.approx(row.null, abs=0.02), row.metric
    for row in layers.frenet_speed(stack):
        assert row.value == pytest.approx(row.null, rel=0.05), row.metric
    for function in (layers.trustworthiness, layers.continuity, layers.angular_distance):
        for row in function(stack):
            assert row.value == pytest.approx(row.null, abs=0.03), row.metric


def test_vectors_alone_have_no_block_influence():
    row = layers.block_influence(stack_of(moving_layers(9, 4), crossed=None))[0]
    assert row.reason == "block influence needs the tokens, and here are only vectors"


def test_without_components_there_are_none():
    row = layers.gfmi_component(stack_of(moving_layers(9, 4), components=False))[0]
    assert row.reason == "the stack was made without components"


def test_subspaces_that_fill_the_space_have_no_distance():
    with pytest.raises(UndefinedError, match="subspaces of dimension 6 fill all 6 of the feature"):
        stack_of(moving_layers(50, 6)).path(32)


def test_constant_layers_have_no_subspace_to_move():
    vectors = moving_layers(60, 90)
    vectors[2] = torch.ones_like(vectors[2])
    reasons = {
        row.layer: row.reason for row in rows_of(measure("frenet_speed_k32"), stack_of(vectors))
    }
    assert reasons[1] == ""
    assert reasons[2] == reasons[3] == "all vectors are equal in layer 2"
    with pytest.raises(UndefinedError, match="all vectors are equal in every layer"):
        stack_of([torch.ones(60, 90)] * 3).path(32)


def test_matrices_hold_the_steps():
    stack = stack_of(moving_layers(*SHAPES[0]))
    for step, whole in (
        (layers.cka, layers.cka_matrix),
        (layers.angular_distance, layers.angular_matrix),
        (layers.frenet_speed, layers.grassmann_matrix),
        (layers.nrs, layers.nrs_matrix),
    ):
        beside = {(row.layer, row.other_layer): row.value for row in whole(stack)}
        for row in step(stack):
            if row.metric.endswith(("k16", "k64", "k5", "k20", "k50")):
                continue
            assert beside[row.other_layer, row.layer] == pytest.approx(row.value, rel=1e-9)


def test_procrustes_of_a_step():
    vectors = moving_layers(*SHAPES[0])
    found = layers.procrustes_angle(stack_of(vectors))
    assert found[0].value == similarity.procrustes_angle(vectors[0], vectors[1])


def test_gfmi_by_lists_looks_at_every_octave_up_to_half_the_samples():
    """Lists of 64 neighbors, which is all that NRS needs, would leave out k = 128 of 260."""
    n = 260
    start = torch.randn(n, 5, generator=torch.Generator().manual_seed(0)).double() + 0.5
    final = start + 0.8 * torch.randn(n, 5, generator=torch.Generator().manual_seed(1)).double()
    scores = []
    for k in (1, 2, 4, 8, 16, 32, 64, 128):
        matrices = []
        for rows in (start.numpy(), final.numpy()):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            away = 1 - unit @ unit.T
            np.fill_diagonal(away, np.inf)
            matrices.append(np.argsort(np.argsort(away, axis=1), axis=1) < k)
        off = ~np.eye(n, dtype=bool)
        scores.append(mutual_info(*(matrix[off] for matrix in matrices)))
    stack = LayerStack([start, final].__getitem__, 2, components=False)
    (row,) = layers.gfmi_knn(stack)
    assert row.value == pytest.approx(np.mean(scores), abs=1e-9)
    assert float(row.contributions.mean()) == pytest.approx(row.value, abs=1e-9)
    assert layers.mean_gfmi_knn(stack)[0].value == pytest.approx(row.value, abs=1e-12)
    assert abs(np.mean(scores[:-1]) - row.value) > 1e-3


def mutual_info(one, other):
    """Mutual information of two boolean arrays over the entropy of the first."""
    table = np.array([[(one & other).mean(), (one & ~other).mean()],
                      [(~one & other).mean(), (~one & ~other).mean()]])  # fmt: skip
    expected = np.outer(table.sum(1), table.sum(0))
    margin = table.sum(1)
    return (table * np.log(table / expected)).sum() / -(margin * np.log(margin)).sum()


def test_a_layer_that_does_not_move_has_no_turning():
    rows = random_tensor(60, 40)
    (row,) = (
        row
        for row in layers.frenet_turning(stack_of([rows, rows, random_tensor(60, 40, seed=1)]))
        if row.metric == "frenet_turning_k16"
    )
    assert row.value is None
    assert row.reason == "the subspace is that of a neighboring layer, so it has no direction"
