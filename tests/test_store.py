"""Shards: rows come back in any order, a kill leaves whole shards, a full disk is one sentence."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from layerscope.data import files as files_module
from layerscope.data.files import write_atomically
from layerscope.errors import InputError, RunError
from layerscope.states import store as store_module
from layerscope.states.store import StateStore


def add(store: StateStore, items: list[int]) -> None:
    rows = np.asarray(items, float)[:, None] * [1.0, 10.0]
    store.add(np.asarray(items), {"x": rows, "y": rows[:, 0]})


@pytest.mark.parametrize("budget", [0, 10**9])
def test_rows_come_back_in_the_order_asked_for(tmp_path, budget):
    store = StateStore(tmp_path, budget)
    for items in ([5, 2], [0, 7, 3], [4]):
        add(store, items)
    assert store.finished() == {0, 2, 3, 4, 5, 7}
    assert store.rows("y", np.array([3, 5, 0])).tolist() == [3, 5, 0]
    assert store.rows("x", np.array([7])).tolist() == [[7, 70]]
    assert bool(list(tmp_path.glob("shard-*"))) == (budget == 0)


def test_a_new_store_finds_what_an_older_one_finished(tmp_path):
    first = StateStore(tmp_path, 0)
    add(first, [1, 2])
    add(first, [9])
    again = StateStore(tmp_path, 0)
    assert again.finished() == {1, 2, 9}
    add(again, [3])
    assert again.rows("y", np.array([3, 9, 1])).tolist() == [3, 9, 1]


def test_a_half_written_shard_is_not_read(tmp_path):
    store = StateStore(tmp_path, 0)
    add(store, [1])
    (tmp_path / ".shard-00001.safetensors.partial").write_bytes(b"half")
    assert StateStore(tmp_path).finished() == {1}


def test_an_item_that_was_never_computed_is_an_error(tmp_path):
    store = StateStore(tmp_path)
    add(store, [1])
    with pytest.raises(RunError, match="1 of 2 texts were never computed for 'y'"):
        store.rows("y", np.array([1, 4]))
    with pytest.raises(RunError, match="nothing was kept under 'z'"):
        store.rows("z", np.array([1]))


def test_a_temporary_store_cleans_up():
    store = StateStore(budget=0)
    add(store, [1])
    assert list(store.folder.glob("shard-*"))
    store.close()
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (errno.ENOSPC, RunError, "no space left on the disk of .* what was finished is kept"),
        (errno.EACCES, InputError, "cannot write to .* choose another --out folder"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_and_leaves_no_file(
    tmp_path, monkeypatch, code, kind, message
):
    def refuse(*_args):
        raise OSError(code, "refused")

    monkeypatch.setattr(files_module.os, "fsync", refuse)
    with pytest.raises(kind, match=message):
        write_atomically(tmp_path / "run.json", b"{}")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(store_module, "save_file", refuse)
    with pytest.raises(kind, match=message):
        add(StateStore(tmp_path, 0), [1])


def test_an_old_file_survives_a_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(files_module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "io")))
    with pytest.raises(InputError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
