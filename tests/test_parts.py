"""Pruning attention or MLP of blocks alone: exact removal, scores, budgets, refusals."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

import layerscope
from commands import run
from layerscope.errors import InputError
from layerscope.export import pruning as pruning_module
from layerscope.models import modes
from layerscope.models.backbone import backbone_of, probe
from layerscope.models.parts import share_of_block, without_parts
from tiny import texts, tiny_model, tiny_tokenizer

# What adds to the residual stream last, of attention and MLP.
LAST = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma3": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "bert": ("attention.output.dense", "output.dense"),
    "mpnet": ("attention.attn.o", "output.dense"),
    "t5": ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
}


def states(model) -> torch.Tensor:
    with modes.evaluating(model):
        return model(**probe(backbone_of(model, tiny_tokenizer())))[0]


@pytest.mark.parametrize("part", ["attention", "mlp"])
@pytest.mark.parametrize("name", LAST)
def test_a_part_that_goes_adds_nothing(name, part):
    """As with zeros for the weights of its last linear map."""
    model = copy.deepcopy(tiny_model(name))
    backbone = backbone_of(model, tiny_tokenizer())
    with without_parts(backbone, (2, 3), part):
        found = states(backbone.model)
    whole = states(backbone.model)
    for block in backbone.blocks[1:3]:
        last = block.get_submodule(LAST[name][part == "mlp"])
        for weight in last.parameters():
            weight.data.zero_()
    expected = states(backbone.model)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, whole, atol=1e-3)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_scores_are_those_of_the_states_around_a_part(part):
    """Against the library's own hidden states, a text at a time, and the MLP by difference."""
    model, data = tiny_model("llama"), texts(6, seed=3)
    found = layerscope.prune(
        model, "block-influence", 1, parts=part, data=data, tokenizer=tiny_tokenizer()
    )
    scores: dict[int, list[torch.Tensor]] = {2: [], 3: []}
    for text in data:
        ids = tiny_tokenizer()(text, return_tensors="pt")["input_ids"]
        seen = []
        handles = [
            model.layers[block - 1].post_attention_layernorm.register_forward_pre_hook(
                lambda _m, args, seen=seen: seen.append(args[0])
            )
            for block in scores
        ]
        with modes.evaluating(model):
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
        for handle in handles:
            handle.remove()
        for block, middle in zip(scores, seen, strict=True):
            one, other = (
                (hidden[block - 1], middle) if part == "attention" else (middle, hidden[block])
            )
            special = tiny_tokenizer()(text, return_special_tokens_mask=True)
            counted = ~torch.tensor(special["special_tokens_mask"]).bool()
            cosines = torch.cosine_similarity(one[0], other[0], dim=1)[counted]
            scores[block].append(1 - cosines.mean())
    expected = {block: float(torch.stack(each).mean()) for block, each in scores.items()}
    assert found.outcomes[0].removal.scores == pytest.approx(expected, rel=1e-4)
    assert found.removed == (min(expected, key=lambda block: (expected[block], -block)),)


def test_a_budget_is_a_share_of_the_blocks_weights():
    backbone = backbone_of(tiny_model("llama"), tiny_tokenizer())
    attention, rest = (share_of_block(backbone, part) for part in ("attention", "mlp"))
    assert attention + rest == pytest.approx(1)
    block = backbone.blocks[0]
    own = sum(weight.numel() for weight in block.self_attn.parameters())
    assert attention == pytest.approx(own / sum(weight.numel() for weight in block.parameters()))
    prune = partial(
        layerscope.prune, tiny_model("llama"), "deepest-first", data=texts(4),
        tokenizer=tiny_tokenizer(), protect=(0, 0),
    )  # fmt: skip
    found = prune("25%", parts="mlp")
    assert found.outcomes[0].budget.count == round(0.25 * 4 / rest)
    assert prune(2, parts="attention").removed == (3, 4)


def test_parts_are_tried_beside_random_ones_and_not_healed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pruning_module, "costs", lambda *_: pytest.fail("speed was measured"))
    folder = tmp_path / "model"
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    (tmp_path / "fit.txt").write_text("\n".join(texts(40)))
    (tmp_path / "labels.csv").write_text(
        "text,label\n"
        + "\n".join(f"{text},{'ab'[place % 2]}" for place, text in enumerate(texts(40)))
    )
    said = run(
        monkeypatch, capsys, "prune", folder, "--budget", 1, "--parts", "attention",
        "--data", tmp_path / "fit.txt", "--table", tmp_path / "labels.csv",
    )  # fmt: skip
    assert said.code == 0, said.err
    words = " ".join(said.out.split())
    assert "the attention of block" in words
    assert "of 4: 1/4." in words
    assert "is no smaller and no faster" in words
    assert "Healed" not in words


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "gfmi"}, "the rule 'gfmi-gain' has no values for the mlp of a block alone; with"),
        (
            {"heal": "on"},
            "chosen in one pass and has no map in its place; with --parts mlp leave --heal",
        ),
        ({"scheme": "greedy"}, "no map in its place; with --parts mlp leave --scheme greedy out"),
        (
            {"out": "out"},
            "no stock architecture has a switch for a block without its mlp, and zeros",
        ),
    ],
)
def test_what_parts_cannot_do_is_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {"rule": "angular", "budget": 1} | options
    with pytest.raises(InputError, match=said):
        layerscope.prune(
            tiny_model("llama"), parts="mlp", data=texts(4), tokenizer=tiny_tokenizer(), **asked
        )
    assert not list(tmp_path.iterdir())


def test_blocks_of_one_piece_have_no_parts():
    with pytest.raises(
        InputError, match="cannot tell attention and MLP apart in the blocks of Mamba"
    ):
        layerscope.prune(
            tiny_model("mamba"), "deepest-first", 1, parts="mlp", data=texts(4),
            tokenizer=tiny_tokenizer(),
        )  # fmt: skip
