"""Extreme prompts: tokens repeated, random tokens, random texts of a length."""

from __future__ import annotations

import numpy as np
import pytest

import layerscope
from layerscope.config import Perturbation
from layerscope.data.perturbations import perturbed, special_ids
from layerscope.data.tokens import TokenizedText, tokenize
from layerscope.errors import InputError
from layerscope.settings import ScanConfig
from tiny import WORDS, texts, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXTS = tokenize(TOKENIZER, [" ".join(WORDS * 4), *texts(20)], 96)


def changed(label: str, given=TEXTS, seed: int = 0) -> list[TokenizedText]:
    return perturbed(given, Perturbation.parse(label), TOKENIZER, limit=96, rows=120, seed=seed)


def inner(text: TokenizedText) -> np.ndarray:
    return np.array(text.ids)[~np.array(text.special)]


@pytest.mark.parametrize("kind", ["repeat", "random"])
@pytest.mark.parametrize("p", [0, 0.3, 1])
def test_the_count_and_the_special_tokens_stay(kind, p):
    for before, after in zip(TEXTS, changed(f"{kind} p={p}"), strict=True):
        assert len(after.ids) == len(before.ids)
        assert after.special == before.special
        assert (after.ids[0], after.ids[-1]) == (1, 2)
        assert not set(inner(after)) & special_ids(TOKENIZER)
        if p == 0:
            assert after == before


def test_repetition_draws_from_the_text_and_random_tokens_from_the_vocabulary():
    for before, after in zip(TEXTS, changed("repeat p=1"), strict=True):
        assert set(inner(after)) <= set(inner(before))
    long, random = inner(changed("repeat p=1")[0]), inner(changed("random p=1")[0])
    assert len(set(random) - set(inner(TEXTS[0]))) > 5
    assert 4 < len(set(long)) <= len(WORDS)


def test_a_token_is_replaced_with_probability_p():
    given = tokenize(TOKENIZER, [" ".join(["zebra"] * 90) + " " + each for each in texts(40)], 96)
    many = [replace_special(each) for each in given]
    after = changed("random p=0.3", many)
    found = np.mean([np.mean(inner(a) != inner(b)) for a, b in zip(after, many, strict=True)])
    assert abs(found - 0.3 * (1 - 1 / 36)) < 0.02  # a drawn token may be the one that stood there


def replace_special(text: TokenizedText) -> TokenizedText:
    """The same text with a word in the place of unknown ones, which are special tokens."""
    return TokenizedText(tuple(4 if each == 3 else each for each in text.ids), text.special, False)


def test_a_larger_p_changes_all_that_a_smaller_one_does():
    less, more = changed("random p=0.2"), changed("random p=0.6")
    for text, one, other in zip(TEXTS, less, more, strict=True):
        replaced = inner(one) != inner(text)
        assert (inner(one)[replaced] == inner(other)[replaced]).all()


def test_the_seed_decides_and_other_texts_do_not():
    assert changed("random p=1") == changed("random p=1")
    assert changed("random p=1") != changed("random p=1", seed=1)
    assert changed("random p=1", TEXTS[3:5]) == changed("random p=1")[3:5]


def test_a_random_text_has_the_length_asked_for():
    for text in changed("length 33 tokens"):
        assert len(inner(text)) == 33
        assert (text.ids[0], text.ids[-1], len(text.ids)) == (1, 2, 35)
        assert not set(inner(text)) & special_ids(TOKENIZER)
    with pytest.raises(InputError, match="a random text of 95 tokens with 2 special ones is over"):
        changed("length 95 tokens")


def test_special_tokens_change_where_asked():
    label = Perturbation(kind="random", p=1, special=True).label
    assert label == "random p=1, special tokens too"
    ids = [each for text in changed(label) for each in text.ids]
    assert {0, 1, 2, 3} <= set(ids)
    assert {text.ids[0] for text in changed(label)} != {1}


def test_an_empty_prompt_is_refused():
    with pytest.raises(
        InputError, match="expected texts with tokens to perturb, got one of special"
    ):
        changed("repeat p=0.5", tokenize(TOKENIZER, [""], 96))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("repeat p=1.5", "expected p of at least 0 and at most 1, got 1.5"),
        ("repeat p=-0.1", "expected p of at least 0 and at most 1, got -0.1"),
        ("reapet p=0.5", "unknown kind 'reapet'; did you mean 'repeat'"),
        ("0.5", "expected a perturbation like 'repeat p=0.5', 'random p=0.5' or"),
        ({"kind": "repeat"}, "the perturbation repeat needs p and takes no tokens"),
        ({"kind": "length", "p": 0.5}, "the perturbation length needs tokens and takes no p"),
        ({"kind": "repeat", "q": 1}, "unknown setting 'q'"),
    ],
)
def test_what_is_no_perturbation_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        ScanConfig(perturbation=given)


def test_a_scan_of_perturbed_texts(tiny_folder, text_file):
    given = {"metrics": "prompt_entropy", "conventions": "normalized", "show_progress": False}
    plain = layerscope.scan(tiny_folder("llama"), text_file, views=0, **given)
    found = layerscope.scan(tiny_folder("llama"), text_file, perturbation="repeat p=0.8", **given)
    assert set(found.table()["perturbation"]) == {"repeat p=0.8"}
    assert set(found.contributions()["perturbation"]) == {"repeat p=0.8"}
    assert found.record["settings"]["perturbation"] == "repeat p=0.8"
    assert (found.table()["value"] < plain.table()["value"]).all()
    assert found.record["data"]["tokens"] == plain.record["data"]["tokens"]
    said = "dime compare views of strings, and a perturbation changes tokens; leave one out."
    with pytest.raises(InputError, match=said):
        layerscope.scan.plan("none", text_file, metrics="dime", perturbation="repeat p=0.8")
