"""A cut model gives the layer that was measured: in memory, on disk, to whoever loads it."""

from __future__ import annotations

import copy
import errno
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn

import layerscope
from commands import run
from layerscope.api import cutting
from layerscope.errors import InputError, RunError
from layerscope.export import formats, reload, shorten, verify
from layerscope.export.formats import MismatchError
from matrix import WORKS
from tiny import (
    CONFIGS,
    VISION,
    save_tiny,
    texts,
    tiny_model,
    tiny_tokenizer,
    unusual_model,
    vision_model,
)

TEXT_MODELS = {name: works for name, works in WORKS.items() if name in CONFIGS}
CUTTABLE = [name for name, works in TEXT_MODELS.items() if works.cut != "no"]
SENTENCES = [name for name, works in TEXT_MODELS.items() if works.sentences]
TEXTS = texts(4)


@pytest.fixture
def here(monkeypatch):
    """Read back in this process: the same program, without seconds of imports for each model."""
    monkeypatch.setattr(
        verify, "_run", lambda request, answer: reload.main(str(request), str(answer))
    )


def cut(name: str, out: Path, layer: int = 2, **options):
    model = options.pop("model", None) or copy.deepcopy(tiny_model(name))
    return layerscope.cut(model, layer, out=out, data=TEXTS, tokenizer=tiny_tokenizer(), **options)


def layer_of(model: nn.Module, text: str, layer: int) -> torch.Tensor:
    """A layer's states as the library reports them, for architectures whose list is as expected."""
    tokens = tiny_tokenizer()(text, return_tensors="pt")
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], output_hidden_states=True)
    return output.hidden_states[layer][0]


@pytest.mark.parametrize("name", CUTTABLE)
def test_every_architecture_is_cut_into_a_stock_checkpoint(name, tmp_path, here):
    found = cut(name, tmp_path / "out", format="transformers")
    assert found.shipped.verification.largest <= 1e-6
    assert found.blocks == (3 if WORKS[name].cut == "one more" else 2)
    config = json.loads((found.folder / "config.json").read_text())
    read = hf.AutoConfig.from_pretrained(found.folder)
    assert read.num_hidden_layers == found.blocks
    assert len(config.get("layer_types") or [0] * found.blocks) == found.blocks
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", SENTENCES)
def test_every_architecture_is_cut_for_sentence_transformers(name, tmp_path, here):
    found = cut(name, tmp_path / "out")
    assert found.shipped.verification.reader == "SentenceTransformer"
    assert found.shipped.verification.largest <= 1e-6


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "modernbert", "mamba"])
def test_the_final_norm_is_kept_on_request(name, tmp_path, here):
    found = cut(name, tmp_path / "out", format="transformers", final_norm="keep")
    assert found.output == shorten.LAST
    assert found.blocks == 2
    assert found.stage == "final_norm"


def test_a_new_process_reads_what_was_saved(tmp_path):
    found = cut("gemma3", tmp_path / "out", format="transformers")
    model = hf.AutoModel.from_pretrained(found.folder)
    assert len(model.layers) == 2
    source = tiny_model("gemma3")
    for text in TEXTS:
        index = found.output[1]
        torch.testing.assert_close(layer_of(model, text, index), layer_of(source, text, 2))


