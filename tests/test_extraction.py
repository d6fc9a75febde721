"""Layer k is layer k: hooks against the library's own hidden states, on every architecture."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf

from layerscope.data.tokens import TokenBatch, TokenizedText, pad, padding_id, plan_batches
from layerscope.errors import RunError
from layerscope.models.architectures import Tap
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.states.extract import Site, TokenStates, extract, sites_of
from tiny import CONFIGS, VOCABULARY, condition, tiny_model

LENGTHS = (7, 12, 3, 12, 9, 20, 5, 16)
SHIFTED = {"mamba", "mamba2"}


def some_texts() -> list[TokenizedText]:
    generator = torch.Generator().manual_seed(1)
    return [
        TokenizedText(
            tuple(torch.randint(4, VOCABULARY, (n,), generator=generator).tolist()),
            (False,) * n,
            truncated=False,
        )
        for n in LENGTHS
    ]


def batches(budget: int, side: str = "right", pad_id: int = 0) -> list[TokenBatch]:
    texts = some_texts()
    counted = [[True] * len(text.ids) for text in texts]
    plan = plan_batches([len(text.ids) for text in texts], budget)
    return [pad(group, texts, counted, pad_id=pad_id, side=side) for group in plan]


def states(
    backbone: Backbone, given: list[TokenBatch], **options
) -> dict[tuple[int, Site], torch.Tensor]:
    """The real tokens' states of every text at every site."""

    def reduce(token_states: TokenStates) -> list[torch.Tensor]:
        return [s[m].clone() for s, m in zip(token_states.states, token_states.real, strict=True)]

    sites = options.pop("sites", None) or sites_of(backbone, **options)
    found = {}
    for result in extract(backbone, given, sites, reduce):
        for site, rows in result.by_site.items():
            for item, row in zip(result.items, rows, strict=True):
                found[item, site] = row
    return found


def library_states(backbone: Backbone, ids: tuple[int, ...]) -> list[torch.Tensor]:
    with torch.no_grad():
        cache = {"use_cache": False} if hasattr(backbone.model.config, "use_cache") else {}
        output = backbone.model(input_ids=torch.tensor([ids]), output_hidden_states=True, **cache)
    return [state[0] for state in output.hidden_states]


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).norm() <= 1e-5 * other.norm())


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"albert"}))
def test_states_equal_the_librarys_own(name):
    backbone = backbone_of(tiny_model(name), None)
    found = states(backbone, batches(10_000))
    depth = backbone.depth
    for item, text in enumerate(some_texts()):
        reported = library_states(backbone, text.ids)
        assert len(reported) == depth + 1
        first = 1 if name in SHIFTED else 0
        for layer in range(first, depth):
            position = layer - 1 if name in SHIFTED else layer
            assert close(found[item, Site(layer)], reported[position]), (layer, item)
        last = Site(depth, "final_norm") if backbone.final_norm is not None else Site(depth)
        assert close(found[item, last], reported[-1]), "last"


@pytest.mark.parametrize("name", sorted(SHIFTED))
def test_state_space_models_have_an_embedding_layer_that_the_library_leaves_out(name):
    backbone = backbone_of(tiny_model(name), None)
    found = states(backbone, batches(10_000))
    text = some_texts()[0]
    embedded = backbone.model.get_input_embeddings()(torch.tensor([text.ids]))[0]
    assert close(found[0, Site(0)], embedded)
    assert not close(found[0, Site(0)], library_states(backbone, text.ids)[0])


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_last_raw_state_is_what_the_final_norm_takes(name):
    backbone = backbone_of(tiny_model(name), None)
    if backbone.final_norm is None:
        assert Site(backbone.depth, "final_norm") not in sites_of(backbone)
        return
    found = states(backbone, batches(10_000))
    raw, normed = found[0, Site(backbone.depth)], found[0, Site(backbone.depth, "final_norm")]
    with torch.no_grad():
        assert close(backbone.final_norm(raw), normed)
    assert not close(raw, normed)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_enters_a_block_is_what_left_the_one_before(name):
    backbone = backbone_of(tiny_model(name), None)
    left, entered = {}, {}

    def reduce(tokens: TokenStates) -> None:
        left[tokens.site] = tokens.states[tokens.real].clone()
        if tokens.entered is not None:
            entered[tokens.site] = tokens.entered[tokens.real].clone()

    given = batches(10_000)
    assert len(list(extract(backbone, given, sites_of(backbone), reduce))) == len(given) == 1
    assert set(entered) == {Site(layer) for layer in range(1, backbone.depth + 1)}
    for site, state in entered.items():
        assert torch.equal(state, left[Site(site.layer - 1)]), site


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_batch_size_and_padding_side_change_nothing(name):
    backbone = backbone_of(tiny_model(name), None)
    pad_id = padding_id(None, backbone.model.config)
    alone = states(backbone, batches(1))
    variants = [batches(10_000, pad_id=pad_id), batches(40, pad_id=pad_id)]
    if name != "bart":  # its positions count from the left edge, and it takes no position ids
        variants.append(batches(10_000, side="left", pad_id=pad_id))
    for other in variants:
        together = states(backbone, other)
        assert together.keys() == alone.keys()
        for key, state in alone.items():
            assert close(together[key], state), key


