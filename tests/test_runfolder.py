"""A run's folder: whose it is, whether work in it may go on, and that nothing else is touched."""

from __future__ import annotations

import json

import pytest

from fake_runs import fake_run
from layerscope.data import files
from layerscope.errors import InputError
from layerscope.results import folder as folder_module
from layerscope.results.folder import RunFolder
from layerscope.results.table import Run, load_run


def work(folder: RunFolder) -> None:
    (folder.parts / "shard-00000.safetensors").write_bytes(b"work")


def small_run(**record) -> Run:
    table, contributions, facts = fake_run(blocks=2, texts=5)
    return Run(table, contributions, facts | record)


def test_a_new_folder_is_claimed_without_being_made(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.claim()
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").claim()


def test_a_claimed_folder_is_nobody_elses_until_it_is_finished(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        with (
            pytest.raises(InputError, match="another process is at work in .*run'; wait until it"),
            RunFolder(folder.path, overwrite=True).claimed(),
        ):
            pass
        folder.open_parts({})
        folder.finish(small_run(), "<html>")
    names = {"page.html", "run.json", "results.parquet", "prompts.parquet"}
    assert {path.name for path in folder.path.iterdir()} == names
    with pytest.raises(InputError, match="already holds a finished run"), folder.claimed():
        pass
    with folder.claimed(beside=True):
        assert load_run(folder.path)


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "a" / "b").claimed():
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_lock_that_a_killed_process_left_is_no_other_file(tmp_path):
    (tmp_path / ".layerscope.lock").touch()
    with RunFolder(tmp_path).claimed():
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_finishes_between_looking_and_locking_is_refused(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    locked = files.locked

    def late(*arguments):
        RunFolder(tmp_path / "run").finish(small_run(), "<html>")
        return locked(*arguments)

    monkeypatch.setattr(folder_module, "locked", late)
    with pytest.raises(InputError, match="already holds a finished run"), folder.claimed():
        pass


def test_a_place_that_cannot_be_locked_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with (
        pytest.raises(InputError, match=r"cannot write to .*lock' \(No locks available\)"),
        RunFolder(tmp_path / "run").claimed(),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_work_of_the_same_plan_goes_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert not folder.open_parts({"seed": 0})
    work(folder)
    folder.claim()
    assert folder.open_parts({"seed": 0})
    assert (folder.parts / "shard-00000.safetensors").exists()


def test_work_of_another_plan_is_refused_by_name_and_dropped_on_request(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open_parts({"seed": 0, "alpha": 1.0, "gone": 1})
    work(folder)
    with pytest.raises(
        InputError, match=r"other gone \(1 there, None now\), seed \(0 there, 1 now\)"
    ):
        folder.open_parts({"seed": 1, "alpha": 1.0})
    assert not RunFolder(tmp_path, overwrite=True).open_parts({"seed": 1})
    assert [path.name for path in folder.parts.iterdir()] == ["plan.json"]


def test_a_plan_that_cannot_be_read_is_started_anew(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open_parts({"seed": 0})
    (folder.parts / "plan.json").write_text("{")
    folder.claim()
    assert not folder.open_parts({"seed": 0})
    assert json.loads((folder.parts / "plan.json").read_text()) == {"seed": 0}


def test_a_kill_before_the_plan_was_whole_leaves_a_folder_that_is_still_ours(tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    RunFolder(tmp_path).claim()
    (parts / ".plan.json.x1").write_text("{")
    RunFolder(tmp_path).claim()
    assert not RunFolder(tmp_path).open_parts({})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_parts_of_something_else_is_not_ours(tmp_path, overwrite):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "engine.step").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        RunFolder(tmp_path, overwrite).claim()


def test_finishing_writes_the_run_and_drops_the_parts(tmp_path):
    folder = RunFolder(tmp_path)
    folder.open_parts({})
    work(folder)
    folder.finish(small_run(), "<html>")
    names = {"page.html", "run.json", "results.parquet", "prompts.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(InputError, match="already holds a finished run; pass --overwrite"):
        folder.claim()
    RunFolder(tmp_path, overwrite=True).claim()


def test_a_record_never_stands_beside_another_runs_table(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.finish(small_run(generation=1), "<html>")

    def killed(*_args):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("layerscope.results.table.write_json", killed)
        with pytest.raises(SystemExit):
            folder.finish(small_run(generation=2), "<html>")
    with pytest.raises(InputError, match="this one was interrupted before it was finished"):
        load_run(tmp_path)


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.open_parts({})

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_module.Path, "read_text", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        folder.open_parts({})
