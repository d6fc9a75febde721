"""A few labels against the choice without them: closed forms, slow twins, whom to believe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import layerscope
from layerscope.analysis.labels import LabelledRows, RowVectors, compare_on_labels, score_labels
from layerscope.decisions.labels import choose_with_labels
from layerscope.decisions.readouts import choose_readout
from layerscope.errors import InputError, UndefinedError
from layerscope.metrics.labelled import left_out_right, rank_agreement
from layerscope.metrics.readouts import Readout
from test_readout_choice import table_of
from tiny import save_tiny, texts, tiny_model, tiny_tokenizer


def blobs(rows: int, apart: float, dim: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of three classes whose means are apart in some dimensions."""
    draw = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    return draw.standard_normal((rows, dim)) + apart * np.eye(3, dim)[labels], labels


def test_leaving_out_in_closed_form_is_leaving_out():
    """The slow twin trains a ridge classifier on all but one row, for every row and ridge."""
    vectors, labels = blobs(21, 1.5)
    wanted = np.eye(3)[labels]
    rows = vectors - vectors.mean(0)
    scale = np.linalg.eigvalsh(rows @ rows.T).clip(0).mean()
    errors, found = [], []
    for share in (1e-3, 1e-2, 1e-1, 1.0):
        left = np.empty_like(wanted)
        for row in range(len(rows)):
            kept = np.delete(np.arange(len(rows)), row)
            design = np.column_stack([rows[kept], np.ones(len(kept))])
            penalty = np.diag([share * scale] * rows.shape[1] + [0])
            weights = np.linalg.solve(design.T @ design + penalty, design.T @ wanted[kept])
            left[row] = np.append(rows[row], 1) @ weights
        errors.append(np.square(left - wanted).mean())
        found.append((left.argmax(1) == labels).astype(float))
    np.testing.assert_array_equal(left_out_right(vectors, labels), found[int(np.argmin(errors))])


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_score_of_labels_is_that_of_any_scale_rotation_and_origin(scale):
    vectors, labels = blobs(60, 1.5)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    found = left_out_right(vectors, labels)
    np.testing.assert_array_equal(left_out_right(scale * (vectors @ turn + 3), labels), found)
    assert found.mean() > 0.7


def test_labels_at_random_are_guessed():
    vectors, _ = blobs(600, 0)
    labels = np.random.default_rng(2).integers(0, 3, 600)
    assert left_out_right(vectors, labels).mean() == pytest.approx(1 / 3, abs=0.06)


