"""The command: help that answers at once, options that do something, output for people and machines."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import typer

from commands import run
from layerscope import api, cli
from layerscope.cli.app import app
from layerscope.cli.help import FIRST, GROUPS, MANY, group_of
from layerscope.cli.scan import next_steps
from layerscope.data.misspellings import AugmentationConfig
from layerscope.decisions import choose, evidence
from layerscope.metrics.catalogue import CATALOGUE
from tiny import save_tiny, texts, tiny_model

COMMANDS = tuple(name for name in cli.__all__ if name not in ("app", "main"))
HEAVY = ("torch", "transformers", "pandas", "numpy", "plotly", "datasets")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run, monkeypatch, capsys)


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["import layerscope", "import layerscope.cli"])
def test_importing_is_light(statement):
    code = f"{statement}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("given", ["'metrics'", "'metrics', 'curvature'"])
def test_listing_the_measures_needs_neither_torch_nor_pandas(given):
    code = (
        "import sys; from layerscope.cli import app\n"
        f"app([{given}], standalone_mode=False)\n"
        "print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "curvature" in found.stdout
    assert found.stdout.endswith("[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example(command, name):
    finished = command(name, "--help")
    assert finished.code == 0
    assert f"layerscope {name} " in finished.out
    assert "Example" in finished.out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_help_fits_on_a_screen_and_the_whole_one_has_every_option(
    command, monkeypatch, name
):
    monkeypatch.setenv("COLUMNS", "100")
    first, whole = command(name, "--help").out, command(name, "--help-all").out
    params = typer.main.get_command(app).commands[name].params
    options = [each for each in params if each.param_type_name == "option"]
    assert len(first.splitlines()) <= 60
    assert all(f"{each.opts[0]} " in whole for each in options)
    if len(options) > MANY:
        assert f"All {len(options)} options, in groups: layerscope {name} --help-all" in first
        assert all(f" {group} " in whole for group in {group_of(o.name) for o in options} - {None})
        assert first.count("│ --") < len(options) / 1.5


def test_a_group_names_options_that_there_are():
    commands = typer.main.get_command(app).commands.values()
    known = {each.name for command in commands for each in command.params}
    assert {*FIRST, *frozenset().union(*GROUPS.values())} - {"help"} <= known


def test_help_of_the_whole_names_the_commands(command):
    names = {each.name or each.callback.__name__ for each in app.registered_commands}
    assert names == set(COMMANDS)
    finished = command("--help")
    assert finished.code == 0
    assert all(name in finished.out for name in COMMANDS)
    assert command("--version").out == "layerscope 0.1.0\n"


# --- measures -------------------------------------------------------------------------------------


def test_metrics_lists_every_measure(command):
    finished = command("metrics")
    assert finished.code == 0
    assert all(measure.name in finished.out for measure in CATALOGUE)
    listed = json.loads(command("metrics", "--json").out)
    assert [entry["name"] for entry in listed] == [measure.name for measure in CATALOGUE]


def test_metrics_explains_one(command):
    page = command("metrics", "curvature").out
    assert "Hosseini" in page
    assert "radians" in page
    [facts] = json.loads(command("metrics", "lidar", "--json").out)
    assert facts["direction"] == "most"
    assert facts["conventions"] == ["paper", "normalized", "reference"]


# --- options --------------------------------------------------------------------------------------

QUICK = ("--views", "0", "--batch-tokens", "5000")


def scanned(command, folder: Path, data: Path, *options: object, base=QUICK) -> api.Scan:
    finished = command("scan", folder, "--data", data, "--out", "out", "--quiet", *base, *options)
    assert (finished.code, finished.out, finished.err) == (0, "", ""), finished
    return api.load("out")


def settings(scan: api.Scan) -> dict:
    return scan.record["settings"]


CROPS = ("--views", 2, "--augmentation", "crops", "--metrics", "retrieval")
_SHORT = AugmentationConfig(first_words=40).label
_CAPPED = AugmentationConfig.authors().changed(first_words=40).label
OPTIONS = {
    "--limit": (("--limit", 7), lambda s: s.record["data"]["texts"] == 7),
    "--views": (
        ("--views", 3, "--augmentation", "default"),
        lambda s: settings(s)["views"] == 3 and "view" in set(s.table()["level"]),
    ),
    "--view-texts": (
        ("--views", 2, "--view-texts", 5, "--augmentation", "default"),
        lambda s: s.record["augmentation"][_SHORT]["texts"] == 5,
    ),
    "--view-words": (
        ("--views", 2, "--view-words", "all", "--augmentation", "default"),
        lambda s: "characters p=0.3" in set(s.table()["perturbation"]),
    ),
    "--augmentation": (
        ("--views", 2, "--augmentation", "authors, halves", "--metrics", "retrieval"),
        lambda s: set(s.table()["perturbation"]) == {_CAPPED, "halves"},
    ),
    "--readouts": (
        (*CROPS, "--span-words", 4, "--readouts", "0+2 unit, z-score; 1"),
        lambda s: s.run.readouts.asked == ("0+2 unit, z-score", "1"),
    ),
    "--span-words": (
        (*CROPS, "--span-words", 4),
        lambda s: set(s.table()["perturbation"]) == {"crops of 4 words"},
    ),
    "--draws": (
        (*CROPS, "--span-words", 4, "--draws", 3),
        lambda s: set(s.table()["perturbation"]) == {"crops of 4 words, 3 draws"},
    ),
    "--metrics": (
        ("--metrics", "curvature, rankme"),
        lambda s: set(s.table()["metric"]) == {"curvature", "rankme"},
    ),
    "--convention": (
        ("--convention", "all"),
        lambda s: set(s.table()["convention"]) == {"", "paper", "normalized", "reference"},
    ),
    "--layers": (("--layers", "0,2-3"), lambda s: set(s.table()["layer"]) == {0, 2, 3}),
    "--stages": (("--stages", "attn"), lambda s: {"attn", "block"} <= set(s.table()["stage"])),
    "--pooling": (("--pooling", "max"), lambda s: settings(s)["pooling"] == "max"),
    "--special-tokens": (("--special-tokens", "include"), lambda s: settings(s)["special_tokens"]),
    "--prompt": (("--prompt", "river "), lambda s: settings(s)["prompt"] == "river "),
    "--as-tokens": (("--as-tokens",), lambda s: settings(s)["as_tokens"]),
    "--first-token": (
        ("--first-token", "drop", "--special-tokens", "include"),
        lambda s: settings(s)["first_token"] == "drop",
    ),
    "--perturbation": (
        ("--perturbation", "random p=0.5"),
        lambda s: set(s.table()["perturbation"]) == {"random p=0.5"},
    ),
    "--alpha": (("--alpha", 2), lambda s: settings(s)["alpha"] == 2),
    "--max-length": (("--max-length", 8), lambda s: s.record["data"]["longest"] == 8),
    "--batch-tokens": (("--batch-tokens", 64), lambda s: settings(s)["batch_tokens"] == 64),
    "--non-finite": (("--non-finite", "drop"), lambda s: settings(s)["non_finite"] == "drop"),
    "--seed": (("--seed", 3), lambda s: set(s.table()["seed"]) == {3}),
    "--dtype": (("--dtype", "bfloat16"), lambda s: s.record["model"]["dtype"] == "bfloat16"),
    "--device": (("--device", "cpu"), lambda s: s.record["model"]["device"] == "cpu"),
    "--device-map": (("--device-map", "cpu"), lambda s: s.record["model"]["device"] == "cpu"),
    "--revision": (("--revision", "v2"), lambda s: s.record["model"]["revision"] == "v2"),
    "--threads": (("--threads", 2), lambda s: s.record["threads"] == 2),
    "--resamples": (("--resamples", 50), lambda s: s.record["settings"]["resamples"] == 50),
    "--png": (("--png", "a.png"), lambda _: Path("a.png").read_bytes().startswith(b"\x89PNG")),
    "--svg": (("--svg", "a.svg"), lambda _: "<svg" in Path("a.svg").read_text()),
    "--overwrite": (("--overwrite",), lambda s: s.folder.is_dir()),
}
# Values that may be equal by design: they decide speed, place or permission, what is drawn, or how a
# sentence-transformers source is read, which this is not.
SAME_NUMBERS = {
    "--batch-tokens", "--non-finite", "--device", "--device-map", "--revision", "--threads", "--png",
    "--svg", "--overwrite", "--as-tokens",
}  # fmt: skip
TESTED_ELSEWHERE = {
    "--data", "--images", "--out", "--column", "--split", "--dry-run", "--json", "--quiet", "--debug",
    "--trust-remote-code", "--verbose",
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tiny_folder, text_file) -> pd.DataFrame:
    """The table without any option."""
    return api.scan(tiny_folder("llama"), text_file, views=0).table()


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_something(command, tiny_folder, text_file, plain, option):
    threads = torch.get_num_threads()
    if option in ("--png", "--svg"):
        pytest.importorskip("matplotlib")
    given, changed = OPTIONS[option]
    try:
        found = scanned(command, tiny_folder("llama"), text_file, *given)
    finally:
        torch.set_num_threads(threads)
    assert changed(found)
    columns = ["layer", "stage", "metric", "convention", "value", "low"]
    one, two = (table[columns].astype(object).fillna(0) for table in (found.table(), plain))
    if option not in SAME_NUMBERS:
        assert not one.equals(two)


def test_no_option_is_forgotten():
    scan = typer.main.get_command(app).commands["scan"]
    names = {next(o for o in each.opts if o.startswith("--")) for each in scan.params
             if any(o.startswith("--") for o in each.opts)}  # fmt: skip
    assert names - {"--help"} == set(OPTIONS) | TESTED_ELSEWHERE


# --- what is printed ------------------------------------------------------------------------------


def test_a_table_in_80_columns_and_where_the_page_is(command, tiny_folder, text_file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    finished = command("scan", tiny_folder("bert"), "--data", text_file, "--out", "out")
    assert finished.code == 0
    assert finished.err == "", "progress is for terminals"
    printed, _, page = finished.out.partition("\nPage: ")
    lines = printed.splitlines()
    assert max(len(line) for line in lines if not line.startswith(" layerscope ")) <= 80
    assert lines[0].startswith((" Keep the model's own output", " Read layer"))
    assert page.strip() == (Path.cwd() / "out" / "page.html").as_uri()
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "page.html", "prompts.parquet", "readouts.parquet", "results.parquet", "run.json",
    ]  # fmt: skip


def test_json_is_json_and_nothing_else(command, tiny_folder, text_file):
    scan = ("scan", tiny_folder("bert"), "--data", text_file, "--out", "out", *QUICK)
    finished = command(*scan, "--json")
    assert finished.err == ""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = json.loads(finished.out, parse_constant=refuse)
    assert set(found) == {"folder", "recommendation", "choices", "record", "table"}
    table = api.load("out").table()
    assert len(found["table"]) == len(table)
    assert [row["value"] for row in found["table"]] == table["value"].tolist()
    assert found["table"][0]["other_layer"] is None
    written = json.loads(Path("out/run.json").read_text())
    assert {"schema_version": 2} | found["record"] == written


def test_an_infinite_order_is_still_json(command, tiny_folder, text_file):
    finished = command(
        "scan", tiny_folder("bert"), "--data", text_file, *QUICK, "--alpha", "inf", "--json",
        "--metrics", "prompt_entropy", "--out", "out",
    )  # fmt: skip
    assert "Infinity" not in finished.out
    assert "Infinity" not in Path("out/run.json").read_text()
    assert api.load("out").record["settings"]["alpha"] == "inf"


def test_quiet_prints_nothing(command, tiny_folder, text_file):
    finished = command(
        "scan", tiny_folder("bert"), "--data", text_file, "--out", "out", *QUICK, "-q"
    )
    assert (finished.code, finished.out, finished.err) == (0, "", "")
    assert Path("out/run.json").is_file()


def test_a_dry_run_estimates_and_writes_nothing(command, tiny_folder, text_file, tmp_path):
    scan = ("scan", tiny_folder("bert"), "--data", text_file, "--out", "out", "--dry-run")
    scan += ("--span-words", "3")
    finished = command(*scan)
    assert finished.code == 0
    lines = [line.split() for line in finished.out.splitlines()]
    long = sum(len(text.split()) >= 6 for text in texts(24))
    passes = 24 * (1 + 2) + 2 * long
    assert ["texts", "24"] in lines
    assert ["forward", "passes,", "views", "included", str(passes)] in lines
    assert any(line[0] == "memory" and line[2].endswith("B") for line in lines)
    found = json.loads(command(*scan, "--json").out)
    assert found["forward_passes"] == passes
    assert found["pass_seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_names_model_and_data(command, tiny_folder, text_file):
    finished = command("scan", tiny_folder("bert"), "--data", text_file, *QUICK, "-q")
    assert finished.code == 0
    assert Path("runs", f"{tiny_folder('bert').name}--texts", "run.json").is_file()
    again = command("scan", tiny_folder("bert"), "--data", text_file, *QUICK, "-q")
    assert again.code == 2
    assert "already holds a finished run" in again.err


@pytest.mark.parametrize(
    ("model", "data", "folder"),
    [
        ("org/model-2.5", "sample", "org-model-2.5--sample"),
        ("org/model", "-", "org-model--stdin"),
        ("models/x.gguf", "data/my texts.csv", "models-x.gguf--my-texts"),
        ("org/model", "owner/name:config", "org-model--name-config"),
    ],
)
def test_default_folders(model, data, folder):
    assert api.default_folder(model, data) == Path("runs", folder)


# --- where texts come from ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "tsv", "parquet", "stdin"])
def test_texts_from_every_kind_of_source(command, tiny_folder, monkeypatch, kind):
    given = texts(6)
    frame = pd.DataFrame({"body": given, "number": range(6)})
    path = Path(f"t.{kind}")
    options: tuple[object, ...] = ("--column", "body")
    if kind in ("txt", "stdin"):
        path.write_text("\n".join(given))
        options = ()
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if kind == "csv" else "\t")
    if kind == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
        path = Path("-")
    found = scanned(command, tiny_folder("bert"), path, *options, "--metrics", "rankme")
    assert found.record["data"]["texts"] == 6
    assert found.record["data"]["name"] == ("standard input" if kind == "stdin" else path.name)


def test_the_built_in_sample_is_the_default(command, tiny_folder):
    finished = command(
        "scan", tiny_folder("bert"), "--limit", 5, "--metrics", "rankme", "--out", "out", "-q"
    )
    assert finished.code == 0
    assert api.load("out").record["data"]["name"] == "sample"


# --- nothing twice --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--json",), ("--svg", "plot.svg")])
def test_preferred_layers_and_the_choice_are_made_once_a_command(
    monkeypatch, capsys, tmp_path, options
):
    """The table, the page, the plot and the JSON show the same ones."""
    made = []

    def counted(where, name):
        real = getattr(where, name)

        def call(*arguments, **given):
            made.append(name)
            return real(*arguments, **given)

        monkeypatch.setattr(where, name, call)

    counted(choose, "preferred")
    counted(evidence, "evidences")
    counted(evidence, "resampled_means")
    monkeypatch.chdir(tmp_path)
    save_tiny(tiny_model("bert"), Path("model"))
    Path("texts.txt").write_text(
        "\n".join(text for text in texts(60) if text.count(" ") > 3), encoding="utf-8"
    )
    measures = (
        "--metrics",
        "rankme,prompt_entropy,retrieval",
        "--augmentation",
        "crops",
        "--span-words",
        2,
    )
    scan = ("scan", "model", "--data", "texts.txt", *measures, *options)
    finished = run(monkeypatch, capsys, *scan)
    assert finished.code == 0, finished.err
    assert sorted(made) == ["evidences", "preferred", "resampled_means"]


class _Chosen:
    """A selection with a readout, or without."""

    def __init__(self, own: bool | None) -> None:
        self.readout = None if own is None else type("Choice", (), {"keeps_own": own})


@pytest.mark.parametrize(("own", "first"), [(False, "cut"), (True, "select"), (None, "select")])
def test_the_next_step_is_a_command_to_paste(own, first):
    steps = next_steps(_Chosen(own), "org/my model", Path("runs/x"), None, ["--data", "a b.txt"])
    words = shlex.split(steps[0].command)
    assert words[:2] == ["layerscope", first]
    if first == "cut":
        assert words[2:] == [
            "org/my model",
            "--run",
            "runs/x",
            "--data",
            "a b.txt",
            "--out",
            "out/",
        ]
    images = next_steps(_Chosen(own), "dino", Path("runs/x"), "photos", [])
    assert [shlex.split(each.command)[1] for each in images] == ["select"]
