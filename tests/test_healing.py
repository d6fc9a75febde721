"""Healing: where maps are folded into, that folds are exact, and what is kept, saved or refused."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

import layerscope
from commands import run
from layerscope.data.tokens import tokenize
from layerscope.decisions.subsets import least_error
from layerscope.errors import InputError, NonFiniteError
from layerscope.export import heal as heal_module
from layerscope.export import patches as patches_module
from layerscope.export import pruning as pruning_module
from layerscope.export.heal import divided, heal, seconds_to_heal
from layerscope.export.judge import Judge, criteria
from layerscope.export.patches import healed, runs_of
from layerscope.export.runs import left_by_runs
from layerscope.export.trial import perplexity
from layerscope.metrics.healing import LinearMap, Moments, fit, token_weights
from layerscope.models import loading, modes
from layerscope.models.backbone import Backbone, backbone_of, probe
from layerscope.models.residual import fold_weights, folded, writer_of
from layerscope.settings import EvaluateConfig
from layerscope.states.extract import Site, batches, extract, silent
from layerscope.states.written import Tap
from tiny import CONFIGS, save_tiny, texts, tiny_model, tiny_tokenizer, unusual_model


def loaded(name: str) -> Backbone:
    return backbone_of(tiny_model(name), tiny_tokenizer())


# --- where a block writes, and the fold ------------------------------------------------------------

WRITERS = {
    "llama": ("plain", "mlp.down_proj", ""),
    "gpt2": ("plain", "mlp.c_proj", ""),
    "gptj": ("plain", "mlp.fc_out", ""),  # attention and MLP side by side
    "gpt_neox": ("plain", "mlp.dense_4h_to_h", ""),
    "bloom": ("plain", "mlp.dense_4h_to_h", ""),
    "opt": ("plain", "fc2", ""),
    "modernbert": ("plain", "mlp.Wo", ""),
    "t5": ("plain", "layer.1.DenseReluDense.wo", ""),
    "mamba": ("plain", "mixer.out_proj", ""),
    "gemma3": ("branch", "mlp.down_proj", "post_feedforward_layernorm"),
    "olmo2": ("branch", "mlp.down_proj", "post_feedforward_layernorm"),
    "bert": ("outer", "output.dense", "output.LayerNorm"),
    "mpnet": ("outer", "output.dense", "output.LayerNorm"),
    "distilbert": ("outer", "ffn.lin2", "output_layer_norm"),
    "bart": ("outer", "fc2", "final_layer_norm"),
}


def last_state(backbone) -> torch.Tensor:
    with modes.evaluating(backbone.model):
        return backbone.model(**probe(backbone))[0]


@pytest.mark.parametrize("name", WRITERS)
def test_a_fold_gives_what_its_map_gives(name):
    """The model with a map folded in, and the model in which a hook maps what was written."""
    backbone = loaded(name)
    writer = writer_of(backbone, 2)
    assert (writer.kind, writer.linear, writer.norm) == WRITERS[name]
    generator = torch.Generator().manual_seed(1)
    dim = backbone.info.dim
    plain = writer.kind == "plain"
    matrix = 1 + torch.randn((dim, dim) if plain else (dim,), generator=generator) / 10
    offset = torch.randn(dim, generator=generator) if writer.offset else None
    block = backbone.blocks[1]

    def mapped(_module, _args, output):
        found = output @ matrix if plain else output * matrix
        return found if offset is None else found + offset

    before, weights = last_state(backbone), dict(block.state_dict())
    handle = block.get_submodule(writer.module).register_forward_hook(mapped)
    expected = last_state(backbone)
    handle.remove()
    with folded(block, fold_weights(block, writer, matrix, offset)):
        found = last_state(backbone)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(last_state(backbone), before)
    assert all(weights[key] is not None and torch.equal(weights[key], value)
               for key, value in block.state_dict().items())  # fmt: skip


def test_residual_branches_that_are_scaled_are_seen():
    backbone = backbone_of(unusual_model("minicpm3"), tiny_tokenizer())
    writer = writer_of(backbone, 1)
    assert writer.scale == pytest.approx(1.4 / 4**0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "rwkv"])
def test_a_block_without_one_last_linear_map_is_refused(name):
    backbone = loaded(name)
    with pytest.raises(
        InputError, match=r"block 2 of .* has no one linear map that writes to the residual stream"
    ):
        writer_of(backbone, 2)


def test_a_block_that_shares_its_last_weights_is_refused():
    model = copy.deepcopy(tiny_model("llama"))
    model.layers[3].mlp.down_proj.weight = model.layers[1].mlp.down_proj.weight
    backbone = backbone_of(model, tiny_tokenizer())
    with pytest.raises(
        InputError, match="block 2 of .* shares the weights that a map would be folded"
    ):
        writer_of(backbone, 2)
    assert writer_of(backbone, 1).linear == "mlp.down_proj"


# --- the healed model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> Path:
    """A tiny model that writes text, whose third block does what a map can do."""
    return save_tiny(causal(), tmp_path_factory.mktemp("writer"))


def causal() -> Any:
    """A tiny model that writes text; its blocks add much, in the direction of what is there."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.down_proj.weight.mul_(8)
            block.mlp.gate_proj.weight.mul_(4)
        model.model.embed_tokens.weight.mul_(4)
        model.lm_head.weight.mul_(20)
    return model


