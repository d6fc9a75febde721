"""Spans: disjoint where they should be, the same for everybody, refused where a text is too short."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.data.misspellings import AugmentationConfig
from layerscope.data.views import (
    SpanConfig,
    SpanKind,
    ViewKind,
    of_spans,
    spans,
    view_kind,
    views_of,
)
from layerscope.errors import InputError

KINDS = list(SpanKind)
SENTENCE = "The hidden states of middle layers often serve better than those of the last one."


def numbered(words: int) -> str:
    return " ".join(map(str, range(words)))


def places(span: str) -> list[int]:
    return [int(word) for word in span.split()]


def test_spans_are_golden():
    """A change here changes every published measure on spans: raise the version and say so."""
    made = {kind: spans(SENTENCE, settings=SpanConfig(kind, 4), seed=0) for kind in KINDS}
    assert made == GOLDEN


GOLDEN = {
    "crops": ("often serve better than", "hidden states of middle"),
    "halves": (
        "The hidden states of middle layers often",
        "serve better than those of the last one.",
    ),
    "cloze": (
        "The hidden states of",
        "middle layers often serve better than those of the last one.",
    ),
}


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 9))
def test_crops_are_disjoint_runs_of_as_many_words_as_asked(size, more, seed):
    text = numbered(2 * size + more)
    one, other = map(places, spans(text, settings=SpanConfig(words=size), seed=seed))
    for crop in (one, other):
        assert crop == list(range(crop[0], crop[0] + size))
    assert not set(one) & set(other)


def test_every_two_places_are_equally_likely_and_either_may_come_first():
    """9 words hold 10 pairs of disjoint runs of 3, each in two orders."""
    seen = Counter(
        tuple(places(span)[0] for span in spans(numbered(9), settings=SpanConfig(words=3), seed=s))
        for s in range(4000)
    )
    assert len(seen) == 20
    assert min(seen.values()) > 150
    assert max(seen.values()) < 250


def test_halves_are_the_whole_text():
    assert spans(" a b  c d e ", settings=SpanConfig(SpanKind.HALVES), seed=0) == ("a b", "c d e")
    assert SpanConfig(SpanKind.HALVES, draws=3).count == 2


@given(st.integers(1, 8), st.integers(0, 20), st.integers(0, 9))
def test_a_cloze_is_a_run_and_all_the_rest(size, more, seed):
    text = numbered(2 * size + more)
    span, rest = map(places, spans(text, settings=SpanConfig("cloze", size), seed=seed))
    assert span == list(range(span[0], span[0] + size))
    assert sorted(span + rest) == list(range(2 * size + more))
    assert rest == sorted(rest)


def test_white_space_and_punctuation_inside_a_span_stay():
    text = "one,  two\n(three) four!"
    found = spans(text, settings=SpanConfig(words=2), seed=0)
    assert sorted(found) == ["(three) four!", "one,  two"]


def test_scripts_without_spaces_have_spans_too():
    text = "今天天气很好我们去公园散步吧大家都很高兴因为春天来了花都开了"
    one, other = spans(text, settings=SpanConfig(words=2), seed=0)
    assert (len(one), len(other)) == (10, 10)
    assert one in text
    assert other in text


@pytest.mark.parametrize("kind", [SpanKind.CROPS, SpanKind.CLOZE])
def test_a_draw_does_not_depend_on_how_many_there_are(kind):
    text = numbered(50)
    three = spans(text, settings=SpanConfig(kind, 5, draws=3), seed=1)
    assert len(three) == SpanConfig(kind, 5, draws=3).count == 6
    assert three[:2] == spans(text, settings=SpanConfig(kind, 5), seed=1)
    assert len(set(three)) == 6
    assert three != spans(text, settings=SpanConfig(kind, 5, draws=3), seed=2)


def test_spans_do_not_depend_on_the_process():
    code = (
        "from layerscope.data.views import SpanConfig as S, spans;"
        f"print(spans({SENTENCE!r}, settings=S(words=5), seed=7))"
    )
    expected = str(spans(SENTENCE, settings=SpanConfig(words=5), seed=7))
    environment = os.environ | {"PYTHONHASHSEED": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("settings", "shortest"),
    [(SpanConfig(words=5), 10), (SpanConfig("cloze", 5), 10), (SpanConfig("halves"), 2)],
)
def test_short_texts_are_refused(settings, shortest):
    assert settings.shortest == shortest
    assert spans(numbered(shortest), settings=settings, seed=0)
    with pytest.raises(InputError, match=f"expected a text of at least {shortest} words for .*"):
        spans(numbered(shortest - 1), settings=settings, seed=0)
    for text in ("", " \n"):
        with pytest.raises(InputError, match="0 came"):
            spans(text, settings=settings, seed=0)


def test_labels_tell_settings_apart_and_spans_from_copies():
    made = [
        SpanConfig(kind, words, draws)
        for kind in (SpanKind.CROPS, SpanKind.CLOZE)
        for words in (1, 20)
        for draws in (1, 3)
    ]
    labels = [settings.label for settings in made] + [SpanConfig("halves").label]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "crops of 1 word"
    assert all(map(of_spans, labels))
    assert not of_spans(AugmentationConfig().label)
    assert not of_spans("none")


def test_every_label_says_its_kind_and_nothing_else_does():
    made = {
        ViewKind.CHARACTERS: [
            AugmentationConfig(), AugmentationConfig.authors(),
            AugmentationConfig(1e-5, cap=3, shortest_word=2, edits=("swap", "delete")),
            AugmentationConfig(first_words=7, edits=("swap", "delete")),
        ],
        ViewKind.CROPS: [SpanConfig(), SpanConfig(words=1, draws=3)],
        ViewKind.HALVES: [SpanConfig("halves")],
        ViewKind.CLOZE: [SpanConfig("cloze", words=5, draws=3)],
    }  # fmt: skip
    for kind, settings in made.items():
        for each in settings:
            assert view_kind(each.label) is kind
            assert of_spans(each.label) is (kind is not ViewKind.CHARACTERS)
            if isinstance(each, SpanConfig):
                assert view_kind(f"{each.label}, built-in sample") is kind
    assert view_kind("characters, the authors'") is ViewKind.CHARACTERS  # a published table's
    for label in (
        "none",
        "given",
        "",
        "cropsy",
        "halves and wholes",
        "charactersets",
        "crops at will",
    ):
        assert view_kind(label) is ViewKind.OTHER
        assert not of_spans(label)


def test_settings_are_checked():
    for bad in ("words", "draws"):
        with pytest.raises(InputError, match=f"expected {bad} of at least 1, got 0."):
            SpanConfig(**{bad: 0})


def test_texts_too_short_for_copies_do_not_count_among_those_that_are_misspelled():
    given = ["", *(f"text number {number} is long enough" for number in range(9)), ""]
    found = views_of(given, AugmentationConfig(), 2, 0, lambda: None, 9)
    assert found.texts == list(range(1, 10))
    assert len(found.made) == 2 * len(found.distances) == 18
    few = views_of(given, AugmentationConfig(), 2, 0, lambda: None, 4)
    assert len(few.texts) == 4
    assert few.texts == sorted(few.texts)
    assert few.made[:2] == found.made[2 * (few.texts[0] - 1) :][:2]
    assert views_of(given, AugmentationConfig(), 2, 0, lambda: None).short == 2
