"""The public functions, as someone meets them in Python."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import transformers as hf

import layerscope
from layerscope.data.texts import as_texts
from layerscope.errors import InputError
from tiny import CONFIGS, GQA, condition, texts, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def scan() -> layerscope.Scan:
    return layerscope.scan(tiny_model("llama"), texts(12), tokenizer=tiny_tokenizer())


def test_public_names_are_what_is_said():
    assert set(dir(layerscope)) == set(layerscope.__all__)
    assert not any(name in layerscope.__all__ for name in ("metrics", "api"))
    assert all(hasattr(layerscope, name) for name in layerscope.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'scna'"):
        _ = layerscope.scna


def test_a_scan_offers_table_choice_plot_and_page(scan, tmp_path):
    assert len(scan.table()) > 100
    assert scan.folder is None
    assert scan.select().layer in range(5)
    assert {metric for metric, _, _ in scan.preferred()} >= {"curvature", "lidar", "rankme"}
    assert scan.plot("curvature").data
    assert "<html" in scan.page()
    pytest.importorskip("matplotlib")
    scan.save_plot(tmp_path / "plot.svg", "curvature", "lidar")
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_what_a_scan_hands_out_is_a_copy(scan):
    for frame in (scan.table(), scan.contributions()):
        frame["value"] = 0
    assert (scan.table()["value"] != 0).any()
    assert (scan.contributions()["value"] != 0).any()


def test_saving_and_loading(scan, tmp_path):
    saved = scan.save(tmp_path / "run")
    assert saved.folder == tmp_path / "run"
    again = layerscope.load(tmp_path / "run")
    pd.testing.assert_frame_equal(again.table(), scan.table(), check_exact=True)
    assert again.select() == scan.select()
    assert again.preferred() == scan.preferred()
    with pytest.raises(InputError, match="already holds a finished run"):
        scan.save(tmp_path / "run")
    scan.save(tmp_path / "run", overwrite=True)


def test_out_is_the_same_as_saving(scan, tmp_path):
    out = layerscope.scan(
        tiny_model("llama"), texts(12), tokenizer=tiny_tokenizer(), out=tmp_path / "run"
    )
    pd.testing.assert_frame_equal(out.table(), scan.table(), check_exact=True)
    pd.testing.assert_frame_equal(layerscope.load(tmp_path / "run").table(), scan.table())


def test_lists_single_names_and_single_layers_are_taken():
    model = {"tokenizer": tiny_tokenizer(), "views": 0}
    given = {"metrics": "rankme", "layers": 2, "stages": "block", "conventions": "paper"}
    given["augmentation"] = "authors"
    one = layerscope.scan(tiny_model("bert"), texts(5), **model, **given)
    lists = {name: [value] for name, value in given.items()}
    two = layerscope.scan(tiny_model("bert"), texts(5), **model, **lists)
    pd.testing.assert_frame_equal(one.table(), two.table())
    three = layerscope.scan(tiny_model("bert"), texts(5), **model, layers=np.arange(2))
    assert set(three.table()["layer"]) == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((None,), {}, "expected texts to measure the model on; give a file"),
        (("nothing.txt",), {}, "there is no file"),
        (([],), {}, "it is empty"),
        ((["one", 2],), {}, "text 1 is int"),
        (
            (["river stone", "light"],),
            {"layer": 3},
            "unknown setting 'layer'; did you mean 'layers'",
        ),
        ((["river stone", "light"],), {"layers": [7]}, "expected layers from 0 .* to 4"),
    ],
)
def test_mistakes_in_python_are_the_same_sentences(arguments, options, message):
    with pytest.raises(InputError, match=message):
        layerscope.scan(tiny_model("bert"), *arguments, tokenizer=tiny_tokenizer(), **options)


def test_every_public_function_reads_a_frame_as_it_reads_a_file(tiny_folder, tmp_path):
    """By its column, never by the names of its columns; and a bad column before the model."""
    bert, llama = tiny_folder("bert"), tiny_folder("llama")
    writer = transformers.AutoModelForCausalLM.from_config(tiny_model("llama").config)
    frame = pd.DataFrame({"number": range(12), "body": texts(12), "title": texts(12, seed=1)})
    frame.to_csv(tmp_path / "texts.csv", index=False)
    print_of = as_texts(texts(12)).fingerprint
    quick = {"column": "body", "views": 0, "metrics": ["rankme"]}
    found = [layerscope.scan(bert, data, **quick) for data in (frame, tmp_path / "texts.csv")]
    pd.testing.assert_frame_equal(
        found[0].table().drop(columns="data"), found[1].table().drop(columns="data")
    )
    assert found[0].record["data"]["fingerprint"] == print_of
    assert layerscope.scan.plan(bert, frame, **quick).estimate().texts == 12
    pruned = layerscope.prune(
        writer, "block-influence", 1, data=frame, column="body", draws=1, tokenizer=tiny_tokenizer(),
        perplexity={"text": texts(3, 5), "number": [1, 2, 3]},
    )  # fmt: skip
    assert pruned.record["data"]["fingerprint"] == print_of
    ranked = layerscope.rank([bert, llama], frame, column="body", by="rankme", out=tmp_path / "r")
    assert len(ranked.models) == 2
    runs = [layerscope.load(path.parent) for path in (tmp_path / "r").rglob("run.json")]
    assert {run.record["data"]["fingerprint"] for run in runs} == {print_of}
    healthy = layerscope.doctor(bert, frame, column="title", skip=["reload"])
    assert healthy.data["texts"] == 12
    cut = layerscope.cut(
        bert, 1, out=tmp_path / "cut", data=frame, column="body", format="transformers"
    )
    assert cut.layer == 1


def test_the_given_model_is_left_as_it_was():
    model = copy.deepcopy(tiny_model("bert")).train()
    # transformers leaves hooks of its own behind once it was asked for hidden states
    hooks = [len(module._forward_hooks) for module in model.modules()]
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    layerscope.scan(model, texts(4), tokenizer=tiny_tokenizer(), views=0)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


ARRAYS = np.random.default_rng(0).normal(size=(4, 30, 8))


@pytest.mark.parametrize("kind", ["numpy", "float32", "read-only", "torch", "half", "gradient"])
def test_arrays_of_every_kind(kind, tmp_path):
    frozen = ARRAYS.copy()
    frozen.flags.writeable = False
    given = {
        "numpy": ARRAYS,
        "float32": ARRAYS.astype("float32"),
        "read-only": frozen,
        "torch": torch.as_tensor(ARRAYS),
        "half": torch.as_tensor(ARRAYS).half(),
        "gradient": torch.as_tensor(ARRAYS).requires_grad_(),
    }[kind]
    found = layerscope.scan_states(given, out=tmp_path / "run")
    exact = layerscope.scan_states(ARRAYS)
    loose = 1e-2 if kind == "half" else 1e-5
    assert np.allclose(
        found.table()["value"].astype(float), exact.table()["value"].astype(float), rtol=loose
    )
    assert layerscope.load(tmp_path / "run").record["model"]["name"] == "arrays"
    assert found.select().layer is None or found.select().layer in range(4)


def test_arrays_and_texts_together_are_refused():
    with pytest.raises(InputError, match="expected config to be a ScanConfig or None"):
        layerscope.scan_states(ARRAYS, ["river"])
    with pytest.raises(InputError, match="expected model to be a hub id"):
        layerscope.scan(ARRAYS, ["river"])
    with pytest.raises(InputError, match="expected floating-point vectors"):
        layerscope.scan_states(ARRAYS.astype(int))
    with pytest.raises(InputError, match="expected arrays of floating-point numbers, got object"):
        layerscope.scan_states(np.array([["a"], [None]], dtype=object))


def test_an_estimate_writes_nothing_and_counts_everything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"tokenizer": tiny_tokenizer(), "views": 3}
    found = layerscope.scan.plan(
        tiny_model("bert"), texts(9), **given, augmentation="default"
    ).estimate()
    assert (found.texts, found.forward_passes, found.sites) == (9, 36, 5)
    assert found.pass_seconds > 0
    assert found.disk_bytes == 36 * 5 * 32 * 4
    more = layerscope.scan.plan(
        tiny_model("bert"), texts(9), **given
    ).estimate()  # and 217 pairs of crops
    assert (more.texts, more.forward_passes) == (9, 36 + 2 * 217)
    assert more.tokens > found.tokens + 2 * 217 * 20
    assert list(tmp_path.iterdir()) == []


def test_progress_tells_of_every_stage():
    told: list[tuple[str, int, int]] = []

    def show(*what):
        told.append(what)

    layerscope.scan(tiny_model("bert"), texts(9), tokenizer=tiny_tokenizer(), show_progress=show)
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == [
        "loading the model",
        "making views",
        "reading layers",
        "measuring layers",
        "comparing layers",
        "comparing readouts",
    ]
    for stage in stages:
        done = [(d, total) for name, d, total in told if name == stage]
        assert done[-1][0] == done[-1][1], stage
        assert [d for d, _ in done] == sorted(d for d, _ in done)


def test_measures_are_listed_and_looked_up():
    assert layerscope.get_metric("lidar") in layerscope.list_metrics()
    with pytest.raises(InputError, match="unknown measure 'lidr'; did you mean 'lidar'"):
        layerscope.get_metric("lidr")


def test_the_rooms_of_the_package_are_reached_after_a_plain_import():
    """In a new process: `layerscope.metrics` is the folder of the measures."""
    code = (
        "import layerscope as l; print(l.metrics.__name__, l.errors.InputError.__name__);"
        "import layerscope.metrics.spectrum; print(l.metrics.spectrum.renyi_entropy.__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["layerscope.metrics", "InputError", "renyi_entropy"]


@pytest.mark.parametrize("name", ["llama", "stablelm"])
@pytest.mark.parametrize("call", [layerscope.scan, layerscope.doctor])
def test_a_live_model_is_given_back_as_it_was(call, name):
    """As a training run needs it: modes, hooks, config, frozen weights, random states."""
    torch.manual_seed(0)
    config = CONFIGS[name]() if name in CONFIGS else hf.StableLmConfig(**GQA)
    model = hf.AutoModel.from_config(config).train()
    model.layers[1].eval()
    model.layers[2].requires_grad_(False)
    before = condition(model)
    call(model, texts(6), tokenizer=tiny_tokenizer())
    assert condition(model) == before