SETTINGS = EvaluateConfig(batch_tokens=256)


def heal_texts(count: int = 120) -> list[str]:
    return texts(count, seed=5)


def facts(folder: Path) -> dict[str, Any]:
    [outcome] = json.loads((folder / "layerscope.json").read_text())["outcomes"]
    return outcome


def test_a_healed_model_is_nearer_saved_without_a_new_weight_and_read_back(writer, tmp_path):
    out, plain = tmp_path / "out", tmp_path / "plain"
    found = layerscope.prune(writer, "deepest-first", 1, data=heal_texts(), out=out)
    layerscope.prune(writer, "deepest-first", 1, data=heal_texts(), out=plain, heal="off")
    healing = found.outcomes[0].healing
    assert healing.kept
    [judged] = healing.judgments
    assert judged.by == "perplexity"
    assert judged.recovered > 0.9
    assert judged.dropped > 1.1 * judged.full
    [patch] = healing.patches
    assert (patch.block, patch.goal, patch.module) == (2, 3, "mlp.down_proj")
    assert found.shipped.verification.generated is True  # alike with and without the cache
    one, other = (hf.AutoModelForCausalLM.from_pretrained(each) for each in (out, plain))
    weights, others = one.state_dict(), other.state_dict()
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in others.items()}
    changed = {key for key in weights if not torch.equal(weights[key], others[key])}
    assert changed == {"model.layers.1.mlp.down_proj.weight"}
    assert facts(out)["healing"]["kept"] is True
    assert facts(plain)["healing"] is None
    said = (out / "README.md").read_text()
    assert "is folded into block 2" in said
    assert "Healed by linear maps" in said
    assert "Healed by" not in (plain / "README.md").read_text()


def test_the_source_is_left_as_it_was(writer):
    backbone = loading.load(writer, head=True)
    before, config = dict(backbone.whole.state_dict()), str(backbone.whole.config)
    before = {name: weight.clone() for name, weight in before.items()}
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    found = heal(backbone, (2, 3), used, silent)
    with healed(backbone, (2, 3), found.patches) as shorter:
        assert shorter.depth == 2
    after = backbone.whole.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert str(backbone.whole.config) == config