def test_the_last_three_lines_of_the_readme_work(tmp_path, here):
    """SentenceTransformer(folder) gives the scanned vectors: the mean without special tokens."""
    from sentence_transformers import SentenceTransformer

    found = cut("llama", tmp_path / "out")
    vectors = SentenceTransformer(str(found.folder), device="cpu").encode(
        TEXTS, convert_to_tensor=True
    )
    for text, vector in zip(TEXTS, vectors, strict=True):
        states = layer_of(tiny_model("llama"), text, 2)
        torch.testing.assert_close(vector, states[1:-1].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_pooling_and_normalization_come_along(pooling, tmp_path, here):
    found = cut("llama", tmp_path / "out", pooling=pooling, normalize=True)
    assert found.shipped.verification.largest <= 1e-6
    assert any(path.name.endswith("_Normalize") for path in found.folder.iterdir())


@pytest.mark.parametrize("pooling", ["max", "weighted_mean"])
def test_a_pooling_that_stock_modules_cannot_do_is_refused(pooling, tmp_path):
    with pytest.raises(InputError, match=f"no {pooling} pooling that leaves tokens out"):
        cut("llama", tmp_path / "out", pooling=pooling)
    found = cut("llama", tmp_path / "out", pooling=pooling, special_tokens=True, first_token="keep")
    assert found.shipped.verification.largest <= 1e-6


def test_a_pointer_keeps_every_block(tmp_path, here):
    found = cut("qwen3", tmp_path / "out", kind="pointer")
    assert found.blocks == 4
    assert found.output == ("hidden_states", 2)
    assert found.shipped.verification.largest <= 1e-6


def bare_tokenizer():
    """One that adds nothing to a text but has an end of text of its own, as SmolLM2's."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    tokenizer.add_special_tokens({"bos_token": "[CLS]"})
    return tokenizer


def test_a_sink_on_an_ordinary_first_token_gets_a_token_of_its_own(tmp_path, here):
    found = layerscope.cut(
        copy.deepcopy(tiny_model("llama")), 2, out=tmp_path / "out", data=TEXTS,
        tokenizer=bare_tokenizer(), first_token="drop",
    )  # fmt: skip
    assert found.shipped.verification.largest <= 1e-6
    config = json.loads((found.folder / "config_sentence_transformers.json").read_text())
    assert config["prompts"]["text"] == "[CLS]"
    assert config["default_prompt_name"] == "text"
    assert any("attention sink" in note for note in found.notes)
    assert any("mean cosine" in note for note in found.notes)


@pytest.mark.parametrize("final_norm", ["keep", "drop"])
def test_a_chat_template_is_not_put_around_texts(final_norm, tmp_path, here):
    tokenizer = bare_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}green {{ message.content }} seven{% endfor %}"
    )
    found = layerscope.cut(
        copy.deepcopy(tiny_model("llama")), 4, out=tmp_path / "out", data=TEXTS,
        tokenizer=tokenizer, final_norm=final_norm,
    )  # fmt: skip
    assert found.shipped.verification.largest <= 1e-6


def test_a_sentence_transformers_model_keeps_its_own_modules_and_prompts(tmp_path, here):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    save_tiny(copy.deepcopy(tiny_model("bert")), tmp_path / "plain")
    torch.manual_seed(0)
    modules = [
        Transformer(str(tmp_path / "plain"), max_seq_length=24),
        Pooling(32, pooling_mode="cls"),
        Dense(32, 8),
    ]
    prompts = {"query": "river "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save_pretrained(
        str(tmp_path / "source")
    )
    found = layerscope.cut(tmp_path / "source", 3, out=tmp_path / "out", data=TEXTS)
    again = SentenceTransformer(str(found.folder), device="cpu")
    assert [type(module).__name__ for module in again] == ["Transformer", "Pooling", "Dense"]
    assert again[1].pooling_mode == "cls"
    assert again.max_seq_length == 24
    assert again.prompts["query"] == "river "


def sentence_source(folder: Path, tmp_path: Path, **options) -> Path:
    """A sentence-transformers model with a pooling of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    save_tiny(copy.deepcopy(tiny_model("bert")), tmp_path / "plain")
    include = options.pop("include_prompt", True)
    modules = [
        Transformer(str(tmp_path / "plain")),
        Pooling(32, pooling_mode="mean", include_prompt=include),
    ]
    SentenceTransformer(modules=modules, device="cpu", **options).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("include_prompt", [True, False])
def test_a_prompt_that_the_source_always_adds_is_added_still(include_prompt, tmp_path, here):
    source = sentence_source(
        tmp_path / "source", tmp_path, prompts={"passage": "river stone "},
        default_prompt_name="passage", include_prompt=include_prompt,
    )  # fmt: skip
    found = layerscope.cut(source, 3, out=tmp_path / "out", data=TEXTS)
    config = json.loads((found.folder / "config_sentence_transformers.json").read_text())
    assert config["default_prompt_name"] == "passage"
    assert found.shipped.verification.largest <= 1e-6


def test_unit_length_leaves_the_rest_of_a_source_as_it_is(tmp_path, here):
    from sentence_transformers import SentenceTransformer

    source = sentence_source(tmp_path / "source", tmp_path, prompts={"query": "river "})
    found = layerscope.cut(source, 3, out=tmp_path / "out", data=TEXTS, normalize=True)
    again = SentenceTransformer(str(found.folder), device="cpu")
    assert [type(module).__name__ for module in again] == ["Transformer", "Pooling", "Normalize"]
    assert again.prompts["query"] == "river "
    assert again.encode(TEXTS, convert_to_tensor=True).norm(dim=1).allclose(torch.ones(4))


def test_another_pooling_keeps_the_prompts_of_a_source(tmp_path, here):
    source = sentence_source(tmp_path / "source", tmp_path, prompts={"query": "river "})
    found = layerscope.cut(source, 3, out=tmp_path / "out", data=TEXTS, pooling="last")
    config = json.loads((found.folder / "config_sentence_transformers.json").read_text())
    assert config["prompts"]["query"] == "river "
    pooling = json.loads((found.folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "lasttoken"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t5", {}),
        ("gemma3", {"final_norm": "keep", "head": True}),
        ("vit", {}),
        ("bert", {"format": "sentence-transformers"}),
    ],
)
def test_the_lines_that_are_printed_run(name, options, tmp_path, here):
    torch.manual_seed(0)
    if name == "vit":
        vision_model(name).save_pretrained(tmp_path / "source")
    elif options.get("head"):
        save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS[name]()), tmp_path / "source")
    else:
        save_tiny(copy.deepcopy(tiny_model(name)), tmp_path / "source")
    options = {"format": "transformers"} | options
    found = layerscope.cut(tmp_path / "source", 2, out=tmp_path / "out", data=TEXTS, **options)
    made: dict[str, object] = {}
    exec(found.usage, made)
    assert "states" in made or "vectors" in made
    assert found.usage.replace(str(found.folder), "out") in (found.folder / "README.md").read_text()


