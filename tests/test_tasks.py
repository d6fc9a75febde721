"""Names and tables become tasks of mteb that score, with no network, what they should."""

from __future__ import annotations

import hashlib
import json
import socket
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from layerscope.errors import InputError, RunError
from layerscope.evaluation.tables import Table, read_table, split_files
from layerscope.evaluation.tasks import PAPER32_TASKS, TaskPlan, resolve

mteb = pytest.importorskip("mteb")

SHARED = Path(__file__).resolve().parents[2] / "shared"
real = [
    pytest.mark.real,
    pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="../shared/data is missing"),
]


class Encoder:
    """Gives each text a random vector, or whatever a function of texts gives."""

    def __init__(self, vector=None):
        from mteb.models.model_meta import ModelMeta

        self.mteb_model_meta = ModelMeta.create_empty()
        self.vector = vector or self.hashed

    @staticmethod
    def hashed(text: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
        return np.random.default_rng(seed).normal(size=16)

    def encode(self, inputs, **_):
        return np.array([self.vector(t) for batch in inputs for t in batch["text"]], np.float32)

    def similarity(self, one, other):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(other).T

    def similarity_pairwise(self, one, other):
        return torch.cosine_similarity(torch.as_tensor(one), torch.as_tensor(other))


def score(task, plan: TaskPlan, vector=None) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about classes never predicted
        found = task.evaluate(
            Encoder(vector),
            plan.split,
            subsets_to_run=[plan.subset],
            encode_kwargs={"batch_size": 64},
        )
    return float(found[plan.subset][plan.metric])


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


# --- names -------------------------------------------------------------------------------------


def test_paper32_names_tasks_and_subsets_of_mteb():
    plans = resolve(["paper32"])
    assert [(plan.name, plan.subset) for plan in plans] == list(PAPER32_TASKS.items())
    assert len(plans) == 32
    kinds = pd.Series([plan.kind for plan in plans]).value_counts().to_dict()
    assert kinds == {
        "Classification": 10,
        "STS": 9,
        "Clustering": 6,
        "Reranking": 4,
        "PairClassification": 3,
    }
    assert {plan.split for plan in plans} == {"test"}
    assert all(plan.source.startswith("hub:mteb/") for plan in plans)
    metrics = {plan.name: plan.metric for plan in plans}
    assert metrics["STS17"] == "cosine_spearman"
    assert metrics["MindSmallReranking"] == "max_over_subqueries_map_at_1000"


@pytest.mark.real
@pytest.mark.skipif(not (SHARED / "published").is_dir(), reason="../shared/published is missing")
def test_paper32_is_what_the_authors_published():
    published = pd.read_parquet(SHARED / "published" / "pythia-410m.parquet")
    assert set(published.data) - {"wikitext"} == set(PAPER32_TASKS)


def test_the_english_subset_is_chosen_unless_one_is_named():
    plans = resolve(["AmazonCounterfactualClassification", "STS17:es-es", "STS22", "STSBenchmark"])
    assert [plan.subset for plan in plans] == ["en", "es-es", "en", "default"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("STSBenchmrk", "did you mean 'STSBenchmark'"),
        ("STS17:en-eng", "unknown subset of STS17: 'en-eng'; did you mean 'en-en'"),
        ("InstructIR", "a task of type InstructionRetrieval on text"),
        ("CQADupstack-NL", "is a mean of several tasks; name them: CQADupstackAndroid-NL,CQADup"),
        ("nowhere/mine.csv", "there is no table"),
        ("AfriHateClassification", "has the subsets arq, amh, .*; name one, as AfriHate.*:arq"),
    ],
)
def test_a_name_that_cannot_be_scored_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        resolve([name])


def test_nothing_to_score_is_refused():
    with pytest.raises(InputError, match="at least one task"):
        resolve([])


def test_without_network_and_data_the_reason_is_said():
    (plan,) = resolve(["BIOSSES"])
    with pytest.raises(RunError, match="data of BIOSSES could not be loaded .* --task-data"):
        plan.build()


def test_data_of_the_hub_are_loaded_once_for_all_objects(monkeypatch):
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.abstask import AbsTask

    loaded = []

    def load(task, **_):
        loaded.append(task)
        pairs = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.0, 1.0]}
        task.dataset, task.data_loaded = DatasetDict({"test": Dataset.from_dict(pairs)}), True

    monkeypatch.setattr(AbsTask, "load_data", load)
    (plan,) = resolve(["BIOSSES"])
    assert not loaded
    one, other = plan.build(), plan.build()
    assert len(loaded) == 1
    assert one is not other
    assert one.dataset is not other.dataset
    assert one.dataset["test"]["score"] == [0.0, 1.0]


