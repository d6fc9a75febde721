"""A run that was killed goes on where it stopped, and gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from layerscope import api
from layerscope.analysis import run as run_module
from layerscope.errors import InputError
from layerscope.results.folder import RunFolder
from layerscope.states import extract
from layerscope.states.store import StateStore
from tiny import save_tiny, texts, tiny_model, with_column_changed

# The command as it is, but with shards of one batch each and a pause after each step, so that a kill
# can be aimed at a moment.
WRAPPER = """
import time
from layerscope import cli
from layerscope.analysis import measure
from layerscope.states import store
store.StateStore.BUDGET = 0
flush, write = store.StateStore.flush, measure.write_atomically
store.StateStore.__init__.__defaults__ = (None, 0)
def slow_flush(self):
    flush(self); time.sleep({pause})
def slow_write(path, content):
    write(path, content); time.sleep({pause})
store.StateStore.flush, measure.write_atomically = slow_flush, slow_write
cli.main()
"""


def command(tiny_folder, text_file: Path, out: Path, pause: float, *more: str) -> list[str]:
    script = WRAPPER.format(pause=pause)
    options = ["--views", "4", "--batch-tokens", "150", "--span-words", "3", "--threads", "1"]
    options += more
    where = ["--data", str(text_file), "--out", str(out)]
    return [sys.executable, "-c", script, "scan", str(tiny_folder("bert")), *where, *options]


def started(arguments: list[str]) -> subprocess.Popen[str]:
    # Its own process group, so that no signal meant for it reaches anything else; and with Ctrl-C
    # listened to, which a shell switches off for what it starts in the background.
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(process: subprocess.Popen[str], out: Path, pattern: str, count: int) -> None:
    until = time.monotonic() + 120
    while len(list((out / "parts").glob(pattern))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.005)


def parts(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (out / "parts").glob("*.safetensors")}


def scan_in_process(tiny_folder, text_file: Path, out: Path, **options) -> api.Scan:
    given = {"views": 4, "batch_tokens": 150, "span_words": 3} | options
    return api.scan(tiny_folder("bert"), text_file, out=out, **given)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads as the command under test is given: more of them round sums otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tiny_folder, text_file, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    scan_in_process(tiny_folder, text_file, out)
    return out


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("results.parquet", "prompts.parquet"):
        frames = [pd.read_parquet(folder / name) for folder in (one, other)]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert not (one / "parts").exists()


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("shard-*", 1), ("shard-*", 7), ("measured-*", 2)],
    ids=["after the first shard", "among the views", "while measuring"],
)
def test_a_run_killed_at_any_moment_goes_on_and_ends_the_same(
    tiny_folder, text_file, whole, tmp_path, monkeypatch, pattern, count
):
    out = tmp_path / "run"
    process = started(command(tiny_folder, text_file, out, 0.05))
    wait_for(process, out, pattern, count)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "run.json").exists()
    kept = parts(out)
    assert kept

    finished = []
    reading = StateStore.finished
    monkeypatch.setattr(
        StateStore, "finished", lambda self: finished.append(reading(self)) or finished[-1]
    )
    ran = listen_to_batches(monkeypatch)
    untouched = watch_finish(monkeypatch, out)
    scan_in_process(tiny_folder, text_file, out)
    assert_same_run(out, whole)
    assert finished[0], "the second run found nothing of the first"
    assert not finished[0] & set(ran), "a finished text went through the model again"
    assert {name: untouched[0].get(name) for name in kept} == kept


def test_a_second_process_is_refused_and_spoils_nothing(tiny_folder, text_file, whole, tmp_path):
    out = tmp_path / "run"
    first = started(command(tiny_folder, text_file, out, 600))
    try:
        wait_for(first, out, "shard-*", 1)
        kept = parts(out)
        second = started(command(tiny_folder, text_file, out, 0, "--overwrite"))
        stdout, stderr = second.communicate(timeout=120)
        assert (second.returncode, stdout) == (2, "")
        assert stderr == (
            f"layerscope: another process is at work in {str(out)!r}; wait until it ends, or choose "
            "another --out folder.\n"
        )
        assert parts(out) == kept
    finally:
        first.kill()
        first.communicate()
    scan_in_process(tiny_folder, text_file, out)
    assert_same_run(out, whole)
    assert not list(out.glob(".*"))


def listen_to_batches(monkeypatch) -> list[int]:
    """The items of every batch that the pass runs."""
    ran: list[int] = []
    original = extract.batches

    def listening(*arguments, **options):
        for batch in original(*arguments, **options):
            ran.extend(batch.items)
            yield batch

    monkeypatch.setattr(run_module, "batches", listening)
    return ran


def watch_finish(monkeypatch, out: Path) -> list[dict[str, int]]:
    """What lies in `parts` when the run is about to finish."""
    seen: list[dict[str, int]] = []
    original = RunFolder.finish

    def finish(self, run, page):
        seen.append(parts(out))
        original(self, run, page)

    monkeypatch.setattr(RunFolder, "finish", finish)
    return seen


def test_a_kill_while_the_run_is_written_leaves_no_half_run(
    tiny_folder, text_file, whole, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def killed(*_args):
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr("layerscope.results.table.write_json", killed)
        with pytest.raises(SystemExit):
            scan_in_process(tiny_folder, text_file, out)
    assert (out / "results.parquet").exists()
    with pytest.raises(InputError, match="this one was interrupted .*; run the same command again"):
        api.load(out)
    scan_in_process(tiny_folder, text_file, out)
    assert_same_run(out, whole)


def test_an_interrupt_says_that_the_work_is_kept_and_exits_130(
    tiny_folder, text_file, whole, tmp_path
):
    out = tmp_path / "run"
    process = started(command(tiny_folder, text_file, out, 0.1))
    wait_for(process, out, "shard-*", 2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr == (
        f"layerscope: interrupted; what was finished is kept in {out}, run the same command again "
        "to go on.\n"
    )
    assert len(parts(out)) >= 2
    scan_in_process(tiny_folder, text_file, out)
    assert_same_run(out, whole)


def test_an_interrupt_keeps_even_what_waited_in_memory(
    tiny_folder, text_file, whole, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    original = StateStore.add

    def interrupted(self, items, rows):
        original(self, items, rows)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            scan_in_process(tiny_folder, text_file, out)
    assert StateStore(out / "parts").finished()
    scan_in_process(tiny_folder, text_file, out)
    assert_same_run(out, whole)


def test_long_work_is_written_even_if_it_is_small(tmp_path, monkeypatch):
    import numpy as np

    store = StateStore(tmp_path)
    store.add(np.arange(2), {"x": np.zeros((2, 1))})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(StateStore, "SECONDS", 0)
    store.add(np.arange(2, 4), {"x": np.zeros((2, 1))})
    assert StateStore(tmp_path).finished() == {0, 1, 2, 3}


def test_a_finished_run_is_not_replaced_unless_asked(tiny_folder, text_file, tmp_path):
    out = tmp_path / "run"
    quick = {"views": 0, "metrics": ("curvature",)}
    scan_in_process(tiny_folder, text_file, out, **quick)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(InputError, match="already holds a finished run; pass --overwrite"):
        scan_in_process(tiny_folder, text_file, out, **quick)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    again = scan_in_process(tiny_folder, text_file, out, **(quick | {"seed": 5}), overwrite=True)
    assert set(api.load(out).table()["seed"]) == {5}
    pd.testing.assert_frame_equal(api.load(out).table(), again.table())


def half_done(tiny_folder, text_file, out: Path, monkeypatch, **options) -> None:
    """Leave an unfinished run behind."""

    def failed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "measure", failed)
        with pytest.raises(KeyboardInterrupt):
            scan_in_process(tiny_folder, text_file, out, **options)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 3}, r"seed \(0 there, 3 now\)"),
        ({"pooling": "max"}, r"pooling \(mean there, max now\)"),
        ({"views": 2}, r"views \(0 there, 2 now\)"),
    ],
)
def test_unfinished_work_of_other_settings_is_refused_by_their_names(
    tiny_folder, text_file, tmp_path, monkeypatch, other, named
):
    out = tmp_path / "run"
    half_done(tiny_folder, text_file, out, monkeypatch, views=0)
    with pytest.raises(InputError, match=f"holds an unfinished run with other {named}; run that"):
        scan_in_process(tiny_folder, text_file, out, **({"views": 0} | other))
    assert parts(out)
    scan_in_process(tiny_folder, text_file, out, **({"views": 0} | other), overwrite=True)
    assert not (out / "parts").exists()


def test_unfinished_work_of_other_texts_or_another_model_is_refused(
    tiny_folder, text_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half_done(tiny_folder, text_file, out, monkeypatch, views=0)
    with pytest.raises(InputError, match="data_fingerprint"):
        api.scan(tiny_folder("bert"), texts(20, seed=9), out=out, views=0, batch_tokens=150)
    with pytest.raises(InputError, match="unfinished run with other .*name"):
        api.scan(tiny_folder("llama"), text_file, out=out, views=0, batch_tokens=150)


def test_unfinished_work_of_a_fine_tuned_copy_is_refused(
    tiny_folder, text_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half_done(tiny_folder, text_file, out, monkeypatch, views=0)
    kept = parts(out)
    copied = save_tiny(with_column_changed(tiny_model("bert")), tmp_path / tiny_folder("bert").name)
    options = {"views": 0, "batch_tokens": 150, "span_words": 3}
    with pytest.raises(InputError, match="unfinished run with other weights_fingerprint"):
        api.scan(copied, text_file, out=out, **options)
    assert parts(out) == kept


def test_unfinished_work_of_an_older_layerscope_is_refused_with_the_reason(
    tiny_folder, text_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half_done(tiny_folder, text_file, out, monkeypatch, views=0)
    plan = json.loads((out / "parts" / "plan.json").read_text())
    plan["weights_fingerprint"] = "28a10a12fe4cceb0"
    (out / "parts" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="made by an older layerscope .* pass --overwrite to drop"):
        scan_in_process(tiny_folder, text_file, out, views=0)


def test_a_plan_without_any_finished_work_stands_in_nobodys_way(
    tiny_folder, text_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"

    def failed(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "run_pass", failed)
        with pytest.raises(KeyboardInterrupt):
            scan_in_process(tiny_folder, text_file, out, views=0)
    scan_in_process(tiny_folder, text_file, out, views=0, seed=4, metrics=("curvature",))
