"""Studies: what their files declare, cells that run once and are whole, workers that are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import pandas as pd
import pytest
from annotated_types import Ge

import layerscope
from commands import run
from layerscope.config import Config
from layerscope.errors import InputError
from layerscope.results.table import Run, conform, no_contributions
from layerscope.studies.cells import BY_NAME, Cell
from layerscope.studies.executors import cluster, local
from layerscope.studies.executors.queue import Queue
from layerscope.studies.grid import Resources, read_declared
from layerscope.studies.kinds import Kind
from layerscope.studies.store import StudyFolder
from tiny import texts

STUDY = """
name: both
models:
  - {model: MODELS/bert, label: encoder}
  - MODELS/llama
data: [a.txt, b.txt]
perturbations: [none, {kind: repeat, p: [0.5]}]
settings:
  metrics: [prompt_entropy, rankme]
  conventions: normalized
  resamples: 20
plot: {by: [model, perturbation], metric: prompt_entropy}
"""
quiet = partial(layerscope.study, show_progress=False)


@pytest.fixture(scope="module")
def study_file(tmp_path_factory, tiny_folder) -> Path:
    """The file of a study of 8 cells, beside its texts; models by relative paths."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "MODELS").mkdir()
    for name in ("bert", "llama"):
        (folder / "MODELS" / name).symlink_to(tiny_folder(name))
    (folder / "a.txt").write_text("\n".join(texts(12)))
    (folder / "b.txt").write_text("\n".join(texts(10, seed=1)))
    (folder / "study.yaml").write_text(STUDY)
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def whole(study_file, tmp_path_factory) -> layerscope.Study:
    """The study, run in this process."""
    return quiet(study_file, out=tmp_path_factory.mktemp("whole") / "out", workers=0)


def with_bad_data(study_file: Path, folder: Path) -> Path:
    """The same study with a file that is not there: four of its cells fail."""
    path = study_file.with_name(f"{folder.name}.yaml")
    path.write_text(STUDY.replace("b.txt", "none.txt"))
    return path


# --- the file --------------------------------------------------------------------------------------


def declared(text: str, folder: Path):
    (folder / "s.yaml").write_text(text)
    return read_declared(folder / "s.yaml")


def test_the_grid_is_the_product_of_its_axes(tmp_path):
    text = """
models: [one, {model: two, revisions: [step1, 2], dtype: float32}]
data: [sample, {data: x.csv, column: t}]
perturbations: [none, {kind: repeat, p: [0.1, 0.2]}, random p=1]
stages: [attn, mlp]
seeds: [0, 1]
settings: {views: 0, layers: 0-2}
"""
    cells = declared(text, tmp_path).cells
    assert len(cells) == (1 + 2) * 2 * 4 * 2
    assert len({cell.key for cell in cells}) == len(cells)
    assert [cell.model for cell in cells] == ["one"] * 16 + ["two"] * 32
    last = cells[-1]
    assert (last.model, last.data) == ("two", "x.csv")
    assert last.settings == {
        "views": 0, "layers": [0, 1, 2], "column": "t", "dtype": "float32", "revision": "2",
        "perturbation": "random p=1", "seed": 1, "stages": ["block", "attn", "mlp"],
    }  # fmt: skip
    assert json.loads(json.dumps(last.settings)) == last.settings
    assert str(last) == "two, x.csv, revision 2, perturbation random p=1, seed 1"


def test_a_star_stands_for_checkpoints_in_the_order_of_their_steps(tmp_path):
    for step in (9, 10, 100):
        (tmp_path / f"run/step{step}").mkdir(parents=True)
    cells = declared("models: [run/step*]\ndata: [sample]\n", tmp_path).cells
    assert [cell.model for cell in cells] == ["run/step9", "run/step10", "run/step100"]
    whole = read_declared({"models": str(tmp_path / "run/step1*"), "data": "sample"}).cells
    assert [cell.model for cell in whole] == [str(tmp_path / f"run/step{n}") for n in (10, 100)]
    with pytest.raises(
        InputError, match="line 1: nothing in .* matches 'ran/step.'; check the path"
    ):
        declared("models: [ran/step*]\ndata: [sample]\n", tmp_path)


