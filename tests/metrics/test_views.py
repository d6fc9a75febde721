"""View measures: closed forms, slow twins, edges."""

import itertools
import math

import pytest
import torch

from layerscope.errors import UndefinedError
from layerscope.metrics import views
from layerscope.metrics.inputs import ViewInputs
from layerscope.settings import Convention

PAPER, NORMALIZED, REFERENCE = Convention.PAPER, Convention.NORMALIZED, Convention.REFERENCE


def pair(first, second=None) -> ViewInputs:
    first = torch.as_tensor(first, dtype=torch.float64)
    second = first if second is None else torch.as_tensor(second, dtype=torch.float64)
    return ViewInputs(torch.stack([first, second], 1))


def random_views(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def entropy(matrix: torch.Tensor) -> float:
    values = torch.linalg.eigvalsh(matrix / matrix.trace())
    return -sum(v * math.log(v) for v in values.tolist() if v > 1e-14)


# --- InfoNCE -------------------------------------------------------------------------------------


def test_infonce_closed_forms():
    loss = views.infonce(pair(torch.eye(2)), PAPER)
    assert loss.value == pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-9)
    equal = pair(torch.ones(5, 3))
    assert views.infonce(equal, PAPER).value == pytest.approx(math.log(9))
    assert views.infonce_cross(equal, PAPER).value == pytest.approx(math.log(5))
    assert views.infonce_mi_bound(equal, PAPER).value == pytest.approx(0, abs=1e-12)


def test_tiny_dot_products_sit_at_chance():
    vectors = random_views(6, 2, 4)
    loss = views.infonce(ViewInputs(vectors, 1e-6 * vectors), REFERENCE)
    assert loss.value == pytest.approx(math.log(11), abs=1e-6)


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize("convention", [PAPER, NORMALIZED])
def test_infonce_equals_its_definition(convention, block, monkeypatch):
    monkeypatch.setattr(views, "BLOCK", block)
    vectors = random_views(8, 2, 5) + 1
    prepared = unit(vectors if convention is PAPER else vectors - vectors.mean((0, 1)))
    rows = [*prepared[:, 0], *prepared[:, 1]]
    n = len(vectors)

    def similarity(i, j):
        return float(rows[i] @ rows[j]) / 0.1

    both, cross, as_negative = [], [], torch.zeros(n, dtype=torch.float64)
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        others = [j for j in range(2 * n) if j != i]
        total = sum(math.exp(similarity(i, j)) for j in others)
        for j in set(others) - {positive}:
            as_negative[j % n] += math.exp(similarity(i, j)) / total / 2
        both.append(math.log(total))
        both[-1] -= similarity(i, positive)
        other_view = range(n, 2 * n) if i < n else range(n)
        cross.append(math.log(sum(math.exp(similarity(i, j)) for j in other_view)))
        cross[-1] -= similarity(i, positive)
    inputs = ViewInputs(vectors)
    found = views.infonce(inputs, convention)
    assert found.value == pytest.approx(sum(both) / len(both), abs=1e-12)
    per_text = torch.tensor(both, dtype=torch.float64).view(2, n).mean(0)
    expected = per_text + as_negative - as_negative.mean()
    assert found.contributions.tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    found = views.infonce_cross(inputs, convention)
    assert found.value == pytest.approx(sum(cross) / len(cross), abs=1e-12)
    bound = views.infonce_mi_bound(inputs, convention)
    assert bound.value == pytest.approx(math.log(n) - found.value, abs=1e-12)
    assert float(bound.contributions.mean()) == pytest.approx(bound.value, abs=1e-12)


def test_a_pair_with_a_zero_vector_is_left_out():
    vectors = random_views(20, 2, 3)
    vectors[2, 1] = 0
    kept = vectors[[i for i in range(20) if i != 2]]
    for measure in (views.infonce, views.infonce_cross, views.infonce_mi_bound, views.dime):
        found = measure(ViewInputs(vectors), PAPER)
        assert found.value == pytest.approx(measure(ViewInputs(kept), PAPER).value, abs=1e-12)
        assert found.contributions.isnan().nonzero().tolist() == [[2]]


# --- retrieval -----------------------------------------------------------------------------------


def slow_reciprocal_ranks(first, second) -> list[float]:
    """The definition: sort, take the places of all that are as near as one's own, average them."""
    found = []
    for i, query in enumerate(first):
        near = sorted((round(float(query @ key), 11) for key in second), reverse=True)
        own = round(float(query @ second[i]), 11)
        places = [place for place, cosine in enumerate(near, start=1) if cosine == own]
        found.append(len(places) / sum(places))
    return found


