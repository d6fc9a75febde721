"""A readout as stock modules: saved, reloaded by sentence-transformers alone, equal to the formula."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from layerscope.config import Pooling
from layerscope.errors import InputError
from layerscope.export.readout import as_modules, sentence_transformer
from layerscope.metrics.readouts import Readout, fit
from tiny import save_tiny, texts, tiny_model, tiny_tokenizer

TEXTS = texts(40)
# Loads the folder where layerscope cannot be imported, and prints the vectors.
ELSEWHERE = """
import json, sys
sys.modules["layerscope"] = None
from sentence_transformers import SentenceTransformer
vectors = SentenceTransformer(sys.argv[1], device="cpu").encode(json.loads(sys.argv[2]))
print(json.dumps(vectors.tolist()))
"""


def pooled(name: str) -> dict[int, np.ndarray]:
    """Means over all tokens of every hidden state, text by text."""
    found: dict[int, list[np.ndarray]] = {}
    for text in TEXTS:
        encoded = tiny_tokenizer()(text, return_tensors="pt")
        encoded.pop("token_type_ids", None)
        with torch.no_grad():
            states = tiny_model(name)(**encoded, output_hidden_states=True).hidden_states
        for site, state in enumerate(states):
            found.setdefault(site, []).append(state[0].double().mean(0).numpy())
    return {site: np.stack(rows) for site, rows in found.items()}


def kinds(model) -> list[str]:
    return [type(module).__name__ for module in model]


CASES = {
    "one layer": (Readout((2,)), True, ["Transformer", "Pooling", "Normalize"]),
    "its length kept": (Readout((2,)), False, ["Transformer", "Pooling"]),
    "one layer with a map": (
        Readout((2,), "z-score"),
        True,
        ["Transformer", "Pooling", "Dense", "Normalize"],
    ),
    "several layers": (
        Readout((3, 0, 4)),
        True,
        ["Transformer", "WeightedLayerPooling", "Pooling", "Normalize"],
    ),
    "their sum and its length": (
        Readout((3, 0, 4), weighting="unit"),
        False,
        ["Transformer", "WeightedLayerPooling", "Pooling", "Dense"],
    ),
    "several layers with a map": (
        Readout((4, 1, 2), "whitening-0.5", "unit"),
        True,
        ["Transformer", "WeightedLayerPooling", "Pooling", "Dense", "Normalize"],
    ),
    "the length of a map kept": (
        Readout((4, 1), "abtt-2"),
        False,
        ["Transformer", "WeightedLayerPooling", "Pooling", "Dense"],
    ),
}


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_gives_the_formula_after_reloading(name, case, tmp_path):
    from sentence_transformers import SentenceTransformer

    readout, normalize, expected_kinds = CASES[case]
    vectors = pooled(name)
    fitted = fit(readout, vectors)
    expected = fitted.apply(vectors)
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    source = save_tiny(tiny_model(name), tmp_path / "source")
    model = sentence_transformer(source, as_modules(fitted, 5, normalize=normalize))
    assert kinds(model) == expected_kinds
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert kinds(again) == expected_kinds
    found = again.encode(TEXTS)  # in batches, so padding is left out too
    scale = 1 if normalize else np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)


def test_it_is_served_where_layerscope_is_not_installed(tmp_path):
    vectors = pooled("llama")
    fitted = fit(Readout((4, 1, 2), "z-score", "unit"), vectors)
    source = save_tiny(tiny_model("llama"), tmp_path / "source")
    saved = str(tmp_path / "saved")
    sentence_transformer(source, as_modules(fitted, 5)).save_pretrained(saved)
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, saved, json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = fitted.apply(vectors)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = np.array(json.loads(run.stdout.splitlines()[-1]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_numbers_of_the_modules():
    vectors = {site: np.random.default_rng(site).standard_normal((9, 3)) for site in (1, 2, 9)}
    fitted = fit(Readout((1, 9), "center"), vectors)
    modules = as_modules(fitted, 4, indices={1: 1, 9: 3})
    assert modules.weights.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(
        modules.matrix, 2 * np.eye(3)
    )  # the mean of two layers is half their sum
    np.testing.assert_allclose(modules.bias, -vectors[1].mean(0) - vectors[9].mean(0))
    single = as_modules(fit(Readout((2,)), vectors), 4)
    assert (single.weights, single.layer, single.matrix) == (None, 2, None)


def test_a_layer_that_is_no_hidden_state_is_refused():
    """The raw output of a decoder's last block: what the model gives there is after the final norm."""
    vectors = {4: np.random.default_rng(0).standard_normal((9, 3))}
    fitted = fit(Readout((4,)), vectors)
    with pytest.raises(
        InputError, match="layer 4 of the readout '4' is not among the 4 hidden states"
    ):
        as_modules(fitted, 4)
    with pytest.raises(
        InputError, match="hidden states that the model gives; choose another, or cut"
    ):
        as_modules(fitted, 5, indices={5: 4})


def test_what_no_module_can_say_is_refused(tmp_path):
    fitted = fit(Readout((0, 1), "z-score"), dict.fromkeys((0, 1), np.eye(3)))
    with pytest.raises(
        InputError, match="max pooling of averaged layers is not the average of pooled"
    ):
        sentence_transformer("nowhere", as_modules(fitted, 5), pooling=Pooling.MAX)
    source = save_tiny(tiny_model("bert"), tmp_path / "source")
    with pytest.raises(
        InputError, match="the readout is for vectors of 3 dimensions, the model's have 32"
    ):
        sentence_transformer(source, as_modules(fitted, 5))