def test_an_infinite_order_stays_one_in_json(tmp_path):
    (cell,) = declared(GRID + "settings: {alpha: .inf}\n", tmp_path).cells
    assert (cell.settings["alpha"], cell.values["alpha"]) == ("inf", float("inf"))


def test_a_label_changes_no_key_and_a_setting_does():
    plain = {"models": ["one"], "data": ["sample"]}
    (cell,) = read_declared(plain).cells
    (labelled,) = read_declared(plain | {"models": [{"model": "one", "label": "1"}]}).cells
    (other,) = read_declared(plain | {"settings": {"pooling": "max"}}).cells
    assert cell.key == labelled.key != other.key
    assert labelled.labels["model"] == "1"


def test_images_are_data_of_a_cell(tmp_path):
    (tmp_path / "photos").mkdir()
    text = "models: [one]\ndata: [sample, {images: photos, label: Photos, limit: 3}]\n"
    words, photos = declared(text, tmp_path).cells
    assert (words.images, photos.images, photos.data) == ("", "photos", "")
    assert photos.settings == {"limit": 3, "images": "photos"}
    assert photos.labels["data"] == "Photos"
    assert str(photos) == "one, photos"
    assert words.loads != photos.loads
    (tmp_path / "photos" / "one.png").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"photos/one.png' is damaged"):  # a path beside the file
        photos.plan(tmp_path)