# --- tasks of mteb on local data ---------------------------------------------------------------


def write(folder: Path, name: str, **columns) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_parquet(folder / name)
    return folder


def labelled(count: int, classes: int = 4, start: int = 0) -> dict[str, list]:
    numbers = range(start, start + count)
    return {
        "text": [f"text {number} of {number % classes}" for number in numbers],
        "label": [number % classes for number in numbers],
    }


def by_class(text: str) -> np.ndarray:
    """The vector of a text that ends in its class: the class, and a little of the text itself."""
    clean = np.eye(16)[int(text.split()[-1])]
    return clean + 0.01 * Encoder.hashed(text)


def test_a_task_on_local_files_scores_as_mteb_scores_them_itself(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "Banking77Classification", "train.parquet", **labelled(60))
    write(folder, "test.parquet", **labelled(40, start=100))
    (plan,) = resolve(["Banking77Classification"], task_data=tmp_path)
    own = mteb.get_task("Banking77Classification")
    data = {"path": str(folder), "revision": "local"}
    own.metadata = own.metadata.model_copy(update={"dataset": data})
    own.load_data()
    expected = score(own, plan)
    assert score(plan.build(), plan) == expected
    assert 0.05 < expected < 0.5
    assert score(plan.build(), plan, by_class) == 1


def test_local_data_are_named_by_their_fingerprint(tmp_path):
    folder = tmp_path / "STSBenchmark"
    columns = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [0.0, 2.5, 5.0]}
    write(folder, "test.parquet", **columns)
    (plan,) = resolve(["STSBenchmark"], task_data=tmp_path)
    assert plan.revision.startswith("local:")
    assert len(plan.revision) == len("local:") + 16
    assert plan.source == str(folder)
    assert plan.build().metadata.dataset == {"path": str(folder), "revision": plan.revision}
    columns["score"][0] = 1.0
    write(folder, "test.parquet", **columns)
    assert resolve(["STSBenchmark"], task_data=tmp_path)[0].revision != plan.revision


def test_a_subset_has_its_own_files(tmp_path):
    folder = tmp_path / "AmazonCounterfactualClassification"
    for split in ("train", "test"):
        write(folder, f"en_{split}.parquet", **labelled(40, classes=2))
        write(folder, f"de_{split}.parquet", text=["auf Deutsch"], label=[0])
    (plan,) = resolve(["AmazonCounterfactualClassification"], task_data=tmp_path)
    assert list(plan.build().dataset) == ["en"]
    assert len(plan.build().dataset["en"]["test"]) == 40


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test.parquet", ["test.parquet"]),
        ("data/test-00000-of-00001.parquet", ["test-00000-of-00001.parquet"]),
        ("en/test.csv", ["test.csv"]),
        ("en-testing.jsonl", ["en-testing.jsonl"]),
        ("contest.csv", []),
    ],
)
def test_where_the_file_of_a_split_may_lie(tmp_path, name, expected):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert [file.name for file in split_files(tmp_path, "test", "en")] == expected