def test_the_mean_agreement_is_spearman():
    draw = np.random.default_rng(0)
    first, second, scores = draw.standard_normal((3, 40, 5))
    scores = scores[:, 0].round(1)  # with ties
    cosines = (
        (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    )
    found = rank_agreement(first, second, scores)
    assert found.mean() == pytest.approx(spearmanr(cosines, scores).statistic, abs=1e-12)


def test_what_has_no_score_says_why():
    vectors, labels = blobs(9, 1)
    with pytest.raises(UndefinedError, match="all vectors are equal"):
        left_out_right(np.ones((9, 2)), labels)
    with pytest.raises(UndefinedError, match="all labels are equal"):
        left_out_right(vectors, labels * 0)
    with pytest.raises(UndefinedError, match="a vector is zero"):
        rank_agreement(vectors * 0, vectors, labels)
    with pytest.raises(UndefinedError, match="all values are equal"):
        rank_agreement(vectors, vectors, labels)


# --- the choice -----------------------------------------------------------------------------------


def given_layers(rows: int, apart: dict[int, float]) -> tuple[LabelledRows, dict[int, np.ndarray]]:
    layers = {layer: blobs(rows, each, seed=layer)[0] for layer, each in apart.items()}
    return LabelledRows("mine", ("",) * rows, blobs(rows, 0)[1].astype(float)), layers


def chosen(rows: int, apart: dict[int, float], scanned: dict[str, float]):
    labels, layers = given_layers(rows, apart)
    table = table_of(scanned)
    scored = compare_on_labels(labels, RowVectors(layers, layers), table)
    return choose_with_labels(scored, choose_readout(table))


def test_clear_labels_are_believed():
    found = chosen(300, {1: 3.0, 2: 0.0, 4: 0.2}, {"4": 0.5, "2": 0.4, "1": 0.3})
    assert found.believes_labels
    assert found.shown
    assert (found.readout, found.without.name) == (Readout((1,)), "4")
    assert found.gain_low > 0.3
    first, second = found.sentence.split("\n")
    assert first == "Believe the labels: use the readout '1'."
    assert second.startswith("On 300 labelled rows of 'mine' it has ")
    assert "; the choice without labels, '4', has " in second


def weighed_rows(rows: int, better: int, worse: int):
    """Layer 1 is right on some rows on which the choice without labels, 4, is wrong, and the reverse."""
    free = np.r_[np.zeros(better), np.ones(rows - better)]
    other = np.r_[np.ones(better), np.zeros(worse), np.ones(rows - better - worse)]
    table = table_of({"4": 0.5, "1": 0.3})
    right = np.stack([free, other])
    scored = replace(
        table, contributions=right, crops="labelled rows of 'mine'",
        candidates=tuple(
            replace(each, score=float(row.mean()))
            for each, row in zip(table.candidates, right, strict=True)
        ),
    )  # fmt: skip
    return choose_with_labels(scored, choose_readout(table))


def test_few_labels_that_hardly_differ_do_not_overrule():
    found = weighed_rows(50, better=5, worse=3)
    assert not found.believes_labels
    assert found.readout == Readout((4,))
    assert "Keep the choice without labels: the readout '4'." in found.sentence
    assert "which so few rows cannot tell from it" in found.sentence


def test_a_gain_of_a_standard_error_is_taken_and_said_to_be_no_proof():
    found = weighed_rows(60, better=9, worse=4)
    assert found.believes_labels
    assert not found.shown
    assert found.sentence.startswith("Lean on the labels: use the readout '1'.")
    assert "8.3 points less, which chance can give to the best of 2 readouts." in found.sentence


def test_labels_may_agree():
    found = chosen(300, {1: 0.0, 2: 0.0, 4: 3.0}, {"4": 0.5, "2": 0.4, "1": 0.3})
    assert found.sentence.startswith(
        "Use the readout '4': labels and the choice without them agree."
    )
    assert found.over_own == 0


def test_labels_without_a_signal_are_rarely_said_to_show_anything():
    """Of pure noise, 60 readouts on 60 rows: the best looks good, and is seldom called shown.

    Rows that train each other's classifiers are not independent, so it happens more often than in 2.5 %.
    """
    believed = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        layers = {layer: draw.standard_normal((60, 4)) for layer in range(60)}
        rows = LabelledRows("noise", ("",) * 60, draw.integers(0, 2, 60).astype(float))
        table = table_of({str(layer): 0.5 if layer == 59 else 0.3 for layer in reversed(range(60))})
        scored = compare_on_labels(rows, RowVectors(layers, layers), table, resamples=200)
        believed += choose_with_labels(scored, choose_readout(table), resamples=200).shown
    assert believed <= 2


def test_maps_are_fitted_on_texts_without_labels():
    rows, layers = given_layers(30, {1: 1.0})
    other = {1: layers[1] * 100}
    found = score_labels(rows, RowVectors(layers, other), Readout((1,), "abtt-2"))
    plain = score_labels(rows, RowVectors(layers, layers), Readout((1,), "abtt-2"))
    np.testing.assert_array_equal(found, plain)


# --- from a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """A model in a folder, its run, and the texts."""
    folder = save_tiny(tiny_model("bert"), tmp_path_factory.mktemp("labels") / "model")
    crops = [" ".join([text] * 20) for text in texts(30)]
    run = layerscope.scan(
        folder, crops, span_words=4, metrics=("retrieval",), augmentation=("crops",)
    )
    return folder, run, crops


def labelled(count: int = 60) -> pd.DataFrame:
    some = texts(count, seed=5)
    return pd.DataFrame({"text": some, "label": [len(text.split()) > 8 for text in some]})


def test_labels_reach_the_answer(scanned, tmp_path):
    folder, run, crops = scanned
    found = layerscope.select(run, table=labelled(), model=folder, data=crops)
    assert found.labels is not None
    assert found.answer == found.labels.sentence
    assert found.labels.table.contributions.shape[1] == 60
    labelled().to_csv(tmp_path / "mine.csv", index=False)
    again = layerscope.select(run, table=tmp_path / "mine.csv", model=folder, data=crops)
    assert again.labels.as_dict()["gain"] == found.labels.gain
    live = layerscope.select(
        run, table=labelled(), model=tiny_model("bert"), tokenizer=tiny_tokenizer(), data=crops
    )
    assert live.labels.readout == found.labels.readout


def test_pairs_are_taken_too(scanned):
    folder, run, crops = scanned
    some, others = texts(60, seed=1), texts(60, seed=2)
    shared = [len(set(a.split()) & set(b.split())) for a, b in zip(some, others, strict=True)]
    pairs = pd.DataFrame({"sentence1": some, "sentence2": others, "score": shared})
    found = layerscope.select(run, table=pairs, model=folder, data=crops)
    assert "a correlation of" in found.answer


def test_labels_that_cannot_be_weighed_are_refused(scanned):
    folder, run, _ = scanned
    with pytest.raises(InputError, match="expected at least 50 labelled rows, got 10"):
        layerscope.select(run, table=labelled(10), model=folder)
    ranks = pd.DataFrame({"query": ["a"] * 60, "positive": [["b"]] * 60, "negative": [["c"]] * 60})
    with pytest.raises(
        InputError, match="expected texts with labels, or pairs with a score or lab"
    ):
        layerscope.select(run, table=ranks, model=folder)
    with pytest.raises(InputError, match="labels are weighed against readouts, which this run has"):
        layerscope.select(run, table=labelled(), model=folder, rule="last")
    with pytest.raises(
        InputError, match=r"that the run names cannot be loaded .* Name it by --mod"
    ):
        layerscope.select(run, table=labelled())
    with pytest.raises(InputError, match="the run is of another model or dtype"):
        layerscope.select(run, table=labelled(), model=save_other(folder))


def save_other(folder):
    return save_tiny(tiny_model("llama"), folder.with_name("other"))


def test_labels_that_say_nothing_are_refused():
    rows, layers = given_layers(30, {1: 1.0, 4: 1.0})
    flat = layers | {4: np.ones((30, 6))}
    with pytest.raises(
        InputError, match="the labels of 'mine' say nothing of the model's own output"
    ):
        compare_on_labels(rows, RowVectors(flat, layers), table_of({"4": 0.5, "1": 0.4}))
    scored = compare_on_labels(rows, RowVectors(layers, layers), table_of({"4": 0.5, "1": 0.4}))
    other = choose_readout(table_of({"4": 0.5, "2": 0.9}))
    with pytest.raises(InputError, match="the labels say nothing of the readout '2'"):
        choose_with_labels(scored, other)
