"""Blocks taken out: the rest computes what it computed, and the model comes back as it was."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

from architectures import random_model
from layerscope.errors import InputError
from layerscope.export.shorten import find_output, smaller
from layerscope.models.backbone import Backbone, backbone_of, probe
from layerscope.models.blocks import block_path, remove_blocks, skipping
from layerscope.models.configs import kept_config, read_again
from matrix import WORKS
from tiny import CONFIGS, VISION, condition, tiny_model, tiny_tokenizer, vision_model

CUTTABLE = [name for name, works in WORKS.items() if name in CONFIGS and works.cut != "no"]
FIRST_BLOCK_DIFFERS = [name for name, works in WORKS.items() if works.prune == "not 1"]
ANY_BLOCK = [name for name in CUTTABLE if WORKS[name].prune == "yes"]
CAUSAL = [name for name, works in WORKS.items() if works.cache]
PRUNABLE = [*FIRST_BLOCK_DIFFERS, *ANY_BLOCK]
# Longer than every window: a block that gets the window of another one then gives other numbers.
IDS = torch.randint(4, 100, (2, 24), generator=torch.Generator().manual_seed(1))


def backbone(name: str) -> Backbone:
    return backbone_of(copy.deepcopy(tiny_model(name)), tiny_tokenizer(), name=name)


def mixed_gemma() -> Backbone:
    """Gemma 3 with blocks of both kinds; the first four of its own pattern are of one."""
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    config = CONFIGS["gemma3"]()
    config.layer_types = kinds
    torch.manual_seed(0)
    model = hf.AutoModel.from_config(config, attn_implementation="eager").eval()
    return backbone_of(model, tiny_tokenizer())


def inputs_of(found: Backbone) -> dict[str, torch.Tensor]:
    if found.tokenizer is None:
        pixels = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(1))
        return {"pixel_values": pixels}
    return {"input_ids": IDS}


@torch.no_grad()
def states(found: Backbone) -> list[torch.Tensor]:
    """What each block gave, by hooks of the test's own."""
    seen: list[torch.Tensor] = []

    def keep(_module, _args, output) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in found.blocks]
    try:
        found.model(**inputs_of(found))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def states_past(found: Backbone, block: int) -> list[torch.Tensor]:
    """What the other blocks of the whole model give when one hands on what it was given."""

    def hand_on(_module, args, named, output):
        given = args[0] if args else named["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    handle = found.blocks[block - 1].register_forward_hook(hand_on, with_kwargs=True)
    try:
        seen = states(found)
    finally:
        handle.remove()
    return seen[: block - 1] + seen[block:]


def assert_block_2_is_an_identity(found: Backbone) -> None:
    expected = states_past(found, 2)
    with skipping(found, {2}) as shorter:
        seen = states(shorter)
    for one, other in zip(seen, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_model_without_its_last_blocks_gives_the_layer_before_them(name):
    found = backbone(name)
    whole = states(found)
    with skipping(found, {3, 4}) as shorter:
        assert shorter.depth == 2
        for one, other in zip(states(shorter), whole, strict=False):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_skipped_block_is_an_identity_and_the_model_comes_back_whole(name):
    found = backbone(name)
    before, config = states(found), copy.deepcopy(found.model.config.to_dict())
    assert_block_2_is_an_identity(found)
    assert found.model.config.to_dict() == config
    for one, other in zip(states(found), before, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])  # whose training draws no numbers
def test_a_live_model_is_given_back_as_it_was(name):
    model = copy.deepcopy(tiny_model(name)).train()
    found = backbone_of(model, tiny_tokenizer(), name=name)
    before = condition(model)
    find_output(found, smaller(found, [0, 1]), torch.zeros(6, 32))
    assert condition(model) == before
    try:
        with skipping(found, {2, 3}) as shorter:
            shorter.model(**probe(shorter), output_hidden_states=True)
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert condition(model) == before
    assert condition(model) == before
    model(**probe(found), output_hidden_states=True)
    with skipping(found, {2}) as shorter:
        assert len(shorter.model(**probe(shorter), output_hidden_states=True).hidden_states) == 4
    assert len(model(**probe(found), output_hidden_states=True).hidden_states) == 5


def test_blocks_of_two_kinds_keep_theirs():
    found = mixed_gemma()
    assert_block_2_is_an_identity(found)
    with skipping(found, {2}) as shorter:
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        assert shorter.model.config.layer_types == kinds


@pytest.mark.parametrize("name", VISION)
def test_a_block_of_a_model_of_images_is_skipped(name):
    assert WORKS[name].prune == "images"
    found = backbone_of(vision_model(name), None)
    before = states(found)
    assert_block_2_is_an_identity(found)
    assert torch.equal(states(found)[-1], before[-1])


@pytest.mark.parametrize("name", PRUNABLE)
def test_a_saved_smaller_model_gives_what_skipping_gives(name, tmp_path):
    assert_saved_like_skipped(backbone(name), tmp_path)


def test_a_saved_smaller_model_keeps_two_kinds_of_blocks(tmp_path):
    assert_saved_like_skipped(mixed_gemma(), tmp_path)


@torch.no_grad()
def assert_saved_like_skipped(found: Backbone, folder: Path) -> None:
    with skipping(found, {2}) as shorter:
        expected = shorter.model(input_ids=IDS).last_hidden_state
    saved = smaller(found, (0, 2, 3))
    saved.save_pretrained(folder)
    read = type(saved).from_pretrained(folder, attn_implementation="eager").eval()
    again = backbone_of(read, found.tokenizer)
    assert again.depth == 3
    assert torch.equal(again.model(input_ids=IDS).last_hidden_state, expected)


def test_all_layers_are_reported_again_afterwards():
    found = backbone("llama")
    with torch.no_grad():
        with skipping(found, {2}) as shorter:
            shorter.model(input_ids=IDS, output_hidden_states=True)
        assert len(found.model(input_ids=IDS, output_hidden_states=True).hidden_states) == 5


def test_the_model_comes_back_when_the_work_inside_fails():
    found = backbone("gemma3")
    before = states(found)
    with pytest.raises(ZeroDivisionError), skipping(found, {2}):
        1 / 0  # noqa: B018
    assert torch.equal(states(found)[-1], before[-1])


@pytest.mark.parametrize("name", CUTTABLE)
def test_the_twin_in_place_gives_the_same(name):
    with skipping(found := backbone(name), {2, 4}) as shorter:
        expected = states(shorter)
    remove_blocks(found, {2, 4})
    again = backbone_of(found.whole, found.tokenizer)
    assert again.depth == 2
    for one, other in zip(states(again), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("gone", [{1}, {2}, {2, 3}])
def test_text_is_generated_alike_with_and_without_the_cache(name, gone):
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    with skipping(backbone_of(model, tiny_tokenizer()), gone):
        written = [
            model.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=cache, pad_token_id=0)
            for cache in (True, False)
        ]
    assert torch.equal(*written)


@pytest.mark.parametrize("name", ANY_BLOCK)
def test_the_first_block_may_go_where_it_is_like_the_others(name):
    with skipping(found := backbone(name), {1}) as shorter:
        assert len(states(shorter)) == 3
    assert len(states(found)) == 4


def test_a_model_without_its_pooler_is_no_other_model():
    model = hf.BertForMaskedLM(CONFIGS["bert"]()).eval()
    with skipping(backbone_of(model, tiny_tokenizer()), {2}) as shorter:
        assert len(states(shorter)) == 3


def test_shared_blocks_are_refused():
    with (
        pytest.raises(InputError, match="runs one block at several depths"),
        skipping(backbone("albert"), {2}),
    ):
        pass


@pytest.mark.parametrize("name", FIRST_BLOCK_DIFFERS)
def test_a_first_block_that_holds_what_others_need_stays(name):
    with (
        pytest.raises(InputError, match="cannot do without block 1"),
        skipping(backbone(name), {1}),
    ):
        pass


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ({0}, "expected blocks from 1 to 4"),
        ({5}, "got 5"),
        ({1, 2, 3, 4}, "at least one must stay"),
    ],
)
def test_blocks_that_are_not_there_are_refused(gone, said):
    with pytest.raises(InputError, match=said), skipping(backbone("bert"), gone):
        pass


