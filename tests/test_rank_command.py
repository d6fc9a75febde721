"""`layerscope rank` on tiny random models of several widths: end to end, killed, refused."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers as hf
from filelock import FileLock
from safetensors.torch import load_file, save_file

import layerscope
from commands import run
from layerscope import api
from layerscope.api import ranking as ranking_module
from layerscope.api.scanning import ScanPlan
from layerscope.cli import rank as rank_command
from layerscope.cli.app import INTERRUPTED
from layerscope.decisions import rank as rank_module
from layerscope.errors import InputError
from layerscope.models import loading
from layerscope.render import progress
from layerscope.results.table import RECORD_FILE, load_run, save_run
from served import served
from tiny import COMMON, CONFIGS, save_tiny, texts, with_column_changed

TEXTS = 80  # a half has more texts than subspaces have dimensions
MODELS = {
    "narrow": lambda: CONFIGS["bert"](),
    "wide": lambda: hf.BertConfig(**COMMON | {"hidden_size": 48, "num_hidden_layers": 3}),
    "decoder": lambda: CONFIGS["llama"](),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with three tiny models, texts, and their finished ranking in `done`."""
    folder = tmp_path_factory.mktemp("rank")
    for name, config in MODELS.items():
        torch.manual_seed(1)
        save_tiny(hf.AutoModel.from_config(config()).eval(), folder / name)
    (folder / "texts.txt").write_text("\n".join(texts(TEXTS)), encoding="utf-8")
    models = [folder / name for name in MODELS]
    api.rank(models, folder / "texts.txt", out=folder / "done", also="all")
    return folder


