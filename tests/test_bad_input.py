"""What goes wrong is one sentence on standard error, the right exit code, and nothing else."""

from __future__ import annotations

import copy
import errno
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from commands import Finished, run
from fake_runs import fake_run
from layerscope import api
from layerscope.data import files
from layerscope.decisions import correlate as correlate_module
from layerscope.models import loading
from layerscope.results.folder import RunFolder
from layerscope.results.table import Run, save_run
from layerscope.states import store
from tiny import save_tiny, tiny_model

INPUT, FAILURE, INTERRUPT = 2, 1, 130


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run, monkeypatch, capsys)


def assert_one_sentence(finished: Finished, code: int, *parts: str) -> None:
    assert finished.code == code, finished
    assert finished.out == ""
    assert finished.err.startswith("layerscope: "), finished.err
    assert finished.err.count("\n") == 1, finished.err
    assert finished.err.endswith((".\n", "?\n")), finished.err
    assert "Traceback" not in finished.err
    for part in parts:
        assert part in finished.err, finished.err


def assert_nothing_written(folder: Path, *given: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(given)


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/none", "neither a local folder nor a model that the hub gives (offline"),
        ("./none", "no model folder at './none'; check the path, or give a hub id"),
        ("a/b/c", "no model folder at 'a/b/c'"),
        ("two words", "no model 'two words'"),
        ("none.gguf", "expected a GGUF file, found none at 'none.gguf'"),
    ],
)
def test_a_model_that_does_not_exist(command, text_file, tmp_path, name, message):
    assert_one_sentence(command("scan", name, "--data", text_file), INPUT, message)
    assert_nothing_written(tmp_path)


def edited_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BREAK = {
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "found no config.json and no .gguf file there",
    ),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "is not a valid JSON file",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "'broken' cannot be loaded: Error no file named model.safetensors",
    ),
    "weights are garbage": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"garbage" * 99),
        "the weights of 'broken' are damaged or were cut off (Error while deserializing header",
    ),
    "weights cut off": (
        lambda folder: os.truncate(folder / "model.safetensors", 9000),
        "the weights of 'broken' are damaged or were cut off (",
    ),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("token*")],
        "'broken' comes without a tokenizer",
    ),
    "a tokenizer's settings alone": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "'broken' comes without a tokenizer; save the one it was trained with beside it",
    ),
    "tokenizer is no JSON": (
        lambda folder: (folder / "tokenizer.json").write_text("{bad"),
        "the tokenizer.json of 'broken' is damaged or was cut off (no JSON: Expecting property name",
    ),
    "tokenizer cut off": (
        lambda folder: os.truncate(folder / "tokenizer.json", 100),
        "the tokenizer.json of 'broken' is damaged or was cut off (no JSON: ",
    ),
    "tokenizer is binary": (
        lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe\0"),
        "the tokenizer.json of 'broken' is damaged or was cut off (no JSON: 'utf-8' codec",
    ),
    "tokenizer's settings are no JSON": (
        lambda folder: (folder / "tokenizer_config.json").write_text("{bad"),
        "the tokenizer_config.json of 'broken' is damaged or was cut off",
    ),
    "tokenizer is another JSON": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        "the tokenizer of 'broken' cannot be loaded (KeyError: 'added_tokens'); save the one",
    ),
    "unknown architecture": (
        lambda folder: edited_config(folder, model_type="foo"),
        "has model type `foo`",
    ),
    "blocks missing": (
        lambda folder: edited_config(folder, num_hidden_layers=6),
        "lacks 32 weights of a BertModel",
    ),
    "other shapes": (
        lambda folder: edited_config(folder, hidden_size=64),
        "its weights have other shapes than its config.json says",
    ),
    "modules.json is no JSON": (
        lambda folder: (folder / "modules.json").write_text("["),
        "modules.json' cannot be read",
    ),
    "code of its own": (
        lambda folder: edited_config(
            folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}
        ),
        "comes with code of its own, which layerscope does not run unasked; pass --trust-remote-code",
    ),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_model_folder(command, tiny_folder, text_file, tmp_path, how):
    shutil.copytree(tiny_folder("bert"), tmp_path / "broken")
    breaking, message = BREAK[how]
    breaking(tmp_path / "broken")
    finished = command("scan", "broken", "--data", text_file, "--out", "run")
    assert_one_sentence(finished, INPUT, message)
    assert_nothing_written(tmp_path, "broken")