@pytest.mark.parametrize("block", [3, 512])
@pytest.mark.parametrize("count", [2, 5])
def test_retrieval_equals_its_definition(count, block, monkeypatch):
    monkeypatch.setattr(views, "BLOCK", block)
    vectors = random_views(11, 1, 6) + 0.8 * random_views(11, count, 6, seed=1) + 2
    vectors[7] = vectors[2]  # the same text twice: ties
    expected = torch.zeros(11, dtype=torch.float64)
    for start in range(0, count - 1, 2):
        pair = vectors[:, start : start + 2]
        rows = unit(pair - pair.mean((0, 1)))
        one, other = rows[:, 0], rows[:, 1]
        both = [slow_reciprocal_ranks(one, other), slow_reciprocal_ranks(other, one)]
        expected += torch.tensor(both, dtype=torch.float64).mean(0) / (count // 2)
    found = views.retrieval(ViewInputs(vectors))
    torch.testing.assert_close(found.contributions, expected, rtol=0, atol=1e-12)
    assert found.value == pytest.approx(float(expected.mean()), abs=1e-12)
    assert 0 < found.value < 1


def test_retrieval_closed_forms():
    assert views.retrieval(pair(random_views(9, 5))).value == 1  # every text finds itself
    # Two groups of equal texts: each of three is found at the mean of ranks 1 to 3.
    groups = torch.tensor([[1.0, 0], [0, 1]]).repeat_interleave(3, 0)
    assert views.retrieval(pair(groups)).value == pytest.approx(1 / 2)
    # Every text is looked for in the opposite direction: it comes last.
    corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert views.retrieval(pair(corners, -corners)).value == pytest.approx(1 / 4)


def test_retrieval_of_unrelated_views_is_at_chance():
    n = 400
    level = views.chance_of_retrieval(n)
    assert level == pytest.approx((math.log(n) + 0.5772156649 + 0.5 / n) / n, rel=1e-4)
    found = views.retrieval(ViewInputs(random_views(n, 2, 30)))
    error = float(found.contributions.std()) / math.sqrt(n)
    assert abs(found.value - level) < 3 * error


def test_retrieval_without_any_direction_is_undefined():
    with pytest.raises(UndefinedError, match="needs 2 texts with nonzero views, got 0"):
        views.retrieval(pair(torch.ones(5, 3)))
    with pytest.raises(UndefinedError, match="needs 2 views of each text, got 1"):
        views.retrieval(ViewInputs(random_views(5, 1, 3)))


def test_retrieval_leaves_out_texts_without_a_direction_in_any_pair():
    vectors = random_views(6, 4, 3)
    vectors[1, :2] = 0
    vectors[1, 0] = vectors[[0, 2, 3, 4, 5], :2].flatten(0, 1).mean(0)  # at the mean it is zero
    vectors[1, 1] = vectors[1, 0]
    found = views.retrieval(ViewInputs(vectors))
    assert found.contributions.isnan().tolist() == [False, True, False, False, False, False]
    assert found.value == pytest.approx(float(found.contributions.nanmean()), abs=1e-15)


# --- LiDAR ---------------------------------------------------------------------------------------


def crossed(across: float, along: float) -> torch.Tensor:
    """Views offset by +-across e_1 and +-along e_2 around means (+-2, 0), (0, +-1)."""
    means = torch.tensor([[2, 0], [-2, 0], [0, 1], [0, -1]], dtype=torch.float64)
    offsets = [[across, 0], [-across, 0], [0, along], [0, -along]]
    return means[:, None] + torch.tensor(offsets, dtype=torch.float64)


@pytest.mark.parametrize("delta", [0.0, 1e-4, 0.3])
def test_lidar_with_equal_scatter_within(delta):
    inputs = ViewInputs(crossed(0.5, 0.5))
    assert views.lidar(inputs, PAPER, delta=delta).value == pytest.approx(1.6493848885)
    assert views.lidar_log(inputs, PAPER, delta=delta).value == pytest.approx(0.5004024235)


def test_lidar_whitens_the_scatter_within():
    assert views.lidar(ViewInputs(crossed(1.0, 0.5)), PAPER, delta=0).value == pytest.approx(2)


@pytest.mark.parametrize("shape", [(7, 4, 5), (5, 3, 40)], ids=["tall", "wide"])
@pytest.mark.parametrize("convention", [PAPER, NORMALIZED])
def test_lidar_equals_its_definition(convention, shape):
    vectors = random_views(shape[0], 1, shape[2]) + 0.5 * random_views(*shape, seed=1)
    given = vectors if convention is PAPER else unit(vectors - vectors.mean((0, 1)))
    n, a, d = shape
    means = given.mean(1)
    between = sum(torch.outer(m, m) for m in means - means.mean(0)) / n
    within = sum(
        torch.outer(given[i, j] - means[i], given[i, j] - means[i])
        for i, j in itertools.product(range(n), range(a))
    ) / (n * a)
    delta = 1e-4 if convention is PAPER else 1e-4 * float(within.trace()) / d
    within = within + delta * torch.eye(d, dtype=torch.float64)
    values = torch.linalg.eigvals(torch.linalg.solve(within, between)).real
    p = [v for v in (values / values.sum()).tolist() if v > 1e-13]
    slow = -sum(v * math.log(v) for v in p)
    inputs = ViewInputs(vectors)
    assert views.lidar_log(inputs, convention).value == pytest.approx(slow, abs=1e-8)
    assert views.lidar(inputs, convention).value == pytest.approx(math.exp(slow), rel=1e-8)
    found = views.lidar_log_normalized(inputs, convention).value
    assert found == pytest.approx(slow / math.log(min(n, d)), abs=1e-8)


def test_identical_views_leave_nothing_to_whiten_by():
    inputs = ViewInputs(random_views(6, 1, 4).expand(6, 3, 4))
    with pytest.raises(UndefinedError, match="views of each text are identical"):
        views.lidar(inputs, NORMALIZED)
    assert views.lidar(inputs, PAPER).value > 1  # delta alone
    with pytest.raises(UndefinedError, match="needs a larger delta"):
        views.lidar(ViewInputs(torch.ones(6, 3, 4)), PAPER, delta=0)


# --- DiME ----------------------------------------------------------------------------------------

BLOCKS = torch.tensor(
    [[1, 0], [1, 0], [0, 1]], dtype=torch.float64
)  # Gram [[1,1,0],[1,1,0],[0,0,1]]


def test_dime_closed_form_over_all_permutations():
    inputs = pair(BLOCKS)
    assert views.dime(inputs, PAPER).value == pytest.approx(4 / 9 * math.log(2), abs=1e-12)
    assert views.dime_standard_error(inputs, PAPER).value == 0
    expected = math.log(5) - math.log(3 + 4 / 6)
    assert views.dip_order2(inputs).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rows", [torch.ones(4, 3), torch.eye(4)], ids=["all ones", "identity"])
def test_dime_of_extreme_grams_is_zero(rows):
    assert views.dime(pair(rows), PAPER).value == pytest.approx(0, abs=1e-9)
    assert views.dip_order2(pair(rows)).value == pytest.approx(0, abs=1e-9)


def test_dime_of_two_texts_is_zero():
    found = views.dime(pair(random_views(2, 3), random_views(2, 3, seed=1)), PAPER)
    assert found.value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", [1, 2])
def test_dime_equals_its_definition(alpha):
    vectors = random_views(9, 2, 4)
    first, second = unit(vectors[:, 0]), unit(vectors[:, 1])
    gram, other = first @ first.T, second @ second.T
    permutations = torch.stack([torch.randperm(9) for _ in range(4)])

    def order(matrix: torch.Tensor) -> float:
        if alpha == 1:
            return entropy(matrix)
        return -math.log(float((matrix / matrix.trace()).square().sum()))

    slow = sum(order(gram * other[p][:, p]) for p in permutations) / 4 - order(gram * other)
    found = views.dime(ViewInputs(vectors, permutations=permutations), PAPER, alpha=alpha)
    assert found.value == pytest.approx(slow, abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 2, 9), (4, 2, 4), (9, 2, 4)], ids=["wide", "square", "tall"])