def test_what_does_not_help_is_not_kept_unless_asked_for(writer, tmp_path, monkeypatch):
    def ruined(moments, _held_out, **_):
        return LinearMap(50 * torch.ones(moments.dim, moments.dim, dtype=torch.float64))

    monkeypatch.setattr(patches_module, "best_fit", ruined)
    prune = partial(layerscope.prune, writer, "deepest-first", 1, data=heal_texts())
    found = prune(out=tmp_path / "out")
    healing = found.outcomes[0].healing
    [judged] = healing.judgments
    assert judged.healed > judged.dropped
    assert not healing.kept
    assert any(note.endswith(". Not kept.") for note in found.notes)
    plain = prune(out=tmp_path / "plain", heal="off")
    one, other = (
        hf.AutoModelForCausalLM.from_pretrained(tmp_path / each).state_dict()
        for each in ("out", "plain")
    )
    assert plain.outcomes[0].healing is None
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert prune(heal="on").outcomes[0].healing.kept


def test_the_table_has_the_model_as_dropped_beside_the_healed_one(writer, monkeypatch, capsys):
    held_out = texts(20, seed=9)
    found = layerscope.prune(
        writer, "deepest-first", 1, data=heal_texts(), perplexity=held_out, draws=2
    )
    [compared] = found.outcomes[0].comparisons
    backbone = loading.load(writer, head=True)
    tokens = tokenize(backbone.tokenizer, held_out, 512)
    with healed(backbone, (3,), found.outcomes[0].patches) as shorter:
        assert compared.pruned == pytest.approx(perplexity(shorter, tokens))
    with healed(backbone, (3,)) as shorter:
        assert compared.dropped == pytest.approx(perplexity(shorter, tokens))
    assert compared.pruned < compared.dropped
    change = 100 * (compared.dropped / compared.full - 1)
    assert compared.random.value == pytest.approx(change)  # random subsets are not healed either
    assert found.outcomes[0].dropped.perplexity == compared.dropped
    path = writer.parent / "held-out.txt"
    path.write_text("\n".join(held_out))
    fit = writer.parent / "fit.txt"
    fit.write_text("\n".join(heal_texts()))
    said = run(
        monkeypatch, capsys, "prune", writer, "--rule", "deepest-first", "--budget", 1,
        "--data", fit, "--perplexity", path, "--draws", 2,
    )  # fmt: skip
    for words in ("dropped", "healed", "as dropped, since they are not healed"):
        assert words in " ".join(said.out.split())


def test_the_last_block_is_healed_to_what_it_gave():
    backbone = loaded("gpt2")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    found = heal(backbone, (3, 4), used, silent)
    [patch] = found.patches
    assert (patch.block, patch.goal) == (2, 4)
    [judged] = found.judgments
    assert judged.healed < judged.dropped


def test_scattered_blocks_are_healed_in_order_each_before_it():
    backbone = loaded("gpt2")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    found = heal(backbone, (2, 4), used, silent)
    assert [(each.block, each.goal) for each in found.patches] == [(1, 2), (3, 4)]
    # The second map is fitted on states of the model that the first has healed.
    other = heal(backbone, (4,), used, silent)
    assert not torch.equal(
        found.patches[1].weights["mlp.c_proj.weight"], other.patches[0].weights["mlp.c_proj.weight"]
    )