def test_albert_runs_a_shared_block_once_for_each_layer():
    model = tiny_model("albert")
    backbone = backbone_of(model, None)
    assert backbone.depth == 4
    assert len(set(backbone.blocks)) == 2
    found = states(backbone, batches(10_000))
    for item, text in enumerate(some_texts()):
        for layer, state in enumerate(library_states(backbone, text.ids)[1:], start=1):
            assert close(found[item, Site(layer)], state)


def test_tied_blocks_are_told_apart_by_their_calls():
    model = copy.deepcopy(tiny_model("gpt2"))
    for layer in (1, 2, 3):
        model.h[layer] = model.h[0]
    backbone = backbone_of(model, None)
    found = states(backbone, batches(10_000))
    text = some_texts()[0]
    reported = library_states(backbone, text.ids)
    assert all(close(found[0, Site(layer)], reported[layer]) for layer in range(4))


def test_a_model_of_another_dtype_gives_float32_states_and_its_own_numbers():
    model = copy.deepcopy(tiny_model("llama")).to(torch.bfloat16)
    backbone = backbone_of(model, None)
    found = states(backbone, batches(10_000))
    reference = library_states(backbone, some_texts()[0].ids)
    assert {state.dtype for state in found.values()} == {torch.float32}
    assert (found[0, Site(2)] - reference[2].float()).norm() < 0.05 * reference[2].float().norm()


def test_training_mode_and_gradient_checkpointing_are_set_aside_and_given_back():
    model = copy.deepcopy(tiny_model("llama"))
    model.config.attention_dropout = 0.5
    model.activation_checkpointing_enable()
    model.train()
    backbone = backbone_of(model, None)
    found = states(backbone, batches(10_000))
    assert model.training
    assert all(module.training for module in model.modules())
    expected = states(backbone_of(tiny_model("llama"), None), batches(10_000))
    assert all(close(found[key], expected[key]) for key in expected)


def test_frozen_parts_stay_frozen():
    model = copy.deepcopy(tiny_model("bert")).train()
    model.embeddings.eval()
    states(backbone_of(model, None), batches(10_000))
    assert model.encoder.training
    assert not model.embeddings.training


def test_the_pass_stops_after_the_highest_layer_asked_for():
    backbone = backbone_of(tiny_model("llama"), None)
    calls = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
        for layer, block in enumerate(backbone.blocks, start=1)
    ]
    try:
        found = states(backbone, batches(10_000), layers=[0, 2])
    finally:
        for handle in handles:
            handle.remove()
    # The third hook of block 2 never runs: the pass ends inside the second.
    assert set(calls) <= {1, 2}
    assert {site.layer for _, site in found} == {0, 2}
    whole = states(backbone, batches(10_000))
    assert all(torch.equal(found[key], whole[key]) for key in found)


def test_no_hook_is_left_behind():
    backbone = backbone_of(tiny_model("gemma3"), None)

    def hooks() -> list[int]:
        modules = list(backbone.model.modules())
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules]

    before = hooks()
    states(backbone, batches(10_000), stages=["attn", "attn_residual", "mlp_norm", "block"])
    assert hooks() == before