def test_lists_indexes_and_counts_of_a_config_follow_the_kept_blocks():
    config = hf.Gemma3TextConfig(**CONFIGS["gemma3"]().to_dict())
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    config.no_rope_layers = [1, 0, 1, 1]
    config.mlp_only_layers = [0, 2, 3]
    config.first_k_dense_replace = 2
    config.num_kv_shared_layers = 2
    config.eos_token_id = [1, 2, 3, 4]
    config.hybrid_override_pattern = "M*M-"
    small = kept_config(config, [1, 3])
    assert small.num_hidden_layers == 2
    assert small.layer_types == ["full_attention", "full_attention"]
    assert small.no_rope_layers == [0, 1]
    assert small.mlp_only_layers == [1]
    assert small.first_k_dense_replace == 1
    assert small.num_kv_shared_layers == 1
    assert small.eos_token_id == [1, 2, 3, 4]
    assert small.hybrid_override_pattern == "*-"
    assert config.num_hidden_layers == 4
    assert len(config.layer_types) == 4


class Whole(hf.LlamaModel):
    """An architecture that is built with all of its blocks only."""

    def __init__(self, config):
        if config.num_hidden_layers < 4:
            raise ValueError("needs 4 layers.")
        super().__init__(config)


class Busy(hf.LlamaModel):
    """One that is built with fewer blocks, but then does not run."""

    def forward(self, *args, **named):
        if len(self.layers) < 4:
            raise ValueError("needs 4 layers.")
        return super().forward(*args, **named)


