"""Probes find what was planted where it was planted, and nothing in shuffled labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from layerscope.errors import InputError, RunError
from layerscope.evaluation import probes as probes_module
from layerscope.evaluation.classifiers import (
    attention_predictions,
    linear_predictions,
    nearest_predictions,
    wilson_limits,
)
from layerscope.evaluation.probes import Labelled, ProbeConfig, labelled, probe
from layerscope.evaluation.tables import Table, read_table
from layerscope.evaluation.tasks import plan_table
from layerscope.models.backbone import backbone_of
from layerscope.states.encode import TokenPolicy
from layerscope.states.extract import Site, sites_of
from tiny import WORDS, tiny_model, tiny_tokenizer

pytest.importorskip("sklearn")
pytest.importorskip("mteb")

CLASSES = 4
TRAIN, TEST = 300, 150
QUICK = ProbeConfig(train_texts=120, test_texts=60)


# --- planted in tokens -------------------------------------------------------------------------


def planted(kind: str, seed: int = 0) -> tuple[list[torch.Tensor], np.ndarray]:
    """Token states whose class is in their mean, or in the one token that a flag marks."""
    generator = np.random.default_rng(seed)
    texts, labels = [], generator.integers(CLASSES, size=TRAIN + TEST)
    for label in labels:
        length = int(generator.integers(16, 32))
        states = 0.1 * generator.normal(size=(length, 12))
        if kind == "mean":
            states[:, label] += 0.3
        else:
            states[np.arange(length), generator.integers(CLASSES, size=length)] += 1
            flagged = generator.integers(length)
            states[flagged, :CLASSES] = np.eye(CLASSES)[label]
            states[flagged, -1] = 3
        texts.append(torch.tensor(states, dtype=torch.float32))
    return texts, labels


def accuracies(texts: list[torch.Tensor], labels: np.ndarray, seed: int = 0) -> dict[str, float]:
    means = torch.stack([text.mean(dim=0) for text in texts]).numpy()
    train, test = labels[:TRAIN], labels[TRAIN:]
    linear = linear_predictions(means[:TRAIN], train, means[TRAIN:])
    attention = attention_predictions(texts[:TRAIN], train, texts[TRAIN:], seed)
    return {
        "linear": float((linear == test).mean()),
        "attention": float((attention == test).mean()),
    }


def test_both_probes_find_what_every_token_says():
    found = accuracies(*planted("mean"))
    assert found["linear"] > 0.95
    assert found["attention"] > 0.95


def test_nearest_neighbors_vote_as_written_out():
    generator = np.random.default_rng(0)
    train, test = (generator.normal(size=(n, 5)).astype(np.float32) for n in (60, 30))
    labels = generator.integers(4, size=60)
    for row, predicted in zip(test, nearest_predictions(train, labels, test), strict=True):
        cosines = train @ row / np.linalg.norm(train, axis=1) / np.linalg.norm(row)
        votes = np.zeros(4)
        for place in np.argsort(-cosines)[:20]:
            votes[labels[place]] += np.exp(cosines[place] / 0.07)
        assert predicted == votes.argmax()


def test_limits_of_several_seeds_are_over_the_seeds(data):
    settings = QUICK.changed(seeds=3)
    found = probe(tiny("llama"), data, settings, sites=[Site(2)])
    assert [score.kind for score in found] == ["linear", "attention", "knn"]
    for score in found:
        assert score.low <= score.accuracy <= score.high
        assert score.n == len(data.test)
    alone = [
        probe(tiny("llama"), data, settings.changed(seed=seed, seeds=2), sites=[Site(2)])
        for seed in (0, 1)
    ]
    # Seeds 0 and 1, then 1 and 2: with those of all three each seed's own accuracy is known.
    for three, first, second in zip(found, *alone, strict=True):
        middle = 2 * first.accuracy + 2 * second.accuracy - 3 * three.accuracy
        others = [2 * first.accuracy - middle, middle, 2 * second.accuracy - middle]
        assert np.mean(others) == pytest.approx(three.accuracy)
        half = np.std(others, ddof=1) / np.sqrt(3) * 4.302653
        assert three.high == pytest.approx(min(1, three.accuracy + half), abs=1e-6)


def test_a_seed_trains_on_four_fifths_with_every_class():
    labels = np.array([0] * 8 + [1] * 11 + [2])
    kept = probes_module._fitted_on(labels, 0)
    assert len(kept) == 16
    assert len(set(kept)) == 16
    assert set(labels[kept]) == {0, 1, 2}
    assert kept.tolist() != probes_module._fitted_on(labels, 1).tolist()


def test_only_attention_finds_what_one_token_says():
    found = accuracies(*planted("one token"))
    assert found["attention"] > 0.95
    assert found["linear"] < 0.6


@pytest.mark.parametrize("kind", ["mean", "one token"])
def test_shuffled_labels_are_at_chance(kind):
    texts, labels = planted(kind)
    shuffled = np.random.default_rng(1).permutation(labels)
    for accuracy in accuracies(texts, shuffled).values():
        assert accuracy == pytest.approx(1 / CLASSES, abs=0.1)


def test_a_scaled_or_shifted_dimension_changes_nothing_much():
    """A state dimension of huge size, as at attention sinks, must not rule the training."""
    texts, labels = planted("one token")
    huge = [text * torch.tensor([1.0] * 8 + [1e5] * 4) + 50 for text in texts]
    assert accuracies(huge, labels)["attention"] > 0.95


def test_the_seed_decides_everything():
    texts, labels = planted("one token")
    train, test = texts[:100], texts[TRAIN:]
    torch.manual_seed(1)
    first = attention_predictions(train, labels[:100], test, seed=3)
    torch.manual_seed(2)
    again = attention_predictions(train, labels[:100], test, seed=3)
    other = attention_predictions(train, labels[:100], test, seed=4)
    assert (first == again).all()
    assert (first != other).any()


def test_a_dimension_that_never_varies_says_nothing():
    texts, labels = planted("mean")
    constant = [torch.cat([text, torch.full((len(text), 1), 7.0)], dim=1) for text in texts]
    assert accuracies(constant, labels)["attention"] > 0.95


def test_limits_are_wilsons():
    assert wilson_limits(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson_limits(10, 10) == pytest.approx((0.7225, 1), abs=1e-4)
    assert wilson_limits(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


# --- planted in texts --------------------------------------------------------------------------


def sentences(count: int, seed: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Word salads with one letter that says their class."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(3, size=count)
    texts = []
    for label in labels:
        words = generator.choice(WORDS, size=generator.integers(4, 12)).tolist()
        words.insert(int(generator.integers(len(words))), "abc"[label])
        texts.append(" ".join(words))
    return tuple(texts), labels


@pytest.fixture(scope="module")
def data() -> Labelled:
    return Labelled(*sentences(120, seed=0), *sentences(60, seed=1))


@pytest.fixture(scope="module")
def scores(data):
    return probe(tiny("llama"), data, QUICK)


def tiny(name: str):
    return backbone_of(tiny_model(name), tiny_tokenizer(), name=name)


def test_every_site_is_probed_by_every_kind(scores, data):
    sites = [Site(score.layer, score.stage) for score in scores]
    expected = sites_of(tiny("llama"))
    assert expected[-1] == Site(4, "final_norm")
    assert sites == [site for site in expected for _ in range(3)]
    assert [score.kind for score in scores[:3]] == ["linear", "attention", "knn"]
    for score in scores:
        assert score.low < score.accuracy <= score.high
        assert score.n == 60
        assert score.majority == pytest.approx(max(np.bincount(data.test_labels)) / 60, abs=0.1)


def test_a_letter_in_the_text_is_found_in_its_embeddings(scores):
    assert scores[0].accuracy > 0.9
    assert scores[1].accuracy > 0.9


def test_texts_of_shuffled_labels_are_at_chance(data):
    generator = np.random.default_rng(5)
    shuffled = Labelled(
        data.train, generator.permutation(data.train_labels), data.test, data.test_labels
    )
    for score in probe(tiny("llama"), shuffled, QUICK, sites=[Site(0), Site(2)]):
        assert score.accuracy < score.majority + 0.15


def test_the_same_seed_gives_the_same_numbers(scores, data):
    again = probe(tiny("llama"), data, QUICK, sites=[Site(2)])
    assert again == [score for score in scores if score.layer == 2]


def test_one_pass_serves_all_layers(data):
    model = copy.deepcopy(tiny_model("llama"))
    backbone = backbone_of(model, tiny_tokenizer(), name="llama")
    read = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    settings = ProbeConfig(
        kinds=("linear",), batch_tokens=200, policy=TokenPolicy(first_token="keep")
    )
    probe(backbone, data, settings)
    assert sum(read) == len(data.train) + len(data.test)
    assert len(read) > 5


def test_batches_and_layers_asked_for_change_no_number(scores, data):
    settings = ProbeConfig(batch_tokens=100)
    alone = probe(tiny("llama"), data, settings, sites=[Site(3)])
    together = [score for score in scores if score.layer == 3]
    for one, other in zip(alone, together, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, abs=0.03)


def test_states_past_the_range_of_float16_are_kept(data):
    model = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        model.embed_tokens.weight.mul_(1e7)
    settings = ProbeConfig(kinds=("attention",))
    (score,) = probe(backbone_of(model, tiny_tokenizer()), data, settings, sites=[Site(0)])
    assert score.accuracy > 0.9


def test_states_that_are_not_finite_are_refused(data):
    model = copy.deepcopy(tiny_model("llama"))
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(RunError, match="NaN or infinite at block.2, as are 1 of its weights"):
        probe(backbone_of(model, tiny_tokenizer(), name="llama"), data, QUICK)


def test_nothing_is_left_on_disk(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    probe(tiny("bert"), data, QUICK, sites=[Site(1)])
    assert list(tmp_path.iterdir()) == []


# --- what can be probed ------------------------------------------------------------------------


def table(tmp_path) -> Table:
    texts, labels = sentences(60, seed=2)
    path = tmp_path / "mine.csv"
    words = [["river", "stone", "light"][label] for label in labels]
    pd.DataFrame({"text": texts, "label": words}).to_csv(path, index=False)
    return read_table(path)


def test_a_table_and_its_task_give_the_same_texts(tmp_path):
    settings = ProbeConfig(train_texts=20, test_texts=10)
    found, planned = (
        labelled(source, settings) for source in (table(tmp_path), plan_table(table(tmp_path)))
    )
    assert found.train == planned.train
    assert (found.test_labels == planned.test_labels).all()
    assert (len(found.train), len(found.test)) == (20, 10)
    other = labelled(table(tmp_path), ProbeConfig(train_texts=20, test_texts=10, seed=1))
    assert other.train != found.train


def test_what_has_no_classes_is_refused(tmp_path):
    rows = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.0, 1.0]})
    pairs = Table("pairs", "STS", {"test": rows}, (), "0" * 16, "memory")
    with pytest.raises(InputError, match="pairs is a STS; name a Classification"):
        labelled(pairs, QUICK)
    with pytest.raises(InputError, match="fewer than 2 classes"):
        labelled(table(tmp_path), ProbeConfig(train_texts=1))
    alone = replace(plan_table(table(tmp_path)), split="train")
    with pytest.raises(InputError, match="has one split for training and testing; probes need two"):
        labelled(alone, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ("linea",)}, "unknown kind 'linea'; did you mean 'linear'"),
        ({"kinds": ()}, "at least one of kinds"),
        ({"train_texts": 0}, "train_texts of at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens of at least 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ProbeConfig(**options)