def test_two_files_for_a_split_are_refused(tmp_path):
    for name in ("test.csv", "test.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"several files .* test.csv, test.parquet"):
        split_files(tmp_path, "test")


def test_a_folder_may_carry_a_subset_or_more_in_its_name(tmp_path):
    pairs = {"sentence1": ["a", "b", "c"], "sentence2": ["d", "e", "f"], "score": [0, 2.5, 5]}
    write(tmp_path / "STS17-en-en", "test.parquet", **pairs)
    write(tmp_path / "STSBenchmark-mini", "test.parquet", **pairs)
    by_task, by_folder = (
        resolve([name], task_data=tmp_path)[0] for name in ("STS17", "STS17-en-en")
    )
    assert by_task == by_folder
    assert (by_task.name, by_task.subset) == ("STS17", "en-en")
    (mini,) = resolve(["STSBenchmark-mini"], task_data=tmp_path)
    assert (mini.name, mini.metric) == ("STSBenchmark-mini", "cosine_spearman")
    assert type(mini.build()).__name__ == "STSBenchmarkSTS"
    with pytest.raises(InputError, match="but STSBenchmark-mini; name that one"):
        resolve(["STSBenchmark"], task_data=tmp_path)


def test_data_that_do_not_fit_the_task_are_refused(tmp_path):
    folder = write(tmp_path / "STSBenchmark", "test.parquet", **labelled(5))
    (plan,) = resolve(["STSBenchmark"], task_data=tmp_path)
    with pytest.raises(InputError, match=r"needs a column sentence1 .* has text, label"):
        plan.build()
    (folder / "test.parquet").rename(folder / "other.parquet")
    with pytest.raises(InputError, match=r"expected a file test .* found other.parquet"):
        resolve(["STSBenchmark"], task_data=tmp_path)
    pairs = {"sentence1": ["a", None], "sentence2": ["b", "c"], "score": [0, 1]}
    write(tmp_path / "STS12", "test.parquet", **pairs)
    (plan,) = resolve(["STS12"], task_data=tmp_path)
    with pytest.raises(
        InputError, match="expected a text in column sentence1, rows 2 of .* have none"
    ):
        plan.build()
    tree = {"text": ["a", "b"], "label": [["math", "algebra"], ["math", "logic"]]}
    write(tmp_path / "ArXivHierarchicalClusteringS2S", "test.parquet", **tree)
    (plan,) = resolve(["ArXivHierarchicalClusteringS2S"], task_data=tmp_path)
    with pytest.raises(
        InputError, match=r"expected one label a text for ArX.* \(a hierarchy\); keep"
    ):
        plan.build()
    with pytest.raises(InputError, match="expected a folder with a folder for each task"):
        resolve(["STSBenchmark"], task_data=tmp_path / "nowhere")


def test_older_layouts_of_mteb_are_read(tmp_path):
    """Sets of texts for clustering, one row of lists for pairs, query and texts for reranking."""
    texts = labelled(40)
    halves = {key: [value[:20], value[20:]] for key, value in texts.items()}
    write(
        tmp_path / "RedditClustering",
        "test.parquet",
        sentences=halves["text"],
        labels=halves["label"],
    )
    first, second = ["a 1", "b 2", "c 3", "d 4"], ["e 1", "f 3", "g 3", "h 1"]
    write(
        tmp_path / "TwitterURLCorpus",
        "test.parquet",
        sent1=[first],
        sent2=[second],
        labels=[[1, 0, 1, 0]],
    )
    write(
        tmp_path / "AskUbuntuDupQuestions",
        "test.parquet",
        query=["q 1", "r 2"],
        positive=[["s 1"], ["t 2"]],
        negative=[["u 2", "v 3"], ["w 1", "x 4"]],
    )
    names = ["RedditClustering", "TwitterURLCorpus", "AskUbuntuDupQuestions"]
    plans = resolve(names, task_data=tmp_path)
    assert len(plans[0].build().dataset["test"]) == 2
    assert [score(plan.build(), plan, by_class) for plan in plans] == pytest.approx([1, 1, 1])


# --- fresh objects -----------------------------------------------------------------------------


def test_every_build_scores_as_the_first(tmp_path):
    """mteb's clustering draws its samples from the task's own random state."""
    path = tmp_path / "topics.csv"
    pd.DataFrame(labelled(80)).to_csv(path, index=False)
    (plan,) = resolve([f"{path}:clustering"])
    task = plan.build()
    once, twice = score(task, plan), score(task, plan)
    assert once != twice
    assert score(plan.build(), plan) == once
    assert plan.build() is not task


def test_columns_are_lists_whatever_is_asked_of_the_data(tmp_path):
    path = tmp_path / "topics.csv"
    pd.DataFrame(labelled(40)).to_csv(path, index=False)
    data = resolve([str(path)])[0].build().dataset["test"]
    assert type(data["label"]) is list
    assert data[0]["text"] == data["text"][0]
    assert data.select_columns(["label"])["label"] == data["label"]


# --- tables ------------------------------------------------------------------------------------


def table(tmp_path: Path, name: str = "mine.csv", **columns) -> Path:
    path = tmp_path / name
    frame = pd.DataFrame(columns)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(map(json.dumps, frame.to_dict("records"))), encoding="utf-8")
    return path