def test_the_head_comes_along_on_request(tmp_path, here):
    torch.manual_seed(0)
    save_tiny(hf.AutoModelForCausalLM.from_config(CONFIGS["gemma3"]()), tmp_path / "source")
    options = {"format": "transformers", "final_norm": "keep", "head": True}
    found = layerscope.cut(tmp_path / "source", 3, out=tmp_path / "out", data=TEXTS, **options)
    assert found.shipped.verification.reader == "Gemma3ForCausalLM"
    assert (found.folder / "generation_config.json").exists()
    with pytest.raises(InputError, match="a head reads what the final norm gives"):
        layerscope.cut(tmp_path / "source", 3, out=tmp_path / "o", data=TEXTS, head=True)


def test_half_precision_stays_half_precision(tmp_path, here):
    model = copy.deepcopy(tiny_model("llama")).to(torch.bfloat16)
    found = cut("llama", tmp_path / "out", model=model, format="transformers")
    weights = load_file(found.folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_an_onnx_file_gives_the_layer(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    found = cut("llama", tmp_path / "out", format="onnx")
    assert found.shipped.verification.reader == "onnxruntime"
    assert found.shipped.verification.largest <= 1e-5


def test_what_the_onnx_exporter_cannot_do_is_said(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    with pytest.raises(InputError, match="ONNX exporter cannot do MambaModel"):
        cut("mamba", tmp_path / "out", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*VISION, "dinov3_vit", "siglip_vision_model"])
def test_images_are_cut_too(name, tmp_path, here):
    assert name not in WORKS or WORKS[name].cut == "yes"
    vision_model(name).save_pretrained(tmp_path / "source")
    hf.ViTImageProcessorPil().save_pretrained(tmp_path / "source")
    found = layerscope.cut(tmp_path / "source", 3, out=tmp_path / "out", format="transformers")
    assert found.shipped.verification.largest == 0
    assert (found.folder / "preprocessor_config.json").exists()
    with pytest.raises(InputError, match="reads images"):
        layerscope.cut(tmp_path / "source", 3, out=tmp_path / "other")


def test_the_layer_is_chosen_by_a_rule_and_the_card_says_on_what_evidence(tmp_path, here):
    found = cut("llama", tmp_path / "out", layer="auto", format="transformers", model=None)
    assert 1 <= found.layer <= 4
    card = (found.folder / "README.md").read_text()
    assert "## Evidence" in card
    assert found.evidence
    assert found.evidence[0] in card


def test_a_scan_gives_the_layer_and_must_be_of_this_model(tmp_path, here):
    scan = layerscope.scan(
        copy.deepcopy(tiny_model("llama")), TEXTS, tokenizer=tiny_tokenizer(), out=tmp_path / "run"
    )
    found = cut("llama", tmp_path / "out", "auto", run=tmp_path / "run", rule="middle")
    assert found.layer == layerscope.select(scan, rule="middle").layer == 2
    with pytest.raises(InputError, match="the run is of another model"):
        cut("gpt2", tmp_path / "other", "auto", run=tmp_path / "run")


def test_a_cut_pools_as_its_scan_did(tmp_path, here):
    layerscope.scan(
        copy.deepcopy(tiny_model("llama")), TEXTS, tokenizer=tiny_tokenizer(), out=tmp_path / "run",
        pooling="last",
    )  # fmt: skip
    found = cut("llama", tmp_path / "out", "auto", run=tmp_path / "run", rule="middle")
    assert (found.folder / "1_Pooling" / "config.json").read_text().count("lasttoken") == 1
    other = cut(
        "llama", tmp_path / "o", "auto", run=tmp_path / "run", rule="middle", pooling="mean"
    )
    assert any("mean pooling" in note for note in other.notes)


def test_a_rule_that_takes_the_normed_output_gets_it(tmp_path, here):
    layerscope.scan(
        copy.deepcopy(tiny_model("llama")), TEXTS, tokenizer=tiny_tokenizer(), out=tmp_path / "run"
    )
    found = cut("llama", tmp_path / "out", "auto", run=tmp_path / "run", rule="last")
    assert (found.layer, found.stage) == (4, "final_norm")


def test_a_rule_that_names_no_layer_or_the_embeddings_cannot_be_cut_by(tmp_path):
    scan = layerscope.scan(tiny_model("bert"), TEXTS, tokenizer=tiny_tokenizer(), metrics="rankme")
    first = scan.run.table["layer"] == 0
    scan.run.table.loc[first, "value"] = 99.0
    with pytest.raises(InputError, match="'most rankme' names no layer to cut at .*; give --layer"):
        cut("bert", tmp_path / "out", "auto", run=scan, rule="most rankme")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in CUTTABLE if WORKS[name].cut == "one more"])
