"""The run's schema: what is written is read back; old folders keep loading, newer ones are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fake_runs import fake_run
from layerscope import api
from layerscope.errors import InputError
from layerscope.results import table
from layerscope.results.table import COLUMNS, CONTRIBUTION_COLUMNS, Run, conform, load_run, save_run

HISTORIC = Path(__file__).parent / "historic_runs"


@pytest.fixture
def run() -> Run:
    return Run(*fake_run(blocks=3, texts=20))


def test_a_run_comes_back_as_it_was(tmp_path, run):
    save_run(run, tmp_path / "deep" / "run")
    again = load_run(tmp_path / "deep" / "run")
    pd.testing.assert_frame_equal(again.table, run.table, check_exact=True)
    assert again.contributions["value"].tolist() == run.contributions["value"].tolist()
    assert list(again.contributions.columns) == list(CONTRIBUTION_COLUMNS)
    assert again.record == run.record
    assert not [p for p in (tmp_path / "deep" / "run").iterdir() if p.name.startswith(".")]


def test_others_may_read_a_run_as_far_as_the_umask_lets_them(tmp_path, run):
    plain = tmp_path / "plain"
    plain.touch()
    save_run(run, tmp_path / "run")
    modes = {path.stat().st_mode for path in (tmp_path / "run").iterdir()}
    assert modes == {plain.stat().st_mode}


@pytest.mark.parametrize("version", sorted(p.name for p in HISTORIC.iterdir()))
def test_runs_of_every_older_version_keep_loading(version):
    scan = api.load(HISTORIC / version)
    found = scan.table()
    assert list(found.columns) == list(COLUMNS)
    assert set(found["layer"]) == set(range(5))
    assert set(found["metric"]) >= {"prompt_entropy", "rankme", "infonce"}
    assert np.isfinite(found["value"].astype(float)).all()
    assert list(scan.contributions().columns) == list(CONTRIBUTION_COLUMNS)
    assert scan.record["schema_version"] == table.SCHEMA_VERSION
    assert scan.select().layer in range(5)
    assert "<html" in scan.page()


def test_smaller_subspaces_of_early_runs_are_read_from_their_note_once(tmp_path, run):
    table = run.table.head(3).assign(
        metric=["frenet_speed_k64", "frenet_displacement_sample_k32", "frenet_speed_k16"]
    )
    note = "Frenet: k is 29, the least rank of a layer, instead of 32, 64; 30 texts are fewer than 4 k."
    record = {**run.record, "notes": ["another", note]}
    del record["subspace_dimensions"]
    save_run(Run(table, run.contributions, record), tmp_path / "early")
    found = load_run(tmp_path / "early").record
    expected = {"frenet_speed_k64": 29, "frenet_displacement_sample_k32": 29}
    assert found["subspace_dimensions"] == expected
    save_run(Run(table, run.contributions, {**record, "subspace_dimensions": {}}), tmp_path / "new")
    assert load_run(tmp_path / "new").record["subspace_dimensions"] == {}


def test_numbers_from_before_several_kinds_of_views_say_which_they_are_of():
    scan = api.load(HISTORIC / "v1")
    label = "characters p=0.3"
    found = scan.contributions()
    assert set(found.loc[found["metric"] == "infonce", "perturbation"]) == {label}
    assert set(found.loc[found["metric"] != "infonce", "perturbation"]) == {"none"}
    assert scan.record["augmentation"][label]["mean_edit_distance"] == pytest.approx(
        0.119, abs=0.001
    )
    choice = scan.preferred()["infonce", "paper", label]
    assert len(choice.within_noise) > 1, "the contributions were found"


def test_texts_of_a_corpus_are_below_zero():
    found = api.load(HISTORIC / "v2").contributions()
    corpus = found["perturbation"].str.endswith("built-in sample")
    assert found.loc[corpus, "text"].max() == -1
    assert set(found.loc[~corpus, "text"]) == set(range(6))


def test_an_older_version_goes_through_every_upgrade_in_turn(tmp_path, monkeypatch):
    shutil.copytree(HISTORIC / "v1", tmp_path / "run")

    def renamed(parts):
        frame, contributions, record = parts
        return frame.replace({"metric": {"rankme": "rank_me"}}), contributions, record

    def noted(parts):
        frame, contributions, record = parts
        assert "rank_me" in set(frame["metric"]), "the first upgrade comes first"
        return frame, contributions, record | {"upgraded": True}

    monkeypatch.setattr(table, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(table, "UPGRADES", {1: renamed, 2: noted})
    found = load_run(tmp_path / "run")
    assert "rank_me" in set(found.table["metric"])
    assert found.record["upgraded"]
    assert found.record["schema_version"] == 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["schema_version"] == 1


def test_there_is_an_upgrade_from_every_older_version_and_a_run_of_each_to_try_it_on():
    versions = range(1, table.SCHEMA_VERSION)
    assert set(table.UPGRADES) == set(versions)
    assert {p.name for p in HISTORIC.iterdir()} == {
        f"v{n}" for n in [*versions, table.SCHEMA_VERSION]
    }


def test_why_there_is_no_run_and_how_to_go_on(tmp_path, run):
    save_run(run, tmp_path / "runs" / "minilm")
    began = tmp_path / "runs" / "began"
    (began / "parts").mkdir(parents=True)
    (began / "parts" / "plan.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for folder, message in [
        ("runs/minlm", r"in '.*minlm', there is no such folder; did you mean 'minilm'\?"),
        (
            "nowhere/run",
            r"in 'nowhere/run', there is no such folder; there is no folder 'nowhere' e",
        ),
        (
            "runs/began",
            r"began', this one was interrupted .*the same command again with --out .*/b",
        ),
        ("empty", "empty', found no run.json there; give the folder that a scan or an evaluation"),
        ("runs", r"runs', found no run.json there, but in minilm; name one of these\."),
        ("runs/minilm/run.json", r"expected the folder of a finished run, .*run.json' is a file"),
    ]:
        place = Path(folder) if folder.startswith("nowhere") else tmp_path / folder
        with pytest.raises(InputError, match=message):
            load_run(place)


def test_a_run_of_a_newer_version_is_refused(tmp_path, run):
    save_run(Run(run.table, run.contributions, run.record | {"schema_version": 99}), tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"schema_version": 99}))
    with pytest.raises(InputError, match="schema version 99, .* up to 2; upgrade layerscope"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", None, "expected a finished run in .*, this one was interrupted before it was"),
        ("run.json", b"{", "cannot be read"),
        ("run.json", b"[]", "cannot be read"),
        ("results.parquet", None, "cannot be read"),
        ("results.parquet", b"PAR1", "cannot be read"),
        ("prompts.parquet", b"", "cannot be read"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, run, name, content, message):
    save_run(run, tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_run(tmp_path)


def test_a_frame_gets_the_columns_and_types_of_the_table():
    frame = conform(pd.DataFrame({"metric": ["x"], "value": [1], "layer": [2.0], "more": [0]}))
    assert list(frame.columns) == list(COLUMNS)
    assert str(frame["layer"].dtype) == "Int64"
    assert frame["low"].isna().all()
    with pytest.raises(InputError, match="expected a results table with metric and value"):
        conform(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="a column of the wrong type"):
        conform(pd.DataFrame({"metric": ["x"], "value": ["much"]}))


def test_an_absent_number_stays_absent_and_is_no_nan(tmp_path, run):
    frame = run.table.copy()
    frame.loc[0, ["low", "high"]] = pd.NA
    save_run(Run(frame, run.contributions, run.record), tmp_path)
    again = load_run(tmp_path).table
    assert again.loc[0, "low"] is pd.NA
    assert again.loc[1:, "low"].notna().all()