FORMS = {
    "Classification": {**labelled(40)},
    "Clustering": {**labelled(40)},
    "PairClassification": {
        "text1": [f"pair {number} {number % 4}" for number in range(20)],
        "text2": [f"other {number} {number % 4 + number % 2}" for number in range(20)],
        "label": [1, 0] * 10,
    },
    "STS": {
        "sentence1": ["a 1", "b 2", "c 3", "d 5", "i 6", "j 7"],
        "sentence2": ["e 1", "f 2", "g 4", "h 7", "k 6", "l 8"],
        "similarity": [5, 5, 0, 0, 5, 0],
    },
    "Reranking": {
        "query": ["q 1", "r 2"],
        "positives": [["s 1"], ["t 2", "u 2"]],
        "negatives": [["v 3"], ["w 1", "x 4"]],
    },
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", FORMS)
def test_a_table_is_scored_by_what_its_columns_are(tmp_path, kind, suffix):
    path = table(tmp_path, f"mine.{suffix}", **FORMS[kind])
    (plan,) = resolve([], tables=[read_table(path, kind=kind.lower())])
    assert (plan.name, plan.kind, plan.split, plan.subset) == ("mine", kind, "test", "default")
    assert plan.source == str(path)
    task = plan.build()
    assert task.metadata.name == "mine"
    assert score(task, plan, by_class) > (0.8 if kind == "STS" else 0.99)
    if kind != "Clustering":  # what a classification is, unless told
        assert read_table(path).kind == kind


def test_plain_text_files_hold_lists_as_json(tmp_path):
    path = table(tmp_path, query=["q"], positive=['["a", "b"]'], negative=["one text"])
    rows = read_table(path).splits["test"]
    assert rows.positive.tolist() == [["a", "b"]]
    assert rows.negative.tolist() == [["one text"]]


def test_texts_of_equal_scores_are_not_ranked_for_the_positives(tmp_path):
    rows = range(50)
    path = table(
        tmp_path,
        "mine.jsonl",
        query=[f"q{n}" for n in rows],
        positive=[[f"p{n}"] for n in rows],
        negative=[[f"n{n}-{m}" for m in range(9)] for n in rows],
    )
    (plan,) = resolve([str(path)])
    collapsed = score(plan.build(), plan, lambda _: np.ones(4))
    chance = np.mean(1 / np.arange(1, 11))
    assert collapsed == pytest.approx(chance, abs=0.12)


def test_labels_may_be_words_or_numbers_of_any_kind(tmp_path):
    for labels in (["b", "a"], ["10", "9"], [2.0, 1.0], [True, False], ["", "x"]):
        path = table(tmp_path, "mine.parquet", text=list("abcdefgh"), label=labels * 4)
        if "" in labels:
            with pytest.raises(InputError, match="rows 1, 3, 5, 7 of .* have no label"):
                read_table(path)
            continue
        found = read_table(path)
        assert set(found.splits["train"].label) == {0, 1}
        assert len(found.classes) == 2
    assert read_table(table(tmp_path, text=list("abcd"), label=[10, 9] * 2)).classes == ("10", "9")


def test_half_of_every_class_trains_the_classifier(tmp_path):
    path = table(tmp_path, text=[f"t{n}" for n in range(31)], label=["a"] * 20 + ["b"] * 10 + ["c"])
    found = read_table(path)
    assert found.splits["train"].label.value_counts().to_dict() == {0: 10, 1: 5, 2: 1}
    assert found.splits["test"].label.value_counts().to_dict() == {0: 10, 1: 5}
    assert "half of every class" in found.notes[0]
    assert read_table(path).splits["train"].equals(found.splits["train"])
    assert not read_table(path, seed=1).splits["train"].equals(found.splits["train"])


def test_a_column_may_say_which_rows_train(tmp_path):
    split = ["train", "train", "dev", "test", "Train", "test"]
    path = table(tmp_path, text=list("abcdef"), label=["x", "y"] * 3, split=split)
    found = read_table(path)
    assert found.splits["train"].text.tolist() == ["a", "b", "e"]
    assert found.splits["test"].text.tolist() == ["d", "f"]
    path = table(tmp_path, text=list("ab"), label=["x", "y"], split=["train", "rest"])
    with pytest.raises(InputError, match="expected train and test in column split .* rest, train"):
        read_table(path)


def test_a_class_that_train_lacks_is_told(tmp_path):
    write(tmp_path / "mine", "train.parquet", text=list("abc"), label=["x", "y", "x"])
    write(tmp_path / "mine", "test.parquet", text=list("def"), label=["x", "y", "z"])
    found = read_table(tmp_path / "mine")
    assert found.notes == ("1 test texts have a label that train lacks and count as wrong: 'z'.",)
    (plan,) = resolve([], tables=[found])
    assert plan.notes == found.notes
    assert 0 <= score(plan.build(), plan) < 1


def test_empty_texts_are_left_out_and_counted(tmp_path):
    path = table(tmp_path, text=["a", " ", "c", "d", "e", ""], label=["x", "y"] * 3)
    assert read_table(path, kind="clustering").notes == (
        "2 of 6 rows were left out: a text is empty.",
    )


LABELED = {"text": [f"text {number}" for number in range(8)], "label": ["a", "b"] * 4}


def test_tables_that_are_in_python_are_scored_like_files(tmp_path):
    import datasets
    import pyarrow as pa

    path = table(tmp_path, **LABELED)
    rows = pd.DataFrame(LABELED)
    expected = read_table(path)
    data = datasets.Dataset.from_dict(LABELED)
    for given in (rows, LABELED, rows.to_dict("records"), pa.table(LABELED), data,
                  data.to_iterable_dataset()):  # fmt: skip
        found = read_table(given)
        assert (found.kind, found.classes) == ("Classification", ("a", "b"))
        for split in ("train", "test"):
            assert found.splits[split].to_dict() == expected.splits[split].to_dict()
    assert read_table(rows).name == f"table-{read_table(LABELED).fingerprint[:8]}"
    assert read_table(rows, name="mine").name == "mine"
    assert read_table(rows).fingerprint != read_table(rows.iloc[::-1]).fingerprint
    parts = datasets.DatasetDict(train=data, validation=data, test=data.select([0, 1]))
    assert len(read_table(parts).splits["test"]) == 2
    assert (
        read_table({"train": rows, "dev": rows, "test": rows})
        .splits["train"]
        .equals(read_table(parts).splits["train"])
    )


@pytest.mark.parametrize("several", [False, True])
def test_one_table_is_as_good_as_a_list_of_one(tmp_path, several):
    path = table(tmp_path, **LABELED)
    for given in (path, str(path), pd.DataFrame(LABELED), LABELED, read_table(path)):
        (plan,) = resolve([], tables=[given] if several else given)
        assert plan.kind == "Classification"
    (plan,) = resolve([], tables=[f"{path}:clustering"])  # as `--table FILE:kind` says
    assert plan.kind == "Clustering"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "expected a labelled table, a file or an object with columns, got int"),
        (["a"], "expected a labelled table, a file or an object with columns, got list"),
        (pd.DataFrame({"text": [], "label": []}), "the table 'DataFrame' has no rows"),
        (pd.DataFrame({"a": ["x"]}), "the columns of 'DataFrame' are those of no task: a"),
        ({"left": pd.DataFrame(LABELED), "right": pd.DataFrame(LABELED)},
         "expected splits train and test in 'dict', found left, right"),
        (pd.DataFrame([["a", 1, 2]], columns=["text", "label", "label"]),
         "expected one column of each name, 'DataFrame' has text, label, label; rename them"),
        ({"text": ["a"], "label": [1, 2]}, "expected columns of one length in 'dict', got 1, 2"),
    ],
)  # fmt: skip
def test_objects_that_are_no_labelled_table(given, message):
    with pytest.raises(InputError, match=message):
        read_table(given)


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"words": ["a"], "label": [1]}, None, "those of no task: words, label"),
        ({"text": ["a"], "label": [1]}, "STS", "a STS needs a column sentence1"),
        ({"text": ["a"], "label": [1]}, "classify", "unknown kind of table"),
        ({"text": list("ab"), "label": [1, 1]}, None, "at least 2 different labels"),
        ({"text": list("ab"), "label": [1, 2]}, None, "every class of .* has one text"),
        ({"text": [" "], "label": [1]}, "clustering", "no row of .* is left to test on"),
        ({"text": [], "label": []}, None, "has no rows"),
        (
            {"text1": list("ab"), "text2": list("cd"), "label": [0.5, 1]},
            None,
            "expected labels 0 and 1 for pairs, row 1 .* has '0.5'; call the column score",
        ),
        (
            {"text1": list("ab"), "text2": list("cd"), "score": ["high", 1]},
            None,
            "expected a number as score, rows 1 of",
        ),
        ({"text1": list("ab"), "text2": list("cd"), "score": [1, 1]}, None, "2 different scores"),
    ],
)
def test_a_table_that_cannot_be_scored_is_refused(tmp_path, columns, kind, message):
    with pytest.raises(InputError, match=message):
        read_table(table(tmp_path, **columns), kind=kind)