def test_the_last_layer_that_is_only_given_normed_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="returns layer 4 after its final norm only; pass --final"):
        cut(name, tmp_path / "out", 4)


# --- what cannot be done is refused before it is done -----------------------------------------------


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (0, "layer 0 is the embeddings"),
        (5, r"expected a layer from 1 to 4 \(the last block of"),
        (-5, "layer 0 is the embeddings"),
        (-6, "expected a layer from 1 to 4"),
        ("x", "expected layer to be a whole number or 'auto', got 'x'"),
    ],
)
def test_a_layer_out_of_range_is_refused(layer, said, tmp_path):
    with pytest.raises(InputError, match=said):
        cut("bert", tmp_path / "out", layer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, works in TEXT_MODELS.items() if works.cut == "no"])
def test_shared_blocks_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="runs one block at several depths"):
        cut(name, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_packed_weights_are_refused(tmp_path):
    model = copy.deepcopy(tiny_model("llama"))
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(InputError, match=r"is quantized \(bitsandbytes\)"):
        cut("llama", tmp_path / "out", model=model)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_stays(tmp_path, here):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("dear")
    with pytest.raises(InputError, match="holds other files"):
        cut("bert", out, overwrite=True)
    (out / "thesis.tex").unlink()
    cut("bert", out, format="transformers")
    with pytest.raises(InputError, match="pass --overwrite to replace it"):
        cut("bert", out, format="transformers")
    assert cut("bert", out, layer=3, format="transformers", overwrite=True).blocks == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_to_which_another_process_writes_is_left_alone(tiny_folder, tmp_path):
    out = tmp_path / "out"
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(InputError, match="another process is at work in .*out'; wait until it ends"),
    ):
        layerscope.cut(tiny_folder("bert"), 2, out=out, data=TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_the_source_is_never_replaced(tiny_folder, tmp_path, here):
    made = layerscope.cut(tiny_folder("bert"), 3, out=tmp_path / "made", data=TEXTS).folder
    for out in (made, tmp_path):
        with pytest.raises(InputError, match="what it is made from"):
            layerscope.cut(made, 2, out=out, data=TEXTS, overwrite=True)
    assert hf.AutoConfig.from_pretrained(made).num_hidden_layers == 3


def test_an_encoder_that_is_saved_with_its_decoder_is_for_transformers_alone(tmp_path):
    with pytest.raises(InputError, match="is saved with its decoder"):
        cut("bart", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_leaves_nothing_half_written(error, tmp_path, monkeypatch, here):
    cut("bert", tmp_path / "out", layer=3, format="transformers")

    def fill(self, folder, **_):
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(hf.PreTrainedModel, "save_pretrained", fill)
    with pytest.raises(RunError, match="nothing of it was kept and the source is untouched"):
        cut("bert", tmp_path / "out", format="transformers", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.undo()
    assert hf.AutoModel.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match="nothing was written"):
        cut("bert", tmp_path / "out", format="transformers")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut("bert", tmp_path / "out", format="transformers")
    assert not list(tmp_path.iterdir())


# --- what was saved is not believed until it was read back ------------------------------------------


def spoil(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w["layers.1.mlp.up_proj.weight"].mul_(1.1), "gives other hidden states: text 1"),
        (lambda w: w.pop("layers.1.mlp.up_proj.weight"), "lacks or has left over 1 weights"),
        (
            lambda w: w["layers.0.mlp.up_proj.weight"].copy_(w["layers.1.mlp.up_proj.weight"]),
            "gives other hidden states: text 1",
        ),
    ],
)
def test_a_spoiled_checkpoint_is_told_and_kept_to_look_at(change, said, tmp_path, monkeypatch):
    def run_spoiled(request: Path, answer: Path) -> None:
        spoil(Path(json.loads(request.read_text())["folder"]), change)
        reload.main(str(request), str(answer))

    monkeypatch.setattr(verify, "_run", run_spoiled)
    with pytest.raises(MismatchError, match=said) as failed:
        cut("llama", tmp_path / "out", format="transformers")
    assert failed.value.exit_code == 1
    assert "out.unverified" in str(failed.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.unverified"]


def test_what_stands_where_a_failure_is_kept_stays(tmp_path, monkeypatch):
    def run_spoiled(request: Path, answer: Path) -> None:
        spoil(
            Path(json.loads(request.read_text())["folder"]),
            lambda w: w["layers.1.mlp.up_proj.weight"].mul_(1.1),
        )
        reload.main(str(request), str(answer))

    monkeypatch.setattr(verify, "_run", run_spoiled)
    (tmp_path / "out.unverified").mkdir()
    (tmp_path / "out.unverified" / "thesis.tex").write_text("dear")
    with pytest.raises(MismatchError, match=r"out\.unverified1"):
        cut("llama", tmp_path / "out", format="transformers")
    assert (tmp_path / "out.unverified" / "thesis.tex").read_text() == "dear"


def test_beside_an_attention_sink_the_other_tokens_still_count():
    states = torch.rand(6, 32, generator=torch.Generator().manual_seed(0))
    states[0] *= 1e5
    wrong = states.clone()
    wrong[3] *= 1.01
    assert float(verify.distances(wrong, states).max()) > 5e-3
    assert float(verify.distances(states, states).max()) == 0


def test_another_tokenizer_is_told(tmp_path, monkeypatch):
    def run_other(request: Path, answer: Path) -> None:
        bare_tokenizer().save_pretrained(json.loads(request.read_text())["folder"])
        reload.main(str(request), str(answer))

    monkeypatch.setattr(verify, "_run", run_other)
    with pytest.raises(MismatchError, match="reads text 1 in other tokens"):
        cut("llama", tmp_path / "out", format="transformers")


def test_a_process_that_is_stopped_or_killed_is_told(tmp_path, monkeypatch):
    """In place of a process that takes minutes, or all memory."""

    def slow(*_args, timeout, **_options):
        raise subprocess.TimeoutExpired("reload", timeout)

    monkeypatch.setattr(verify.subprocess, "run", slow)
    with pytest.raises(RunError, match=r"took over \d+ minutes and was stopped; nothing was kept"):
        cut("bert", tmp_path / "out", format="transformers")
    gone = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(verify.subprocess, "run", lambda *_args, **_options: gone)
    with pytest.raises(RunError, match=r"saved model was killed \(signal 9\), most likely"):
        cut("bert", tmp_path / "out", format="transformers")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_loaded_is_told(tmp_path, monkeypatch):
    save = hf.PreTrainedModel.save_pretrained

    def save_broken(self, folder, **options):
        save(self, folder, **options)
        Path(folder, "config.json").write_text("{")

    monkeypatch.setattr(hf.PreTrainedModel, "save_pretrained", save_broken)
    with pytest.raises(MismatchError, match="cannot be loaded in a new process"):
        cut("bert", tmp_path / "out", format="transformers")


# --- a dry run and the cut are one plan ------------------------------------------------------------


def refused_alike(said: str, error: type[Exception], model, layer, **options) -> None:
    """Both refuse, in the same words, and nothing is scanned or written."""
    messages = []

    def planned():
        return layerscope.cut.plan(model, layer, data=TEXTS, tokenizer=tiny_tokenizer(), **options)

    for way in (lambda: planned().run(), lambda: planned().estimate()):
        with pytest.raises(error, match=said) as found:
            way()
        messages.append(str(found.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("name", "layer", "options", "said"),
    [
        ("llama", 0, {}, "layer 0 is the embeddings"),
        ("llama", 5, {}, "from 1 to 4"),
        ("llama", 2, {"pooling": "max"}, "no max pooling that leaves tokens out"),
        ("llama", "auto", {"pooling": "max"}, "no max pooling that leaves tokens out"),
        ("llama", "auto", {"rule": "leest dime"}, "unknown rule 'leest dime'"),
        ("bart", 2, {}, "is saved with its decoder"),
        ("bart", "auto", {}, "is saved with its decoder"),
        ("bloom", 4, {}, "after its final norm only"),
        ("llama", 2, {"kind": "pointer", "final_norm": "keep"}, "a pointer finds states"),
        ("albert", "auto", {}, "runs one block at several depths"),
    ],
)
def test_a_dry_run_refuses_what_the_cut_refuses(name, layer, options, said, tmp_path, monkeypatch):
    monkeypatch.setattr(cutting, "scan_backbone", lambda *_, **__: pytest.fail("it was scanned"))
    monkeypatch.setattr(cutting, "estimate", lambda *_: pytest.fail("a batch was timed"))
    refused_alike(said, InputError, tiny_model(name), layer, out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_refuses_a_chosen_layer_0_as_the_cut_does(tmp_path, monkeypatch):
    layerscope.scan(
        tiny_model("llama"), TEXTS, tokenizer=tiny_tokenizer(), out=tmp_path / "run",
        metrics=("retrieval",), augmentation=("crops",),
    )  # fmt: skip
    chosen = SimpleNamespace(
        layer=0, rule="first", sentence="Use layer 0.", chosen=(), readout=None
    )
    monkeypatch.setattr(cutting, "select", lambda *_, **__: chosen)
    refused_alike(
        "the rule 'first' names no layer to cut at", InputError, tiny_model("llama"), "auto",
        out=tmp_path / "out", run=tmp_path / "run",
    )  # fmt: skip
    refused_alike(
        "the run is of another model", InputError, tiny_model("gpt2"), 2, out=tmp_path / "out",
        run=tmp_path / "run",
    )  # fmt: skip


def test_a_dry_run_sees_the_place_as_the_cut_does(tmp_path, monkeypatch):
    model, out = tiny_model("llama"), tmp_path / "a" / "out"
    monkeypatch.setattr(formats, "_ONNX_NEEDS", ("a_library_of_nobody",))
    refused_alike("needs an extra", InputError, model, 2, out=out, format="onnx")
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda *_: False)
        refused_alike("Permission denied", InputError, model, 2, out=out, format="transformers")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(formats.shutil, "disk_usage", lambda _: usage)
    refused_alike("nothing was written", RunError, model, 2, out=out, format="transformers")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_reads_the_layer_and_its_norm_from_a_run(tmp_path):
    model = tiny_model("llama")
    layerscope.scan(model, TEXTS, tokenizer=tiny_tokenizer(), out=tmp_path / "run")
    options = {"run": tmp_path / "run", "rule": "last", "out": tmp_path / "out"}
    found = layerscope.cut.plan(
        model, data=TEXTS, tokenizer=tiny_tokenizer(), format="transformers", **options
    ).estimate()
    assert found.layer == 4
    assert found.scan is None


# --- wrapped and unusual models --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("gemma3 with vision", "Gemma3TextModel"),
        ("llama4", "Llama4TextModel"),
        ("t5gemma", "T5GemmaEncoderModel"),
        ("qwen3_next", "Qwen3NextModel"),  # its first blocks have no attention, hence no cache
        ("minicpm3", "MiniCPM3Model"),  # its residual branches are scaled by the number of blocks
        ("diffllama", "DiffLlamaModel"),
        ("esm", "EsmModel"),  # its contact head has a part for each block
        ("bamba", "BambaModel"),
    ],
)
def test_unusual_models_are_cut_into_what_stock_libraries_load(name, reader, tmp_path, here):
    source = save_tiny(unusual_model(name), tmp_path / "source")
    found = layerscope.cut(source, 2, out=tmp_path / "out", data=TEXTS, format="transformers")
    assert found.shipped.verification.reader == reader
    assert found.shipped.verification.largest <= 1e-6
    other = layerscope.cut(source, 2, out=tmp_path / "sentences", data=TEXTS)
    assert other.shipped.verification.largest <= 1e-6