@pytest.mark.parametrize("alpha", [0.5, 1, 2, 3])
def test_dime_of_the_authors_equals_their_code(alpha, shape):
    """Order 2 divides the sum of squares by the size of the matrix squared, whatever the trace."""
    vectors = (
        random_views(*shape) * torch.tensor([0.2, 0.9, 3.0, 0.5]).repeat(3)[: shape[0], None, None]
    )
    first, second = vectors[:, 0], vectors[:, 1]
    n, d = first.shape
    one, two = (x.T @ x if n > d else x @ x.T for x in (first, second))
    permutations = torch.stack([torch.randperm(len(one)) for _ in range(4)])

    def order(matrix: torch.Tensor) -> float:
        if alpha == 2:
            return -math.log(sum(float(x) ** 2 for x in matrix.flatten()) / len(matrix) ** 2)
        kept = [
            v for v in torch.linalg.eigvalsh(matrix).tolist() if v > 1e-13 * float(matrix.trace())
        ]
        p = [v / sum(kept) for v in kept]
        if alpha == 1:
            return -sum(v * math.log(v) for v in p)
        return math.log(sum(v**alpha for v in p)) / (1 - alpha)

    slow = sum(order(one * two[p][:, p]) for p in permutations) / 4 - order(one * two)
    inputs = ViewInputs(vectors, vectors, permutations=permutations)
    found = views.dime(inputs, REFERENCE, alpha=alpha)
    assert found.value == pytest.approx(slow, abs=1e-9)
    values = torch.tensor([order(one * two[p][:, p]) for p in permutations])
    error = views.dime_standard_error(inputs, REFERENCE, alpha=alpha).value
    assert error == pytest.approx(float(values.std()) / 2, abs=1e-6)