def test_the_fit_is_least_squares_on_the_tokens_that_are_not_held_out(monkeypatch):
    """Against a plain computation with the library's own hidden states."""
    backbone = loaded("gpt2")
    tokens = tokenize(backbone.tokenizer, heal_texts(), 64)
    monkeypatch.setattr(patches_module, "best_fit", lambda m, _, **options: fit(m, 0.1, **options))
    monkeypatch.setattr(Moments, "left", lambda _, chosen: float(chosen.diagonal))
    found = heal(backbone, (3,), divided(tokens, SETTINGS), silent)
    written, wanted = [], []
    for place, text in enumerate(tokens):
        if place % 5 == 4:
            continue
        seen = []
        layer = backbone.blocks[1].mlp.c_proj
        handle = layer.register_forward_hook(lambda _m, _a, output, seen=seen: seen.append(output))
        with modes.evaluating(backbone.model):
            states = backbone.model(
                input_ids=torch.tensor([text.ids]), output_hidden_states=True
            ).hidden_states
        handle.remove()
        written.append(seen[0][0])
        wanted.append(states[3][0] - states[2][0])
        goals = states[3][0]
        written[-1], wanted[-1] = (
            each / goals.norm(dim=1, keepdim=True) for each in (written[-1], wanted[-1])
        )
        ones = 1 / goals.norm(dim=1, keepdim=True)
        written[-1] = torch.cat((written[-1], ones), dim=1)
    rows, goals = torch.cat(written).double(), torch.cat(wanted).double()
    dim = backbone.info.dim
    penalty = 0.1 * rows[:, :dim].square().sum(dim=0).mean()
    shrink = penalty.sqrt() * torch.eye(dim, dim + 1, dtype=torch.float64)
    solution = torch.linalg.lstsq(
        torch.cat((rows, shrink)), torch.cat((goals, torch.zeros(dim, dim)))
    ).solution
    weight, bias = backbone.blocks[1].mlp.c_proj.weight, backbone.blocks[1].mlp.c_proj.bias
    matrix = torch.eye(dim) + solution[:dim].float()
    patch = found.patches[0].weights
    assert torch.allclose(patch["mlp.c_proj.weight"], weight @ matrix, atol=1e-5)
    assert torch.allclose(
        patch["mlp.c_proj.bias"], bias @ matrix + solution[dim].float(), atol=1e-5
    )


class JudgedByBlocks(Judge):
    """Judges a model by which blocks have maps: 10 without any, more or less by each."""

    adds: ClassVar[dict[int, float]] = {}

    def _values(self, removed, patches, by):
        return tuple(10 + sum(self.adds[each.block] for each in patches) for _ in by)


@pytest.mark.parametrize(
    ("adds", "blocks", "healed_to"),
    [
        ({1: -2.0, 3: 5.0}, [1], 8),
        ({1: 5.0, 3: -2.0}, [3], 8),
        ({1: -2.0, 3: 1.0}, [1, 3], 9),  # all together help, and are not looked at one by one
        ({1: 5.0, 3: 1.0}, [1, 3], 16),
    ],
)
def test_where_all_maps_together_do_not_help_each_is_tried_by_itself(
    adds, blocks, healed_to, monkeypatch
):
    backbone = loaded("llama")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    monkeypatch.setattr(JudgedByBlocks, "adds", adds)
    judge = JudgedByBlocks(backbone, used, ("distance of vectors",))
    found = heal(backbone, (2, 4), used, silent, judge=judge)
    assert [each.block for each in found.patches] == blocks
    assert found.judgments[0].healed == healed_to
    assert found.kept == (healed_to < 10)
    assert found.left_out == (() if len(blocks) == 2 else tuple({1, 3} - {*blocks}))
    words = f"Maps in block {found.left_out[0]} made" if found.left_out else "Maps in block"
    assert (words in found.sentence()) == bool(found.left_out)
    always = heal(backbone, (2, 4), used, silent, judge=judge, always=True)
    assert ([each.block for each in always.patches], always.left_out) == ([1, 3], ())
    if blocks == [3]:  # fitted anew, to the states without the map in block 1
        assert found.patches[0].weights.keys() == always.patches[1].weights.keys()
        [name] = found.patches[0].weights
        assert not torch.equal(found.patches[0].weights[name], always.patches[1].weights[name])


@pytest.mark.parametrize("name", ["bert", "gemma3"])
def test_after_a_norm_the_form_is_chosen_on_held_out_texts(name, monkeypatch):
    backbone = loaded(name)
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    scores = []
    judged = Judge.first

    def noted(self, removed, patches=()):
        scores.append(judged(self, removed, patches))
        return scores[-1]

    monkeypatch.setattr(Judge, "first", noted)
    found = heal(backbone, (3,), used, silent)
    [judged] = found.judgments
    assert len(scores) == 2
    assert (judged.by, judged.full) == ("distance of vectors", 0)
    assert judged.healed == pytest.approx(min(scores))
    assert found.patches[0].form == ("full", "diagonal")[scores.index(min(scores))]


