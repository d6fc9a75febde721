"""The campaign over architectures, a few of which are measured again here; and what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks import architectures as campaign

import matrix
from architectures import ARCHITECTURES, save_random
from tiny import CONFIGS

# One of each: read by structure, a decoder and an encoder; a part of a model of images; an encoder with
# its decoder; a block more; a first block that must stay; shared blocks; computed kinds; no blocks.
SOME = ("glm", "ernie", "gemma3", "bart", "gptj", "t5", "albert", "jamba", "xlm")


@pytest.mark.campaign
@pytest.mark.parametrize("name", SOME)
def test_an_architecture_does_what_the_page_says(name):
    advice = f"run: python -m benchmarks architectures --only {name}"
    assert verdicts(campaign.measure(name)) == verdicts(matrix.measured()[name]), advice


def verdicts(row: dict[str, str]) -> dict[str, str]:
    """A row without the digits of what fails, the last of which depend on the machine."""
    return {name: "FAILS" if cell.startswith("FAILS") else cell for name, cell in row.items()}


def test_a_planted_fault_shows(monkeypatch):
    """The vectors and states are compared for real, and those without a block as well."""
    states = campaign.Own.states

    def shifted(own, text, skipped=None):
        found = states(own, text)
        return [found[0], *(state + 1e-3 * state.abs().max() for state in found[1:])]

    monkeypatch.setattr(campaign.Own, "states", shifted)
    found = campaign.measure("glm", ("scan", "cut", "sentence-transformers", "prune"))
    assert found["scan"].startswith("FAILS: vectors of layer 1 are off by ")
    assert found["cut"].startswith("FAILS: states of layer 2 are off by ")
    assert found["sentence-transformers"].startswith("FAILS: vectors of layer 2 are off by ")
    assert found["prune"].startswith("FAILS: last states without block ")


def test_a_table_that_depends_on_the_batches_shows():
    one = campaign.layerscope.scan_states(torch.randn(3, 8, 4), metrics=["dataset_entropy"])
    other = one.table()
    campaign.same_tables(one.table(), other)
    other.loc[0, "value"] += 1
    with pytest.raises(campaign.WrongError, match="1 of .* numbers depend on the batches"):
        campaign.same_tables(one.table(), other)
    with pytest.raises(campaign.WrongError, match="1 numbers are there in batches or text by text"):
        campaign.same_tables(one.table(), one.table()[1:])


@pytest.mark.parametrize("when", ["before", "after a text was read", "after a model was saved"])
def test_a_refusal_counts_only_before_work(when, tmp_path):
    source = campaign.own(save_random("glm", tmp_path / "glm"), ARCHITECTURES["glm"])

    def refuse(folder: Path, own: campaign.Own) -> str:
        if when == "after a text was read":
            own.states(campaign.TEXTS[0])
        elif when == "after a model was saved":
            source.core.save_pretrained(tmp_path / "other")
        raise campaign.InputError("no.")

    expected = {
        "before": "refused: no.",
        "after a text was read": "FAILS: refused only after texts were read: no.",
        "after a model was saved": "FAILS: refused only after weights were written: no.",
    }
    assert campaign.cell(refuse, tmp_path / "glm", source) == expected[when]


def test_the_documentation_shows_what_was_measured():
    page = matrix.PAGE.read_text(encoding="utf-8")
    assert matrix.table() in page, "run: python tests/matrix.py"
    assert matrix.measured().keys() == ARCHITECTURES.keys()


def test_the_tests_and_the_campaign_say_the_same():
    assert CONFIGS.keys() <= matrix.WORKS.keys()
    rows = matrix.measured()
    for name, config in CONFIGS.items():
        row, works = rows[config().model_type], matrix.WORKS[name]
        assert (row["doctor"] == "yes") == works.doctor, name
        assert row["cut"].startswith("refused") == (works.cut == "no"), name
        assert (row["cut"] == "yes, one block more") == (works.cut == "one more"), name
        assert (row["sentence-transformers"] == "yes") == works.sentences, name
        assert row["prune"].startswith("refused") == (works.prune == "no"), name
        assert (row["prune"] == "yes, not block 1") == (works.prune == "not 1"), name


def test_enough_architectures_pass():
    rows = list(matrix.measured().values())
    assert len(rows) >= 88
    assert sum(all(row[each].startswith("yes") for each in matrix.PROVEN) for row in rows) >= 75


def test_reasons_stand_once_behind_what_they_are_of():
    row = dict.fromkeys(matrix.COLUMNS, "refused: because a|b.")
    assert matrix._why(row) == "because a\\|b"
    row |= {"scan": "yes", "doctor": "FAILS: other."}
    assert matrix._why(row) == "doctor: other; cut, sentence-transformers, prune: because a\\|b"