GRID = "models: [one]\ndata: [sample]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modles: [one]\n", "s.yaml, line 1: unknown key 'modles'; did you mean 'models' or"),
        (GRID + "settings:\n  veiws: 0\n", "s.yaml, line 4: unknown key 'veiws'; did you mean 'views'"),
        (GRID + "settings:\n  views: -1\n", "s.yaml, line 4: expected views of at least 0, got -1."),
        (GRID + "settings:\n  views: 1\n", "s.yaml, line 4: expected 0 views, or at least 2"),
        (GRID + "settings: {metrics: dmie}\n", "s.yaml, line 3: unknown measure 'dmie'; did you mean"),
        (GRID + "settings: {stages: atn}\n", "s.yaml, line 3: unknown stage 'atn'"),
        (GRID + "settings: 5\n", "s.yaml, line 3: expected keys with values, got 5."),
        (GRID + "settings: {seed: 1}\nseeds: [1]\n", "line 3: seed stands in the settings and as seeds"),
        (GRID + "perturbations:\n- repeat p=1.5\n", "line 4: expected p of at least 0 and at most 1"),
        (GRID + "perturbations:\n- {kind: repeat, p: [0, 2]}\n", "line 4: expected p of at least 0"),
        (GRID + "perturbations: [{kind: repeat, q: 1}]\n", "s.yaml, line 3: unknown key 'q'"),
        (GRID + "seeds: [0, 1, 0]\n", "s.yaml, line 1: the cell one, sample, seed 0 comes twice"),
        ("models: [one, one]\ndata: [sample]\n", "line 1: the cell one, sample comes twice; leave"),
        ("models: [one]\ndata: []\n", "s.yaml: the grid has no cells; list models and data."),
        ("models: [5]\ndata: [sample]\n", "line 1: expected a name, or a mapping with model and perhaps"),
        ("models: [{model: one, dtpye: auto}]\ndata: a\n", "s.yaml, line 1: unknown key 'dtpye'"),
        ("models: [one]\ndata: [{images: 5}]\n", "line 2: expected a name, or a mapping with data or"),
        ("models: [one]\ndata: [{images: a, data: b}]\n", "line 2: expected a name, or a mapping with"),
        ("models: [one]\ndata: [{images: a}]\ncommand: choices\n", "expected a name, or a mapping"),
        (GRID + "settings: {images: a}\n", "s.yaml, line 3: unknown key 'images'"),
        (GRID + "command: scna\n", "s.yaml, line 3: unknown command 'scna'; did you mean 'scan'?"),
        (GRID + "command: evaluate\nperturbations: [none]\n", "line 4: evaluate has no perturb"),
        (GRID + "plot: {by: modle}\n", "s.yaml, line 3: unknown by 'modle'; did you mean 'model'"),
        (GRID + "resources: {gpu: 1}\n", "s.yaml, line 3: unknown key 'gpu'; did you mean 'gpus'"),
        (GRID + "data: [x]\n", "s.yaml, line 3: the key 'data' stands in line 2 already."),
        ("models: [{model: one, seed: 1}]\ndata: a\nseeds: [1]\n", "line 1: seed stands there and as an"),
        ("models: [one\ndata: x\n", "this is no YAML (expected ',' or ']'"),
        ("- one\n", "expected keys with values in s.yaml, got ['one']."),
    ],
)  # fmt: skip
def test_mistakes_are_shown_with_their_line(tmp_path, text, message):
    with pytest.raises(InputError) as raised:
        declared(text, tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a file in YAML, .* is a folder"):
        read_declared(tmp_path)
    (tmp_path / "study.yaml").write_text(GRID)
    with pytest.raises(InputError, match="there is no file .*; did you mean 'study.yaml'"):
        read_declared(tmp_path / "stduy.yaml")
    with pytest.raises(InputError, match="the study, dta: unknown key 'dta'; did you mean 'data'"):
        read_declared({"dta": 3})


# --- cells -----------------------------------------------------------------------------------------


def test_a_study_is_its_cells_in_one_table(study_file, whole):
    assert len(whole.runs) == whole.cells == 8
    assert whole.failures == ()
    table = whole.table()
    assert list(dict.fromkeys(table["model"])) == ["encoder", "MODELS/llama"]
    assert set(table["data"]) == {"a.txt", "b.txt"}
    assert set(table["perturbation"]) == {"none", "repeat p=0.5"}
    one = layerscope.scan(
        study_file.parent / "MODELS/llama", study_file.parent / "b.txt", show_progress=False,
        metrics=["prompt_entropy", "rankme"], conventions="normalized", resamples=20,
        perturbation="repeat p=0.5",
    )  # fmt: skip
    key = read_declared(study_file).cells[-1].key
    assert table[table["run"] == key]["value"].tolist() == one.table()["value"].tolist()


def test_the_folder_holds_runs_the_table_and_the_figure(whole):
    texts_of_all = whole.contributions()
    for each in whole.runs:
        folder = whole.folder / "cells" / each.name
        assert not list(folder.glob("*.pkl"))
        found = layerscope.load(folder).contributions()
        own = texts_of_all[texts_of_all["run"] == each.name]
        assert own["value"].tolist() == found["value"].tolist()
    pd.testing.assert_frame_equal(pd.read_parquet(whole.folder / "results.parquet"), whole.table())
    assert {path.name for path in whole.folder.iterdir()} - {"figure.svg"} == {
        "cells", "results.parquet", "study.json",
    }  # fmt: skip
    if importlib.util.find_spec("matplotlib"):
        assert "<svg" in (whole.folder / "figure.svg").read_text()


def facts(study: layerscope.Study) -> dict[str, dict]:
    paths = (study.folder / "cells").glob("[!.]*/cell.json")
    return {path.parent.name: json.loads(path.read_text())["facts"] for path in paths}


def test_a_model_is_loaded_once(whole):
    assert sum(each["loaded"] for each in facts(whole).values()) == 2


def test_a_finished_cell_does_not_run_again_unless_its_files_changed(study_file, tmp_path):
    out, path = tmp_path / "out", study_file.with_name("again.yaml")
    path.write_text(STUDY.replace("a.txt, b.txt", "c.txt"))
    texts_file = study_file.with_name("c.txt")
    texts_file.write_text("\n".join(texts(9)))
    first = facts(quiet(path, out=out, workers=0))
    assert facts(quiet(path, out=out, workers=0)) == first
    path.write_text(path.read_text().replace("[0.5]", "[0.5, 0.6]"))
    more = facts(quiet(path, out=out, workers=0))
    assert {key: more[key] for key in first} == first
    assert len(more) == 6
    later = time.time() + 60
    os.utime(texts_file, (later, later))
    changed = facts(quiet(path, out=out, workers=0))
    assert {each["sources_changed"] for each in changed.values()} == {later}
    assert facts(quiet(path, out=out, workers=0)) == changed


def test_a_failed_cell_is_told_and_tried_again(study_file, whole, tmp_path):
    path = with_bad_data(study_file, tmp_path)
    found = quiet(path, out=tmp_path / "out", workers=0)
    assert (len(found.runs), len(found.failures)) == (4, 4)
    assert "no file 'none.txt'" in found.failures[0].reason.replace('"', "'")
    assert found.failures[0].cell == "MODELS/bert, none.txt"
    missing = study_file.with_name("none.txt")
    missing.write_bytes(study_file.with_name("b.txt").read_bytes())
    try:
        again = quiet(path, out=tmp_path / "out", workers=0)
        assert (len(again.runs), again.failures) == (8, ())
        assert not list((tmp_path / "out" / "failed").iterdir())
        assert again.table()["value"].tolist() == whole.table()["value"].tolist()
    finally:
        missing.unlink()


def test_an_error_of_a_library_is_a_reason_too(study_file, tmp_path, monkeypatch):
    def broken(*_given, **_named):
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("layerscope.api.scanning.scan_backbone", broken)
    found = quiet(study_file, out=tmp_path / "out", workers=0)
    assert {each.reason for each in found.failures} == {"ZeroDivisionError: of all things"}
    stored = json.loads(next((tmp_path / "out" / "failed").iterdir()).read_text())
    assert "in broken" in stored["facts"]["traceback"]
    assert len(found.table()) == 0


def test_an_interrupted_study_goes_on(study_file, whole, tmp_path):
    def stop(_stage, done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layerscope.study(study_file, out=tmp_path / "out", workers=0, show_progress=stop)
    partial_study = layerscope.load_study(tmp_path / "out")
    assert (len(partial_study.runs), partial_study.cells) == (3, 8)
    before = facts(partial_study)
    found = quiet(study_file, out=tmp_path / "out", workers=0)
    assert {key: facts(found)[key] for key in before} == before
    pd.testing.assert_frame_equal(found.table(), whole.table())


def test_shards_are_merged(study_file, whole, tmp_path):
    parts = [
        quiet(study_file, out=tmp_path / name, shard=f"{number}/3", workers=0)
        for number, name in enumerate("abc", start=1)
    ]
    assert [len(each.runs) for each in parts] == [2, 3, 3]
    merged = layerscope.merge([each.folder for each in parts], tmp_path / "out")
    pd.testing.assert_frame_equal(merged.table(), whole.table())
    with pytest.raises(InputError, match="expected a part like 2/8|shard to be a part like 2/8"):
        quiet(study_file, out=tmp_path / "d", shard="4/3")
    other = quiet(with_bad_data(study_file, tmp_path), out=tmp_path / "e", shard="1/8", workers=0)
    with pytest.raises(InputError, match="expected folders of one study, .* has other cells than"):
        layerscope.merge([parts[0].folder, other.folder], tmp_path / "f")
    with pytest.raises(InputError, match="expected the folder of a study, found no study.json in"):
        layerscope.merge(tmp_path / "none", tmp_path / "f")


def test_a_folder_that_is_not_ours_is_refused(study_file, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="holds other files than a study; choose a new or empty"):
        quiet(study_file, out=tmp_path)
    with pytest.raises(InputError, match="expected a folder for the study, .* is a file"):
        quiet(study_file, out=tmp_path / "letter.txt")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.json").write_text("{")
    with pytest.raises(InputError, match="the study in .* cannot be read: "):
        layerscope.load_study(tmp_path / "s")
    (tmp_path / "s" / "study.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read: study.json has no cells"):
        layerscope.load_study(tmp_path / "s")


def test_evaluations_are_cells_too(study_file, tmp_path):
    pytest.importorskip("mteb", reason="the extra 'evaluate' is not installed")
    table = study_file.with_name("labels.csv")
    rows = [f"{text},{'ab'[number % 2]}" for number, text in enumerate(texts(40))]
    table.write_text("text,label\n" + "\n".join(rows))
    given = {
        "command": "evaluate", "models": [str(study_file.parent / "MODELS/bert")],
        "data": [str(table)], "settings": {"layers": "0,2"},
    }  # fmt: skip
    found = quiet(given, out=tmp_path / "out", workers=0)
    assert found.failures == ()
    assert set(found.table()["level"]) == {"task"}
    assert set(found.table()["layer"]) == {0, 2}


class Numbers(Config):
    """The settings of a kind of cell that is made up here."""

    power: Annotated[float, Ge(0)] = 1.0
    """An exponent."""
    seed: int = 0
    """Seed."""


class NumbersPlan:
    """A plan that needs neither model nor texts."""

    def __init__(self, settings):
        self.settings = settings

    def run(self):
        rows = [{"metric": "sum", "layer": layer, "depth": layer / 2, "stage": "block",
                 "value": layer ** self.settings["power"]} for layer in range(3)]  # fmt: skip
        table = conform(pd.DataFrame(rows).assign(seed=self.settings["seed"], model="numbers"))
        return SimpleNamespace(run=Run(table, no_contributions(), {"times": {}}))

    def estimate(self):
        return SimpleNamespace(pass_seconds=2.0, memory_bytes=10, disk_bytes=0)


def test_a_new_kind_of_cell_is_one_record(tmp_path, monkeypatch):
    kind = Kind("numbers", (Numbers,), lambda _model, _data, settings: NumbersPlan(settings),
                reads_model=False, reads_data=False)  # fmt: skip
    monkeypatch.setitem(BY_NAME, "numbers", kind)
    given = {"command": "numbers", "seeds": [0, 1], "settings": {"power": 2.0}}
    found = quiet(given, out=tmp_path / "out", workers=0)
    assert found.failures == ()
    assert found.table()["value"].tolist() == [0, 1, 4] * 2
    assert set(found.table()["seed"]) == {0, 1}
    estimates = layerscope.study.plan(given | {"seeds": [0, 1, 2]}, show_progress=False).estimate()
    assert estimates.seconds == 6
    with pytest.raises(
        InputError, match="the study, models: numbers reads no models; leave them out"
    ):
        read_declared(given | {"models": ["one"]})
    with pytest.raises(
        InputError, match="the study, settings, power: expected power of at least 0"
    ):
        read_declared(given | {"settings": {"power": -1.0}})


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return partial(run, monkeypatch, capsys)


def test_the_command_says_what_is_finished_and_what_failed(command, study_file, tmp_path):
    path = with_bad_data(study_file, tmp_path)
    finished = command("study", path, "--workers", 0, "--out", "out")
    assert finished.code == 1
    assert "4 of 8 cells are finished, 4 failed" in finished.out
    assert "Run the same command again" in finished.out
    assert "MODELS/llama, none.txt" in finished.out
    found = json.loads(command("study", path, "--workers", 0, "--out", "out", "--json").out)
    assert (found["finished"], found["cells"], len(found["failures"])) == (4, 8, 4)
    merged = command("merge", "out", "--out", "whole")
    assert (merged.code, "4 failed" in merged.out) == (1, True)
    assert command("study", "none.yaml").code == 2


def test_an_interrupt_says_what_is_kept(command, study_file, monkeypatch):
    keep, kept = StudyFolder.keep, []

    def interrupted(*given):
        if kept:
            raise KeyboardInterrupt
        kept.append(keep(*given))

    monkeypatch.setattr(StudyFolder, "keep", interrupted)
    finished = command("study", study_file, "--workers", 0, "--out", "out")
    assert finished.code == 130
    assert (
        "interrupted; what was finished is kept in out, run the same command again" in finished.err
    )


def test_checkpoints_are_estimated_from_one_of_them(tmp_path, tiny_folder):
    for step in (1, 2, 3):
        (tmp_path / f"run-step{step}").symlink_to(tiny_folder("llama"))
    given = {"models": str(tmp_path / "run-step*"), "data": "sample", "settings": {"limit": 5}}
    found = layerscope.study.plan(given, show_progress=False).estimate()
    (one,) = found.models
    assert (one.model, one.cells, one.loads) == (str(tmp_path / "run"), 3, 3)
    missing = {"models": "org/none", "data": "sample"}
    (none,) = layerscope.study.plan(missing, show_progress=False).estimate().models
    assert (none.seconds, "org/none" in none.reason) == (None, True)


def test_a_dry_run_estimates_from_one_cell_a_model(command, study_file):
    found = json.loads(command("study", study_file, "--dry-run", "--json").out)
    assert (found["cells"], found["finished"]) == (8, 0)
    assert [(each["model"], each["cells"], each["loads"]) for each in found["models"]] == [
        ("encoder", 4, 1), ("MODELS/llama", 4, 1),
    ]  # fmt: skip
    assert found["seconds"] > 0
    assert not Path("runs").exists()
    shown = command("study", study_file, "--dry-run", "--shard", "1/2").out
    assert "An estimate from one cell of each model" in shown
    assert shown.splitlines()[0].split() == ["cells", "4"]


# --- workers ---------------------------------------------------------------------------------------


def test_a_worker_keeps_its_model_as_long_as_it_can():
    cells = [Cell("scan", model, str(number), {}) for model in "ab" for number in range(3)]
    waiting = Queue(cells)
    taken = [str(waiting.take(worker)) for worker in (0, 1, 0, 1, 1, 1)]
    assert taken == ["a, 0", "b, 0", "a, 1", "b, 1", "b, 2", "a, 2"]
    assert not waiting
    assert waiting.take(0) is None


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "import os; input(); os.kill(os.getpid(), 9)",
            "died 3 times: signal SIGKILL, often for lack",
        ),
        (
            "import sys; input(); sys.exit('no room')",
            "its process died 3 times: exit code 1, no room.",
        ),
        ("raise SystemExit(3)", "its process died 3 times: exit code 3."),
    ],
)
def test_a_cell_that_always_kills_its_worker_is_told(program, reason):
    slot = local._Slot(0, ".", 1, 2, dict(os.environ))
    slot._command = [sys.executable, "-c", program]
    found: queue.Queue = queue.Queue()
    slot.work(Queue([Cell("scan", "a", "b", {})]), found)
    assert reason in found.get(timeout=9).reason
    assert found.get(timeout=9) is None