def test_before_a_norm_a_map_and_its_offset_are_found_again():
    """What follows a norm is made by a map before it, which the fit must find."""
    model = copy.deepcopy(tiny_model("bert"))
    with torch.no_grad():  # an MLP that adds much
        model.encoder.layer[1].intermediate.dense.weight.mul_(20)
        model.encoder.layer[1].output.dense.weight.mul_(20)
    backbone = backbone_of(model, tiny_tokenizer())
    block, writer = backbone.blocks[1], writer_of(backbone, 2)
    generator = torch.Generator().manual_seed(2)
    matrix = torch.eye(32) + 0.02 * torch.randn(32, 32, generator=generator)
    offset = 0.1 * torch.randn(32, generator=generator)
    tokens = tokenize(backbone.tokenizer, heal_texts(400), 64)
    weights = fold_weights(block, writer, matrix, offset, linear=True)
    sums, site = Moments(32, offset=True), Site(2)
    for text in tokens:
        marks = [[True] * len(text.ids)]
        with folded(block, weights):
            [came] = extract(backbone, batches(backbone, [text], marks, 64), (site,), states_of)
        goal = came.by_site[site]
        with Tap(block, writer) as tap:
            [came] = extract(backbone, batches(backbone, [text], marks, 64), (site,), tap.read)
        written = came.by_site[site]
        wanted = goal - written.left
        sums.add(*written.regression(writer, "full", wanted, token_weights(goal)))
    found = fit(sums, 1e-6)
    assert sums.left(found) < 0.02
    assert sums.left(fit(sums, 1e-6, diagonal=True)) > 0.2


def states_of(tokens):
    return tokens.states[tokens.real].clone()


def judged_by(found) -> list[str]:
    return [each.by for each in found.outcomes[0].healing.judgments]


def test_a_model_is_judged_by_what_it_is_used_for(writer, tmp_path):
    """Text that it writes, vectors, or both."""
    prune = partial(layerscope.prune, writer, "deepest-first", 1, data=heal_texts(), draws=1)
    sentences = pd.DataFrame({"text": heal_texts(40), "label": ["a", "b"] * 20})
    assert judged_by(prune(perplexity=heal_texts()[:3])) == ["perplexity"]
    both = prune(tables=(sentences,))
    assert judged_by(both) == ["perplexity", "distance of vectors"]
    tokens = tokenize(loading.load(writer).tokenizer, sentences["text"].tolist(), 512)
    read = both.outcomes[0].healing.judgments[1]
    assert (read.of, read.tokens) == ("the tasks' texts", sum(len(text.ids) for text in tokens))
    assert both.outcomes[0].healing.judgments[0].of == "held-out texts"
    served = prune(out=tmp_path / "vectors", format="sentence-transformers")
    assert judged_by(served) == ["distance of vectors"]


def test_maps_that_help_one_use_and_harm_another_are_not_kept(monkeypatch):
    backbone = backbone_of(causal(), tiny_tokenizer())
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    both = criteria(backbone, vectors=True, text=True)
    assert both == ("perplexity", "distance of vectors")
    assert heal(backbone, (3,), used, silent, judge=Judge(backbone, used, both)).kept
    worse = {"full": 0.0, "healed": 0.3, "dropped": 0.2}
    monkeypatch.setattr(
        Judge, "_distance", lambda _, model: worse["dropped" if is_plain(model) else "healed"]
    )
    plain = backbone.blocks[1].mlp.down_proj.weight.clone()

    def is_plain(model) -> bool:
        return torch.equal(model.blocks[1].mlp.down_proj.weight, plain)

    found = heal(backbone, (3,), used, silent, judge=Judge(backbone, used, both))
    perplexities, distances = found.judgments
    assert perplexities.healed < perplexities.dropped
    assert (distances.dropped, distances.healed) == (0.2, 0.3)
    assert not found.kept


