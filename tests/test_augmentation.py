"""Views: the same for everybody, different from each other, of the strength that is promised."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from layerscope.data.misspellings import (
    _KEYS,
    AugmentationConfig,
    Draws,
    Edit,
    View,
    _edit,
    _mistype,
    _Pieces,
    _split_words,
    mean_edit_distance,
    views,
)
from layerscope.data.texts import read_texts
from layerscope.errors import InputError

DEFAULT = AugmentationConfig()
AUTHORS = AugmentationConfig.authors()
SENTENCE = "The hidden states of middle layers often serve better than those of the last one."
PROSE = " ".join(read_texts("sample").texts).split()


def prose(words: int) -> str:
    return " ".join(itertools.islice(itertools.cycle(PROSE), words))


def strength(text: str, settings: AugmentationConfig) -> float:
    return mean_edit_distance(views(text, 8, settings=settings, seed=0))


def slow_levenshtein(one: str, other: str) -> int:
    """The definition, row by row: insertions, deletions and substitutions cost one."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        previous, row = row, [i]
        for j, right in enumerate(other, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (left != right)))
    return row[-1]


def draws(attempt: int = 0) -> Draws:
    return Draws(SENTENCE, 0, 0, attempt)


def test_a_copy_of_the_first_words_is_the_copy_of_a_text_of_these_words():
    long = prose(90)
    settings = AugmentationConfig(first_words=40)
    beginning = _Pieces.of(long, 40).text()
    assert long.startswith(beginning)
    assert len(_Pieces.of(beginning).words) == 40
    assert views(long, 3, settings=settings, seed=0) == views(
        beginning, 3, settings=DEFAULT, seed=0
    )
    short = prose(12)
    assert views(short, 2, settings=settings, seed=0) == views(short, 2, settings=DEFAULT, seed=0)
    assert settings.label == "characters p=0.3, first 40 words"


# The same for everybody


def test_views_are_golden():
    """A change here changes every published view measure: raise the version and say so."""
    made = [view.text for view in views("middle layers serve better", 2, settings=DEFAULT, seed=0)]
    assert made == GOLDEN


GOLDEN = ["middle la yerg serve bett3r", "middoe laymer s serve better"]


