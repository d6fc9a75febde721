"""Settings are checked once, with one sentence for each mistake."""

from __future__ import annotations

import json

import pytest

from layerscope.errors import InputError
from layerscope.metrics.inputs import Convention
from layerscope.settings import (
    Augmentation,
    FirstToken,
    NonFinite,
    Pooling,
    ScanSettings,
    parse_conventions,
    parse_layers,
)


def test_plain_strings_become_members():
    settings = ScanSettings(pooling="max", first_token="drop", non_finite="drop")
    assert settings.pooling is Pooling.MAX
    assert settings.first_token is FirstToken.DROP
    assert settings.non_finite is NonFinite.DROP
    assert ScanSettings(conventions=("all",)).conventions == tuple(Convention)
    assert ScanSettings(conventions=("paper", "paper")).conventions == (Convention.PAPER,)


def test_kinds_of_views_are_named_once_and_in_order():
    assert ScanSettings().augmentation == ("default", "crops")
    found = ScanSettings(augmentation=("crops", "authors", "crops"))
    assert found.augmentation == (Augmentation.CROPS, Augmentation.AUTHORS)
    assert found.as_dict()["augmentation"] == ["crops", "authors"]


def test_blocks_are_read_whatever_stages_are_asked_for():
    assert ScanSettings(stages=("mlp", "attn")).stages == ("block", "mlp", "attn")
    assert ScanSettings(stages=("attn", "block")).stages == ("block", "attn")


def test_the_record_is_plain_json():
    found = ScanSettings(layers=(1, 2), alpha=float("inf")).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["conventions"] == ["paper", "normalized"]
    assert found["alpha"] == "inf"
    assert found["first_token"] == "auto"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "men"}, "unknown pooling 'men'; did you mean 'mean'"),
        ({"first_token": "dorp"}, "unknown first token 'dorp'; did you mean 'drop'"),
        ({"non_finite": "rise"}, "unknown non finite 'rise'; did you mean 'raise'"),
        ({"conventions": ("papr",)}, "unknown convention 'papr'; did you mean 'paper'"),
        ({"augmentation": ("crop",)}, "unknown augmentation 'crop'; did you mean 'crops'"),
        ({"augmentation": ()}, "at least one of augmentation"),
        ({"span_words": 0}, "expected span_words of at least 1"),
        ({"draws": 0}, "expected draws of at least 1"),
        ({"metrics": ("lidr",)}, "unknown measure 'lidr'; did you mean 'lidar'"),
        ({"metrics": ()}, "at least one of metrics"),
        ({"layers": ()}, "at least one of layers"),
        ({"stages": ()}, "at least one of stages"),
        ({"conventions": ()}, "at least one of conventions"),
        ({"metrics": ("effective_rank",), "conventions": ("reference",)}, "nothing is left to"),
        ({"special_tokens": "exclude"}, "expected special_tokens True or False, got 'exclude'"),
        ({"views": 1}, "expected 0 views, or at least 2"),
        ({"views": -1}, "expected views of at least 0"),
        ({"seed": -1}, "expected seed of at least 0"),
        ({"resamples": 0}, "expected resamples of at least 1"),
        ({"alpha": -0.5}, "alpha of at least 0, got -0.5"),
        ({"alpha": float("nan")}, "alpha of at least 0, got nan"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ScanSettings(**options)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("3", (3,)), ("0,4-6", (0, 4, 5, 6)), (" 1 , 1-2", (1, 2)), ("2-2", (2,))],
)
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "-1", "3-1", "1,,2", "1.5", "1-2-3"])
def test_other_lists_are_not(text):
    with pytest.raises(InputError, match="expected layers like 0,4-6"):
        parse_layers(text)


def test_all_conventions():
    assert parse_conventions(["paper", "all"]) == tuple(Convention)
