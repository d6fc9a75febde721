"""A long table from anywhere is a run, and the published columns are told and translated."""

import pandas as pd
import pytest

from layerscope.errors import InputError
from layerscope.results.foreign import from_long, read_long
from layerscope.results.table import COLUMNS, CONTRIBUTION_COLUMNS


def long(**more):
    return pd.DataFrame(
        {"metric": "curvature", "layer": [0, 1, 2], "value": [2.1, 1.7, 1.9], **more}
    )


def published():
    shared = {"model": "pythia-410m", "revision": "main", "layer": [0, 1, 2]}

    def rows(metric, split, values, data="STS17"):
        told = {"data": data, "task_type": "STS", "split": split, "metric": metric}
        return pd.DataFrame({**shared, **told, "value": values})

    return pd.concat(
        [
            rows("main_score", "test", [0.5, 0.7, 0.6]),
            rows("lidar", "test", [1.0, 2.0, 3.0]),
            rows("curvature", "train", [1.5, None, 1.4]),
        ]
    )


def test_what_a_table_leaves_out_has_its_usual_meaning():
    run = from_long(long())
    assert list(run.table.columns) == list(COLUMNS)
    first = run.table.iloc[1]
    named = ("model", "data", "level", "stage", "perturbation", "convention")
    assert [first[name] for name in named] == ["unnamed", "unnamed", "prompt", "block", "none", ""]
    assert run.table["depth"].tolist() == [0.0, 0.5, 1.0]
    assert list(run.contributions.columns) == list(CONTRIBUTION_COLUMNS)
    assert run.contributions.empty


@pytest.mark.parametrize(
    ("metric", "level", "perturbation"),
    [
        ("lidar", "view", "given"),
        ("dataset_entropy", "dataset", "none"),
        ("mteb/STS17/cosine_spearman", "task", "none"),
        ("probe/mood/linear_accuracy", "task", "none"),
        ("my_own_measure", "dataset", "none"),
    ],
)
def test_the_level_follows_from_the_name(metric, level, perturbation):
    row = from_long(long().assign(metric=metric)).table.iloc[0]
    assert (row["level"], row["perturbation"]) == (level, perturbation)


def test_what_a_table_says_is_kept():
    given = long(model="m", level="dataset", convention="paper", depth=0.25, perturbation="crops")
    row = from_long(given).table.iloc[2]
    assert (row["level"], row["convention"], row["depth"]) == ("dataset", "paper", 0.25)
    assert from_long(given).record["model"]["name"] == "m"


def test_depth_is_of_each_model():
    two = pd.concat([long(model="a"), long(model="b").iloc[:2]])
    assert from_long(two).table["depth"].tolist() == [0, 0.5, 1, 0, 1]
    assert from_long(long().iloc[:1]).table["depth"].tolist() == [0.0]


def test_published_columns_become_scores_and_reference_measures():
    run = from_long(published())
    scores = run.table[run.table["level"] == "task"]
    assert set(scores["metric"]) == {"mteb/STS17/main_score"}
    assert scores["value"].tolist() == [0.5, 0.7, 0.6]
    lidar = run.table[run.table["metric"] == "lidar_log"]
    assert set(lidar["convention"]) == {"reference"}
    assert set(lidar["data"]) == {"STS17"}
    assert lidar["perturbation"].str.startswith("characters").all()
    curvature = run.table[run.table["metric"] == "curvature"]
    assert (curvature["data"] == "STS17 (train)").all()
    assert curvature["layer"].tolist() == [0, 2]
    (undefined,) = run.record["undefined"]
    assert (undefined["metric"], undefined["layer"]) == ("curvature", 1)
    assert run.record["tasks"] == {
        "STS17": {"type": "STS", "metric": "main_score", "split": "test"}
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_files_are_read(tmp_path, name):
    path = tmp_path / name
    long().to_parquet(path) if name.endswith("parquet") else long().to_csv(path, index=False)
    assert read_long(path).table["value"].tolist() == [2.1, 1.7, 1.9]


def test_what_is_no_long_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="layer, value missing among the columns metric, score"):
        from_long(pd.DataFrame({"metric": ["x"], "score": [1.0]}))
    with pytest.raises(InputError, match="column of the wrong type"):
        from_long(long().assign(value="high"))
    with pytest.raises(
        InputError, match="expected a run's folder or a .parquet or .csv table, got"
    ):
        read_long(tmp_path / "notes.txt")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(InputError, match="broken.parquet' cannot be read"):
        read_long(broken)
