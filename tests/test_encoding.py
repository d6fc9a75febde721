"""Texts -> bank: each text through the model once, for every site and pooling; what counts is fixed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from layerscope.config import FirstToken, Pooling
from layerscope.data import tokens as tokens_module
from layerscope.data.tokens import pad, tokenize
from layerscope.errors import InputError, RunError
from layerscope.models import backbone as backbone_module
from layerscope.states import encode
from layerscope.states.bank import PLANS, VectorBank, hash_of
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site, extract, sites_of
from layerscope.states.pooling import pool
from tiny import texts, tiny_model, tiny_tokenizer

TEXTS = texts(12)


def backbone_of(name="llama"):
    return backbone_module.backbone_of(tiny_model(name), tiny_tokenizer(), name=name)


def encoder_at(folder, name="llama", *, policy=None, **options):
    backbone = backbone_of(name)
    opened = open_bank(folder, backbone, policy or TokenPolicy())
    return BankEncoder(backbone, opened, options.pop("pooling", Pooling.MEAN), **options)


class Counted:
    """Counts the texts that go through a model."""

    def __init__(self, model):
        self.texts = 0
        self.hook = model.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, _module, _arguments, named):
        self.texts += len(named["input_ids"])


@pytest.fixture
def counted():
    counter = Counted(tiny_model("llama"))
    yield counter
    counter.hook.remove()


@pytest.mark.parametrize("pooling", list(Pooling))
@pytest.mark.parametrize("name", ["llama", "bert", "convbert", "fnet"])
def test_every_pooling_of_every_site_is_that_of_a_text_alone(tmp_path, name, pooling):
    encoder = encoder_at(tmp_path, name, pooling=pooling, batch_tokens=60)
    tokenizer, backbone = encoder.backbone.tokenizer, encoder.backbone
    tokenized = tokenize(tokenizer, TEXTS, 96)
    marks = [encoder.policy.counted(text) for text in tokenized]
    alone = [
        next(
            extract(
                backbone,
                [pad([item], tokenized, marks, pad_id=0)],
                encoder.sites,
                lambda tokens: pool(tokens, pooling)[0].numpy(),
            )
        ).by_site
        for item in range(len(TEXTS))
    ]
    for site in sites_of(backbone):
        expected = np.stack([by_site[site] for by_site in alone])
        np.testing.assert_allclose(encoder.vectors(site, TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_a_text_goes_through_the_model_once_whatever_is_asked_of_it(tmp_path, counted):
    encoder = encoder_at(tmp_path)
    before = counted.texts  # the measure of the first token
    for site in encoder.sites:
        encoder.vectors(site, [*TEXTS, *TEXTS[:3]])
    assert counted.texts - before == len(TEXTS) == encoder.encoded.texts
    encoder.vectors(Site(0), [*TEXTS, "river stone"])
    assert counted.texts - before == len(TEXTS) + 1

    again = encoder_at(tmp_path, pooling=Pooling.MAX)
    again.vectors(Site(2), TEXTS)
    assert counted.texts - before == len(TEXTS) + 1
    assert again.encoded.texts == 0


def test_where_padding_changes_states_the_bank_says_that_its_batches_are_of_one_length(tmp_path):
    encoder = encoder_at(tmp_path, "convbert")
    [note] = encoder.notes
    assert note == (
        "texts of one length are batched together, because padding changes the states of ConvBertModel."
    )
    assert encoder.bank.identity["batches"] == "of one length"
    assert "batches" not in encoder_at(tmp_path / "other").bank.identity


def test_only_the_poolings_asked_for_are_kept(tmp_path):
    encoder = encoder_at(tmp_path, poolings=(Pooling.LAST,))
    encoder.vectors(Site(0), TEXTS)
    names = [hash_of(text) for text in TEXTS]
    assert not encoder.bank.missing(names, Pooling.MEAN)
    assert not encoder.bank.missing(names, Pooling.LAST)
    assert len(encoder.bank.missing(names, Pooling.MAX)) == len(TEXTS)


def test_a_bank_that_would_grow_too_big_keeps_one_pooling_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BANK_BUDGET", 1000)
    encoder = encoder_at(tmp_path)
    encoder.vectors(Site(0), TEXTS)
    assert len(encoder.bank.missing([hash_of(TEXTS[0])], Pooling.MAX)) == 1
    [note] = encoder.notes
    assert "keeps mean pooling only" in note
    assert "--bank-poolings" in note


def test_the_first_token_is_decided_once_a_model_and_stays_decided(tmp_path, monkeypatch):
    ratios = iter([50.0])
    monkeypatch.setattr(encode, "first_token_ratio", lambda *_: next(ratios))
    first = open_bank(tmp_path / "bank", backbone_of(), TokenPolicy())
    assert first.policy.first_token is FirstToken.DROP
    again = open_bank(tmp_path / "bank", backbone_of(), TokenPolicy())
    assert (again.policy, again.first_token_ratio) == (first.policy, 50.0)
    dropped = open_bank(tmp_path / "bank", backbone_of(), TokenPolicy(first_token="drop"))
    assert dropped.policy == first.policy
    with pytest.raises(InputError, match=r"another first token \(drop there, keep now\)"):
        open_bank(tmp_path / "bank", backbone_of(), TokenPolicy(first_token="keep"))


def test_the_first_token_is_measured_only_if_that_decides(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(encode, "first_token_ratio", lambda *_: measured.append(1) or 2.0)
    kept = open_bank(tmp_path, backbone_of(), TokenPolicy(first_token="keep"))
    assert (measured, kept.first_token_ratio) == ([], None)
    for _ in range(2):
        decided = open_bank(tmp_path, backbone_of(), TokenPolicy())
        assert (measured, decided.first_token_ratio) == ([1], 2.0)
    assert open_bank(tmp_path, backbone_of(), kept.policy).first_token_ratio == 2.0


@pytest.mark.parametrize("ratio", [None, 9.9])
def test_a_first_token_that_is_no_sink_counts(tmp_path, monkeypatch, ratio):
    monkeypatch.setattr(encode, "first_token_ratio", lambda *_: ratio)
    assert open_bank(tmp_path, backbone_of(), TokenPolicy()).policy.first_token is FirstToken.KEEP


def test_a_bank_of_other_weights_or_tokens_is_refused(tmp_path):
    open_bank(tmp_path, backbone_of("llama"), TokenPolicy())
    with pytest.raises(InputError, match="weights fingerprint"):
        open_bank(tmp_path, backbone_of("qwen3"), TokenPolicy())
    with pytest.raises(InputError, match="special tokens"):
        open_bank(tmp_path, backbone_of("llama"), TokenPolicy(special_tokens=True))
    with pytest.raises(InputError, match=r"max length \(96 there, 8 now\)"):
        open_bank(tmp_path, backbone_of("llama"), TokenPolicy(max_length=8))


@pytest.mark.parametrize("pooling", list(Pooling))
def test_a_text_of_which_nothing_counts_is_counted_whole(tmp_path, pooling):
    """An empty text has special tokens alone; a text of one token loses it with the first."""
    policy = TokenPolicy(first_token="drop")
    encoder = encoder_at(tmp_path, policy=policy, pooling=pooling)
    found = encoder.vectors(Site(1), ["", "river", "river stone"])
    assert np.isfinite(found).all()
    names = [hash_of(text) for text in ("", "river", "river stone")]
    facts = encoder.bank.facts(pooling, names)
    # [CLS] is the first token here, so that a single word still counts.
    assert facts["all_counted"].tolist() == [1, 0, 0]
    assert facts["tokens"].tolist() == [2, 3, 4]


def test_a_text_of_no_token_at_all_still_has_a_vector(tmp_path, monkeypatch):
    encoder = encoder_at(tmp_path)
    nothing = tokens_module.TokenizedText((), (), truncated=False)
    monkeypatch.setattr(encode, "read", lambda *_: [nothing])
    assert np.isfinite(encoder.vectors(Site(3), [""])).all()


def test_long_texts_are_cut_and_said_to_be(tmp_path):
    encoder = encoder_at(tmp_path, policy=TokenPolicy(max_length=8))
    long, short = " ".join(["river"] * 50), "river stone"
    encoder.vectors(Site(0), [long, short])
    facts = encoder.bank.facts(Pooling.MEAN, [hash_of(long), hash_of(short)])
    assert facts["truncated"].tolist() == [1, 0]


@pytest.mark.parametrize("batches", [1, 2])
def test_an_encoding_that_was_interrupted_goes_on_with_the_same_batches(
    tmp_path, monkeypatch, batches
):
    monkeypatch.setattr(VectorBank, "BUDGET", 0)
    whole = encoder_at(tmp_path / "whole", batch_tokens=60)
    expected = {site: whole.vectors(site, TEXTS) for site in whole.sites}

    stopped = encoder_at(tmp_path / "bank", batch_tokens=60)
    left = iter(range(batches))
    add = VectorBank.add

    def interrupted(bank, *arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(bank, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(VectorBank, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.vectors(Site(0), TEXTS)
    resumed = encoder_at(tmp_path / "bank", batch_tokens=60)
    for site in resumed.sites:
        np.testing.assert_array_equal(resumed.vectors(site, TEXTS), expected[site])
    assert 0 < resumed.encoded.texts < len(TEXTS)
    assert not list(resumed.bank.folder.glob(PLANS))


def test_a_plan_of_other_texts_is_left_to_who_made_it(tmp_path):
    encoder = encoder_at(tmp_path)
    others = [hash_of("of another process")]
    encoder.bank.save_plan(others)
    encoder.vectors(Site(0), TEXTS)
    assert encoder.bank.load_plan(others, others) == others
    assert len(list(tmp_path.glob(PLANS))) == 1


# --- several processes ----------------------------------------------------------------------------

FILLING = """
import sys, time
from pathlib import Path
import numpy as np, torch
from layerscope.models import loading
from layerscope.states import bank
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.config import Pooling
from tiny import texts
torch.set_num_threads(1)
pause, shards, folder, model, out = float(sys.argv[1]), int(sys.argv[2]), *map(Path, sys.argv[3:])
bank.VectorBank.BUDGET = 0
flush, left = bank.VectorBank.flush, iter(range(shards))
def slowly(self):
    flush(self)
    if next(left, None) is None: time.sleep(pause)
