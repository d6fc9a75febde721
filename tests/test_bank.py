"""The bank: vectors found again by their text, one site at a time; other models' banks are refused."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest

from layerscope.config import Pooling
from layerscope.data import files
from layerscope.errors import InputError, RunError
from layerscope.states import bank as bank_module
from layerscope.states import store as store_module
from layerscope.states.bank import VectorBank, hash_of, key
from layerscope.states.extract import Site

IDENTITY = {"weights_fingerprint": "abc", "first_token": "keep", "max_length": 96}
SITES = (Site(0), Site(1), Site(1, "final_norm"))
NAMES = [hash_of(text) for text in ("one", "two", "three", "four")]


def rows(values, poolings=(Pooling.MEAN,), facts=(3, 0, 0)):
    """One batch: for every site and pooling vectors that say where they belong."""
    found = {
        key(site, pooling): np.array(
            [[value, SITES.index(site), list(Pooling).index(pooling)] for value in values],
            dtype=np.float32,
        )
        for site in SITES
        for pooling in poolings
    }
    return found | {"facts": np.array([facts] * len(values), dtype=np.int32)}


@pytest.fixture
def filled(tmp_path):
    bank = VectorBank(tmp_path / "bank", IDENTITY, {"model": "tiny"})
    bank.add(NAMES[:2], rows([1, 2]))
    bank.flush()
    bank.add(NAMES[2:3], rows([3], facts=(9, 1, 1)))
    bank.flush()
    return bank


def test_vectors_come_back_in_the_order_asked_for_whatever_shard_they_are_in(filled):
    found = filled.vectors(Site(1), Pooling.MEAN, [NAMES[2], NAMES[0], NAMES[2], NAMES[1]])
    np.testing.assert_array_equal(found, [[3, 1, 0], [1, 1, 0], [3, 1, 0], [2, 1, 0]])
    assert found.dtype == np.float32


def test_a_bank_that_is_opened_again_holds_the_same(filled):
    again = VectorBank(filled.folder, IDENTITY)
    assert len(again) == 3
    assert again.size == filled.size > 0
    np.testing.assert_array_equal(
        again.vectors(SITES[2], Pooling.MEAN, NAMES[:3]),
        filled.vectors(SITES[2], Pooling.MEAN, NAMES[:3]),
    )
    assert again.missing(reversed(NAMES), Pooling.MEAN) == [NAMES[3]]


def test_missing_names_each_text_once_and_only_of_the_pooling_asked_for(filled):
    assert filled.missing([NAMES[3], NAMES[0], NAMES[3]], Pooling.MEAN) == [NAMES[3]]
    assert filled.missing([NAMES[1], NAMES[0], NAMES[1]], Pooling.MAX) == [NAMES[1], NAMES[0]]


def test_a_shard_may_hold_other_poolings_than_the_others(filled):
    filled.add(NAMES[:1], rows([7], poolings=(Pooling.MEAN, Pooling.MAX)))
    filled.flush()
    np.testing.assert_array_equal(
        filled.vectors(Site(0), Pooling.MAX, NAMES[:1]), [[7, 0, list(Pooling).index(Pooling.MAX)]]
    )
    with pytest.raises(RunError, match=r"1 of 2 texts are not in .*bank"):
        filled.vectors(Site(0), Pooling.MAX, NAMES[:2])


def test_a_site_that_was_not_kept_is_told(filled):
    with pytest.raises(RunError, match=r"bank.* holds no vectors of mean/block\.99"):
        filled.vectors(Site(99), Pooling.MEAN, NAMES[:1])


def test_facts_of_texts(filled):
    found = filled.facts(Pooling.MEAN, [NAMES[2], NAMES[0]])
    assert {name: values.tolist() for name, values in found.items()} == {
        "tokens": [9, 3],
        "truncated": [1, 0],
        "all_counted": [1, 0],
    }


def test_only_the_site_asked_for_is_read(filled, monkeypatch):
    read = []
    real = store_module.safe_open

    class Spy:
        def __init__(self, *arguments, **options):
            self.opened = real(*arguments, **options)

        def __enter__(self):
            self.shard = self.opened.__enter__()
            return self

        def __exit__(self, *arguments):
            return self.opened.__exit__(*arguments)

        def keys(self):
            return self.shard.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.shard.get_tensor(name)

    monkeypatch.setattr(store_module, "safe_open", Spy)
    filled.vectors(Site(1), Pooling.MEAN, NAMES[:2])
    assert read == ["mean/block.1"]  # and not the shard of the third text


def test_a_batch_waits_in_memory_until_there_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(VectorBank, "BUDGET", 100)
    bank = VectorBank(tmp_path, IDENTITY)
    bank.add(NAMES[:1], rows([1]))
    assert not list(tmp_path.glob("shard-*"))
    for name in NAMES[1:]:
        bank.add([name], rows([1]))
    assert list(tmp_path.glob("shard-*"))


def test_a_bank_of_another_model_is_refused_by_what_differs(filled):
    other = IDENTITY | {"weights_fingerprint": "xyz", "max_length": 512}
    with pytest.raises(
        InputError,
        match=r"holds vectors of another max length \(96 there, 512 now\), weights fingerprint \(abc t",
    ):
        VectorBank(filled.folder, other)


def test_a_bank_of_an_older_layerscope_is_refused_with_the_reason(filled):
    path = filled.folder / bank_module.BANK_FILE
    described = json.loads(path.read_text())
    described["identity"]["weights_fingerprint"] = "28a10a12fe4cceb0"
    path.write_text(json.dumps(described))
    with pytest.raises(
        InputError, match="bank in .* was made by an older layerscope .* remove that"
    ):
        VectorBank(filled.folder, IDENTITY)


def test_a_bank_that_another_process_makes_at_the_same_moment_is_not_taken_over(
    tmp_path, monkeypatch
):
    locked = files.locked

    @contextmanager
    def just_after_another(path, *arguments, **options):
        with locked(path, *arguments, **options):
            monkeypatch.setattr(bank_module, "locked", locked)
            files.write_json(
                path.parent / bank_module.BANK_FILE,
                {"schema_version": 1, "identity": IDENTITY | {"max_length": 8}, "facts": {}},
            )
            yield

    monkeypatch.setattr(bank_module, "locked", just_after_another)
    with pytest.raises(InputError, match=r"another max length \(8 there, 96 now\)"):
        VectorBank(tmp_path / "bank", IDENTITY, {})


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / ".layerscope.lock").touch()
    (tmp_path / ".bank.json.1a2b").write_text("{")
    assert len(VectorBank(tmp_path, IDENTITY)) == 0


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="expected a bank of vectors or an empty folder"):
        VectorBank(tmp_path, IDENTITY)


def test_a_bank_of_another_version_or_a_broken_one_is_refused(filled):
    path = filled.folder / bank_module.BANK_FILE
    described = json.loads(path.read_text())
    assert described["facts"] == {"model": "tiny"}
    path.write_text(json.dumps(described | {"schema_version": 99}))
    with pytest.raises(InputError, match="another version than 1"):
        VectorBank(filled.folder, IDENTITY)
    path.write_text("{")
    with pytest.raises(InputError, match=r"the bank in .* cannot be read"):
        VectorBank(filled.folder, IDENTITY)


def test_a_broken_shard_is_named(filled):
    shard = next(filled.folder.glob("shard-*"))
    shard.write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=rf"{shard.name}.* cannot be read .*; remove it, and its texts"
    ):
        VectorBank(filled.folder, IDENTITY)


def test_a_plan_is_kept_until_it_is_dropped(filled):
    assert filled.load_plan(NAMES[3:], NAMES) == []
    filled.save_plan(NAMES)
    assert VectorBank(filled.folder, IDENTITY).load_plan(NAMES[3:], NAMES) == NAMES
    filled.drop_plan(NAMES)
    filled.drop_plan(NAMES)
    assert filled.load_plan(NAMES[3:], NAMES) == []


def test_each_unfinished_encoding_finds_its_own_plan(filled):
    one, other = NAMES[:2], NAMES[1:]
    filled.save_plan(one)
    filled.save_plan(other)
    assert filled.load_plan(NAMES[:1], one) == one
    assert filled.load_plan(NAMES[3:], NAMES) == other
    assert filled.load_plan(NAMES[3:], NAMES[3:]) == []
    filled.drop_plan(one)
    assert filled.load_plan(NAMES[3:], NAMES) == other


def test_nothing_is_asked_for(filled):
    with pytest.raises(RunError, match="expected at least one text to read vectors of, got none"):
        filled.vectors(Site(0), Pooling.MEAN, [])