def test_labels_of_the_test_split_that_train_lacks_altogether_are_refused(tmp_path):
    for split, label in (("train", [0, 1]), ("test", [2, 3])):
        write(tmp_path / "mine", f"{split}.parquet", text=[f"{split} a", f"{split} b"], label=label)
    with pytest.raises(InputError, match="no label of test is among those of train in"):
        read_table(tmp_path / "mine")


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(
        InputError, match=r"expected a table that ends in .jsonl, .*, got 'mine.txt'"
    ):
        read_table(tmp_path / "mine.txt")
    (tmp_path / "mine.parquet").write_text("text")
    with pytest.raises(InputError, match="expected a parquet file, 'mine.parquet' is none or was"):
        read_table(tmp_path / "mine.parquet")
    (tmp_path / "mine.csv").write_bytes(b"text,label\ncaf\xe9,1\n")
    with pytest.raises(InputError, match="expected UTF-8, 'mine.csv' is not from byte 14 on"):
        read_table(tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_text("text,label\na,b,c,d\na,b,c,d,e\n")
    with pytest.raises(InputError, match="expected the same number of fields in every row, 'mine"):
        read_table(tmp_path / "mine.csv")
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}\n[1]')
    with pytest.raises(InputError, match="one JSON object a line, line 2"):
        read_table(tmp_path / "mine.jsonl")
    with pytest.raises(InputError, match="expected files train and test"):
        read_table(tmp_path)