def test_a_constant_of_the_depth_is_carried_over_in_the_config(tmp_path, here):
    model = unusual_model("minicpm3")
    found = cut("", tmp_path / "out", model=model, format="transformers")
    scaled = json.loads((found.folder / "config.json").read_text())["scale_depth"]
    assert scaled == pytest.approx(model.config.scale_depth / 2**0.5)


def test_a_model_that_padding_changes_is_for_texts_by_themselves(tmp_path, here):
    model = unusual_model("fnet")
    refused_alike(
        "gives a text other states when padding stands beside it", InputError, model, 2,
        out=tmp_path / "out",
    )  # fmt: skip
    assert cut("", tmp_path / "out", model=model, format="transformers").blocks == 2


def test_a_tower_that_comes_with_a_processor_is_not_for_sentence_transformers(tmp_path):
    sight = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = hf.GitConfig(
        **{k: v for k, v in CONFIGS["bert"]().to_dict().items() if k in _BERT_LIKE},
        vision_config=sight | {"num_hidden_layers": 1, "image_size": 16, "patch_size": 8},
    )
    refused_alike("GitProcessor", InputError, hf.GitModel(config).eval(), 2, out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


_BERT_LIKE = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "pad_token_id", "bos_token_id", "eos_token_id",
}  # fmt: skip