def test_views_do_not_depend_on_the_process():
    code = (
        "from layerscope.data.misspellings import AugmentationConfig as S, views;"
        f"print([v.text for v in views({SENTENCE!r}, 4, settings=S(), seed=7)])"
    )
    expected = str([view.text for view in views(SENTENCE, 4, settings=DEFAULT, seed=7)])
    for hash_seed in ("1", "2"):
        environment = os.environ | {
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_views_do_not_depend_on_what_was_asked_before_or_how_many():
    many = views(SENTENCE, 16, settings=DEFAULT, seed=3)
    views("another text", 5, settings=DEFAULT, seed=3)
    assert views(SENTENCE, 2, settings=DEFAULT, seed=3) == many[:2]


def test_seed_text_and_index_each_change_the_views():
    first = views(SENTENCE, 2, settings=DEFAULT, seed=0)
    assert first[0] != first[1]
    assert not set(first) & set(views(SENTENCE, 2, settings=DEFAULT, seed=1))
    longer = views(SENTENCE + " End", 2, settings=DEFAULT, seed=0)
    assert longer[0].text.removesuffix(" End") != first[0].text


# Distinct


def test_views_differ_from_each_other_and_from_the_original():
    made = views(SENTENCE, 64, settings=DEFAULT, seed=0)
    assert len({view.text for view in made} | {SENTENCE}) == 65


@pytest.mark.parametrize("text", ["a", "é", "字", "7", "ok", "👍", "!!!", "今天", "नमस्ते"])
def test_short_texts_of_any_script_have_two_views(text):
    made = views(text, 2, settings=DEFAULT, seed=0)
    assert len({text, *(view.text for view in made)}) == 3
    assert all(view.text.strip() for view in made)


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_text_without_words_has_no_view(text):
    with pytest.raises(InputError, match=r"expected 2 distinct views of the text .*, 0 could be"):
        views(text, 2, settings=DEFAULT, seed=0)


def test_more_views_than_a_text_allows_are_refused_with_how_many_there_are():
    only = AugmentationConfig(edits=(Edit.SUBSTITUTE,))
    with pytest.raises(InputError, match=r"expected 40 distinct views of the text 'q', 3\d could"):
        views("q", 40, settings=only, seed=0)
    with pytest.raises(InputError, match=r"'q!{39}\.\.\.', 3\d could be made; leave the text out"):
        views("q" + "!" * 50, 40, settings=only, seed=0)


# Strength


@pytest.mark.parametrize("words", [30, 100, 1000, 3000])
def test_the_strength_does_not_fade_with_length(words):
    assert strength(prose(words), DEFAULT) == pytest.approx(0.115, rel=0.2)


def test_the_strength_of_the_authors_fades_with_length():
    measured = [strength(prose(words), AUTHORS) for words in (30, 100, 1000)]
    assert measured[0] > 2 * measured[1] > 10 * measured[2]


def test_the_authors_touch_at_most_ten_words_an_operator():
    words = prose(500).split()
    for view in views(" ".join(words), 8, settings=AUTHORS, seed=0):
        assert view.text.count(" ") - len(words) + 1 <= 10
        kept = Counter(view.text.split()) & Counter(words)
        assert len(words) - kept.total() <= 30


def test_short_words_are_left_alone():
    text = "to be or not to be is the way of it all, sometimes"
    for view in views(text, 20, settings=DEFAULT, seed=0):
        assert view.text.startswith("to be or not to be is the way of it all, ")
    loose = AugmentationConfig(shortest_word=1)
    made = views(text, 20, settings=loose, seed=0)
    assert not all(view.text.startswith("to be or not to be") for view in made)


def test_more_strength_changes_more():
    weak, middle, strong = (strength(SENTENCE, AugmentationConfig(p)) for p in (0.1, 0.3, 0.8))
    assert weak < middle < strong


def test_settings_are_checked():
    for bad in (0, 1.1, -1, float("nan")):
        with pytest.raises(InputError, match="expected strength above 0 and at most 1"):
            AugmentationConfig(strength=bad)
    with pytest.raises(InputError, match="expected cap of at least 1, got 0."):
        AugmentationConfig(cap=0)
    with pytest.raises(InputError, match="expected shortest_word of at least 1, got 0."):
        AugmentationConfig(shortest_word=0)
    with pytest.raises(InputError, match="expected at least one of edits, got none."):
        AugmentationConfig(edits=())
    with pytest.raises(InputError, match="at least 1 view and a seed from 0 on, 0 and -1 came"):
        views("text", 0, settings=DEFAULT, seed=-1)


def test_labels_tell_settings_apart():
    made = [
        AugmentationConfig(*arguments)
        for arguments in itertools.product((0.1, 0.3), (None, 10), (1, 4), (tuple(Edit), ("swap",)))
    ]
    assert len({settings.label for settings in made}) == len(made)
    assert DEFAULT.label == "characters p=0.3"


def test_edits_may_be_given_by_name():
    assert AugmentationConfig(edits=("substitute",), cap=10) == AUTHORS


# What stays


@pytest.mark.parametrize(
    "text",
    [
        "  leading,\ttabs\nand  lines \u00a0 stay\n",
        "今天天气很好\uff0c我们去公园散步吧。",
        "👍🏽 emoji 👨‍👩‍👧 and words",
        "سلام دنیا، این یک متن است",
        "cafe\u0301 de\u0301compose\u0301",
    ],
)
def test_white_space_and_punctuation_survive(text):
    def skeleton(text: str) -> str:
        return "".join(c for c in text if c in "\t\n\u00a0,.\uff0c。、،")

    for view in views(text, 8, settings=AugmentationConfig(edits=(Edit.SUBSTITUTE,)), seed=0):
        assert skeleton(view.text) == skeleton(text)
        view.text.encode()


def test_other_scripts_are_edited_in_their_script():
    text = "今天天气很好\uff0c我们去公园散步吧。"
    for view in views(text, 16, settings=DEFAULT, seed=0):
        assert set(view.text) <= set(text) | {" "}
        assert view.relative_distance < 0.4


@given(st.text(max_size=60), st.integers(0, 5))
def test_any_text_gives_views_with_true_distances(text, seed):
    assume(text.strip())
    for view in views(text, 2, settings=DEFAULT, seed=seed):
        assert view.text != text
        assert view.edit_distance == slow_levenshtein(text, view.text)
        assert view.relative_distance == view.edit_distance / len(text)


@given(st.text(max_size=100))
def test_cutting_a_text_into_words_loses_nothing(text):
    pieces = _Pieces.of(text)
    assert pieces.text() == text
    assert all(pieces.words)
    assert max(map(len, pieces.words), default=0) <= 20


# The operators


@given(st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=30))
def test_splitting_adds_spaces_inside_words_only(words):
    text = " ".join(words)
    split = _split_words(_Pieces.of(text), DEFAULT, draws())
    assert "".join(split.words) == "".join(words)
    assert all(split.words)
    touched = sum(1 for word in split.words) - len(words)
    assert touched <= max(1, int(0.3 * len(words) + 1e-9))