def made_of(kind: type[nn.Module]) -> Backbone:
    return backbone_of(kind(CONFIGS["llama"]()).eval(), tiny_tokenizer(), name="mine")


def test_a_smaller_model_that_cannot_be_built_is_refused():
    said = r"cannot do without block 2: what stays cannot be built \(needs 4 layers\)"
    with pytest.raises(InputError, match=said), skipping(made_of(Whole), {2}):
        pass


def test_a_smaller_model_that_cannot_run_is_refused():
    said = r"transformers cannot run Busy with 2 of its 4 blocks \(needs 4 layers\)"
    with pytest.raises(InputError, match=said):
        smaller(made_of(Busy), [0, 1])


def test_a_weight_that_no_smaller_model_has_is_refused():
    found = backbone("llama")
    found.model.extra = nn.Linear(2, 2)
    said = "the blocks of llama that stay do not make up a LlamaModel: extra.bias fits nowhere"
    with pytest.raises(InputError, match=said):
        smaller(found, range(4))


def test_a_config_that_cannot_be_read_again_is_refused(monkeypatch):
    def refuse(*_):
        raise ValueError("no such entry.")

    monkeypatch.setattr(hf.LlamaConfig, "from_dict", refuse)
    said = r"the config of a smaller llama cannot be read again \(no such entry\)"
    with pytest.raises(InputError, match=said):
        read_again(CONFIGS["llama"]())


def test_a_model_that_gives_out_a_tuple_is_not_saved():
    model = random_model("dpr")
    assert type(model).__name__ == "DPRQuestionEncoder"
    with pytest.raises(InputError, match="DPREncoder in transformers returns a tuple without"):
        smaller(backbone_of(model, tiny_tokenizer()), [0, 1])


def test_a_number_of_the_config_that_restores_a_constant_stays_a_whole_one():
    small = smaller(backbone_of(random_model("nllb-moe"), tiny_tokenizer()), [0, 1])
    assert type(small.config.expert_capacity) is int


def test_a_computed_pattern_is_refused():
    with pytest.raises(InputError, match="blocks in one list, found none in Linear"):
        block_path(nn.Linear(2, 2), backbone("bert"))
    with pytest.raises(InputError, match="computes from a block's number"):
        kept_config(hf.JambaConfig(num_hidden_layers=8), [0, 1])