def test_a_tokenizer_that_would_be_read_as_another_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        hf.AutoTokenizer, "from_pretrained", classmethod(lambda *_, **__: bare_tokenizer())
    )
    refused_alike(
        "makes other tokens of the texts", InputError, tiny_model("llama"), 2, out=tmp_path / "out"
    )
    assert not list(tmp_path.iterdir())


def test_a_config_without_one_number_of_blocks_is_refused(tmp_path):
    config = hf.ProphetNetConfig(
        vocab_size=120, hidden_size=32, encoder_ffn_dim=64, decoder_ffn_dim=64,
        num_encoder_layers=4, num_decoder_layers=2, num_encoder_attention_heads=4,
        num_decoder_attention_heads=4, max_position_embeddings=96,
    )  # fmt: skip
    refused_alike(
        "no one number of blocks", InputError, hf.ProphetNetModel(config).eval(), 2,
        out=tmp_path / "out", format="transformers",
    )  # fmt: skip


# --- what goes wrong while it is written -----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError("Can't load image processor for 'x'"), RunError, "Can't load image processor"),
        (ImportError("PixtralProcessor requires Torchvision"), RunError, "requires Torchvision"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            InputError,
            "cannot write to .*denied",
        ),
        (OSError(errno.EROFS, "Read-only file system"), InputError, "cannot write to .*Read-only"),
    ],
)
def test_the_true_cause_is_named_and_nothing_stays(error, kind, said, tmp_path, monkeypatch):
    def fail(self, folder, **_):
        Path(folder, "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(hf.PreTrainedModel, "save_pretrained", fail)
    with pytest.raises(kind, match=said) as found:
        cut("bert", tmp_path / "new" / "out", format="transformers")
    assert ("another --out" in str(found.value)) == (kind is InputError)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["transformers", "sentence-transformers"])