def test_dime_of_order_two_is_at_least_its_closed_form():
    vectors = random_views(5, 2, 3)
    dime = views.dime(ViewInputs(vectors), PAPER, alpha=2).value  # all 120 permutations
    dip = views.dip_order2(ViewInputs(vectors)).value
    assert dip <= dime + 1e-12
    assert dip == pytest.approx(dime, abs=0.02)


@pytest.mark.parametrize("block", [4, 512])
def test_dip_equals_its_definition(block, monkeypatch):
    monkeypatch.setattr(views, "BLOCK", block)
    vectors = random_views(9, 2, 4)
    one, two = (unit(rows) @ unit(rows).T for rows in vectors.unbind(1))
    a, b = (float(gram.square().sum()) - 9 for gram in (one, two))
    expected = math.log(float((one * two).square().sum())) - math.log(9 + a * b / 72)
    assert views.dip_order2(ViewInputs(vectors)).value == pytest.approx(expected, abs=1e-12)


def test_permutations_come_from_the_seed_alone():
    vectors = random_views(12, 2, 4)
    first, again, other = (
        views.dime(ViewInputs(vectors, seed=seed), PAPER).value for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_standard_error_is_that_of_the_permutations():
    vectors = random_views(12, 2, 4)
    values = [views.dime(ViewInputs(vectors, seed=seed), PAPER).value for seed in range(60)]
    errors = [
        views.dime_standard_error(ViewInputs(vectors, seed=seed), PAPER).value for seed in range(60)
    ]
    spread = float(torch.tensor(values).std())
    assert sum(errors) / 60 == pytest.approx(spread, rel=0.25)


def test_dime_says_where_to_go_above_its_limit():
    inputs = ViewInputs(random_views(8, 2, 3))
    with pytest.raises(UndefinedError, match="use dip_order2, its closed form"):
        views.dime(inputs, PAPER, limit=7)
    with pytest.raises(UndefinedError, match="offered for at most 1000"):
        views.dime(ViewInputs(torch.ones(1001, 2, 1)), PAPER)


@pytest.mark.parametrize(
    ("measure", "shape", "reason"),
    [
        (views.infonce, (5, 1, 3), "needs 2 views of each text, got 1"),
        (views.infonce, (1, 2, 3), "needs 2 texts with nonzero views, got 1"),
        (views.dime, (1, 2, 3), "needs 2 texts with nonzero views, got 1"),
        (views.lidar, (2, 2, 3), "3 texts and 2 views, got 2 and 2"),
        (views.lidar, (3, 1, 3), "3 texts and 2 views, got 3 and 1"),
        (views.lidar_log_normalized, (5, 3, 1), "one dimension has no entropy"),
    ],
)
def test_undefined_says_why(measure, shape, reason):
    with pytest.raises(UndefinedError, match=reason):
        measure(ViewInputs(random_views(*shape)), PAPER)


def test_dip_needs_three_texts():
    with pytest.raises(UndefinedError, match="at least 3 texts with nonzero views, got 2"):
        views.dip_order2(ViewInputs(random_views(2, 2, 3)))


def test_where_all_permutations_were_taken_there_is_no_such_error():
    vectors = random_views(9, 2, 4)
    vectors[:4, 0] = 0  # 5 texts are left, few enough for all their orders
    assert views.dime_standard_error(ViewInputs(vectors), PAPER).value == 0
    narrow = random_views(9, 2, 3)  # the authors' code shuffles its 3 dimensions
    assert views.dime_standard_error(ViewInputs(narrow, narrow), REFERENCE).value == 0


def test_the_standard_error_has_no_spread_over_texts():
    found = views.dime_standard_error(ViewInputs(random_views(9, 2, 4)), PAPER)
    assert found.value > 0
    assert not len(found.contributions)


@pytest.mark.parametrize("shape", [(5, 2, 12), (8, 3, 30), (30, 2, 64), (20, 16, 40), (9, 4, 4)])
@pytest.mark.parametrize("convention", [PAPER, NORMALIZED, REFERENCE])
def test_rounding_alone_tells_no_texts_apart(shape, convention):
    row = random_views(shape[-1]) + 0.4
    inputs = ViewInputs(row.expand(shape), row.expand(shape))
    with pytest.raises(UndefinedError):
        views.lidar(inputs, convention)


@pytest.mark.parametrize("alpha", [0, 0.5, 1, 2])
@pytest.mark.parametrize("shape", [(6, 2, 3), (4, 2, 9)], ids=["tall", "wide"])
def test_dime_of_nothing_is_undefined(alpha, shape):
    nothing = torch.zeros(shape, dtype=torch.float64)
    inputs = ViewInputs(random_views(*shape), nothing)
    with pytest.raises(UndefinedError, match="all rows are zero or equal"):
        views.dime(inputs, REFERENCE, alpha=alpha)


@pytest.mark.parametrize("convention", [PAPER, NORMALIZED, REFERENCE])
@pytest.mark.parametrize("shape", [(9, 2, 4), (5, 2, 9)], ids=["tall", "wide"])
def test_dime_of_order_zero_is_a_difference_of_ranks(convention, shape):
    vectors = random_views(*shape)
    found = views.dime(ViewInputs(vectors, vectors), convention, alpha=0)
    rows = {PAPER: vectors, REFERENCE: vectors}.get(convention, vectors - vectors.mean((0, 1)))
    first, second = rows[:, 0], rows[:, 1]
    if convention is REFERENCE and len(first) > first.shape[1]:
        first, second = first.T, second.T
    joint = (first @ first.T) * (second @ second.T)
    assert int(torch.linalg.matrix_rank(joint)) == len(
        joint
    )  # products of full rank, shuffled or not
    assert found.value == pytest.approx(0, abs=1e-12)


def test_one_given_permutation_has_no_standard_error():
    inputs = ViewInputs(random_views(8, 2, 3), permutations=torch.randperm(8)[None])
    with pytest.raises(UndefinedError, match="one permutation has no standard error"):
        views.dime_standard_error(inputs, PAPER)


def test_a_constant_layer_is_undefined_for_lidar_and_zero_for_dime():
    inputs = ViewInputs(torch.full((5, 2, 3), 2.5))
    with pytest.raises(UndefinedError, match="all rows are zero or equal"):
        views.lidar(inputs, PAPER)
    with pytest.raises(UndefinedError, match="needs 2 texts with nonzero views"):
        views.infonce(inputs, NORMALIZED)
    assert views.dime(inputs, PAPER).value == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("convention", [Convention.PAPER, Convention.NORMALIZED])
@pytest.mark.parametrize("measure", [views.infonce, views.infonce_cross, views.dime])
def test_measures_of_two_views_do_not_change_with_more_of_them(measure, convention):
    vectors = torch.randn(12, 5, 6, generator=torch.Generator().manual_seed(0)).double() + 1
    two, five = (measure(ViewInputs(vectors[:, :count]), convention).value for count in (2, 5))
    assert two == pytest.approx(five, rel=1e-12)


def test_too_few_texts_are_told():
    few, more = ViewInputs(random_views(20, 2, 30)), ViewInputs(random_views(20, 2, 20))
    enough = ViewInputs(random_views(20, 2, 10))
    for lidar in (views.lidar, views.lidar_log, views.lidar_log_normalized):
        ruled, unlimited = lidar(few, PAPER), lidar(more, PAPER)
        assert "ruled by its regularizer with 20 texts of 2 views in 30 dimensions" in ruled.note
        assert ruled.note.endswith("or at least 4 views.")
        assert unlimited.note.startswith("LiDAR has no limits with 20 texts of 2 views in 20")
        for found in (ruled, unlimited):
            assert bool(found.contributions.isnan().all())
        assert not lidar(enough, PAPER).note
        assert bool(lidar(enough, PAPER).contributions.isfinite().all())
    assert not views.lidar(ViewInputs(random_views(20, 4, 30)), PAPER).note