def test_vectors_are_compared_with_those_of_the_full_model_whoever_asks_first():
    backbone = loaded("bert")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    one, other = (Judge(backbone, used, ("distance of vectors",)) for _ in range(2))
    assert one.full == (0.0,)
    assert other((2, 3)) == one((2, 3)) > (1e-3,)


def test_the_full_model_is_judged_once_for_all_budgets(writer, monkeypatch):
    seen = []
    judged = Judge._perplexity
    monkeypatch.setattr(
        Judge, "_perplexity", lambda self, model: seen.append(model.depth) or judged(self, model)
    )
    layerscope.prune(
        writer, "deepest-first", (1, 2), data=heal_texts(), perplexity=heal_texts()[:5], draws=1
    )
    assert seen == [4, 3, 3, 2, 2]


def test_maps_never_see_the_texts_of_the_perplexity(writer, monkeypatch):
    data, held_out = heal_texts(), heal_texts()[:7]
    seen = []
    real = heal_module.divided
    monkeypatch.setattr(
        pruning_module,
        "divided",
        lambda tokens, how: seen.extend(tokens) or real(tokens, how),
    )
    layerscope.prune(writer, "deepest-first", 1, data=data, perplexity=held_out, draws=1)
    assert len(seen) == len(data) - len(held_out)


# --- a readout of the smaller model -----------------------------------------------------------------


def test_a_readout_of_the_healed_model_is_one_command(writer, tmp_path):
    """The same vectors as two commands give, and one folder."""
    data, out = heal_texts(), tmp_path / "out"
    prune = partial(layerscope.prune, writer, "deepest-first", 1, data=data)
    found = prune(out=out, readout=True)
    assert judged_by(found) == ["distance of vectors"]
    assert found.outcomes[0].healing.kept
    prune(out=tmp_path / "pruned", head=False, heal="on")
    other = layerscope.cut(tmp_path / "pruned", out=tmp_path / "cut", data=data)
    vectors, others = (
        SentenceTransformer(str(each)).encode(data[:5]) for each in (out, tmp_path / "cut")
    )
    assert np.allclose(vectors, others, atol=1e-5)
    record = json.loads((out / "layerscope.json").read_text())
    assert record["command"] == "cut"
    assert (record["layer"], record["readout"]) == (other.layer, other.readout or None)
    assert record["made"]["outcomes"][0]["removed"] == [3]
    said = (out / "README.md").read_text()
    assert f"without block 3, layer {other.layer} of 3" in said
    assert "Healed by linear maps folded into block 2" in said
    assert sum(note.startswith("Healed by") for note in found.notes) == 1
    assert "SentenceTransformer" in found.usage
    assert not list(tmp_path.glob("*.unverified"))


def test_a_readout_of_an_embedder_keeps_its_pooling(tmp_path):
    plain = save_tiny(copy.deepcopy(tiny_model("bert")), tmp_path / "plain")
    transformer = Transformer(str(plain))
    pooling = Pooling(32, pooling_mode="cls")
    SentenceTransformer(modules=[transformer, pooling]).save(str(tmp_path / "source"))
    source, data = tmp_path / "source", heal_texts()
    layerscope.prune(source, "deepest-first", 1, data=data, out=tmp_path / "out", readout=True)
    record = json.loads((tmp_path / "out" / "layerscope.json").read_text())
    assert record["format"] == "sentence-transformers"
    assert SentenceTransformer(str(tmp_path / "out"))[1].pooling_mode == "cls"