def test_a_file_or_several_gguf_files_are_no_model(command, text_file, tmp_path):
    assert_one_sentence(
        command("scan", text_file, "--data", text_file), INPUT, "a hub id, got the file"
    )
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    finished = command("scan", tmp_path, "--data", text_file)
    assert_one_sentence(finished, INPUT, "several GGUF files (a.gguf, b.gguf); name one")


def tiny_gguf(path: Path) -> bytes:
    """The start of a model: some facts of it and one tensor."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_string("general.name", "x" * 200)
    writer.add_tensor("token_embd.weight", np.ones((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("part", [0.05, 0.5, 0.99])
def test_a_gguf_file_that_was_cut_off(command, text_file, tmp_path, part):
    whole = tiny_gguf(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(whole[: int(part * len(whole))])
    finished = command("scan", "a.gguf", "--data", text_file)
    assert_one_sentence(
        finished, INPUT, "the GGUF file 'a.gguf' is damaged or was cut off", "download it again"
    )


@pytest.mark.parametrize("content", [b"", b"PK\3\4" * 99])
def test_a_file_that_is_only_called_gguf(command, text_file, tmp_path, content):
    (tmp_path / "a.gguf").write_bytes(content)
    finished = command("scan", "a.gguf", "--data", text_file)
    assert_one_sentence(finished, INPUT, "'a.gguf' is no GGUF file: its first bytes are")


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.txt", None, (), "there is no file"),
        ("t.txt", b"", (), "it is empty; give it at least one text"),
        ("t.txt", b"  \n\n \n", (), "but"),
        ("t.txt", b"\0\1\2" * 9, (), "is binary (a zero byte at offset 0)"),
        ("t.txt", "caf\xe9\n".encode("latin1") * 3, (), "expected UTF-8"),
        ("t.pdf", b"river", (), "expected a file that ends in"),
        ("t.csv", b"body,n\nriver,1\nstone,2\n", ("--column", "bdy"), "did you mean 'body'?"),
        ("t.csv", b"a,b\nriver,x\nstone,y\n", (), "choose one with column"),
        ("t.jsonl", b"not json\n", (), "expected one JSON object a line, line 1"),
        ("t.parquet", b"not parquet", (), "expected a parquet file"),
        ("t.txt", b"river stone light\n", (), "at least 2 distinct texts"),
        ("t.txt", b"river stone\n" * 9, (), "at least 2 distinct texts"),
        ("t.txt", b"river\nstone\nlight\n", ("--limit", "1"), "at least 2 distinct texts"),
        (
            "t.txt",
            b"river\nstone\nlight\n",
            ("--limit", "-1"),
            "expected --limit of at least 1, or all",
        ),
        (
            "t.txt",
            b"a b c\nd e f\ng h i\n",
            ("--max-length", "2"),
            "cut to 2 tokens, but the tokenizer alone adds 2; raise --max-length",
        ),
        (
            "t.txt",
            b"a\nb\nc\nd\n",
            ("--views", "400"),
            "only 0 of 4 texts allow 400 distinct views; give",
        ),
    ],
)
def test_texts_that_cannot_be_used(command, tiny_folder, tmp_path, name, content, options, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    before = [path.name for path in tmp_path.iterdir()]
    finished = command("scan", tiny_folder("bert"), "--data", name, "--out", "run", *options)
    assert_one_sentence(finished, INPUT, message)
    assert_nothing_written(tmp_path, *before)


def test_texts_in_which_nothing_counts(command, tiny_folder, tmp_path):
    """One token each, which is the first, which is to be left out."""
    model = save_tiny(tiny_model("llama"), tmp_path / "model")
    config = json.loads((model / "tokenizer.json").read_text())
    config["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(config))
    (tmp_path / "t.txt").write_text("river\nstone\nlight\n")
    finished = command("scan", "model", "--data", "t.txt", "--first-token", "drop")
    assert_one_sentence(
        finished, INPUT, "all but 0 of 3 texts from t.txt have no token that counts"
    )


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metrics", "curvatur"), "unknown measure 'curvatur'; did you mean 'curvature'"),
        (("--metrics", ""), "expected at least one of metrics"),
        (
            ("--metrics", "effective_rank", "--convention", "reference"),
            "nothing is left to measure",
        ),
        (("--metrics", "lidar", "--views", "0"), "views are needed for lidar"),
        (("--layers", "9"), "expected layers from 0 (the embeddings) to 4"),
        (("--layers", "3-1"), "expected layers like 0,4-6, got '3-1'"),
        (("--layers", "one"), "expected layers like 0,4-6, got 'one'"),
        (("--layers", ""), "expected layers like"),
        (("--stages", "atn"), "unknown stage 'atn'; did you mean 'attn'"),
        (("--stages", ""), "expected at least one of stages"),
        (("--convention", "papr"), "unknown convention 'papr'; did you mean 'paper'?"),
        (("--convention", ""), "expected at least one of conventions"),
        (("--pooling", "men"), "unknown pooling 'men'; did you mean 'mean'?"),
        (("--first-token", "kep"), "unknown first token 'kep'; did you mean 'keep'?"),
        (("--special-tokens", "exlude"), "did you mean 'exclude' or 'include'?"),
        (("--non-finite", "dorp"), "unknown non finite 'dorp'; did you mean 'drop'?"),
        (("--augmentation", "author"), "did you mean 'authors'?"),
        (("--views", "1"), "expected 0 views, or at least 2"),
        (("--views", "-3"), "expected views of at least 0, got -3"),
        (("--views", "many"), "invalid value for '--views'"),
        (("--alpha", "-1"), "alpha of at least 0, got -1.0"),
        (("--alpha", "nan"), "alpha of at least 0, got nan"),
        (("--seed", "-1"), "expected seed of at least 0, got -1"),
        (("--threads", "0"), "expected at least 1 thread, got 0"),
        (("--max-length", "0"), "expected max_length of at least 1"),
        (("--batch-tokens", "0"), "expected batch_tokens of at least 1"),
        (("--dtype", "int8"), "unknown dtype 'int8'; Known: auto, float32"),
        (("--device", "nowhere"), "expected device to be a device like auto, cpu, cuda"),
        (("--device", "meta"), "expected device to be a device like auto, cpu, cuda"),
        (("--device", "xla"), "the device 'xla' cannot be used here"),
        (("--device-map", "nowhere"), "When passing device_map as a string"),
        (("--png", "none/plot.png"), "expected a folder for the plot 'none/plot.png'"),
        (("--png", "plot.jpg"), "expected a file ending in .png, got 'plot.jpg'"),
        (("--svg", "plot.png"), "expected a file ending in .svg, got 'plot.png'"),
        (("--column", "text"), "has no columns"),
        (("--split", "train"), "has no splits"),
        (("--nope",), "no such option: --nope"),
        (("extra",), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_make_no_sense(command, tiny_folder, text_file, tmp_path, options, message):
    arguments = ("scan", tiny_folder("bert"), "--data", text_file, "--out", "run")
    assert_one_sentence(command(*arguments, *options), INPUT, message)
    assert_nothing_written(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(command, tiny_folder, text_file):
    finished = command("scan", tiny_folder("bert"), "--data", text_file, "--device", "cuda")
    assert_one_sentence(finished, INPUT, "the device 'cuda' cannot be used here")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scan",), "missing argument 'model'; see layerscope scan --help"),
        (("scna",), "no such command 'scna'"),
        (("metrics", "lida"), "did you mean 'lidar'"),
        (("--nope",), "no such option: --nope"),
    ],
)
def test_commands_that_do_not_exist(command, arguments, message):
    assert_one_sentence(command(*arguments), INPUT, message)


# --- folders and disks ----------------------------------------------------------------------------


def test_a_folder_that_is_not_ours(command, tiny_folder, text_file, tmp_path):
    scan = partial(command, "scan", tiny_folder("bert"), "--data", text_file, "--out")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "parted" / "parts").mkdir(parents=True)
    (tmp_path / "parted" / "parts" / "engine.step").write_text("mine")
    assert_one_sentence(scan("file"), INPUT, "expected a folder for the run, 'file' is a file")
    assert_one_sentence(scan("file/run"), INPUT, "expected a folder for the run, 'file' is a file")
    for options in ((), ("--overwrite",)):
        for name in ("full", "parted"):
            finished = scan(name, *options)
            assert_one_sentence(
                finished, INPUT, f"{name!r} holds other files; choose a new or empty"
            )
    kept = [path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert kept == ["mine"] * 3


@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        (errno.ENOSPC, FAILURE, "no space left on the disk of"),
        (errno.EACCES, INPUT, "cannot write to"),
        (errno.EROFS, INPUT, "Read-only file system"),
    ],
)
@pytest.mark.parametrize("where", ["plan", "shard", "table"])
def test_a_disk_that_takes_nothing(
    command, tiny_folder, text_file, tmp_path, monkeypatch, code, exit_code, message, where
):
    """We may be root, and a full disk is hard to come by: the calls that write are made to fail."""

    def refuse(*_args):
        raise OSError(code, os.strerror(code))

    target = {"plan": (files.os, "fsync"), "shard": (store, "save_file")}.get(where)
    if target:
        monkeypatch.setattr(*target, refuse)
    else:
        original = RunFolder.finish

        def finish(self, *arguments):
            monkeypatch.setattr(files.os, "fsync", refuse)
            original(self, *arguments)

        monkeypatch.setattr(RunFolder, "finish", finish)
    scan = ("scan", tiny_folder("bert"), "--data", text_file, "--out", "run", "--views", "0")
    assert_one_sentence(command(*scan), exit_code, message)
    assert not (tmp_path / "run" / "run.json").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    api.scan(tiny_folder("bert"), text_file, out="run", views=0)  # once there is space it goes on


# --- models that fail ---------------------------------------------------------------------------


def test_a_model_that_gives_nan(command, text_file, tmp_path):
    model = copy.deepcopy(tiny_model("bert"))
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.fill_(torch.nan)
    save_tiny(model, tmp_path / "model")
    scan = ("scan", "model", "--data", text_file, "--out", "run")
    sentence = (
        "model in float32 gave hidden states that are NaN or infinite, as are 1 of its weights "
        "(such as 'encoder.layer.1.output.dense.weight'): the checkpoint is damaged"
    )
    assert_one_sentence(command(*scan), FAILURE, sentence)
    finished = command(*scan, "--non-finite", "drop")
    assert_one_sentence(finished, FAILURE, "only 0 of 24 texts have finite states at every layer")
    early = command(*scan, "--layers", "0-1", "--views", "0", "--quiet", "--overwrite")
    assert (early.code, early.out, early.err) == (0, "", ""), "the broken block is never run"


def test_an_error_of_ours_is_said_to_be_one(command, tiny_folder, text_file, monkeypatch):
    def broken(*_args, **_kwargs):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(api, "scan", broken)
    finished = command("scan", tiny_folder("bert"), "--data", text_file)
    assert_one_sentence(finished, FAILURE, "unexpected ZeroDivisionError", "run again with --debug")


def test_debug_shows_the_traceback(monkeypatch, capsys, tiny_folder):
    arguments = ("scan", tiny_folder("bert"), "--data", "none.txt", "--debug")
    finished = run(monkeypatch, capsys, *arguments)
    assert finished.code == INPUT
    assert finished.err.startswith("Traceback (most recent call last)")
    assert "\nlayerscope: there is no file" in finished.err


def test_an_interrupt(command, tiny_folder, text_file, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "scan", interrupted)
    finished = command("scan", tiny_folder("bert"), "--data", text_file)
    assert_one_sentence(finished, INTERRUPT, "layerscope: interrupted.")


def test_a_reader_that_has_seen_enough():
    shell = f"{sys.executable} -m layerscope metrics --json | head -1; echo ${{PIPESTATUS[0]}}"
    real = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert real.stdout == "[\n0\n"
    assert real.stderr == ""


# --- before a model is loaded ---------------------------------------------------------------------

DATA = [
    (("--data", "none.txt"), "there is no file 'none.txt'"),
    (("--data", "full"), "expected a file, 'full' is a folder"),
    (("--data", "empty.txt"), "it is empty; give it at least one text"),
    (("--data", "t.csv", "--column", "bdy"), "unknown column of 't.csv': 'bdy'; did you mean"),
    (("--data", "t.csv", "--split", "train"), "t.csv has no splits; leave out split='train'"),
    (("--limit", "-3"), "expected --limit of at least 1, or all, got -3"),
]
TWO_TEXTS = [(("--data", "one.txt"), "expected at least 2 distinct texts")]
OUT = [
    (("--out", "file"), "'file' is a file"),
    (("--out", "file/run"), "'file' is a file"),
    (("--out", "locked/new/run"), "cannot write to 'locked/new/run'"),
]
TAKEN = [(("--out", "full"), "'full' holds other files; choose a new or empty --out folder")]
MODEL = [
    (("--device", "nowhere"), "expected device to be a device like auto, cpu"),
    (("--device", "cuda:77"), "the device 'cuda:77' cannot be used here"),
    (("--dtype", "int8"), "unknown dtype 'int8'"),
]
TOKENS = [
    (("--pooling", "men"), "pooling 'men'; did you mean 'mean'"),
    (("--first-token", "kep"), "unknown first token 'kep'"),
    (("--max-length", "0"), "expected max_length of at least 1"),
]
TASKS = [
    (
        ("--task-data", "none", "--table", "labels.csv"),
        "expected a folder with a folder for each task, found none",
    ),
    (("--table", "none.csv"), "there is no table 'none.csv'"),
    (("--table", "t.csv"), "the columns of 't.csv' are those of no task"),
]
RUN = [
    (("--run", "none"), "expected a finished run in 'none', there is no such folder"),
    (("--run", "begun"), "expected a finished run in 'begun', this one was interrupted"),
    (("--run", "empty"), "found no run.json there"),
    (("--run", "t.csv"), "expected a long table with metric, layer and value"),
]
EARLY = {
    ("scan",): [
        *DATA, *TWO_TEXTS, *OUT, *TAKEN, *MODEL, *TOKENS,
        (("--metrics", "curvatur"), "unknown measure 'curvatur'; did you mean 'curvature'"),
        (("--metrics", "lidar", "--views", "0"), "views are needed for lidar"),
        (("--stages", "atn"), "unknown stage 'atn'; did you mean 'attn'"),
        (("--convention", "papr"), "unknown convention 'papr'"),
        (("--layers", "one"), "expected layers like 0,4-6"),
        (("--png", "none/plot.png"), "expected a folder for the plot 'none/plot.png'"),
        (("--png", "locked/plot.png"), "cannot write to 'locked/plot.png'"),
        (("--out", "run"), "'run' already holds a finished run"),
    ],
    ("evaluate", "--table", "labels.csv"): [
        *OUT, *TAKEN, *MODEL, *TOKENS, *TASKS,
        (("--tasks", "STSBenchmrk"), "unknown task 'STSBenchmrk'; did you mean 'STSBenchmark"),
        (("--probe", "linea"), "unknown probe 'linea'; did you mean 'linear'"),
        (("--bank-poolings", "men"), "pooling 'men'; did you mean 'mean'"),
        (("--bank", "file"), "expected a bank of vectors or an empty folder, 'file' holds other"),
        (("--bank", "locked/bank"), "cannot write to 'locked/bank'"),
        (("--bank", "full"), "expected a bank of vectors or an empty folder, 'full' holds other"),
    ],
    ("evaluate",): [((), "expected at least one task or table to score, got none")],
    ("prune",): [
        *DATA, *TWO_TEXTS, *OUT, *TAKEN, *MODEL, *TOKENS, *TASKS, *RUN,
        (("--rule", "frennet"), "unknown rule 'frennet'; did you mean 'frenet'"),
        (("--rule", "nrs", "--run", "run"), "the rule 'nrs' reads nrs_k10, which the run lacks; scan"),
        (("--budget", "lots"), "lots"),
        (("--scheme", "gready"), "unknown scheme 'gready'"),
        (("--protect", "1"), "expected protect to be auto or two whole numbers"),
        (("--format", "gguf"), "unknown format 'gguf'"),
        (("--evaluate", "STSBenchmrk"), "unknown task 'STSBenchmrk'"),
        (("--perplexity", "none.txt"), "there is no file 'none.txt'"),
        (("--draws", "0"), "expected draws of at least 1, got 0"),
    ],
    ("cut", "--out", "new"): [
        *DATA, *TWO_TEXTS, *OUT, *TAKEN, *MODEL, *TOKENS, *RUN,
        (("--rule", "least dim"), "unknown rule 'least dim'; did you mean 'least dime'"),
        (("--rule", "most retrieval", "--run", "run"), "needs retrieval"),
        (("--layer", "0"), "layer 0 is the embeddings"),
        (("--layer", "2.5"), "expected a layer's number or auto, got --layer 2.5"),
        (("--layer", "last"), "expected a layer's number or auto"),
        (("--format", "gguf"), "unknown format 'gguf'"),
        (("--kind", "cutt"), "unknown kind 'cutt'"),
        (("--final-norm", "kep"), "unknown final norm 'kep'"),
    ],
    ("rank",): [
        *DATA, *TWO_TEXTS, *OUT, *MODEL, *TOKENS,
        (("--by", "d_1L"), "unknown predictor 'd_1L'"),
        (("--scores", "none.csv"), "none.csv"),
        (("none/here/model",), "no model folder at 'none/here/model'"),
        (("begun",), "in 'begun', this one was interrupted before it was finished"),
        (("--out", "run"), "holds a scan; choose another --out folder"),
    ],
    ("doctor",): [
        *DATA, *MODEL,
        (("--skip", "relod"), "unknown check 'relod'; did you mean 'reload'"),
    ],
}  # fmt: skip
# Commands with a dry run, and options of which that makes no use.
DRY = {
    "scan": {"--out", "--png"},
    "evaluate": {"--out"},
    "cut": set(),
    "rank": {"--by", "--scores"},
}


@pytest.fixture
def no_model(monkeypatch):
    """A loader that fails, so that what is checked is checked before it."""

    def loaded(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(loading, "_load_model", loaded)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """Files and folders of every bad kind, one of which may not be written to."""
    (tmp_path / "t.csv").write_text("body,n\nriver stone,1\nlight,2\nengine,3\n")
    (tmp_path / "labels.csv").write_text("text,label\n" + "river,1\nstone,2\n" * 4)
    (tmp_path / "one.txt").write_text("river stone light\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "file").write_text("mine")
    for folder in ("full", "empty", "locked", "begun/parts"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "begun" / "parts" / "plan.json").write_text("{}")
    save_run(Run(*fake_run()), tmp_path / "run")
    real = os.access
    monkeypatch.setattr(  # we may be root, who may write anywhere
        os, "access", lambda path, *args: Path(path).name != "locked" and real(path, *args)
    )


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [(start, *case) for start, cases in EARLY.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_cheap_to_check_is_checked_before_a_model_is_loaded(
    command, tiny_folder, tmp_path, no_model, surroundings, start, options, message
):
    before = sorted(tmp_path.rglob("*"))
    name, *more = start
    models = (tiny_folder("llama"), *([tiny_folder("bert")] if name == "rank" else []))
    arguments = (name, *models, *more, *options)
    assert_one_sentence(command(*arguments), INPUT, message)
    if name in DRY and not DRY[name] & set(options):
        assert_one_sentence(command(*arguments, "--dry-run"), INPUT, message)
    assert sorted(tmp_path.rglob("*")) == before


EXTRAS = {
    ("scan", "--png", "plot.png"): (
        "matplotlib", "plots to files need an extra; install it with: pip install 'layerscope[plots]'"
    ),
    ("evaluate", "--tasks", "STS17"): ("mteb", "layerscope[evaluate]"),
    ("prune", "--evaluate", "STS17"): ("mteb", "layerscope[evaluate]"),
    ("prune", "--out", "new", "--format", "sentence-transformers"): (
        "sentence_transformers", "layerscope[sentence-transformers]"
    ),
    ("cut", "--out", "new"): ("sentence_transformers", "layerscope[sentence-transformers]"),
    ("cut", "--out", "new", "--format", "onnx"): ("onnxscript", "layerscope[onnx]"),
}  # fmt: skip


@pytest.mark.parametrize("start", EXTRAS, ids=" ".join)
def test_an_extra_that_is_not_installed_is_missed_before_a_model_is_loaded(
    command, tiny_folder, text_file, tmp_path, no_model, monkeypatch, start
):
    module, extra = EXTRAS[start]
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == module else real(name)
    )
    name, *options = start
    data = () if name == "evaluate" else ("--data", text_file)
    arguments = (name, tiny_folder("llama"), *options, *data)
    assert_one_sentence(command(*arguments), INPUT, extra)
    if name == "cut":
        assert_one_sentence(command(*arguments, "--dry-run"), INPUT, extra)
    assert_nothing_written(tmp_path)


def test_a_gguf_file_without_its_extra_is_refused_at_once(
    command, text_file, tmp_path, monkeypatch
):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" * 9)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "gguf" else real(name)
    )
    finished = command("scan", "a.gguf", "--data", text_file)
    assert_one_sentence(finished, INPUT, "this needs an extra; install it with", "layerscope[gguf]")


def test_the_coefficient_of_a_plot_is_checked_before_the_draws(command, tmp_path, monkeypatch):
    def drawn(*_args, **_kwargs):
        raise AssertionError("the draws were made")

    save_run(Run(*fake_run()), tmp_path / "run")
    monkeypatch.setattr(correlate_module, "correlate", drawn)
    finished = command("correlate", "run", "--statistic", "r")
    assert_one_sentence(finished, INPUT, "unknown coefficient 'r'")