@pytest.mark.parametrize("name", sorted(set(CONFIGS) - {"albert", "mamba", "mamba2"}))
def test_stages_add_up(name):
    """What a block does to the residual stream is what its stages say."""
    backbone = backbone_of(tiny_model(name), None)
    found = states(backbone, batches(10_000), stages=[*backbone.stages, "block"])
    layer = 2
    at = {stage: found[1, Site(layer, stage)] for stage in [*backbone.stages, "block"]}
    before = found[1, Site(layer - 1)]
    block = backbone.blocks[layer - 1]
    with torch.no_grad():
        if "attn_residual" in at and name not in {"olmo2", "gemma2", "gemma3"}:
            attn = at["attn"]
            assert close(before + attn, at["attn_residual"])
        if name == "gemma3":
            assert close(before + block.post_attention_layernorm(at["attn"]), at["attn_residual"])
            assert close(
                at["attn_residual"] + block.post_feedforward_layernorm(at["mlp"]), at["block"]
            )
        if name == "olmo2":
            assert close(before + at["attn_norm"], at["attn_residual"])
            assert close(at["attn_residual"] + at["mlp_norm"], at["block"])
        if name in {"llama", "qwen3", "gpt2", "modernbert", "t5", "bloom", "opt", "mistral"}:
            assert close(at["attn_residual"] + at["mlp"], at["block"])
        if name in {"gpt_neox", "phi", "gptj", "falcon"}:
            assert "attn_residual" not in at
            assert close(before + at["attn"] + at["mlp"], at["block"])


def test_out_of_memory_halves_the_batch():
    backbone = backbone_of(tiny_model("bert"), None)
    sizes = []

    def greedy(token_states: TokenStates) -> list[float]:
        sizes.append(len(token_states.states))
        if len(token_states.states) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return token_states.states.sum(dim=(1, 2)).tolist()

    [batch] = batches(10_000)
    results = list(extract(backbone, [batch], [Site(4)], greedy))
    assert sorted(item for result in results for item in result.items) == list(range(8))
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_one_text_that_does_not_fit_is_an_error_that_says_so():
    backbone = backbone_of(tiny_model("bert"), None)

    def greedy(_: TokenStates) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(Exception, match="one sample of .* tokens does not fit in memory; lower"):
        list(extract(backbone, batches(10_000), [Site(4)], greedy))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    backbone = backbone_of(tiny_model("bert"), None)

    def broken(_: TokenStates) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(extract(backbone, batches(10_000), [Site(4)], broken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [5]}, "expected layers from 0 .* to 4 .* got 5"),
        ({"layers": [-6]}, "got -6"),
        ({"stages": ["atn"]}, "unknown stage 'atn'; did you mean 'attn'"),
    ],
)
def test_sites_that_do_not_exist_are_refused(options, message):
    with pytest.raises(Exception, match=message):
        sites_of(backbone_of(tiny_model("bert"), None), **options)


def test_a_stage_that_a_parallel_block_lacks_is_refused_by_name():
    with pytest.raises(Exception, match="PhiModel has no stage 'attn_residual'; it has: attn_norm"):
        sites_of(backbone_of(tiny_model("phi"), None), stages=["attn_residual"])


def test_stages_come_in_the_order_of_the_computation():
    backbone = backbone_of(tiny_model("llama"), None)
    sites = sites_of(backbone, layers=[1], stages=["block", "mlp", "attn"])
    assert [site.stage for site in sites] == ["attn", "mlp", "block"]


# --- the caller's model and modes -------------------------------------------------------------------


def live_model(name: str = "bert") -> torch.nn.Module:
    """A model in training, some of it frozen, that draws random numbers when it runs."""
    model = copy.deepcopy(tiny_model(name)).train()
    parts = list(model.children())
    parts[0].eval()
    next(parts[0].parameters()).requires_grad_(False)

    def draw(*_: object) -> None:
        torch.rand(3), np.random.random(), random.random()

    parts[-1].register_forward_pre_hook(draw)
    return model


def total(tokens: TokenStates) -> torch.Tensor:
    return tokens.states.sum(dim=(1, 2))