@pytest.mark.parametrize(
    ("kind", "lengths"), [("insert", {12}), ("delete", {8}), ("swap", {10}), ("substitute", {10})]
)
def test_each_edit_does_what_its_name_says(kind, lengths):
    settings = AugmentationConfig(strength=0.2, edits=(Edit(kind),))
    made = {_edit("abcdefghij", settings, draws(attempt), "") for attempt in range(200)}
    assert {len(word) for word in made} == lengths
    assert "abcdefghij" not in made
    if kind == "insert":
        assert all(set("abcdefghij") <= set(word) for word in made)
    if kind == "delete":
        assert all(list(word) == sorted(word) for word in made)
    if kind == "swap":
        assert any(sorted(word) == list("abcdefghij") for word in made)
    if kind == "substitute":
        changed = [sum(map(str.__ne__, "abcdefghij", word)) for word in made]
        assert set(changed) == {2}


def test_all_kinds_of_edits_are_drawn():
    one = AugmentationConfig(strength=0.1)
    lengths = Counter(len(_edit("abcdefghij", one, draws(k), "")) for k in range(400))
    assert set(lengths) == {9, 10, 11}
    assert lengths[10] == pytest.approx(200, abs=50)


@pytest.mark.parametrize("word", ["a", "aa", "aaaa", "字", "字字"])
@pytest.mark.parametrize("kind", list(Edit))
def test_an_edit_always_changes_a_word_and_never_empties_it(word, kind):
    settings = AugmentationConfig(edits=(kind,))
    for attempt in range(30):
        edited = _edit(word, settings, draws(attempt), "字" if word > "z" else "")
        assert edited
        assert edited != word


def test_substitution_keeps_case_and_reaches_every_other_letter():
    settings = AugmentationConfig(strength=1, edits=(Edit.SUBSTITUTE,))
    made = {_edit("E", settings, draws(attempt), "") for attempt in range(500)}
    assert made == set("ABCDFGHIJKLMNOPQRSTUVWXYZ")


def test_the_keyboard_is_symmetric_and_complete():
    assert set(_KEYS) == set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    for key, near in _KEYS.items():
        assert key not in near
        assert len(set(near)) == len(near) >= 2
        assert all(key.lower() in _KEYS[other].lower() for other in near)
        if key.isupper():
            assert near == _KEYS[key.lower()].upper()


def test_a_mistyped_character_lies_beside_the_right_one():
    for attempt in range(50):
        typed = _mistype("Layer-42é", AugmentationConfig(), draws(attempt))
        pairs = [(a, b) for a, b in zip("Layer-42é", typed, strict=True) if a != b]
        assert len(pairs) == 2
        assert all(b in _KEYS[a] for a, b in pairs)
    assert _mistype("字é", DEFAULT, draws()) == "字é"


def test_draws_are_uniform():
    source = draws()
    counts = Counter(source.below(7) for _ in range(7000))
    # Binomial(7000, 1/7): mean 1000, standard deviation 29.3.
    assert set(counts) == set(range(7))
    assert all(abs(count - 1000) < 5 * 29.3 for count in counts.values())
    samples = Counter(tuple(source.sample(4, 2)) for _ in range(6000))
    assert set(samples) == set(itertools.combinations(range(4), 2))
    assert all(abs(count - 1000) < 5 * 28.9 for count in samples.values())


# The record


def test_the_mean_edit_distance_is_relative():
    made = [View("ab", 1, 0.5), View("abcd", 1, 0.25)]
    assert mean_edit_distance(made) == 0.375
    with pytest.raises(InputError, match="expected at least one view"):
        mean_edit_distance([])
    assert strength(SENTENCE, DEFAULT) == fmean(
        slow_levenshtein(SENTENCE, view.text) / len(SENTENCE)
        for view in views(SENTENCE, 8, settings=DEFAULT, seed=0)
    )
