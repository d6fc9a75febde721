"""What is measured is what a sentence-transformers source serves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import layerscope
from layerscope.config import FirstToken, Pooling
from layerscope.errors import InputError
from layerscope.models.serving import Serving, as_served, read_serving, serving_of
from layerscope.settings import EvaluateConfig, ScanConfig
from served import KINDS, served
from tiny import save_tiny, texts, tiny_model, tiny_tokenizer

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
TEXTS = texts(40)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_says_what_its_object_says(kind, tmp_path):
    model = served(kind, tmp_path / "model")
    found, given = read_serving(tmp_path / "model"), serving_of(model)
    assert found is not None
    limit = found.max_length or given.max_length
    assert replace(found, max_length=limit, prompts={}) == replace(given, prompts={})
    said = {name: text for name, text in given.prompts.items() if text}
    assert {name: text for name, text in found.prompts.items() if text} == said == KINDS[kind][3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_object", [False, True])
def test_the_last_layer_of_a_scan_is_what_is_served(kind, as_object, tmp_path):
    model = served(kind, tmp_path / "model")
    source = model if as_object else tmp_path / "model"
    found = layerscope.scan(source, TEXTS, metrics="effective_rank", views=0).table()
    if KINDS[kind][2]:
        del model[
            -1
        ]  # a scan keeps lengths: that they are left out is a convention of its measures
    vectors = model.encode(TEXTS, show_progress_bar=False)
    expected = layerscope.scan_states(vectors[None], metrics="effective_rank").table()
    for convention in ("normalized", "paper"):
        rows = found[found["convention"] == convention]
        wanted = expected.loc[expected["convention"] == convention, "value"].item()
        assert rows["value"].iloc[-1] == pytest.approx(wanted, rel=1e-5)


def test_as_tokens_gives_bare_means(tmp_path):
    served("a default prompt", tmp_path / "model")
    settings = {"metrics": "effective_rank", "views": 0}
    bare = layerscope.scan(tmp_path / "model", TEXTS, as_tokens=True, **settings)
    plain = layerscope.scan(tmp_path / "model-inner", TEXTS, **settings)
    np.testing.assert_allclose(bare.table()["value"], plain.table()["value"], rtol=1e-6)
    own = layerscope.scan(tmp_path / "model", TEXTS, **settings)
    assert own.table()["value"].iloc[-1] != pytest.approx(plain.table()["value"].iloc[-1], rel=1e-3)
    assert own.record["settings"]["pooling"] == "last"
    assert own.record["settings"]["prompt"] == "river stone "
    assert any("Vectors as the source serves them: last pooling over all tokens, the prompt "
               "'river stone '" in note for note in own.record["notes"])  # fmt: skip


def test_what_is_asked_comes_first(tmp_path):
    served("a default prompt", tmp_path / "model")
    found = layerscope.scan(
        tmp_path / "model", TEXTS, metrics="rankme", views=0, pooling="mean", prompt="",
        special_tokens=False,
    ).record["settings"]  # fmt: skip
    assert (found["pooling"], found["prompt"], found["special_tokens"]) == ("mean", "", False)


def test_a_prompt_goes_before_texts_and_views(tmp_path):
    given = {"metrics": ("infonce",), "tokenizer": tiny_tokenizer(), "augmentation": ("default",)}
    plain = layerscope.scan(tiny_model("bert"), TEXTS, **given).table()
    prompted = layerscope.scan(tiny_model("bert"), TEXTS, prompt="seven quiet ", **given).table()
    assert not np.allclose(plain["value"], prompted["value"])


def test_settings_left_open_are_decided():
    plain, notes = as_served(EvaluateConfig(), None)
    assert (plain.pooling, plain.special_tokens, plain.normalize, plain.prompt) == (
        Pooling.MEAN, False, False, "",
    )  # fmt: skip
    assert (plain.first_token, notes) == (FirstToken.AUTO, [])
    serving = Serving(Pooling.FIRST, normalize=True, max_length=64)
    own, _ = as_served(EvaluateConfig(), serving)
    assert (own.pooling, own.special_tokens, own.normalize) == (Pooling.FIRST, True, True)
    assert (own.first_token, own.max_length, own.prompt) == (FirstToken.KEEP, 64, "")
    asked, _ = as_served(EvaluateConfig(normalize=False, max_length=8, prompt="a"), serving)
    assert (asked.normalize, asked.max_length, asked.prompt) == (False, 8, "a")
    by_task, _ = as_served(EvaluateConfig(), replace(serving, prompts={"STS": "b"}))
    assert by_task.prompt is None


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        (
            Serving(None),
            "the source pools in a way that is none of the poolings: vectors are means",
        ),
        (
            Serving(Pooling.MEAN, others=("WordWeights",)),
            "the source has WordWeights, which a scan",
        ),
        (Serving(Pooling.MEAN, others=("Dense",)), "Dense follows pooling and is left out"),
    ],
)
def test_what_a_scan_cannot_do_is_noted(serving, said):
    settings, notes = as_served(ScanConfig(), serving)
    assert said in notes[-1]
    assert settings.special_tokens is ("Dense" in serving.others)


def test_a_prompt_that_is_not_pooled_is_refused(tmp_path):
    served("a default prompt", tmp_path / "model", include_prompt=False)
    with pytest.raises(InputError, match="the source leaves the tokens of its prompts out when it"):
        layerscope.scan(tmp_path / "model", TEXTS, metrics="rankme", views=0)
    assert layerscope.scan(tmp_path / "model", TEXTS, metrics="rankme", views=0, prompt="")


def test_older_files_are_read(tmp_path):
    """One flag a kind of pooling, and the length limit beside it."""
    folder = save_tiny(tiny_model("bert"), tmp_path / "model")
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [{"type": f"sentence_transformers.models.{k}", "path": p} for k, p in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))
    assert read_serving(folder) == Serving(Pooling.FIRST, normalize=True, max_length=12)
    both = flags | {"pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(both))
    assert read_serving(folder).pooling is None
    (folder / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json' cannot be read: Expecting"):
        read_serving(folder)
    assert read_serving(save_tiny(tiny_model("bert"), tmp_path / "plain")) is None
