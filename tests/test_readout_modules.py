"""A readout as stock modules: saved, reloaded by sentence-transformers alone, equal to the formula."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import layerscope
from layerscope.errors import InputError
from layerscope.export.modules import as_modules
from layerscope.metrics.readouts import Readout, fit
from test_readout_choice import table_of
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


def cut(name: str, out, readout: str, **options):
    return layerscope.cut(
        tiny_model(name), readout=readout, out=out, data=TEXTS, tokenizer=tiny_tokenizer(),
        special_tokens=True, first_token="keep", **options,
    )  # fmt: skip


WEIGHTED, POOL = "WeightedLayerPooling", "Pooling"
CASES = {  # readout, unit length, modules, blocks that stay
    "one layer": ("2", True, ["Transformer", POOL, "Normalize"], 2),
    "the model's own output": ("4", False, ["Transformer", POOL], 4),
    "one layer with a map": ("2, z-score", True, ["Transformer", POOL, "Dense", "Normalize"], 2),
    "the embeddings with a map": ("0, center", False, ["Transformer", POOL, "Dense"], 1),
    "several layers": ("3+0+1", True, ["Transformer", WEIGHTED, POOL, "Normalize"], 3),
    "with the own output": ("3+0+4", True, ["Transformer", WEIGHTED, POOL, "Normalize"], 4),
    "their sum and its length": (
        "3+0+4 unit", False, ["Transformer", WEIGHTED, POOL, "Dense"], 4,
    ),
    "several layers with a map": (
        "4+1+2 unit, whitening-0.5", True,
        ["Transformer", WEIGHTED, POOL, "Dense", "Normalize"], 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_gives_the_formula_after_reloading(name, case, tmp_path):
    from sentence_transformers import SentenceTransformer

    readout, normalize, expected_kinds, blocks = CASES[case]
    vectors = pooled(name)
    expected = fit(Readout.parse(readout), vectors).apply(vectors)
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = cut(name, tmp_path / "out", readout, normalize=normalize)
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert kinds(again) == expected_kinds
    assert len(list(again[0].auto_model.modules())) <= len(list(tiny_model(name).modules()))
    assert found.blocks in (blocks, blocks + 1)  # some give a raw state before one block more only
    given = again.encode(TEXTS)  # in batches, so padding is left out too
    scale = 1 if normalize else np.abs(expected).max()
    np.testing.assert_allclose(given, expected, atol=2e-5 * scale)
    assert found.shipped.verification.largest < 1e-5


def test_it_is_served_where_layerscope_is_not_installed(tmp_path):
    vectors = pooled("llama")
    expected = fit(Readout((4, 1, 2), "z-score", "unit"), vectors).apply(vectors)
    cut("llama", tmp_path / "out", "4+1+2 unit, z-score")
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "out"), json.dumps(TEXTS)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = np.array(json.loads(run.stdout.splitlines()[-1]))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    record = json.loads((tmp_path / "out" / "layerscope.json").read_text())
    assert record["readout"] == "4+1+2 unit, z-score"
    assert "readout 4+1+2 unit, z-score" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "case", ["one layer with a map", "several layers with a map", "several layers"]
)
def test_an_onnx_file_gives_the_readout_of_each_token(case, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    vectors = pooled("llama")
    expected = fit(Readout.parse(CASES[case][0]), vectors).apply(vectors)
    found = cut("llama", tmp_path / "out", CASES[case][0], format="onnx", normalize=True)
    session = runtime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    inputs = tiny_tokenizer()(TEXTS, padding=True, return_tensors="np")
    asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    states = session.run(None, asked)[0]
    mask = inputs["attention_mask"][..., None]
    given = (states * mask).sum(1) / mask.sum(1)
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(given, expected, atol=1e-4)
    assert found.shipped.verification.reader == "onnxruntime"
    assert "The file gives the readout of each token, to be pooled so." in found.notes


def test_the_numbers_of_the_modules():
    vectors = {site: np.random.default_rng(site).standard_normal((9, 3)) for site in (1, 2, 9)}
    fitted = fit(Readout((1, 9), "center"), vectors)
    modules = as_modules(fitted, 4, indices={1: 1, 9: 3})
    assert modules.weights.tolist() == [0, 1, 0, 1]
    # the mean of two layers is half their sum
    np.testing.assert_allclose(modules.matrix, 2 * np.eye(3))
    np.testing.assert_allclose(modules.bias, -vectors[1].mean(0) - vectors[9].mean(0))
    single = as_modules(fit(Readout((2,)), vectors), 4)
    assert (single.weights, single.layer, single.matrix) == (None, 2, None)


def test_a_layer_that_is_no_hidden_state_is_refused():
    vectors = {4: np.random.default_rng(0).standard_normal((9, 3))}
    fitted = fit(Readout((4,)), vectors)
    said = (
        "layer 4 of the readout '4' is not among the 4 hidden states that the model gives; choose"
    )
    with pytest.raises(InputError, match=said):
        as_modules(fitted, 4)
    with pytest.raises(InputError, match="hidden states that the model gives; choose another"):
        as_modules(fitted, 5, indices={5: 4})


@pytest.mark.parametrize(
    ("readout", "options", "said"),
    [
        ("2+9, z-score", {}, r"expected layers from 0 to 4 in the readout '2\+9, z-score', got 9"),
        ("1, z-score", {"format": "transformers"}, "which a transformers folder cannot hold; use"),
        ("1, z-score", {"kind": "pointer"}, "is saved as a cut without a head"),
        ("0-2", {"pooling": "max"}, "max pooling of averaged layers is not the average of pooled"),
        ("1", {"layer": 2}, "expected a layer, a rule or a readout, got more than one of them"),
        ("1", {"rule": "last"}, "expected a layer, a rule or a readout, got more than one of them"),
        ("x", {}, "expected a readout like"),
        ("1, zscore", {}, "unknown map of a readout 'zscore'"),
    ],
)
def test_what_cannot_be_saved_is_refused(readout, options, said, tmp_path):
    with pytest.raises(InputError, match=said):
        cut("bert", tmp_path / "out", readout, **options)
    assert not list(tmp_path.iterdir())


def test_a_map_beside_half_precision_is_refused(tmp_path):
    folder = save_tiny(tiny_model("llama"), tmp_path / "model")
    with pytest.raises(InputError, match="load it with --dtype float32"):
        layerscope.cut(
            folder, readout="2, z-score", out=tmp_path / "out", data=TEXTS, dtype="bfloat16"
        )
    found = layerscope.cut(
        folder, readout="2, z-score", out=tmp_path / "out", data=TEXTS, dtype="float32"
    )
    assert found.readout == "2, z-score"


def test_what_is_saved_is_the_readout_that_select_names(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    run = layerscope.scan(model, TEXTS, tokenizer=tokenizer).run
    table = table_of({"4": 0.3, "2, z-score": 0.6, "1": 0.29})
    run = replace(run, readouts=replace(table, blocks=4))
    chosen = layerscope.select(run)
    assert chosen.answer.startswith("Read layer 2, dimensions scaled alike (z-score)")
    assert layerscope.select(run, rule="middle").readout is None
    given = {"data": TEXTS, "tokenizer": tokenizer, "run": run}
    found = layerscope.cut(model, out=tmp_path / "out", **given)
    assert (found.readout, found.evidence) == ("2, z-score", (chosen.answer,))
    cheap = layerscope.cut(model, out=tmp_path / "cheap", prefer="cheap", **given)
    assert cheap.readout == "2, z-score"
    ruled = layerscope.cut(model, out=tmp_path / "ruled", rule="middle", **given)
    assert (ruled.readout, ruled.layer) == ("", 2)


CROPS = [" ".join([text] * 20) for text in texts(30)]


def compared(**settings):
    return layerscope.scan(
        tiny_model("bert"), CROPS, tokenizer=tiny_tokenizer(), span_words=4,
        **{"metrics": ("retrieval",), "augmentation": ("crops",)} | settings,
    )  # fmt: skip


def test_own_readouts_are_compared_with_the_others():
    found = compared(readouts=["0+2, abtt-3", "4"]).run.readouts
    assert found.asked == ("0+2, abtt-3", "4")
    place = found.index("0+2, abtt-3")
    assert 0 < found.candidates[place].score <= 1
    plain = compared().run.readouts
    assert len(found.candidates) == len(plain.candidates) + 1
    shown = compared(readouts="0+2, abtt-3")
    page = shown.page()
    assert "0+2, abtt-3" in page
    assert "yours" in page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"readouts": "9, z-score"}, "expected layers from 0 to 4 in the readout '9, z-score', got"),
        ({"readouts": "4, zscore"}, "unknown map of a readout 'zscore'"),
        ({"readouts": "4", "layers": [1, 2]}, "your readouts cannot be compared: readouts are compared "
         "where every layer is read; leave --readouts out"),
        ({"readouts": "4", "metrics": ("lidar",)}, "by crop retrieval, which was not measured"),
        ({"readouts": "4", "pooling": "max"}, "the maximum over tokens is not linear"),
    ],
)  # fmt: skip
def test_own_readouts_that_cannot_be_compared_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        compared(**settings)


def test_costs_of_serving():
    found = compared(readouts="2, z-score").run.readouts
    model, costs = tiny_model("bert"), found.costs
    weights = sum(weight.nbytes for weight in model.parameters())
    block = sum(weight.nbytes for weight in model.encoder.layer[0].parameters())
    assert costs.weight_bytes[-1] == weights
    assert costs.weight_bytes[2] == weights - 2 * block
    dim = model.config.hidden_size
    own, mapped = (found.candidates[found.index(name)] for name in ("4", "2, z-score"))
    assert costs.size(own) == weights
    assert costs.size(mapped) == weights - 2 * block + 4 * dim * (dim + 1)
    assert costs.speed(mapped) >= costs.speed(own) > 0
    assert costs.speed(own) == pytest.approx(1 / costs.seconds[1])


def test_a_run_keeps_its_readouts(tmp_path):
    kept = compared(out=tmp_path / "run", readouts="4+0")
    again = layerscope.load(tmp_path / "run").run.readouts
    assert again.candidates == kept.run.readouts.candidates
    np.testing.assert_allclose(again.contributions, kept.run.readouts.contributions, rtol=1e-6)
    assert again.facts() == kept.run.readouts.facts()
    assert layerscope.load(tmp_path / "run").select().readout is not None