def test_two_tables_of_one_name_are_refused(tmp_path):
    one = table(tmp_path, **labelled(8))
    other = table(tmp_path, "mine.parquet", **labelled(12))
    with pytest.raises(InputError, match="two different tasks are called 'mine'"):
        resolve([str(one), str(other)])
    assert len(resolve([str(one), str(one)])) == 1


def test_a_table_already_read_is_taken(tmp_path):
    rows = pd.DataFrame({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.0, 1.0]})
    plan = resolve([], tables=[Table("pairs", "STS", {"test": rows}, (), "0" * 16, "memory")])[0]
    assert (plan.revision, plan.metric) == ("local:" + "0" * 16, "cosine_spearman")


# --- folders in the BEIR layout ----------------------------------------------------------------

CORPUS = [
    {"_id": "d1", "title": "a stone", "text": "in the river 1"},
    {"_id": "d2", "title": "", "text": "light on water 2", "metadata": {"year": 1999}},
    {"_id": 3, "text": "seven ships 3"},
    {"_id": "d4", "title": None, "text": "a fourth text 4"},
]
QUERIES = [{"_id": f"q{number}", "text": f"what {number}"} for number in (1, 2, 3)]
QRELS = ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td4\t1", "q2\t3\t1", "q2\td1\t0"]


def beir(folder: Path, corpus=CORPUS, queries=QUERIES, qrels=QRELS, split="test") -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(qrels) + "\n")
    return folder