def killer(out: Path, killed: list[int]):
    """A progress function that kills, after two cells, the worker that made the last of them."""

    def kill(stage, done, _total):
        if stage == "cells" and done == 2 and not killed:
            made = max(
                (out / "cells").glob("[!.]*/cell.json"), key=lambda path: path.stat().st_mtime_ns
            )
            killed.append(json.loads(made.read_text())["facts"]["process"])
            os.kill(killed[0], signal.SIGKILL)

    return kill


ENGINES = [
    "local",
    pytest.param(
        "ray",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed"
        ),
    ),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore")  # those of Ray itself
def test_a_worker_killed_in_mid_sweep_costs_no_cell(
    study_file, whole, tmp_path, engine, monkeypatch
):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    killed: list[int] = []
    path = with_bad_data(study_file, tmp_path)
    path.write_text(path.read_text().replace("a.txt, none.txt", "a.txt, b.txt, none.txt"))
    out = tmp_path / "out"
    found = layerscope.study(
        path, out=out, workers=2, engine=engine, threads=1, show_progress=killer(out, killed)
    )
    assert {each.cell.split(", ")[1] for each in found.failures} == {"none.txt"}
    assert (len(found.runs), len(found.failures)) == (8, 4)
    columns = ["model", "data", "perturbation", "layer", "stage", "metric", "value"]
    pd.testing.assert_frame_equal(found.table()[columns], whole.table()[columns])
    made = facts(found).values()
    processes = {each["process"] for each in made}
    assert killed[0] in processes
    assert len(processes) == 3, "two workers, one of them started again"
    if engine == "local":
        assert sum(each["retries"] for each in made) <= 1
    for process in processes:  # a model is not loaded twice in one process
        models = read_models(found, process)
        assert len(models) == len(set(models))


