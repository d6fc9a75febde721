"""Wrong arguments of public functions: one sentence, before a model is loaded or a file is written."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import keywords

import layerscope
from layerscope import api
from layerscope.api.common import Result
from layerscope.errors import InputError
from layerscope.models import loading
from layerscope.settings import (
    CutConfig,
    EngineConfig,
    EvaluateConfig,
    FewTextsConfig,
    HubConfig,
    ModelOptions,
    PruneConfig,
    RankConfig,
    ReadingConfig,
    ScanConfig,
)
from layerscope.studies import study as studies
from tiny import tiny_model, tiny_tokenizer, vision_model

VALUES = {
    "None": None,
    "5": 5,
    "x": "x",
    "2.5": 2.5,
    "[]": [],
    "{}": {},
    "np5": np.int64(5),
    "np2.5": np.float64(2.5),
    "-1": -1,
    "True": True,
    "object": object(),
    "[object]": [object()],
    "type": int,
}
# Which of the values a kind of parameter takes, or leaves to what is read from the disk or the hub.
TAKES = {
    "model": {"x"},
    "states": {"[]", "[object]"},
    "models": {"x"},
    "data": {"x"},
    "texts or none": {"x", "None"},
    "images": {"x", "None"},
    "path": {"x"},
    "path or none": {"x", "None"},
    "flag": {"True"},
    "tokenizer": {"None"},
    "text": {"x"},
    "text or none": {"x", "None"},
    "names": {"x", "[]"},
    "names or none": {"x", "[]", "None"},
    "known names": {"[]"},
    "one of": set(),
    "one of or none": {"None"},
    "count": {"5", "np5"},
    "count or none": {"5", "np5", "None"},
    "natural": {"5", "np5"},
    "config": {"None"},
    "progress": {"True"},
    "run": set(),
    "run or none": {"None"},
    "runs": set(),
    "study": {"x"},
    "folders": {"x"},
    "rules": {"[]"},
    "layer": {"5", "np5"},
    "budget": {"5", "np5"},
    "tables": {"x", "[]"},
    "table or none": {"x", "None", "[]", "{}", "[object]"},
    "model or none": {"x", "None"},
}
SAVING = {"out": "path or none", "overwrite": "flag", "config": "config"}
LOADING = {"tokenizer": "tokenizer", "show_progress": "progress"}
PARAMETERS = {
    "scan": {"model": "model", "data": "data", "images": "images", **SAVING, **LOADING},
    "scan_states": {"states": "states", **SAVING, "show_progress": "progress"},
    "evaluate": {
        "model": "model", "tasks": "known names", "task_data": "path or none", "tables": "tables",
        "images": "images", "bank": "path or none", "mteb_results": "path or none", **SAVING, **LOADING,
    },
    "cut": {
        "model": "model", "layer": "layer", "run": "run or none", "rule": "text or none",
        "readout": "text or none", "prefer": "one of",
        "data": "data", **SAVING, "out": "path", **LOADING,
    },
    "doctor": {
        "model": "model", "data": "data", **LOADING, "skip": "known names", "seed": "natural",
    },
    "prune": {
        "model": "model", "rule": "one of", "budget": "budget", "data": "data", "run": "run or none",
        "evaluate": "names", "task_data": "path or none", "images": "images",
        "tables": "tables", "perplexity": "texts or none", **SAVING, **LOADING,
    },
    "rank": {
        "models": "models", "data": "texts or none", "by": "one of", "scores": "tables", **SAVING,
        "images": "images",
        "show_progress": "progress",
    },
    "correlate": {
        "runs": "runs", "data": "text or none", "scores": "names or none",
        "measures": "names or none", "conventions": "names or none", "stage": "text",
        "resamples": "count", "seed": "natural",
    },
    "select": {
        "run": "run", "rule": "one of or none", "rules": "rules", "tasks": "names or none",
        "convention": "one of or none", "seed": "natural", "resamples": "count",
        "prefer": "one of", "table": "table or none", "model": "model or none", "data": "data",
        "images": "images",
        **LOADING,
    },
    "study": {"study": "study", **SAVING, "show_progress": "progress"},
    "merge": {"folders": "folders", "out": "path"},
    "load_study": {"folder": "path"},
    "concat": {"runs": "runs"},
    "load": {"folder": "path"},
    "get_metric": {"name": "one of"},
    "list_metrics": {},
    "run_of": {"given": "run"},
    "is_run": {"given": "path"},
    "default_folder": {"model": "text", "data": "text"},
}  # fmt: skip
SETTINGS = {
    "scan": (ScanConfig, ReadingConfig, ModelOptions),
    "scan_states": (ScanConfig,),
    "evaluate": (EvaluateConfig, ModelOptions),
    "cut": (CutConfig, ReadingConfig, ModelOptions, HubConfig),
    "prune": (PruneConfig, ReadingConfig, ModelOptions, HubConfig),
    "rank": (RankConfig, ReadingConfig, ModelOptions),
    "doctor": (FewTextsConfig, ModelOptions),
    "select": (ModelOptions,),
    "study": (EngineConfig,),
}
NEEDED = {
    "model": "org/none", "models": "org/none", "out": "out", "folder": "none", "run": "none",
    "study": {"models": "one", "data": "sample"}, "folders": "none", "runs": "none", "given": "none",
    "tasks": "STSBenchmark", "states": np.zeros((2, 3, 4)),
}  # fmt: skip
TEXTS = ["river stone", "light on water"]


def public(name: str) -> Any:
    return getattr(api, name, None) or getattr(studies, name)


def wrong(kind: str) -> list[str]:
    return [word for word in VALUES if word not in TAKES[kind]]


def others(function: str) -> dict[str, object]:
    """Return right values of what a call needs; none of them is ever used."""
    data = "model" if function == "default_folder" else TEXTS
    needed = {**NEEDED, "data": data}
    if function == "prune":  # `out` may stay away
        del needed["out"]
    if function == "correlate":  # `data` is the name of a data set there
        del needed["data"]
    return {name: needed[name] for name in needed if name in PARAMETERS[function]}


@pytest.fixture
def untouched(monkeypatch, tmp_path):
    """An empty folder that stays empty, and no model that is loaded."""

    def refuse(*_given, **_named):
        raise AssertionError("a model was loaded")

    for function in ("load", "backbone_of"):
        monkeypatch.setattr(loading, function, refuse)
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def assert_refused(call, *parts: str) -> None:
    with pytest.raises(InputError) as raised:
        call()
    said = str(raised.value)
    assert "\n" not in said
    assert said.endswith((".", "?"))
    for part in parts:
        assert part in said


CASES = [(function, name) for function, names in PARAMETERS.items() for name in names]


@pytest.mark.parametrize(("function", "name"), CASES)
def test_a_wrong_argument_is_refused_in_one_sentence(untouched, function, name):
    for word in wrong(PARAMETERS[function][name]):
        given = others(function) | {name: VALUES[word]}
        assert_refused(partial(public(function), **given))


@pytest.mark.parametrize("function", PARAMETERS)
def test_the_refusal_names_the_argument(untouched, function):
    for name in PARAMETERS[function]:
        given = others(function) | {name: int}
        came = "a type"
        assert_refused(partial(public(function), **given), f"expected {name} to be ", came)


@pytest.mark.parametrize("function", [*api.__all__, "study", "merge", "load_study"])
def test_every_parameter_is_in_the_campaign(function):
    if inspect.isclass(public(function)):
        return
    settings = [name for each in SETTINGS.get(function, ()) for name in each.model_fields]
    assert sorted(inspect.signature(public(function)).parameters) == sorted(
        [*PARAMETERS[function], *settings]
    )


def test_keyword_arguments_are_those_of_the_configs():
    assert keywords.PATH.read_text() == keywords.source()


@pytest.mark.parametrize("function", SETTINGS)
def test_every_setting_is_checked_at_the_door(untouched, function):
    for config, name in [(each, name) for each in SETTINGS[function] for name in each.model_fields]:
        refused = 0
        for value in VALUES.values():
            try:
                config(**{name: value})
            except InputError as error:
                given = others(function) | {name: value}
                assert_refused(partial(public(function), **given), str(error))
                refused += 1
        assert refused > 3, name
    unknown = others(function) | {"show_progres": False}
    assert_refused(partial(public(function), **unknown), "did you mean 'show_progress'")


def test_single_settings_change_a_config(untouched):
    config = ScanConfig(pooling="max", views=3)
    given = {"views": 4, "limit": 2, "dtype": "float64"}
    planned = layerscope.scan.plan("org/none", [*TEXTS, "stone"], config, **given)
    assert planned.config == ScanConfig(pooling="max", views=4)
    assert (len(planned.texts), planned.options.dtype) == (2, "float64")


# --- what results are asked for --------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda value: Result(None).save(value),
        lambda value: api.Scan(None).save_plot(value),
        lambda value: api.Scan(None).plot(value),
        lambda value: api.Scan(None).plot("lidar", value),
        lambda value: api.Correlations(None).matrix(value),
        lambda value: api.Correlations(None).plot(value),
        lambda value: api.Correlations(None).plot("matrix", value),
        lambda value: api.Correlations(None).save_plot(value),
        lambda value: api.Runs(()).save_plot(value),
    ],
)
def test_wrong_arguments_of_results(untouched, call):
    for word in wrong("path"):
        assert_refused(partial(call, VALUES[word]))


def test_a_run_is_replaced_only_by_a_plain_yes(untouched):
    assert_refused(
        lambda: Result(None).save("x", overwrite="no"), "expected overwrite to be True or"
    )


# --- tokenizers ------------------------------------------------------------------------------------

WITH_MODELS = ["scan", "evaluate", "cut", "doctor", "prune"]


@pytest.mark.parametrize("function", WITH_MODELS)
def test_a_loaded_model_of_texts_needs_its_tokenizer(untouched, function):
    given = others(function) | {"model": tiny_model("llama")}
    said = (
        "a LlamaModel reads texts, but there is no tokenizer; pass tokenizer= with a loaded model."
    )
    assert_refused(partial(public(function), **given), said)


@pytest.mark.parametrize("function", WITH_MODELS)
def test_a_tokenizer_beside_the_name_of_a_model_is_refused(untouched, function):
    given = others(function) | {"tokenizer": tiny_tokenizer()}
    said = "expected a tokenizer with a loaded model only; 'org/none' has its own"
    assert_refused(partial(public(function), **given), said)


def test_texts_for_a_model_of_images_are_refused():
    planned = layerscope.scan.plan(vision_model("vit"), TEXTS)
    said = "the model reads images and has no tokenizer, so texts cannot be measured"
    assert_refused(planned.run, said)
    assert_refused(planned.estimate, said)


def test_what_is_no_tokenizer_is_refused(untouched):
    given = {"model": tiny_model("llama"), "data": TEXTS}
    for wrong_one in (5, "bert-base-uncased", tiny_tokenizer().backend_tokenizer):
        said = "expected tokenizer to be a loaded transformers tokenizer or image processor"
        assert_refused(partial(layerscope.scan, **given, tokenizer=wrong_one), said)


# --- what is taken in more than one form -----------------------------------------------------------


def test_numpy_scalars_and_lists_of_layers_serve_and_the_run_is_saved(tmp_path):
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    texts = [f"river stone number {number}" for number in range(5)]
    given = {"tokenizer": tokenizer, "metrics": "rankme", "views": np.int64(0)}
    found = layerscope.scan(
        model, texts, **given, layers=np.int64(1), seed=np.int64(1), limit=np.int64(4),
        out=tmp_path / "run",
    )  # fmt: skip
    assert set(found.table()["layer"]) == {1}
    record = layerscope.load(tmp_path / "run").record
    assert (record["settings"]["layers"], record["settings"]["seed"]) == ([1], 1)
    assert len(layerscope.scan(model, texts, **given, layers="0,2-3").table()) == 3
    assert set(layerscope.scan(model, texts, **given, layers=-1).table()["layer"]) == {4}


# --- arrays ----------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(0).normal(size=(3, 8, 4))


def with_value(value: float) -> np.ndarray:
    changed = RANDOM.copy()
    changed[1, 2, 3] = value
    return changed


SAID = "expected arrays of finite numbers, got 1 NaN or infinite of 96; leave out the samples"


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        (RANDOM, {"conventions": "reference", "metrics": "dataset_entropy"},
         "arrays have no convention 'reference'"),
        (RANDOM, {"conventions": "reference"}, "arrays have no convention 'reference'"),
        (with_value(np.nan), {}, SAID),
        (with_value(np.inf), {}, SAID),
        (RANDOM.astype(int), {}, "expected floating-point vectors (layer, sample, dim)"),
        (torch.tensor(RANDOM).to_sparse(), {},
         "expected a dense tensor, got torch.sparse_coo; pass its to_dense()."),
        (RANDOM.astype(object), {}, "expected arrays of floating-point numbers, got object."),
        (RANDOM.astype(complex), {}, "expected arrays of floating-point numbers, got complex128."),
        (RANDOM > 0, {}, "expected arrays of floating-point numbers, got bool."),
        (np.ma.masked_greater(RANDOM, 1), {}, "expected arrays without masked entries"),
        (RANDOM[0], {}, "or (layer, sample, view, dim), got torch.float64 (8, 4)."),
        (RANDOM[None, None], {}, "got torch.float64 (1, 1, 3, 8, 4)."),
        (RANDOM[:, :0], {}, "expected at least 2 samples, got arrays of shape (3, 0, 4)."),
        (RANDOM[:, :1], {}, "expected at least 2 samples, got arrays of shape (3, 1, 4)."),
        (RANDOM[:0], {}, "expected at least 1 layer, got arrays of shape (0, 8, 4)."),
        (RANDOM[..., :0], {}, "expected at least 1 dimension, got arrays of shape (3, 8, 0)."),
        (RANDOM[:, :, None], {}, "expected at least 2 views, got arrays of shape (3, 8, 1, 4)."),
        (RANDOM[:1], {"metrics": ["two_nn", "rankme"]},
         "measures of several layers (two_nn) need at least 2, got arrays of 1 layer."),
        ([RANDOM[0], RANDOM[1, :5]], {},
         "expected arrays of one shape, got (8, 4) for layer 0 and (5, 4) for layer 1"),
        ([], {}, "expected an array (layer, sample, dim), or a list with the array of each layer"),
        ([[1.0, 2.0]], {}, "or a list with the array of each layer, got [[1.0, 2.0]]."),
        (RANDOM, {"metrics": "lidar"}, "arrays (layer, sample, dim) do not allow lidar."),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_measured(tmp_path, arrays, settings, message):
    assert_refused(
        lambda: layerscope.scan_states(arrays, out=tmp_path / "run", **settings), message
    )
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_layers_and_odd_bytes_are_the_same_array():
    exact = layerscope.scan_states(RANDOM, metrics="rankme").table()["value"].tolist()
    assert layerscope.scan_states(list(RANDOM), metrics="rankme").table()["value"].tolist() == exact
    for dtype in (">f8", np.longdouble):
        found = (
            layerscope.scan_states(RANDOM.astype(dtype), metrics="rankme").table()["value"].tolist()
        )
        assert found == exact
    assert len(layerscope.scan_states(RANDOM[:1], metrics="rankme").table()) == 1