def test_a_model_is_loaded_once(format, tmp_path, monkeypatch):  # noqa: A002
    source = sentence_source(tmp_path / "source", tmp_path)
    loads = []
    load = hf.PreTrainedModel.from_pretrained.__func__

    def count(cls, name, *arguments, **options):
        loads.append(str(name))
        return load(cls, name, *arguments, **options)

    monkeypatch.setattr(hf.PreTrainedModel, "from_pretrained", classmethod(count))
    monkeypatch.setattr(verify, "compare", lambda *_, **__: pytest.fail("not reached"))
    monkeypatch.setattr(verify, "_run", lambda *_: (_ for _ in ()).throw(KeyError("checked")))
    with pytest.raises(RunError, match="checked"):
        layerscope.cut(source, out=tmp_path / "out", data=texts(24), format=format)
    assert loads == [str(source)]


# --- the command ------------------------------------------------------------------------------------


def test_the_command_prints_what_was_saved(tiny_folder, tmp_path, monkeypatch, capsys, here):
    done = run(
        monkeypatch, capsys, "cut", tiny_folder("llama"), "--layer", 3, "--out", tmp_path / "o"
    )
    assert done.code == 0, done.err
    assert "Layer 3 of 4 saved in" in done.out
    assert "SentenceTransformer in a new process, 16 texts" in done.out
    assert f'SentenceTransformer("{tmp_path / "o"}")' in "".join(
        map(str.strip, done.out.splitlines())
    )
    assert max(map(len, done.out.splitlines())) <= 80


