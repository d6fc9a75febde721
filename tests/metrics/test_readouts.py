"""Readouts: closed forms, equivariance, slow twins, edges; crop retrieval in two folds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.errors import InputError, NonFiniteError, UndefinedError
from layerscope.metrics import views
from layerscope.metrics.crop_retrieval import CropRetrieval
from layerscope.metrics.inputs import ViewInputs
from layerscope.metrics.readouts import (
    Fitted,
    Moments,
    Readout,
    embedding_filter,
    fit,
    layer_weights,
    loes_layers,
    map_matrix,
)

MAPS = ("none", "center", "z-score", "abtt-1", "abtt-2", "whitening-0.5", "whitening-1")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def with_covariance(*variances: float) -> np.ndarray:
    """Rows whose covariance is exactly diagonal, around a mean that is not 0."""
    size = len(variances)
    signs = np.concatenate([np.eye(size), -np.eye(size)]) * np.sqrt(size)
    return signs * np.sqrt(variances) + np.arange(1, size + 1)


def layers(n: int = 40, dim: int = 6, sites: int = 4) -> dict[int, np.ndarray]:
    """Layers of very different scales, means and spectra."""
    return {
        site: 10.0**site * (normal(n, dim, seed=site) @ normal(dim, dim, seed=9) + site)
        for site in range(sites)
    }


def orthogonal(dim: int) -> np.ndarray:
    return np.linalg.qr(normal(dim, dim, seed=3))[0]


def covariance(rows: np.ndarray) -> np.ndarray:
    return np.cov(rows.T, bias=True)


def angles(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


# --- names ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True),
    st.sampled_from([*MAPS, "whitening-0.25", "abtt-12"]),
    st.sampled_from(["equal", "unit"]),
)
def test_a_name_is_read_back(given_layers, name, weighting):
    readout = Readout(tuple(given_layers), name, weighting)
    assert Readout.parse(str(readout)) == readout


def test_the_order_of_layers_does_not_make_another_readout():
    assert Readout((24, 30, 6)).key == Readout((6, 24, 30)).key
    assert str(Readout((24, 30, 6), "z-score")) == "24+30+6, z-score"
    assert Readout((5,), weighting="unit") == Readout((5,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Readout(()), "expected layers of a readout, each once, got ()"),
        (lambda: Readout((1, 1)), "expected layers of a readout, each once, got (1, 1)"),
        (
            lambda: Readout((1,), "zscore"),
            "unknown map of a readout 'zscore'; did you mean 'z-score'?",
        ),
        (lambda: Readout((1, 2), weighting="units"), "unknown weighting 'units'"),
        (
            lambda: Readout((1,), "abtt-0"),
            "expected abtt-k with a whole number of components, 1 or more",
        ),
        (lambda: Readout((1,), "abtt-1.5"), "expected abtt-k with a whole number of components"),
        (
            lambda: Readout((1,), "whitening-2"),
            "expected whitening-p with a power p above 0, at most 1",
        ),
        (lambda: Readout((1,), "whitening-0"), "expected whitening-p with a power p above 0"),
        (
            lambda: Readout.parse("last one"),
            "expected a readout like '24+30+6, z-score' or '0-3 unit",
        ),
    ],
)
def test_wrong_readouts_are_refused(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)


# --- maps -----------------------------------------------------------------------------------------


def fitted_on(rows: np.ndarray, name: str, **options: float) -> tuple[Fitted, np.ndarray]:
    fitted = fit(Readout((0,), name), {0: rows}, **options)
    return fitted, fitted.apply({0: rows})


def test_no_map_is_the_layer_itself():
    rows = normal(9, 4)
    fitted, read = fitted_on(rows, "none")
    np.testing.assert_array_equal(read, rows)
    assert fitted.weights == (1.0,)
    assert fitted.texts == 9


def test_center_takes_the_mean_away():
    rows = normal(9, 4) + 7
    np.testing.assert_allclose(fitted_on(rows, "center")[1], rows - rows.mean(0), atol=1e-12)


def test_of_isotropic_vectors_maps_are_a_scale():
    rows = with_covariance(3.0, 3.0, 3.0)
    for name in ("z-score", "whitening-1", "whitening-0.5"):
        matrix = np.atleast_2d(fitted_on(rows, name)[0].matrix)
        matrix = np.diag(matrix[0]) if len(matrix) == 1 else matrix
        np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(3), atol=1e-12)


def test_two_dimensions_with_variances_4_and_1():
    rows = with_covariance(4.0, 1.0)
    np.testing.assert_allclose(covariance(rows), np.diag([4.0, 1.0]), atol=1e-12)
    z = fitted_on(rows, "z-score")[1]
    np.testing.assert_allclose(z, fitted_on(rows, "whitening-1", shrinkage=0)[1], atol=1e-5)
    half = fitted_on(rows, "whitening-0.5", shrinkage=0)[1]
    np.testing.assert_allclose(covariance(half), np.diag([2.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(covariance(z), np.eye(2), atol=1e-5)


def test_shrinkage_is_a_share_of_the_mean_eigenvalue():
    rows = with_covariance(4.0, 1.0)
    matrix = fitted_on(rows, "whitening-1", shrinkage=0.1)[0].matrix
    np.testing.assert_allclose(matrix, np.diag([4.25**-0.5, 1.25**-0.5]), atol=1e-12)


def test_abtt_removes_the_top_component_and_nothing_else():
    rows = with_covariance(9.0, 1.0, 1.0)
    read = fitted_on(rows, "abtt-1")[1]
    np.testing.assert_allclose(covariance(read), np.diag([0.0, 1.0, 1.0]), atol=1e-12)


@pytest.mark.parametrize("name", MAPS[1:])
def test_a_fitted_map_centers(name):
    np.testing.assert_allclose(fitted_on(normal(30, 5) + 3, name)[1].mean(0), 0, atol=1e-9)


@pytest.mark.parametrize("name", ["z-score", "abtt-2", "whitening-0.5", "whitening-1"])
@pytest.mark.parametrize("weighting", ["equal", "unit"])
def test_the_slow_twin_agrees(name, weighting):
    """Text by text and dimension by dimension, as the definitions say."""
    vectors, wanted = layers(), (3, 0, 2)
    weight = dict.fromkeys(wanted, 1.0)
    if weighting == "unit":
        for site in wanted:
            away = [np.linalg.norm(row - vectors[site].mean(0)) for row in vectors[site]]
            weight[site] = 1 / np.mean(away)
    rows = np.array([sum(weight[s] * vectors[s][i] for s in wanted) for i in range(40)])
    mean, sigma = rows.mean(0), covariance(rows)
    values, eigen = np.linalg.eigh(sigma)
    values, eigen = values[::-1], eigen[:, ::-1]
    if name == "z-score":
        spreads = np.sqrt(np.diag(sigma))
        matrix = np.diag(1 / (spreads + 1e-6 * spreads.max()))
    elif name == "abtt-2":
        matrix = np.eye(6) - sum(np.outer(eigen[:, j], eigen[:, j]) for j in range(2))
    else:
        power = float(name.split("-")[1])
        scales = [(value + 0.1 * values.mean()) ** (-power / 2) for value in values]
        matrix = sum(s * np.outer(v, v) for s, v in zip(scales, eigen.T, strict=True))  # V diag V^T
    read = fit(Readout(wanted, name, weighting), vectors).apply(vectors)
    expected = np.array([matrix @ (row - mean) for row in rows])
    np.testing.assert_allclose(read, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("name", MAPS)
def test_a_rotation_of_all_layers_rotates_the_readout(name):
    vectors, turn = layers(), orthogonal(6)
    turned = {site: rows @ turn for site, rows in vectors.items()}
    readout = Readout((1, 3), name, "unit")
    read, read_turned = fit(readout, vectors).apply(vectors), fit(readout, turned).apply(turned)
    same = np.allclose(read @ turn, read_turned, rtol=1e-6, atol=1e-8 * np.abs(read).max())
    assert same == (name != "z-score")  # which depends on the basis by intent


@pytest.mark.parametrize("name", MAPS)
def test_one_scale_and_shift_of_all_layers_leaves_the_angles(name):
    vectors = layers()
    moved = {site: 7 * rows + (3 if name != "none" else 0) for site, rows in vectors.items()}
    readout = Readout((1, 2, 3), name, "unit")
    read, other = fit(readout, vectors).apply(vectors), fit(readout, moved).apply(moved)
    np.testing.assert_allclose(angles(read), angles(other), atol=1e-6)


def test_unit_weights_make_the_scale_of_a_layer_irrelevant():
    vectors = layers()
    scaled = vectors | {2: 1e3 * vectors[2]}
    unit, equal = Readout((1, 2), "center", "unit"), Readout((1, 2), "center")
    np.testing.assert_allclose(
        fit(unit, vectors).apply(vectors), fit(unit, scaled).apply(scaled), rtol=1e-9
    )
    assert not np.allclose(fit(equal, vectors).apply(vectors), fit(equal, scaled).apply(scaled))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from(MAPS), st.sampled_from(["equal", "unit"]))
def test_a_readout_is_affine(seed, name, weighting):
    """The readout of a mean of texts is the mean of their readouts: pooling may come after it."""
    vectors = {site: normal(12, 5, seed=seed + site) for site in range(3)}
    fitted = fit(Readout((0, 1, 2), name, weighting), vectors)
    means = {site: rows.mean(0, keepdims=True) for site, rows in vectors.items()}
    np.testing.assert_allclose(
        fitted.apply(means)[0], fitted.apply(vectors).mean(0), rtol=1e-7, atol=1e-9
    )


# --- edges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["z-score", "whitening-1", "whitening-0.5"])
def test_a_constant_dimension_is_never_enlarged(name):
    rows = np.concatenate([normal(30, 3) * [10, 1, 0.1], np.full((30, 1), 5.0)], 1)
    fitted, read = fitted_on(rows, name)
    matrix = np.diag(fitted.matrix) if fitted.matrix.ndim == 1 else fitted.matrix
    scales = np.linalg.svd(matrix)[1]
    assert abs(matrix[3, 3] - scales.min()) < 1e-9
    np.testing.assert_allclose(read[:, 3], 0, atol=1e-6)


def test_fewer_texts_than_dimensions_stay_finite_and_outside_their_span_small():
    rows = normal(5, 20)
    for shrinkage in (0.1, 0.0):
        matrix = fitted_on(rows, "whitening-1", shrinkage=shrinkage)[0].matrix
        outside = np.linalg.svd(rows - rows.mean(0))[2][4:]
        seen = np.linalg.svd(rows - rows.mean(0))[2][:4]
        assert np.isfinite(matrix).all()
        least = min(np.linalg.norm(matrix @ direction) for direction in seen)
        np.testing.assert_allclose(np.linalg.norm(outside @ matrix, axis=1), least, rtol=1e-9)


@pytest.mark.parametrize("name", ["whitening-0.5", "whitening-1", "abtt-2"])
@pytest.mark.parametrize("count", [12, 40])
def test_maps_by_the_whole_covariance(name, count):
    """The slow way: all eigenpairs of (dim, dim), also where there are fewer rows than dimensions."""
    rows = normal(count, 20) * np.geomspace(10, 0.1, 20) + 3
    values, vectors = np.linalg.eigh(covariance(rows))
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    scales = (values + 0.1 * values.mean()) ** (-float(name.partition("-")[2]) / 2)
    scales[count - 1 :] = scales[0]
    if name == "abtt-2":
        scales = np.where(np.arange(20) < 2, 0, 1)
    slow = (vectors * scales) @ vectors.T
    np.testing.assert_allclose(map_matrix(name, Moments.of(rows)), slow, atol=1e-8)


def test_a_layer_without_variation_has_no_weight():
    vectors = {0: np.full((8, 3), 2.5), 1: normal(8, 3)}
    assert layer_weights(Readout((0, 1), weighting="unit"), vectors)[0] == 0
    only = fit(Readout((0, 1), "z-score", "unit"), vectors).apply(vectors)
    alone = fit(Readout((1,), "z-score"), vectors).apply(vectors)
    np.testing.assert_allclose(only, alone, rtol=1e-5)
    with pytest.raises(UndefinedError, match="all vectors of each layer are equal, so no layer"):
        fit(Readout((0, 2), "none", "unit"), {0: vectors[0], 2: vectors[0]})


@pytest.mark.parametrize("name", ["z-score", "abtt-1", "whitening-1"])
def test_equal_vectors_have_no_map(name):
    with pytest.raises(
        UndefinedError, match=f"all vectors are equal, so there is nothing to fit {name}"
    ):
        fitted_on(np.full((6, 3), 0.1), name)


def test_abtt_must_leave_something():
    with pytest.raises(
        UndefinedError, match="abtt-2 leaves nothing: the vectors vary in 2 directions"
    ):
        fitted_on(normal(3, 8), "abtt-2")
    assert fitted_on(normal(3, 8), "abtt-1")[1].shape == (3, 8)


def test_what_does_not_fit_is_refused():
    fitted = fit(Readout((0,)), {0: normal(4, 3)})
    with pytest.raises(InputError, match="expected 3 dimensions, as the readout was fitted on"):
        fitted.apply({0: normal(4, 2)})
    with pytest.raises(
        InputError, match="the readout reads layer 5, whose vectors are missing; there"
    ):
        fit(Readout((0, 5)), {0: normal(4, 3)})
    with pytest.raises(
        InputError, match=r"\(text, dim\) to be the same at every layer of a readout"
    ):
        fit(Readout((0, 1)), {0: normal(4, 3), 1: normal(5, 3)})


def test_float32_moments_give_nearly_the_same_map():
    rows = normal(200, 12) * np.logspace(2, -1, 12)
    for name in MAPS:
        exact = map_matrix(name, Moments.of(rows))
        fast = map_matrix(name, Moments.of(rows.astype(np.float32)))
        assert fast.dtype == np.float32
        np.testing.assert_allclose(fast, exact, atol=2e-4 * np.abs(exact).max())


# --- baselines ------------------------------------------------------------------------------------


def test_loes_takes_isotropic_layers_that_do_not_repeat():
    flat, long = normal(200, 6), normal(200, 6, seed=1) * [50, 1, 1, 1, 1, 1]
    vectors = {3: long, 4: flat, 5: flat + 1e-3 * normal(200, 6, seed=2), 6: np.ones((200, 6))}
    vectors[7] = normal(200, 6, seed=5) * [1, 1, 1, 1.3, 1, 1]
    assert loes_layers(vectors, 1)[0] in (4, 5)
    assert loes_layers(vectors, 2)[1] in (4, 5)  # the copy of the first, as it is isotropic too
    assert loes_layers(vectors, 2, gamma=100)[1] not in (4, 5)  # but redundant
    assert len(loes_layers(vectors, 9)) == 4  # the constant layer has no direction


def test_loes_by_its_slow_twin():
    vectors = layers(60, 5, 5)

    def cost(site, taken):
        values = np.linalg.eigvalsh(covariance(vectors[site]))
        shares = [
            np.linalg.norm(vectors[site].T @ vectors[other])
            / np.linalg.norm(vectors[site])
            / np.linalg.norm(vectors[other])
            for other in taken
        ]
        return 1 - values.mean() / values.std() + 0.5 * max(shares, default=0)

    taken: list[int] = []
    while len(taken) < 3:
        taken.append(min(set(vectors) - set(taken), key=lambda site: cost(site, taken)))
    assert loes_layers(vectors, 3) == tuple(taken)


def test_the_embedding_filter_keeps_the_middle_directions():
    scales = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])
    turn = orthogonal(8)
    embedding = np.linalg.qr(normal(50, 8))[0] * scales @ turn.T
    matrix = embedding_filter(embedding)
    np.testing.assert_allclose(np.abs(matrix @ turn[:, 2:6]), np.eye(4), atol=1e-6)
    np.testing.assert_allclose(matrix @ turn[:, [0, 1, 6, 7]], 0, atol=1e-6)
    with pytest.raises(InputError, match="expected an output embedding .token, dim. of 4 or more"):
        embedding_filter(normal(9))


# --- crop retrieval -------------------------------------------------------------------------------


def crops(n: int = 40, dim: int = 8, sites: int = 3, noise: float = 1.0) -> dict[int, np.ndarray]:
    topic = normal(n, dim, seed=99)
    return {
        site: 10.0**site * (topic + noise * normal(2, n, dim, seed=site) + site)
        for site in range(sites)
    }


def slow_contributions(vectors, readout: Readout, seed: int) -> np.ndarray:
    """Both folds, text by text, in float64."""
    n = next(iter(vectors.values())).shape[1]
    order = np.random.default_rng(seed).permutation(n)
    found = np.full(n, np.nan)
    folds = order[: n // 2], order[n // 2 :]
    for fitting, scoring in (folds, folds[::-1]):
        fitted = fit(readout, {s: np.concatenate(v[:, fitting]) for s, v in vectors.items()})
        mean = fitted.apply({s: np.concatenate(v[:, fitting]) for s, v in vectors.items()}).mean(0)
        first, second = (
            fitted.apply({s: v[view][scoring] for s, v in vectors.items()}) - mean
            for view in (0, 1)
        )
        for query, key in ((first, second), (second, first)):
            for place, text in enumerate(scoring):
                cosines = [
                    query[place] @ row / np.linalg.norm(query[place]) / np.linalg.norm(row)
                    for row in key
                ]
                rank = 1 + sum(cosine > cosines[place] + 1e-9 for cosine in cosines)
                found[text] = np.nansum([found[text], 0.5 / rank])
    return found


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("weighting", ["equal", "unit"])
def test_crop_retrieval_by_its_slow_twin(name, weighting):
    vectors = crops()
    readout = Readout((2, 0), name, weighting)
    found = CropRetrieval(vectors, seed=4).contributions(readout)[name]
    np.testing.assert_allclose(found, slow_contributions(vectors, readout, 4), atol=1e-6)


def test_maps_at_once_are_those_one_by_one():
    retrieval = CropRetrieval(crops())
    at_once = retrieval.contributions(Readout((0, 1)), MAPS)
    for name in MAPS:
        one = retrieval.contributions(Readout((0, 1), name))
        np.testing.assert_array_equal(at_once[name], one[name])
    np.testing.assert_array_equal(at_once["none"], at_once["center"])


def test_as_served_a_raw_layer_keeps_its_mean():
    vectors = {0: crops(noise=0.5)[0] + 30}
    centered, served = CropRetrieval(vectors), CropRetrieval(vectors, as_served=True)
    readout = Readout((0,))
    np.testing.assert_array_equal(
        served.contributions(readout, ["center"])["center"], centered.contributions(readout)["none"]
    )
    raw = served.contributions(readout)["none"]
    rows = torch.from_numpy(np.stack(list(vectors[0]), 1))
    order = np.random.default_rng(0).permutation(40)
    for fold in (np.sort(order[:20]), np.sort(order[20:])):
        unit = rows[fold] / rows[fold].norm(dim=-1, keepdim=True)
        expected = views.reciprocal_ranks(unit[:, 0], unit[:, 1])
        np.testing.assert_allclose(raw[fold], expected, atol=0.3)
        assert raw[fold].mean() == pytest.approx(float(expected.mean()), abs=0.01)


def test_without_a_map_it_is_the_retrieval_of_a_scan_but_for_the_mean():
    """Where both folds have mean zero, the centering of a scan takes the same away."""
    vectors = crops(200, 16)[0]
    order = np.random.default_rng(0).permutation(200)
    for fold in (order[:100], order[100:]):
        vectors[:, fold] -= vectors[:, fold].mean((0, 1))
    found = CropRetrieval({0: vectors}).contributions(Readout((0,)))["none"]
    for fold in (order[:100], order[100:]):
        scan = views.retrieval(ViewInputs(torch.from_numpy(vectors[:, fold]).transpose(0, 1)))
        np.testing.assert_allclose(found[fold], scan.contributions, atol=1e-6)


def test_equal_crops_are_found_and_noise_is_at_chance():
    same = normal(60, 8)
    retrieval = CropRetrieval({0: np.stack([same, same])})
    assert (retrieval.contributions(Readout((0,)))["none"] == 1).all()
    assert retrieval.galleries == (30, 30)
    assert retrieval.chance == pytest.approx(views.chance_of_retrieval(30))
    noise = CropRetrieval({0: normal(2, 600, 8)})
    found = noise.contributions(Readout((0,)), ["whitening-1"])["whitening-1"]
    assert found.mean() == pytest.approx(noise.chance, abs=4 * found.std() / np.sqrt(600))


def test_repeated_texts_share_their_ranks_in_float32():
    """Texts with the same crops tie, whatever rounding says: each is second of 3 at the mean rank."""
    rows = np.repeat(normal(10, 32), 6, axis=0)
    found = CropRetrieval({0: np.stack([rows, rows])}).contributions(Readout((0,)))["none"]
    order = np.random.default_rng(0).permutation(60)
    for fold in (order[:30], order[30:]):
        copies = [int((fold // 6 == text // 6).sum()) for text in fold]
        np.testing.assert_allclose(found[fold], [2 / (1 + count) for count in copies], rtol=1e-6)


def test_the_map_is_never_fitted_on_the_texts_it_is_scored_on():
    """A change of one fold's texts leaves their own fold's map alone."""
    vectors = crops()
    order = np.random.default_rng(0).permutation(40)
    changed = {site: rows.copy() for site, rows in vectors.items()}
    changed[1][:, order[0]] *= 30  # of the first fold: it moves the map of the second fold's scores
    before = CropRetrieval(vectors).contributions(Readout((1,), "whitening-1"))["whitening-1"]
    after = CropRetrieval(changed).contributions(Readout((1,), "whitening-1"))["whitening-1"]
    others = np.setdiff1d(order[:20], order[:1])
    assert (before[order[20:]] != after[order[20:]]).any()
    assert np.mean(np.abs(before[others] - after[others]) < 1e-6) > 0.5  # but for their gallery


def test_a_text_without_direction_is_left_out():
    vectors = crops(40)[0]
    order = np.random.default_rng(0).permutation(40)
    for fold in (order[:20], order[20:]):
        vectors[:, fold] -= vectors[:, fold].mean((0, 1))
    constant = np.zeros_like(vectors)
    found = CropRetrieval({0: vectors, 1: constant})
    assert np.isnan(found.contributions(Readout((1,)))["none"]).all()
    np.testing.assert_allclose(
        found.contributions(Readout((0, 1), weighting="unit"))["none"],
        found.contributions(Readout((0,)))["none"],
        atol=1e-6,
    )


def test_wrong_crop_vectors_are_refused():
    with pytest.raises(
        InputError, match="expected crop vectors .2, text, dim., two of each text and alike"
    ):
        CropRetrieval({0: normal(3, 20, 4)})
    with pytest.raises(
        InputError, match="expected at least 8 texts to fit readouts and score them"
    ):
        CropRetrieval({0: normal(2, 7, 4)})
    with pytest.raises(InputError, match="reads layer 3, of which there are no crop vectors"):
        CropRetrieval({0: normal(2, 20, 4)}).contributions(Readout((0, 3)))
    broken = normal(2, 20, 4)
    broken[0, 3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="the crop vectors of layer 2 hold NaN or infinity"):
        CropRetrieval({2: broken})