def read_models(study: layerscope.Study, process: int) -> list[str]:
    """The models that a process loaded, in cells that were finished."""
    paths = (study.folder / "cells").glob("[!.]*/cell.json")
    cells = [json.loads(path.read_text()) for path in paths]
    return [
        each["cell"]["model"]
        for each in cells
        if each["facts"]["process"] == process and each["facts"]["loaded"]
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore")
def test_a_study_whose_driver_is_killed_goes_on(study_file, whole, tmp_path, engine, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "layerscope", "study", study_file, "--out", out, "--quiet",
               "--engine", engine, "--workers", "1", "--threads", "1"]  # fmt: skip
    with subprocess.Popen(command, start_new_session=True) as driver:
        while not list(out.glob("cells/[!.]*/cell.json")):
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
    before = facts(layerscope.load_study(out))
    assert 0 < len(before) < 8
    found = quiet(study_file, out=out, workers=0)
    assert {key: facts(found)[key] for key in before} == before
    pd.testing.assert_frame_equal(found.table(), whole.table())
    assert not list(out.glob("cells/.*"))


def test_without_ray_the_error_says_what_to_install(study_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"the engine ray needs an extra; install it with: pip"):
        quiet(study_file, out=tmp_path / "out", engine="ray")


class FakeRay:
    """The part of Ray that is called, where it cannot start actors."""

    class exceptions:  # noqa: N801
        RayError = OSError

    def init(self, **_given):
        raise ConnectionError("nobody there.")

    def wait(self, tasks, num_returns):
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task):
        if task not in self.works:
            raise self.exceptions.RayError(f"{task} cannot import layerscope")

    def __init__(self, *works):
        self.works = works


