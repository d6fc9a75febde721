"""The first token's norm against the others', measured."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from layerscope.data.tokens import TokenizedText, tokenize
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.states.encode import sample_ratios
from layerscope.states.pooling import (
    SINK_RATIO,
    first_token_ratio,
    first_token_ratios,
    sink_builders,
)
from tiny import texts, tiny_model, tiny_tokenizer


def swollen(factor: float, *, layer: int = 2, position: int = 0) -> Backbone:
    """A model whose state at one position and layer is `factor` times the others' norm."""
    backbone = backbone_of(copy.deepcopy(tiny_model("bert")), tiny_tokenizer())

    def swell(_module, _args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state = torch.nn.functional.normalize(state, dim=-1)
        state[:, position] *= factor
        return (state, *output[1:]) if isinstance(output, tuple) else state

    backbone.blocks[layer - 1].register_forward_hook(swell)
    return backbone


def tokens(count: int = 20) -> list[TokenizedText]:
    return tokenize(tiny_tokenizer(), texts(count), 96)


def test_the_ratio_is_that_of_the_worst_layer():
    assert first_token_ratio(swollen(50, layer=4), tokens()) == pytest.approx(50, rel=1e-3)
    assert first_token_ratio(swollen(0.1), tokens()) < SINK_RATIO


def test_only_the_first_token_is_looked_at():
    assert first_token_ratio(swollen(50, layer=4, position=1), tokens()) < SINK_RATIO


def test_without_another_ordinary_token_there_is_no_ratio():
    alone = TokenizedText((4,), (False,), truncated=False)
    special = TokenizedText((1, 4, 2), (True, True, True), truncated=False)
    assert first_token_ratio(swollen(50), [alone, special]) is None
    assert first_token_ratio(swollen(50, layer=4), [alone, *tokens(2)]) == pytest.approx(50, 1e-3)


def test_states_that_are_not_finite_are_no_sink():
    assert first_token_ratio(swollen(math.nan), tokens()) is None or (
        first_token_ratio(swollen(math.nan), tokens()) < SINK_RATIO
    )
    assert first_token_ratio(swollen(math.inf, layer=4), tokens()) < SINK_RATIO


def test_long_texts_are_cut_for_the_test():
    long = tokenize(tiny_tokenizer(), [" ".join(["river"] * 90), "stone light"], 96)
    assert first_token_ratio(swollen(50, layer=4), long) == pytest.approx(50, rel=1e-3)


def test_the_ratio_of_each_layer_from_the_embeddings_on():
    found = first_token_ratios(swollen(50, layer=3), tokens())
    assert [*found] == [0, 1, 2, 3, 4]
    assert found[3] == pytest.approx(50, rel=1e-3)
    assert max(found[layer] for layer in (0, 1, 2)) < 2


@pytest.mark.parametrize(
    ("ratios", "builders"),
    [
        ({0: 1.0, 1: 1.2, 2: 160.0, 3: 150.0}, (2,)),
        # What grows little by little has no builder.
        ({0: 1.0, 1: 29.0, 2: 4.8, 3: 6.8, 4: 12.0}, (1,)),
        ({0: 0.02, 1: 0.9, 2: 1.0}, ()),  # grown, yet no sink
        ({0: 2.0, 2: 50.0, 3: 40.0}, ()),  # what was before is not known
        ({}, ()),
    ],
)
def test_a_block_builds_the_sink_if_the_first_token_grows_across_it(ratios, builders):
    assert sink_builders(ratios) == builders


def test_of_images_nothing_is_measured():
    assert sample_ratios(SimpleNamespace(reads_images=True), 64) == {}


def test_the_block_that_swells_the_first_token_is_the_builder():
    assert sink_builders(first_token_ratios(swollen(50, layer=3), tokens())) == (3,)