bank.VectorBank.flush = slowly
backbone = loading.load(model)
opened = open_bank(folder, backbone, TokenPolicy())
encoder = BankEncoder(backbone, opened, Pooling.MEAN, batch_tokens=60)
found = {str(site): encoder.vectors(site, texts(12)) for site in encoder.sites}
np.savez(out, encoded=encoder.encoded.texts, **found)
"""


@pytest.fixture
def filling(tmp_path, tiny_folder):
    """Starts a process that fills a bank, and after some shards pauses at each."""
    started = []

    def start(name, pause=0.0, shards=0, bank="bank"):
        said = (tmp_path / f"{name}.txt").open("w")
        paths = map(str, (tmp_path / bank, tiny_folder("llama"), tmp_path / f"{name}.npz"))
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            [sys.executable, "-c", FILLING, str(pause), str(shards), *paths],
            stderr=said, start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip
        said.close()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_until(what, *processes):
    until = time.monotonic() + 120
    while not what():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.02)


def filled_by(process, tmp_path, name):
    assert process.wait(120) == 0, (tmp_path / f"{name}.txt").read_text()
    return dict(np.load(tmp_path / f"{name}.npz"))


def assert_same_vectors(one, other):
    assert one.keys() == other.keys() | {"encoded"}
    for site in other:
        np.testing.assert_array_equal(one[site], other[site])


@pytest.mark.parametrize("killed", [True, False])
def test_processes_that_share_a_bank_give_what_one_process_gives(tmp_path, filling, killed):
    whole = filled_by(filling("alone", bank="alone"), tmp_path, "alone")
    assert whole.pop("encoded") == len(TEXTS)
    # One writes and is held up (or killed) in the middle; two more want the same texts meanwhile.
    pause = 600 if killed else 3
    writer = filling("writer", pause=pause, shards=1)
    wait_until(lambda: len(list((tmp_path / "bank").glob("shard-*"))) == 2, writer)
    others = {name: filling(name) for name in ("second", "third")}
    if killed:
        wait_until(
            lambda: all(
                "another process is writing to the bank" in (tmp_path / f"{name}.txt").read_text()
                for name in others
            ),
            writer,
            *others.values(),
        )
        writer.kill()
    found = [filled_by(process, tmp_path, name) for name, process in others.items()]
    if not killed:
        found.append(filled_by(writer, tmp_path, "writer"))
    for each in found:
        assert_same_vectors(each, whole)
    encoded = sorted(int(each["encoded"]) for each in found)
    if killed:  # one of the two did what was left, the other waited for it
        assert encoded[0] == 0 < encoded[1] < len(TEXTS)
    else:
        assert encoded == [0, 0, len(TEXTS)]
    assert not list((tmp_path / "bank").glob(PLANS))


def test_a_bank_that_may_only_be_read_serves_what_it_holds(tmp_path, monkeypatch):
    expected = encoder_at(tmp_path).vectors(Site(1), TEXTS)

    def refuse(*_args, **_kwargs):
        raise InputError("cannot write")

    monkeypatch.setattr("layerscope.states.bank.locked", refuse)
    monkeypatch.setattr("layerscope.states.bank.write_json", refuse)
    monkeypatch.setattr(encode, "first_token_ratio", lambda *_: 3.0)
    for policy in (TokenPolicy(), TokenPolicy(first_token="keep")):
        again = encoder_at(tmp_path, policy=policy)
        np.testing.assert_array_equal(again.vectors(Site(1), TEXTS), expected)
    with pytest.raises(InputError, match="cannot write"):
        again.vectors(Site(1), ["river stone"])


def test_states_that_are_not_finite_are_refused(tmp_path):
    encoder = encoder_at(tmp_path)
    weight = next(encoder.backbone.blocks[2].parameters())
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        with pytest.raises(RunError, match=r"NaN or infinite at block.3, as are 1 of its weights"):
            encoder.vectors(Site(0), TEXTS)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_progress_counts_the_tokens(tmp_path):
    told = []
    encoder = encoder_at(tmp_path, batch_tokens=60, progress=lambda *said: told.append(said))
    encoder.vectors(Site(0), TEXTS)
    stages, done, totals = zip(*told, strict=True)
    assert set(stages) == {"encoding texts"}
    assert len(set(totals)) == 1
    assert (done[0], done[-1]) == (0, totals[0])
    assert totals[0] == encoder.encoded.tokens


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"special_tokens": "exclude"},
            "expected special_tokens to be True or False or None, got 'exclude'",
        ),
        ({"max_length": 0}, "expected max_length of at least 1, got 0"),
        ({"first_token": "kepp"}, "unknown first token 'kepp'; did you mean 'keep'"),
    ],
)
def test_a_policy_refuses_what_it_cannot_use(given, said):
    with pytest.raises(InputError, match=said):
        TokenPolicy(**given)