class FakeActor:
    """An actor of it."""

    def __init__(self, name):
        self.ready = SimpleNamespace(remote=lambda: f"actor {name}")
        self.run = SimpleNamespace(remote=lambda values: f"{values['data']} on {name}")


def test_a_cluster_that_does_not_answer_is_told(study_file, tmp_path):
    with pytest.raises(InputError, match="the address is that of a Ray cluster; pass --engine ray"):
        quiet(study_file, out=tmp_path / "out", address="auto")
    with pytest.raises(InputError, match="no Ray cluster answers at ray://x .nobody there.; check"):
        cluster._connect(FakeRay(), "ray://x", 1)
    waiting = Queue([Cell("scan", "a", "b", {})])
    with pytest.raises(layerscope.RunError, match="no Ray actor could start: actor two cannot"):
        list(cluster._outcomes(FakeRay(), [FakeActor("one"), FakeActor("two")], waiting))


def test_cells_go_to_the_actors_that_started_and_one_that_is_lost_is_told():
    waiting = Queue([Cell("scan", "a", data, {}) for data in ("b", "c")])
    ray = FakeRay("actor one")
    found = list(cluster._outcomes(ray, [FakeActor("one"), FakeActor("two")], waiting))
    said = [f"its actor died: {data} on one cannot import layerscope" for data in ("b", "c")]
    assert [each.reason for each in found] == said


