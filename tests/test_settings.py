"""Settings are checked once, with one sentence for each mistake."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from layerscope.analysis.plan import check_measures
from layerscope.config import Augmentation, FirstToken, NonFinite, Pooling, parse_layers
from layerscope.data.misspellings import AugmentationConfig
from layerscope.data.views import SpanConfig
from layerscope.errors import InputError
from layerscope.evaluation.probes import ProbeConfig
from layerscope.settings import (
    Convention,
    CutConfig,
    EvaluateConfig,
    ModelOptions,
    ScanConfig,
    parse_conventions,
)
from layerscope.states.encode import TokenPolicy


def test_plain_strings_become_members():
    settings = ScanConfig(pooling="max", first_token="drop", non_finite="drop")
    assert settings.pooling is Pooling.MAX
    assert settings.first_token is FirstToken.DROP
    assert settings.non_finite is NonFinite.DROP
    assert ScanConfig(conventions=("all",)).conventions == tuple(Convention)
    assert ScanConfig(conventions=("paper", "paper")).conventions == (Convention.PAPER,)


def test_kinds_of_views_are_named_once_and_in_order():
    assert ScanConfig().augmentation == ("default", "crops")
    found = ScanConfig(augmentation=("crops", "authors", "crops"))
    assert found.augmentation == (Augmentation.CROPS, Augmentation.AUTHORS)
    assert found.as_dict()["augmentation"] == ["crops", "authors"]


def test_blocks_are_read_whatever_stages_are_asked_for():
    assert ScanConfig(stages=("mlp", "attn")).stages == ("block", "mlp", "attn")
    assert ScanConfig(stages=("attn", "block")).stages == ("block", "attn")


def test_the_record_is_plain_json():
    found = ScanConfig(layers=(1, 2), alpha=float("inf")).as_dict()
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
        ({"metrics": ()}, "at least one of metrics"),
        ({"layers": ()}, "at least one of layers"),
        ({"stages": ()}, "at least one of stages"),
        ({"conventions": ()}, "at least one of conventions"),
        (
            {"special_tokens": "exclude"},
            "expected special_tokens to be True or False or None, got 'exclude'",
        ),
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
        ScanConfig(**options)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("3", (3,)), ("0,4-6", (0, 4, 5, 6)), (" 1 , 1-2", (1, 2)), ("2-2", (2,))],
)
def test_layers_are_read(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "--1", "-3-1", "3-1", "1,,2", "1.5", "1-2-3"])
def test_other_lists_are_not(text):
    with pytest.raises(InputError, match="expected layers like 0,4-6"):
        parse_layers(text)


def test_all_conventions():
    assert parse_conventions(["paper", "all"]) == tuple(Convention)


# --- what users give instead of plain values -------------------------------------------------------

ONE = np.int64(1)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"views": np.int32(4)}, 4),
        ({"views": 4.0}, 4),
        ({"views": np.float64(4)}, 4),
        ({"seed": np.uint8(7)}, 7),
        ({"seed": np.array(7)}, 7),
        ({"seed": torch.tensor(7)}, 7),
        ({"alpha": 2}, 2.0),
        ({"alpha": np.float32(0.5)}, 0.5),
        ({"alpha": float("inf")}, float("inf")),
        ({"special_tokens": np.True_}, True),
        ({"pooling": np.str_("last")}, Pooling.LAST),
        ({"layers": 3}, (3,)),
        ({"layers": ONE}, (1,)),
        ({"layers": [ONE, 2]}, (1, 2)),
        ({"layers": np.arange(3)}, (0, 1, 2)),
        ({"layers": torch.arange(3)}, (0, 1, 2)),
        ({"layers": range(2)}, (0, 1)),
        ({"layers": iter([0, 2])}, (0, 2)),
        ({"layers": "0,4-6"}, (0, 4, 5, 6)),
        ({"metrics": "lidar"}, ("lidar",)),
        ({"metrics": np.array(["lidar", "dime"])}, ("lidar", "dime")),
        ({"conventions": "all"}, tuple(Convention)),
        ({"augmentation": "halves"}, (Augmentation.HALVES,)),
    ],
)
def test_every_form_of_a_value_is_stored_plainly(given, stored):
    settings = ScanConfig(**given)
    (name,) = given
    found = getattr(settings, name)
    assert found == stored
    assert type(found) is type(stored)
    if isinstance(found, tuple):
        assert [type(each) for each in found] == [type(each) for each in stored]
    json.dumps(settings.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": 2.5}, "expected views to be a whole number of at least 0, got 2.5."),
        ({"views": np.float64(2.5)}, "expected views to be a whole number of at least 0, got 2.5."),
        ({"views": "x"}, "expected views to be a whole number of at least 0, got 'x'."),
        ({"views": "2"}, "expected views to be a whole number of at least 0, got '2'."),
        ({"views": True}, "expected views to be a whole number of at least 0, got True."),
        ({"views": None}, "expected views to be a whole number of at least 0, got None."),
        ({"views": [2]}, "expected views to be a whole number of at least 0, got [2]."),
        ({"views": float("nan")}, "expected views to be a whole number of at least 0, got nan."),
        ({"alpha": "1"}, "expected alpha to be a number of at least 0, got '1'."),
        ({"alpha": True}, "expected alpha to be a number of at least 0, got True."),
        ({"alpha": np.float32("nan")}, "expected alpha of at least 0, got nan."),
        ({"special_tokens": 1}, "expected special_tokens to be True or False or None, got 1."),
        (
            {"pooling": 5},
            "expected pooling to be one of mean, last, first, weighted_mean, max or None, got 5.",
        ),
        (
            {"layers": 2.5},
            "expected layers to be numbers like 3, [0, 4] or '0,4-6' or None, got 2.5.",
        ),
        (
            {"layers": {}},
            "expected layers to be numbers like 3, [0, 4] or '0,4-6' or None, got {}.",
        ),
        ({"layers": [True]}, "numbers like 3, [0, 4] or '0,4-6' or None, got True."),
        ({"layers": "x"}, "expected layers like 0,4-6, got 'x' in 'x'."),
        ({"metrics": 5}, "expected metrics to be a string or several or None, got 5."),
        ({"conventions": [None]}, "expected conventions to be a string or several, got None."),
        ({"view": 2}, "unknown setting 'view'; did you mean 'views'"),
    ],
)
def test_a_wrong_type_is_one_sentence_that_names_the_setting(given, message):
    with pytest.raises(InputError) as raised:
        ScanConfig(**given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ("lidr",)}, "unknown measure 'lidr'; did you mean 'lidar'"),
        ({"metrics": ("effective_rank",), "conventions": ("reference",)}, "nothing is left to"),
    ],
)
def test_measures_that_cannot_be_made_are_refused_before_a_pass(given, message):
    with pytest.raises(InputError, match=message):
        check_measures(ScanConfig(**given))


def test_settings_are_values():
    settings = ScanConfig(metrics=("lidar",), views=np.int64(4))
    assert settings.metrics == ("lidar",)
    assert settings == ScanConfig(metrics=["lidar"], views=4)
    assert hash(settings) == hash(ScanConfig(metrics="lidar", views=4))
    assert settings.changed(views=0) == ScanConfig(metrics="lidar", views=0)
    with pytest.raises(InputError, match="expected views to be a whole number"):
        settings.changed(views=2.5)
    with pytest.raises(InputError, match="expected max_length once, got it twice"):
        ScanConfig(512, max_length=512)
    with pytest.raises(InputError, match="expected at most 3 settings, got 4"):
        TokenPolicy(False, "keep", 9, 1)
    with pytest.raises(ValueError, match="frozen"):
        settings.views = 3


ALL_SETTINGS = [
    ScanConfig, EvaluateConfig, CutConfig, ProbeConfig, TokenPolicy, ModelOptions,
    AugmentationConfig, SpanConfig,
]  # fmt: skip


@pytest.mark.parametrize("kind", ALL_SETTINGS)
def test_every_setting_is_explained_and_refuses_what_is_of_no_type(kind):
    assert json.loads(json.dumps(kind().as_dict())) == kind().as_dict()
    for name, field in kind.model_fields.items():
        assert field.description, name
        with pytest.raises(InputError, match=rf"^expected {name} to be .+, got a type\.$"):
            kind(**{name: int})


def test_how_a_model_is_loaded_is_checked_before_it_is():
    options = ModelOptions(dtype=torch.bfloat16, device=torch.device("cpu"))
    assert (options.dtype, options.device) == ("bfloat16", "cpu")
    with pytest.raises(InputError, match="expected device to be a device like auto, .*, got 'x'"):
        ModelOptions(device="x")
    with pytest.raises(InputError, match="unknown dtype 'int8'"):
        ModelOptions(dtype=torch.int8)