def test_a_readout_has_a_folder_and_modules(writer, tmp_path):
    prune = partial(layerscope.prune, writer, data=heal_texts(), readout=True)
    with pytest.raises(InputError, match="saved with the smaller model: expected --out, got none"):
        prune()
    with pytest.raises(InputError, match="a readout is saved for sentence-transformers, which"):
        prune(out=tmp_path / "out", format="transformers")
    assert not list(tmp_path.iterdir())


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protect": (0, 3)}, "block 1 has no block before it to be healed in; protect the first"),
        (
            {"data": heal_texts()[:2]},
            "expected at least 32 tokens to fit a map of 32 rows on, got ",
        ),
        ({"data": heal_texts()[:1]}, "expected at least 2 texts to heal by, one to fit on and one"),
    ],
)
def test_what_cannot_be_healed_is_said_or_refused(options, said, writer, tmp_path):
    asked = {"data": heal_texts(), "out": tmp_path / "out"} | options
    with pytest.raises(InputError, match=said):
        layerscope.prune(writer, "deepest-first", 1, heal="on", **asked)
    with pytest.raises(InputError, match=said):
        layerscope.prune.plan(writer, "deepest-first", 1, heal="on", **asked).estimate()
    assert not list(tmp_path.iterdir())
    plan = layerscope.prune.plan(writer, "deepest-first", 1, **asked)
    assert plan.estimate().healing_seconds is None
    found = plan.run()
    assert any(note.startswith(f"not healed: {said}") for note in found.notes)
    assert found.outcomes[0].healing is None


def test_packed_weights_are_not_healed():
    model = copy.deepcopy(tiny_model("llama"))
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(InputError, match=r"is quantized \(gptq\)"):
        layerscope.prune(
            model, "deepest-first", 1, data=heal_texts(), heal="on", tokenizer=tiny_tokenizer()
        )


def test_states_that_are_no_numbers_are_refused(tmp_path):
    model = causal()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    source = save_tiny(model, tmp_path / "source")
    with pytest.raises(NonFiniteError, match="hidden states that are NaN or infinite on a short"):
        layerscope.prune(source, "deepest-first", 1, data=heal_texts(), out=tmp_path / "out")
    with pytest.raises(NonFiniteError, match="hidden states that are NaN or infinite in block 2"):
        layerscope.prune(source, "deepest-first", 1, data=heal_texts(), heal="on")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_dry_run_counts_the_passes_of_healing(monkeypatch):
    """Two runs of one block take two passes over all texts, and judge seven models."""
    backbone = loaded("gpt2")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    clock = iter(range(100))
    monkeypatch.setattr(heal_module.time, "perf_counter", lambda: float(next(clock)))
    one = seconds_to_heal(backbone, used, [1], ("perplexity",))
    two = seconds_to_heal(backbone, used, [2], ("perplexity",))
    fit, held_out = (sum(len(text.ids) for text in part) for part in (used.fit, used.held_out))
    assert two / one == pytest.approx((2 * fit + 9 * held_out) / (fit + 6 * held_out))
    both = seconds_to_heal(backbone, used, [1, 2], ("perplexity",))
    assert both == pytest.approx(one + two - one * held_out / (fit + 6 * held_out))


def test_each_run_of_blocks_takes_one_pass():
    """The first one gives the full model's states after every run; then two models are judged."""
    backbone = loaded("llama")
    used = divided(tokenize(backbone.tokenizer, heal_texts(), 64), SETTINGS)
    judge = Judge(backbone, used, ("distance of vectors",))
    assert judge.full == (0.0,)
    seen: list[int] = []

    def count(_module: Any, _args: Any, given: Any) -> None:
        mask = given.get("attention_mask")
        seen.append(given["input_ids"].numel() if mask is None else int(mask.sum()))

    hook = backbone.model.register_forward_pre_hook(count, with_kwargs=True)
    heal(backbone, [2, 4], used, silent, judge=judge)
    hook.remove()
    fit, held_out = (sum(len(text.ids) for text in part) for part in (used.fit, used.held_out))
    passes = seen[2:]  # the first two show where blocks 1 and 3 write
    assert sum(passes) == 2 * (fit + held_out) + 2 * held_out


def test_maps_fitted_on_the_built_in_sample_are_said_to_be(writer):
    said = "fitted on the built-in sample; texts like those that the model will read (--data)"
    for given, expected in (("sample", True), (heal_texts(), False)):
        found = layerscope.prune(writer, "deepest-first", 1, data=given, heal="on", limit=60)
        assert any(said in note for note in found.notes) is expected