@pytest.mark.parametrize("layer", ["3", "auto"])
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    layer, tiny_folder, text_file, tmp_path, monkeypatch, capsys
):
    done = run(
        monkeypatch, capsys, "cut", tiny_folder("llama"), "--layer", layer, "--data", text_file,
        "--out", tmp_path / "o", "--dry-run",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "weights to write" in done.out
    assert ("The scan that chooses it" in done.out) == (layer == "auto")
    assert not list(tmp_path.iterdir())


def test_the_command_for_machines(tiny_folder, tmp_path, monkeypatch, capsys, here):
    done = run(
        monkeypatch, capsys, "cut", tiny_folder("bert"), "--layer", 2, "--out", tmp_path / "o",
        "--format", "transformers", "--json",
    )  # fmt: skip
    facts = json.loads(done.out)
    assert (facts["layer"], facts["of"], facts["blocks"]) == (2, 4, 2)
    assert facts["verified"]["largest"] <= facts["verified"]["limit"]
    assert facts["bytes"] == sum(
        p.stat().st_size for p in (tmp_path / "o").rglob("*") if p.is_file()
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--layer", "7"), "from 1 to 4"),
        (("--layer", "two"), "expected a layer's number or auto"),
        (("--format", "onx"), "did you mean 'onnx'"),
        (("--final-norm", "kep"), "did you mean 'keep'"),
        (("--kind", "cutt"), "did you mean 'cut'"),
        (("--run", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(options, said, tiny_folder, tmp_path, monkeypatch, capsys):
    done = run(monkeypatch, capsys, "cut", tiny_folder("bert"), "--out", tmp_path / "o", *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "o").exists()
