"""Texts as tokens: what counts, what fits together, where padding goes, what is cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from layerscope.data.tokens import (
    TokenizedText,
    length_limit,
    pad,
    padding_id,
    plan_batches,
    tokenize,
)
from layerscope.errors import InputError
from tiny import tiny_tokenizer


def test_texts_are_tokenized_with_their_special_tokens_marked():
    [text] = tokenize(tiny_tokenizer(), ["river stone"], 96)
    assert text.ids == (1, 4, 5, 2)
    assert text.special == (True, False, False, True)
    assert not text.truncated


@pytest.mark.parametrize(
    ("special_tokens", "first_token", "counts"),
    [
        (False, True, [False, True, True, False]),
        (False, False, [False, True, True, False]),
        (True, True, [True, True, True, True]),
        (True, False, [False, True, True, True]),
    ],
)
def test_what_counts(special_tokens, first_token, counts):
    [text] = tokenize(tiny_tokenizer(), ["river stone"], 96)
    found = text.counted(special_tokens=special_tokens, first_token=first_token)
    assert found == counts


def test_a_text_that_was_cut_is_told_from_one_that_just_fits():
    fits, cut = tokenize(tiny_tokenizer(), ["river stone light", "river stone light engine"], 5)
    assert len(fits.ids) == len(cut.ids) == 5
    assert (fits.truncated, cut.truncated) == (False, True)
    assert cut.special[-1], "the closing token survives the cut"


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_that_special_tokens_fill_is_refused(limit):
    with pytest.raises(InputError, match=f"cut to {limit} tokens, but the tokenizer alone adds 2"):
        tokenize(tiny_tokenizer(), ["river stone"], limit)


def test_texts_for_a_model_without_a_tokenizer():
    with pytest.raises(InputError, match="reads images and has no tokenizer"):
        tokenize(None, ["river"], 9)


@pytest.mark.parametrize(
    ("config", "tokenizer_limit", "asked", "limit"),
    [
        ({}, 10**30, 512, 512),
        ({"max_position_embeddings": 128}, 10**30, 512, 128),
        ({"max_position_embeddings": 514, "model_type": "roberta"}, 512, 1000, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta"}, 10**30, 1000, 512),
        ({"max_position_embeddings": 514, "model_type": "mpnet"}, 10**30, 1000, 512),
        ({"max_position_embeddings": 2048}, 256, 512, 256),
        ({"max_position_embeddings": -1}, 10**30, 512, 512),
    ],
)
def test_the_limit_is_what_was_asked_unless_the_model_takes_less(
    config, tokenizer_limit, asked, limit
):
    tokenizer = SimpleNamespace(model_max_length=tokenizer_limit)
    assert length_limit(tokenizer, SimpleNamespace(**config), asked) == limit


def test_batches_stay_within_the_budget_and_hold_every_text_once():
    lengths = torch.randint(1, 60, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    for budget in (1, 30, 64, 500, 10**6):
        plan = plan_batches(lengths, budget)
        assert sorted(item for batch in plan for item in batch) == list(range(200))
        for batch in plan:
            padded = len(batch) * max(lengths[item] for item in batch)
            assert padded <= budget or len(batch) == 1
        firsts = [max(lengths[item] for item in batch) for batch in plan]
        assert firsts == sorted(firsts, reverse=True)
    assert plan_batches([], 5) == []


def test_batches_of_one_length_pad_nothing_and_follow_the_lengths_alone():
    lengths = torch.randint(1, 9, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    for budget, tight in ((1, False), (30, True), (10**6, False)):
        plan = plan_batches(lengths, budget, tight=tight, one_length=True)
        assert sorted(item for batch in plan for item in batch) == list(range(200))
        assert all(len({lengths[item] for item in batch}) == 1 for batch in plan)
        assert plan == plan_batches(lengths, budget, tight=tight, one_length=True)
    assert len(plan) == 8


def some() -> list[TokenizedText]:
    return [TokenizedText(tuple(range(3, 3 + n)), (False,) * n, truncated=False) for n in (2, 4)]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_goes_to_one_side_and_positions_count_real_tokens(side):
    batch = pad([1, 0], some(), [[True] * 2, [False, True, True, True]], pad_id=9, side=side)
    assert batch.items == (1, 0)
    assert batch.ids.tolist() == [[3, 4, 5, 6], [3, 4, 9, 9] if side == "right" else [9, 9, 3, 4]]
    assert batch.real.sum(1).tolist() == [4, 2]
    assert batch.counted.sum(1).tolist() == [3, 2]
    assert batch.positions[1][batch.real[1]].tolist() == [0, 1]
    one, two = batch.halves()
    assert (one.items, two.items) == ((1,), (0,))
    assert torch.equal(torch.cat([one.ids, two.ids]), batch.ids)


def test_any_id_serves_as_padding_where_none_is_named():
    none = SimpleNamespace(pad_token_id=None)
    assert padding_id(SimpleNamespace(pad_token_id=7), none) == 7
    assert padding_id(none, SimpleNamespace(pad_token_id=3)) == 3
    assert padding_id(none, SimpleNamespace(pad_token_id=-1)) == 0
    assert padding_id(None, none) == 0