def test_nothing_is_fitted_where_nothing_is_tried_or_saved(writer, monkeypatch):
    monkeypatch.setattr(pruning_module, "heal", lambda *_, **__: pytest.fail("healed"))
    layerscope.prune(writer, "deepest-first", 1, data=heal_texts())


# --- the rule --------------------------------------------------------------------------------------


def brute_force(errors, eligible, count):
    """Every subset of blocks, as runs."""
    best = min(
        (sum(errors.get((each[0], len(each)), math.inf) for each in runs_of(subset)), subset)
        for subset in combinations(eligible, count)
    )
    return best[1]


@pytest.mark.parametrize("seed", range(6))
def test_the_rule_finds_the_runs_of_least_summed_error(seed):
    generator = torch.Generator().manual_seed(seed)
    eligible = (2, 3, 4, 6, 7, 8, 9)
    errors = {
        (first, length): float(torch.rand(1, generator=generator)) * length
        for first in eligible
        for length in range(1, 5)
        if set(range(first, first + length)) <= set(eligible)
    }
    for count in (1, 2, 3, 4):
        assert least_error(errors, 10, eligible, count) == brute_force(errors, eligible, count)


def test_runs_without_a_map_are_not_chosen():
    assert least_error({(2, 1): 0.5, (3, 1): math.nan}, 4, (2, 3), 1) == (2,)
    with pytest.raises(InputError, match="finds no 2 blocks in whose place maps could stand"):
        least_error({(2, 1): 0.5, (3, 1): 0.1}, 4, (2, 3), 2)


def test_errors_of_runs_are_those_of_a_fit_for_each():
    """Against moments of every run by itself, in all dimensions."""
    backbone = loaded("gpt2")
    tokens = tokenize(backbone.tokenizer, heal_texts(), 64)
    found = left_by_runs(backbone, (2, 3), 2, tokens, 256, silent)
    assert found.keys() == {(2, 1), (2, 2), (3, 1)}
    states: dict[int, list[torch.Tensor]] = {0: [], 1: [], 2: [], 3: []}
    written: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    handles = [
        backbone.blocks[block - 1].mlp.c_proj.register_forward_hook(
            lambda _m, _a, output, block=block: written[block].append(output[0])
        )
        for block in written
    ]
    for text in tokens:
        with modes.evaluating(backbone.model):
            hidden = backbone.model(
                input_ids=torch.tensor([text.ids]), output_hidden_states=True
            ).hidden_states
        for layer, each in states.items():
            each.append(hidden[layer][0])
    for handle in handles:
        handle.remove()
    for (first, length), error in found.items():
        before, after = torch.cat(states[first - 1]), torch.cat(states[first + length - 1])
        sums = Moments(backbone.info.dim, offset=True)
        sums.add(torch.cat(written[first - 1]), after - before, token_weights(before))
        expected = sums.errors(fit(sums, 0.03)).sum() * sums.weight / sums.tokens
        assert error == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "bert", "gemma3"])
def test_the_rule_by_name(name):
    found = layerscope.prune(
        tiny_model(name), "healing", 2, data=heal_texts(), tokenizer=tiny_tokenizer()
    )
    assert found.removed == (2, 3)
    assert found.outcomes[0].removal.scores.keys() == {2, 3}


def test_the_rule_is_refused_where_no_map_can_stand():
    prune = partial(layerscope.prune, data=heal_texts(), tokenizer=tiny_tokenizer())
    with pytest.raises(InputError, match="no block may go that has one before it to be healed in"):
        prune(tiny_model("llama"), "healing", 1, protect=(0, 3))
    with pytest.raises(
        InputError, match="has no one linear map that writes to the residual stream"
    ):
        prune(tiny_model("mixtral"), "healing", 1)
    with pytest.raises(InputError, match="'healing' chooses all blocks at once"):
        prune(tiny_model("llama"), "healing", 1, scheme="greedy")