def test_workers_see_their_own_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    seen = [
        local._environment(number, Resources(gpus=2))["CUDA_VISIBLE_DEVICES"] for number in range(3)
    ]
    assert seen == ["4,5", "6,7", "4,5"]
    assert local._environment(0, Resources())["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"
    assert 1 <= local._cores() <= (os.cpu_count() or 1)


# --- the page --------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "studies.md"


def test_the_page_s_study_and_commands_work(command, study_file, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    page = PAGE.read_text()
    text = page.partition("```yaml\n")[2].partition("```")[0]
    assert len(declared(text, tmp_path).cells) == 8
    models = {"EleutherAI/pythia-70m": "bert", "state-spaces/mamba-130m-hf": "llama"}
    for name, tiny in models.items():
        text = text.replace(name, str(study_file.parent / "MODELS" / tiny))
    Path("study.yaml").write_text(text.replace("limit: 200", "limit: 5"))
    for line in page.splitlines():
        if line.startswith("    layerscope ") and "Known:" not in line:
            given = line.split()[1:]
            if given[0] == "study":  # what several processes and Ray do is tested above
                given = [each for each in given if each not in ("--engine", "ray")]
                given += ["--workers", "0"]
            finished = command(*given)
            assert finished.code == 0, (line, finished)
    assert len(layerscope.load_study("runs/whole").runs) == 8
    assert "<svg" in Path("entropy.svg").read_text()