@pytest.mark.parametrize(
    "mode", [torch.enable_grad, torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__
)
def test_wherever_the_caller_runs_its_model_and_modes_are_its_own(mode):
    model = live_model()
    backbone = backbone_of(model, None)
    with mode():
        before = condition(model)

        def watched():
            for batch in batches(40):
                assert condition(model) == before
                yield batch
            assert condition(model) == before

        count = 0
        for _ in extract(backbone, watched(), sites_of(backbone), total):
            count += 1
            assert condition(model) == before
        assert count > 2
        assert condition(model) == before


def test_a_consumer_that_stops_or_fails_finds_its_model_as_it_was():
    model = live_model()
    backbone = backbone_of(model, None)
    before = condition(model)
    results = extract(backbone, batches(40), [Site(4)], total)
    next(results)
    results.close()
    assert condition(model) == before
    results = extract(backbone, batches(40), [Site(4)], total)
    try:
        for _ in results:
            raise ZeroDivisionError
    except ZeroDivisionError:
        assert condition(model) == before
    assert condition(model) == before


@pytest.mark.parametrize("raised", [ValueError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["reducer", "model"])
def test_a_pass_that_fails_leaves_the_model_as_it_was(raised, place):
    model = live_model()
    backbone = backbone_of(model, None)

    def fail(*_: object) -> None:
        raise raised

    if place == "model":
        backbone.blocks[2].attention.register_forward_hook(fail)
    before = condition(model)
    with pytest.raises(type(raised)):
        list(extract(backbone, batches(40), [Site(4)], fail if place == "reducer" else total))
    assert condition(model) == before


def test_a_halved_batch_leaves_the_model_as_it_was():
    model = live_model()
    backbone = backbone_of(model, None)
    before = condition(model)

    def greedy(tokens: TokenStates) -> torch.Tensor:
        if len(tokens.states) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return total(tokens)

    items = []
    for result in extract(backbone, batches(10_000), [Site(4)], greedy):
        items += result.items
        assert condition(model) == before
    assert items == [item for batch in batches(10_000) for item in batch.items]


def test_a_site_that_cannot_be_hooked_leaves_no_hook_behind():
    model = live_model()
    backbone = backbone_of(model, None)
    broken = replace(backbone, stages=backbone.stages | {"mlp": Tap("nowhere")})
    before = condition(model)
    with pytest.raises(AttributeError):
        list(extract(broken, batches(40), [Site(2, "mlp"), Site(4)], total))
    assert condition(model) == before


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_states_that_are_handed_out_can_take_part_in_a_derivative(mode):
    backbone = backbone_of(tiny_model("bert"), None)
    with mode():
        found = states(backbone, batches(40), layers=[2])
    weight = torch.ones(32, requires_grad=True)
    (found[0, Site(2)] @ weight).sum().backward()
    assert weight.grad is not None


def test_what_a_model_keeps_from_a_pass_can_be_trained_on():
    """Rotary angles that grow with the texts are made in a pass and stay."""
    config = CONFIGS["llama"]()
    config.max_position_embeddings = 8
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = hf.AutoModel.from_config(config, attn_implementation="eager").train()
    states(backbone_of(model, None), batches(10_000))
    longest = max(some_texts(), key=lambda text: len(text.ids))
    model(torch.tensor([longest.ids])).last_hidden_state.sum().backward()


def test_lora_like_layers_are_not_merged():
    """Their `train` does more than set a flag."""
    model = copy.deepcopy(tiny_model("bert")).train()
    calls = []
    model.encoder.train = calls.append
    states(backbone_of(model, None), batches(10_000))
    assert calls == []


def test_states_of_other_shapes_than_their_masks_are_refused():
    states, mask = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(
        RunError, match=r"masks \(text, token\) at block\.1, got \(2, 3, 4\), \(1, 3\)"
    ):
        TokenStates(Site(1), states, mask[:1], mask)


def test_a_short_text_does_not_change_how_bigbird_reads_the_long_ones_after_it():
    """Its attention is sparse from 29 tokens on; a shorter batch turns it into full attention."""
    generator = torch.Generator().manual_seed(0)
    some = [
        TokenizedText(
            tuple(torch.randint(4, 99, (n,), generator=generator).tolist()), (False,) * n, False
        )
        for n in (8, 37)
    ]
    marks = [[True] * len(text.ids) for text in some]
    model = copy.deepcopy(tiny_model("big_bird"))
    before = condition(model)
    backbone = backbone_of(model, None)
    short, long = (pad([item], some, marks, pad_id=0) for item in (0, 1))
    first = states(backbone, [long])
    assert all(
        torch.equal(first[key], state)
        for key, state in states(backbone, [short, long]).items()
        if key in first
    )
    assert condition(model) == before
    model.set_attention_type("original_full")
    full = states(backbone, [long])
    assert not close(full[1, Site(4)], first[1, Site(4)])