@pytest.fixture
def command(monkeypatch, capsys, place, tmp_path):
    """The command in a folder of its own, with the models and texts beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in (*MODELS, "texts.txt", "done"):
        (tmp_path / name).symlink_to(place / name)
    return partial(run, monkeypatch, capsys, "rank")


@pytest.fixture
def passes(monkeypatch):
    """The models that were scanned."""
    seen = []

    def run(plan):
        seen.append(plan.model.info.name)
        return real(plan)

    real = ScanPlan.run
    monkeypatch.setattr(ScanPlan, "run", run)
    return seen


@pytest.fixture
def loads(monkeypatch):
    """The names of the models whose weights were read, "let go" after each that is gone by then."""
    seen, alive = [], []

    def load(name, *arguments, **options):
        assert not any(held() for held in alive), "two models are held at once"
        found = real(name, *arguments, **options)
        seen.append(found.info.name)
        alive.append(weakref.ref(found.model))
        return found

    real = loading.load
    monkeypatch.setattr(loading, "load", load)
    return seen


def facts(command, *options):
    finished = command(*options, "--json")
    assert finished.code == 0, finished.err
    return json.loads(finished.out)


# --- end to end -----------------------------------------------------------------------------------


def test_models_of_different_widths_are_ranked(command, passes):
    finished = command(*MODELS, "--data", "texts.txt", "--out", "new", "--also", "all")
    assert finished.code == 0, finished.err
    assert passes == list(MODELS)
    assert max(map(len, finished.out.splitlines())) <= 80
    words = " ".join(finished.out.split())
    assert "first of 3 by RankMe (most is better)" in words
    assert all(f" {name} " in words for name in MODELS)
    found = json.loads(Path("new/ranking.json").read_text())
    assert {m["name"]: (m["width"], m["depth"]) for m in found["models"]} == {
        "narrow": (32, 4), "wide": (48, 3), "decoder": (32, 4)
    }  # fmt: skip
    for places in found["orders"].values():
        assert [place["rank"] for place in places] == sorted(place["rank"] for place in places)
    measured = [place for name in ("d_0L", "mean_nrs", "mean_gfmi", "rankme", "dataset_entropy",
                                   "prompt_entropy") for place in found["orders"][name]]  # fmt: skip
    assert [p for p in measured if not 0 <= p["low"] < p["value"] < p["high"] <= 1] == []
    frame = pd.read_csv("new/ranking.csv")
    assert len(frame) == 3 * len(found["orders"])


def test_only_what_is_asked_for_is_measured(command):
    given = ("narrow", "wide", "--data", "texts.txt")
    found = facts(command, *given, "--out", "one")
    assert list(found["orders"]) == ["rankme", "width", "depth", "parameters"]
    assert set(load_run(Path("one/wide")).table["metric"]) == {"rankme"}
    found = facts(command, *given, "--out", "two", "--by", "mean_nrs", "--also", "d_0L")
    assert list(found["orders"])[:2] == ["d_0L", "mean_nrs"]
    refused = command(*given, "--out", "one", "--overwrite", "--also", "d_1L")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "unknown predictor 'd_1L'; did you mean" in refused.err


def test_a_kept_scan_that_lacks_a_measure_is_made_again(command, passes):
    given = ("narrow", "wide", "--data", "texts.txt", "--out", "new")
    assert command(*given).code == 0
    Path("new/ranking.json").unlink()
    refused = command(*given, "--by", "d_0L")
    assert refused.code == 2
    assert "the scan in 'new/narrow' lacks measures that this ranking needs" in refused.err
    assert facts(command, *given, "--by", "d_0L", "--overwrite")["by"] == "d_0L"
    assert passes == ["narrow", "wide"] * 2


def test_values_are_those_of_a_scan(place):
    found = load_run(place / "done" / "wide").table.set_index("metric")["value"]
    again = layerscope.scan(place / "wide", place / "texts.txt", views=0).table()
    ends = again[(again["layer"] == 3) & (again["stage"] == "block")].set_index("metric")["value"]
    for metric in ("frenet_displacement_sample_k32", "mean_nrs_k10", "mean_gfmi_edge", "rankme"):
        own = found[metric] if metric != "rankme" else found[metric].iloc[-1]
        assert own == pytest.approx(ends[metric], rel=1e-6)


def test_finished_scans_are_ranked_without_texts_or_passes(command, passes):
    scans = [f"done/{name}" for name in MODELS]
    assert (
        facts(command, *scans)["first"]
        == json.loads(Path("done/ranking.json").read_text())["first"]
    )
    assert passes == []
    assert not Path("runs").exists()


def test_a_scan_and_a_model_mix(command, passes):
    found = facts(command, "done/narrow", "wide", "--data", "texts.txt", "--out", "mixed")
    assert passes == ["wide"]
    assert {model["name"] for model in found["models"]} == {"narrow", "wide"}


def test_runs_from_python_come_as_they_are(place):
    scans = [layerscope.load(place / "done" / name) for name in MODELS]
    found = layerscope.rank(scans)
    assert found.first == layerscope.rank([scan.run for scan in scans]).first
    assert list(found.table()["predictor"].unique())[:2] == ["rankme", "d_0L"]


@pytest.mark.parametrize("model", ["done/wide", "wide", "nowhere"])
def test_one_model_is_refused_before_any_work(command, passes, loads, model):
    finished = command(model, "--data", "nowhere.txt")
    assert (finished.code, passes, loads) == (2, [], [])
    assert finished.err == (
        f"layerscope: expected at least 2 models to rank, got only {model!r}; give more, or measure one "
        "with layerscope scan.\n"
    )


def test_known_scores_stand_beside(command):
    rows = [
        {"model": name, "score": score} for name, score in zip(MODELS, (0.2, 0.7, 0.5), strict=True)
    ]
    pd.DataFrame(rows).to_csv("scores.csv", index=False)
    scans = [f"done/{name}" for name in MODELS]
    finished = command(*scans, "--scores", "scores.csv", "--by", "width", "--verbose")
    words = " ".join(finished.out.split())
    assert "wide comes first of 3 by width" in words
    assert "no correlation with scores: 3 scored models, at least 5 are needed" in words
    found = facts(command, *scans, "--scores", "scores.csv")
    regrets = {each["predictor"]: each["regret"] for each in found["agreements"]}
    assert regrets["width"] == 0
    assert regrets["random"] == pytest.approx(0.7 - 1.4 / 3)


# --- killed, and again ----------------------------------------------------------------------------


def test_a_killed_ranking_goes_on(command, monkeypatch, passes):
    scan = ScanPlan.run

    def killed(plan):
        if len(passes) == 1:
            raise KeyboardInterrupt
        return scan(plan)

    with monkeypatch.context() as patch:
        patch.setattr(ScanPlan, "run", killed)
        stopped = command(*MODELS, "--data", "texts.txt", "--out", "new")
    assert stopped.code == INTERRUPTED
    assert "what was finished is kept in new" in stopped.err
    assert not Path("new/ranking.json").exists()
    finished = facts(command, *MODELS, "--data", "texts.txt", "--out", "new")
    assert passes == list(MODELS)  # the first was not scanned again
    whole = json.loads(Path("done/ranking.json").read_text())
    assert finished["orders"] == {name: whole["orders"][name] for name in finished["orders"]}


def test_a_ranking_that_another_process_makes_is_left_alone(command, passes):
    again = ("wide", "narrow", "--data", "texts.txt", "--out", "new")
    Path("new").mkdir()
    with FileLock("new/.layerscope.lock"):
        refused = command(*again)
    assert (refused.code, passes) == (2, [])
    assert "another process is at work in 'new'; wait until it ends" in refused.err
    assert command(*again).code == 0
    assert not list(Path("new").rglob(".*"))


def test_a_finished_ranking_is_replaced_only_if_asked(command, passes, place):
    shutil.copytree(place / "done", "own")
    refused = command(*MODELS, "--data", "texts.txt", "--out", "own")
    assert refused.code == 2
    assert "already holds a ranking; pass --overwrite" in refused.err
    found = facts(command, *MODELS, "--data", "texts.txt", "--out", "own", "--overwrite")
    assert passes == []  # its scans fit
    assert found["first"] == json.loads(Path("done/ranking.json").read_text())["first"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--limit", "70"), "is of other texts"),
        (("--pooling", "last"), "was made with pooling mean instead of last"),
    ],
)
def test_a_scan_that_does_not_fit_is_not_used(command, passes, place, options, reason):
    shutil.copytree(place / "done" / "wide", "new/wide")
    again = ("wide", "narrow", "--data", "texts.txt", "--out", "new", *options)
    refused = command(*again)
    assert (refused.code, passes) == (2, [])
    assert reason in refused.err
    assert command(*again, "--overwrite").code == 0
    assert passes == ["wide", "narrow"]


def test_a_model_that_changed_is_scanned_again(command, place):
    shutil.copytree(place / "wide", "mine")
    shutil.copytree(place / "done" / "wide", "new/mine")
    record = Path("new/mine") / RECORD_FILE
    weights = next(Path("mine").glob("*.safetensors"))
    newer = record.stat().st_mtime + 10
    weights.touch()

    os.utime(weights, (newer, newer))
    refused = command("mine", "narrow", "--data", "texts.txt", "--out", "new")
    assert refused.code == 2
    assert "is older than the model at 'mine'" in refused.err


def other_weights(folder, seed=7, name="wide"):
    torch.manual_seed(seed)
    save_tiny(hf.AutoModel.from_config(MODELS[name]()).eval(), folder)


def older(folder):
    """As if it had lain there for long."""
    for file in folder.iterdir():
        os.utime(file, (1, 1))


def test_a_scan_of_another_model_of_that_name_is_not_used(command, passes, place):
    shutil.copytree(place / "done" / "wide", "new/wide")
    other_weights(Path("b/wide"))
    older(Path("b/wide"))
    again = ("./b/wide", "narrow", "--data", "texts.txt", "--out", "new")
    refused = command(*again)
    assert (refused.code, passes) == (2, [])
    assert "the scan in 'new/wide' was made with weights fingerprint" in refused.err
    assert refused.err.count("\n") == 1
    assert command(*again, "--overwrite").code == 0
    assert passes == ["wide", "narrow"]
    loading = [
        load_run(folder).record["model"] for folder in (place / "done/wide", Path("new/wide"))
    ]
    assert loading[0]["weights_fingerprint"] != loading[1]["weights_fingerprint"]
    assert command(*again, "--overwrite").code == 0
    assert passes == ["wide", "narrow"]  # both fit now


def test_a_scan_of_a_model_of_which_one_column_changed_is_not_used(command, passes, place):
    shutil.copytree(place / "done" / "narrow", "new/narrow")
    model = hf.AutoModel.from_pretrained(place / "narrow")
    older(save_tiny(with_column_changed(model), Path("b/narrow")))
    again = ("./b/narrow", "wide", "--data", "texts.txt", "--out", "new")
    refused = command(*again)
    assert (refused.code, passes) == (2, [])
    assert "the scan in 'new/narrow' was made with weights fingerprint" in refused.err
    assert command(*again, "--overwrite").code == 0
    assert passes == ["narrow", "wide"]


def test_a_scan_with_entropies_of_another_order_is_not_used(command, passes, place):
    shutil.copytree(place / "done" / "narrow", "new/narrow")
    record = json.loads(Path("new/narrow/run.json").read_text())
    record["settings"]["alpha"] = 2.0
    Path("new/narrow/run.json").write_text(json.dumps(record))
    refused = command("narrow", "wide", "--data", "texts.txt", "--out", "new")
    assert (refused.code, passes) == (2, [])
    assert "was made with alpha 2.0 instead of 1.0" in refused.err


def test_a_scan_of_an_older_layerscope_is_not_used(command, passes, place):
    shutil.copytree(place / "done" / "narrow", "new/narrow")
    record = json.loads(Path("new/narrow/run.json").read_text())
    record["model"]["weights_fingerprint"] = "28a10a12fe4cceb0"
    Path("new/narrow/run.json").write_text(json.dumps(record))
    refused = command("narrow", "wide", "--data", "texts.txt", "--out", "new")
    assert (refused.code, passes) == (2, [])
    assert "was made by an older layerscope that could not tell fine-tuned copies" in refused.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--dtype", "float64"), "was made with dtype float32 instead of float64"),
        (("--revision", "v2"), "was made with revision none instead of v2"),
    ],
)
def test_a_scan_of_the_model_loaded_otherwise_is_not_used(command, passes, place, options, reason):
    shutil.copytree(place / "done" / "wide", "new/wide")
    again = ("wide", "done/narrow", "--data", "texts.txt", "--out", "new", *options)
    refused = command(*again)
    assert (refused.code, passes) == (2, [])
    assert reason in refused.err
    assert facts(command, *again, "--overwrite", "--dry-run")["wide"]["texts"] == TEXTS
    assert command(*again, "--overwrite").code == 0
    assert passes == ["wide"]


@pytest.mark.parametrize("fact", ["device", "tokenizer_fingerprint"])
def test_a_scan_by_another_tokenizer_or_device_is_not_used(command, passes, place, fact):
    run = load_run(place / "done" / "wide")
    run.record["model"][fact] = "cuda:0"
    save_run(run, Path("new/wide"))
    refused = command("wide", "narrow", "--data", "texts.txt", "--out", "new", "--device", "cpu")
    assert (refused.code, passes) == (2, [])
    assert f"was made with {fact.replace('_', ' ')} cuda:0 instead of" in refused.err


def test_models_are_ranked_as_they_are_served_and_scans_of_other_readings_are_not_used(
    command, passes
):
    pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
    served("cls at unit length", Path("embedder"))
    given = ("embedder", "decoder", "--data", "texts.txt", "--out", "new")
    found = facts(command, *given)
    settings = {
        model: load_run(Path("new") / model).record["settings"] for model in ("embedder", "decoder")
    }
    assert [settings[model]["pooling"] for model in settings] == ["first", "mean"]
    assert [settings[model]["special_tokens"] for model in settings] == [True, False]
    assert any("embedder: vectors as it is served, first pooling" in n for n in found["notes"])
    assert facts(command, *given, "--overwrite")["orders"] == found["orders"]
    assert passes == ["embedder", "decoder"]  # both fit
    for file in (Path("new/ranking.json"), Path("new/ranking.csv")):
        file.unlink()
    refused = command(*given, "--as-tokens")
    assert (refused.code, passes) == (2, ["embedder", "decoder"])
    assert "the scan in 'new/embedder' was made with pooling first instead of mean" in refused.err
    assert facts(command, *given, "--as-tokens", "--overwrite")["data"]["texts"] == TEXTS
    assert passes == ["embedder", "decoder", "embedder"]  # nothing is different for the other


# --- loads ----------------------------------------------------------------------------------------


def test_each_model_is_loaded_once_and_let_go_before_the_next(command, loads, place):
    whole = (*MODELS, "--data", "texts.txt", "--out", "new")
    assert command(*whole).code == 0
    assert loads == list(MODELS)
    loads.clear()
    assert (
        command(*whole, "--overwrite").code == 0
    )  # to see that the kept scans are of these models
    assert loads == list(MODELS)
    loads.clear()
    other_weights(Path("b/narrow"), name="narrow")
    older(Path("b/narrow"))
    mixed = ("decoder", "./b/narrow", "done/wide", "--data", "texts.txt", "--out", "new")
    assert command(*mixed, "--overwrite").code == 0
    assert sorted(loads) == ["decoder", "narrow"]
    loads.clear()
    assert command(*mixed, "--overwrite", "--dry-run").code == 0
    assert sorted(loads) == ["decoder", "narrow"]
    loads.clear()
    assert command("wide", "done/narrow", "--data", "texts.txt", "--out", "one").code == 0
    assert loads == ["wide"]


def test_progress_is_told_before_any_model_is_loaded(place, loads):
    told = []

    def show(stage, done, total):
        told.append((stage, done, list(loads)))

    api.rank([place / "wide", place / "done/narrow"], place / "texts.txt", show_progress=show)
    assert told[0] == ("1/2 loading the model", 0, [])
    told.clear()
    loads.clear()
    api.rank([place / "wide", place / "narrow"], place / "texts.txt", show_progress=show)
    assert told[0] == ("checking the models", 0, [])
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages[1] == "1/2 loading the model"
    assert "2/2 loading the model" in stages


def test_a_bar_stands_before_anything_heavy_is_imported(command, monkeypatch):
    told = []

    @contextmanager
    def bars():
        yield lambda stage, done, total: told.append((stage, done, total))

    monkeypatch.setattr(progress, "bars", bars)
    monkeypatch.setattr(rank_command, "calm_libraries", lambda _: told.append("imports"))
    assert command("wide", "narrow", "--data", "texts.txt").code == 0
    assert told[:2] == [("starting", 0, 1), "imports"]
    stages = list(dict.fromkeys(stage for stage, *_ in told[2:]))
    assert stages[:3] == ["starting", "checking the models", "1/2 loading the model"]
    light = "import sys, layerscope.render.progress; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], check=False).returncode == 0


def test_weights_that_are_missing_show_before_any_pass_and_any_load(command, passes, loads, place):
    shutil.copytree(place / "wide", "cut")
    held = load_file("cut/model.safetensors")
    del held["encoder.layer.1.output.dense.weight"]
    save_file(held, "cut/model.safetensors", metadata={"format": "pt"})
    refused = command("narrow", "cut", "--data", "texts.txt")
    assert (refused.code, passes, loads) == (2, [], [])
    assert "'cut' lacks 1 weights of a BertModel" in refused.err


# --- refused before any pass ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wide", "wide"), "expected each model once, got 'wide' twice"),
        (("wide", "./wide"), "expected each model once, got './wide' twice"),
        (("done/wide", "wide"), "expected each model once, got 'wide' twice"),
        (("wide", "./nowhere"), "no model folder at './nowhere'"),
        (("wide", "broken"), "broken"),
        (("wide", "begun"), "in 'begun', this one was interrupted before it was finished; run"),
        (("wide", "narrow", "--by", "d_1L"), "unknown predictor 'd_1L'; did you mean"),
        (("wide", "narrow", "--data", "nowhere.txt"), "nowhere.txt"),
        (("wide", "narrow", "--scores", "none.csv"), "expected scores in a .csv or .parquet table"),
        (("other", "wide"), "'other' was scanned on other texts"),
        (("other", "done/wide"), "were scanned on different texts"),
        (("wide", "narrow", "--out", "texts.txt"), "expected a folder for the ranking"),
        (("wide", "narrow", "--out", "done/wide"), "holds a scan; choose another --out folder"),
        (("wide", "narrow", "--out", "."), "holds other files"),
    ],
)
def test_bad_input_is_one_sentence_before_any_pass(command, passes, place, arguments, message):
    Path("broken").mkdir()
    Path("begun/parts").mkdir(parents=True)
    Path("begun/parts/plan.json").write_text("{}")
    shutil.copy(place / "wide" / "config.json", "broken")
    other = load_run(place / "done" / "narrow")
    other.record["data"]["fingerprint"] = "0123"
    save_run(other, Path("other"))
    options = () if "--data" in arguments else ("--data", "texts.txt")
    finished = command(*arguments, *options)
    assert finished.code == 2, finished.out
    assert message in finished.err
    assert finished.err.count("\n") == 1
    assert passes == []


def test_what_a_ranking_decides_itself_is_no_setting(place):
    with pytest.raises(InputError, match="unknown setting 'views'"):
        api.rank([place / "wide", place / "narrow"], place / "texts.txt", views=2)
    with pytest.raises(InputError, match="expected texts to measure"):
        api.rank([place / "wide", place / "narrow"])


def test_models_of_one_name_get_folders_of_their_own(place, tmp_path):
    for parent in ("one", "two"):
        shutil.copytree(place / "wide", tmp_path / parent / "checkpoint-5")
    config = MODELS["wide"]()
    torch.manual_seed(7)
    save_tiny(hf.AutoModel.from_config(config).eval(), tmp_path / "two" / "checkpoint-5")
    loading = [tmp_path / parent / "checkpoint-5" for parent in ("one", "two")]
    found = api.rank(loading, place / "texts.txt", out=tmp_path / "out")
    assert {model.name for model in found.models} == {"one/checkpoint-5", "two/checkpoint-5"}
    assert len(list((tmp_path / "out").glob("*/run.json"))) == 2


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--by", "mean_nrs"), {"by": "mean_nrs"}),
        (("--resamples", "50"), {"resamples": 50}),
        (("--seed", "1"), {"seed": 1}),
    ],
)
def test_options_reach_the_ranking(command, monkeypatch, options, expected):
    seen = {}

    def spy(runs, by, **arguments):
        seen.update(arguments, by=by)
        return real(runs, by, **arguments)

    real = rank_module.rank_runs
    monkeypatch.setattr(ranking_module, "rank_runs", spy)
    assert command("done/narrow", "done/wide", *options).code == 0
    assert seen.items() >= expected.items()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--limit", "10"), {"texts": 10}),
        (("--limit", "0"), {"texts": TEXTS}),
        (("--pooling", "last"), {"pooling": "last"}),
        (("--special-tokens", "include"), {"special_tokens": True}),
        (("--first-token", "drop"), {"first_token": "drop"}),
        (("--max-length", "9"), {"max_length": 9}),
        (("--batch-tokens", "99"), {"batch_tokens": 99}),
        (("--seed", "4"), {"seed": 4}),
        (("--dtype", "float64"), {"dtype": "float64"}),
        (("--out", "there"), {"out": Path("there/wide")}),
        ((), {"out": Path("runs/rank--texts/wide")}),
    ],
)
def test_options_reach_the_scans(command, monkeypatch, options, expected):
    def spy(plan):
        seen.update(
            plan.config, texts=len(plan.texts), dtype=plan.model.info.dtype, out=plan.place.path
        )
        raise RuntimeError("seen")

    seen = {}
    monkeypatch.setattr(ScanPlan, "run", spy)
    assert command("wide", "narrow", "--data", "texts.txt", *options).code == 1
    assert seen.items() >= expected.items()


def test_columns_are_read(command, passes):
    rows = [{"words": text, "other": "x"} for text in texts(TEXTS)]
    pd.DataFrame(rows).to_csv("table.csv", index=False)
    found = facts(command, "wide", "narrow", "--data", "table.csv", "--column", "words")
    assert found["data"]["texts"] == TEXTS


def test_a_dry_run_makes_nothing(command, passes):
    finished = command("wide", "narrow", "--data", "texts.txt", "--out", "new", "--dry-run")
    assert finished.code == 0, finished.err
    assert "All passes: about" in finished.out
    assert not Path("new").exists()
    assert passes == []
    found = facts(command, "wide", "done/narrow", "--data", "texts.txt", "--dry-run")
    assert found["wide"]["texts"] == TEXTS
    assert found["done/narrow"] is None


def test_quiet_prints_nothing(command):
    finished = command("done/wide", "done/narrow", "--quiet")
    assert (finished.code, finished.out) == (0, "")