class Keeping(Encoder):
    """Keeps the texts that it is given."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def encode(self, inputs, **named):
        batches = list(inputs)
        self.texts += [text for batch in batches for text in batch["text"]]
        return super().encode(batches, **named)


def own_retrieval(folder: Path, monkeypatch, split="test"):
    """mteb's own task object on a folder, its data read by mteb's own loader."""
    import datasets

    qrels = pd.read_csv(folder / "qrels" / f"{split}.tsv", sep="\t")
    qrels.to_json(folder / "qrels.jsonl", orient="records", lines=True)  # as on the hub
    parts = {"default": "qrels.jsonl", "corpus": "corpus.jsonl", "queries": "queries.jsonl"}
    configs = [
        f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}\n"
        for name, path in parts.items()
    ]
    (folder / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    own = mteb.get_task("NFCorpus")
    data = {"path": str(folder), "revision": "local"}
    own.metadata = own.metadata.model_copy(update={"dataset": data})
    own.load_data()
    return own


def test_a_folder_of_beir_is_a_retrieval_that_scores_as_mteb_reads_it_itself(tmp_path, monkeypatch):
    strict = [  # mteb takes neither null nor mixed types
        {"_id": str(row["_id"]), "title": row.get("title") or "", "text": row["text"]}
        for row in CORPUS
    ]
    folder = beir(tmp_path / "mine", strict)
    (plan,) = resolve([str(folder)])
    assert (plan.name, plan.kind, plan.metric) == ("mine", "Retrieval", "ndcg_at_10")
    assert (plan.split, plan.subset, plan.source) == ("test", "default", str(folder))
    ours, theirs = plan.build(), own_retrieval(folder, monkeypatch)
    for vector in (None, by_class, lambda _: np.ones(4)):
        assert score(ours, plan, vector) == score(theirs, plan, vector)
    assert 0 < score(ours, plan) < 1


def test_titles_are_joined_to_texts_and_numbers_are_ids(tmp_path):
    (plan,) = resolve([], tables=beir(tmp_path / "mine"))
    encoder = Keeping()
    task = plan.build()
    found = task.evaluate(encoder, "test", encode_kwargs={"batch_size": 2})
    assert sorted(encoder.texts) == sorted(
        [
            *("what 1", "what 2"),  # no row of the qrels is about the third
            "a stone in the river 1", "light on water 2", "seven ships 3", "a fourth text 4",
        ]
    )  # fmt: skip
    assert 0 <= found["default"]["ndcg_at_10"] <= 1
    assert task.dataset["default"]["test"]["relevant_docs"]["q2"] == {"3": 1, "d1": 0}


def test_a_retrieval_of_mteb_is_scored_on_a_local_folder(tmp_path):
    beir(tmp_path / "MSMARCO", split="dev")
    (plan,) = resolve(["MSMARCO"], task_data=tmp_path)
    assert (plan.name, plan.kind, plan.split, plan.metric) == (
        "MSMARCO", "Retrieval", "dev", "ndcg_at_10",
    )  # fmt: skip
    task = plan.build()
    assert type(task).__name__ == "MSMARCO"
    assert task.ignore_identical_ids
    assert 0 <= score(task, plan) <= 1
    first = plan.revision
    beir(tmp_path / "MSMARCO", split="dev", qrels=[*QRELS, "q3\td2\t1"])
    assert resolve(["MSMARCO"], task_data=tmp_path)[0].revision != first


def test_a_retrieval_of_mteb_is_planned_with_the_data_of_the_hub():
    plans = resolve(["NFCorpus", "MSMARCO", "BelebeleRetrieval:eng_Latn-eng_Latn"])
    assert [(plan.kind, plan.split, plan.metric) for plan in plans] == [
        ("Retrieval", "test", "ndcg_at_10"),
        ("Retrieval", "dev", "ndcg_at_10"),
        ("Retrieval", "test", "ndcg_at_10"),
    ]
    with pytest.raises(RunError, match="data of NFCorpus could not be loaded .* --task-data"):
        plans[0].build()


def test_data_of_an_older_form_are_converted_once(monkeypatch):
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    def load(task, **_):
        task.corpus = {"test": {"d1": {"title": "t", "text": "x"}, "d2": "plain"}}
        task.queries = {"test": {"q1": "what"}}
        task.relevant_docs = {"test": {"q1": {"d1": 1}}}
        task.data_loaded = True

    monkeypatch.setattr(AbsTaskRetrieval, "load_data", load)
    (plan,) = resolve(["NFCorpus"])
    one, other = plan.build(), plan.build()
    assert score(one, plan) == score(other, plan) > 0
    assert one.dataset["default"]["test"]["corpus"]["id"] == ["d1", "d2"]


def test_queries_without_a_relevant_text_are_noted(tmp_path):
    folder = beir(tmp_path / "mine", qrels=[*QRELS, "q3\td2\t0"])
    (plan,) = resolve([str(folder)])
    assert plan.notes == ("1 of 3 queries have no text with a score above 0 and count as 0.",)
    assert score(plan.build(), plan, by_class) == pytest.approx(
        score((other := resolve([str(beir(tmp_path / "other"))])[0]).build(), other, by_class)
        * 2 / 3,
        abs=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("corpus.jsonl", r"in the BEIR layout .*, corpus.jsonl is missing; add it"),
        ("queries.jsonl", r"in the BEIR layout .*, queries.jsonl is missing"),
        ("qrels/test.tsv", r"expected corpus.jsonl, queries.jsonl and qrels/test.tsv .* is missing"),
        ({"qrels": ["q1\t0\td1\t1"] * 2}, "expected the columns query-id, corpus-id, score in .*"),
        ({"corpus": [{"text": "a"}]}, r"expected the columns _id, text in .*corpus.jsonl', found te"),
        ({"queries": [{"_id": "q1", "text": 3}]}, "expected a text in column text, rows 1 of .*queri"),
        ({"corpus": [*CORPUS, {"text": "a"}]}, "expected an id in column _id, rows 5 of .*corpus.json"),
        ({"corpus": [*CORPUS, CORPUS[0]]}, "expected every _id of .* once, 'd1' stands there more"),
        ({"qrels": [*QRELS, "q9\td1\t1"]}, "qrels of .* name ids that queries.jsonl lacks: 'q9'; a"),
        ({"qrels": [*QRELS, "q1\td8\t1", "q1\td9\t1"]}, "that corpus.jsonl lacks: 'd8', 'd9'; add"),
        ({"qrels": [*QRELS, "q1\td2\tgood"]}, "expected a whole number as score, rows 5 of .* have"),
        ({"qrels": [*QRELS, "q1\td2\t0.5"]}, "expected a whole number as score, rows 5 of .* have"),
        ({"qrels": [QRELS[0], "q1\td1\t0"]}, "no score in the qrels of .* is above 0, so no text is"),
        ({"qrels": QRELS[:1]}, "the table .*test.tsv' has no rows"),
        ({"queries": []}, "the table .*queries.jsonl' has no rows"),
    ],
)  # fmt: skip
def test_a_folder_of_beir_that_cannot_be_scored_is_refused(tmp_path, change, message):
    folder = beir(tmp_path / "mine", **(change if isinstance(change, dict) else {}))
    if isinstance(change, str):
        (folder / change).unlink()
    with pytest.raises(InputError, match=message):
        resolve([str(folder)])


def test_only_a_folder_of_beir_is_a_retrieval(tmp_path):
    path = table(tmp_path, **labelled(8))
    with pytest.raises(
        InputError, match=r"a folder in the BEIR layout .* for a Retrieval, got '.*mine.csv"
    ):
        resolve([f"{path}:retrieval"])
    folder = beir(tmp_path / "folder")
    assert resolve([f"{folder}:retrieval"]) == resolve([str(folder)])
    with pytest.raises(
        InputError, match=r"is in the BEIR layout, which is scored as a Retrieval, not"
    ):
        resolve([f"{folder}:sts"])


# --- the shared data ---------------------------------------------------------------------------

SIZES = {
    "AmazonCounterfactualClassification": (4018, 670),
    "ArxivClusteringS2S-mini": (3674,),
    "Banking77Classification": (10003, 3080),
    "Banking77Pairs": (3000,),
    "CLINC150Domain": (15000, 4500),
    "CLINC150Intent": (15000, 4500),
    "MTOPDomainClassification": (15667, 4386),
    "MassiveScenarioClassification": (11514, 2974),
    "STS17-en-en": (250,),
    "STSBenchmark": (1379,),
    "StackExchangeClustering-mini": (4156,),
    "WordNetGlossLexname": (2200, 1100),
}
CHANCE = {
    "AmazonCounterfactualClassification": (0.4, 0.6),
    "ArxivClusteringS2S-mini": (0.15, 0.3),
    "Banking77Pairs": (0.45, 0.55),
    "CLINC150Reranking": (0.2, 0.4),
    "STS17-en-en": (-0.2, 0.2),
    "STSBenchmark": (-0.1, 0.1),
    "WordNetGlossLexname": (0.01, 0.1),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=real) for name in SIZES])
def test_every_row_of_the_shared_data_is_read(name):
    (plan,) = resolve([name], task_data=SHARED / "data")
    data = plan.build().dataset
    data = data.get(plan.subset, data)
    sizes = tuple(
        len(rows) if len(rows) > 1 else len(rows[0]["sentences"]) for rows in data.values()
    )
    assert sizes == SIZES[name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=real) for name in CHANCE])
def test_random_vectors_score_at_chance_on_the_shared_data(name):
    (plan,) = resolve([name], task_data=SHARED / "data")
    low, high = CHANCE[name]
    assert low < score(plan.build(), plan) < high
