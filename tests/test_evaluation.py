"""Every layer on mteb's tasks: equal to mteb's plain runs, one pass, resumed, beside a scan."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from commands import run
from layerscope import api
from layerscope.api.evaluating import Evaluation
from layerscope.config import Pooling
from layerscope.errors import InputError, RunError
from layerscope.evaluation import probes as probes_module
from layerscope.evaluation import run as run_module
from layerscope.evaluation import tasks as tasks_module
from layerscope.evaluation.experiments import Experiments, layer_meta
from layerscope.evaluation.probes import ProbeScore
from layerscope.evaluation.run import LayerEncoder, unit
from layerscope.evaluation.tables import read_table
from layerscope.evaluation.tasks import resolve
from layerscope.models import backbone as backbone_module
from layerscope.results.folder import RunFolder
from layerscope.results.table import COLUMNS, load_run
from layerscope.settings import EvaluateConfig
from layerscope.states.bank import VectorBank
from layerscope.states.encode import BankEncoder, TokenPolicy, open_bank
from layerscope.states.extract import Site
from served import KINDS as SERVED
from served import served
from tiny import WORDS, save_tiny, tiny_model, tiny_tokenizer, with_column_changed

pytest.importorskip("mteb")

KINDS = {
    "topics": "Classification",
    "groups": "Clustering",
    "pairs": "PairClassification",
    "ranks": "Reranking",
    "likeness": "STS",
    "search": "Retrieval",
}
AS_PLAIN = {"special_tokens": True, "first_token": "keep"}


def sentence(generator: random.Random, topic: int) -> str:
    """A text whose words are mostly those of its topic."""
    own, other = WORDS[5 * topic : 5 * topic + 5], WORDS
    length = generator.randint(3, 9)
    return " ".join(
        generator.choice(own if generator.random() < 0.7 else other) for _ in range(length)
    )


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> list[str]:
    """A small table of each kind of task."""
    folder = tmp_path_factory.mktemp("tables")
    generator = random.Random(0)
    topics = [item % 2 for item in range(60)]
    texts = [sentence(generator, topic) for topic in topics]
    labelled = pd.DataFrame({"text": texts, "label": [f"topic {topic}" for topic in topics]})
    labelled.to_csv(folder / "topics.csv", index=False)
    labelled.iloc[::-1].to_csv(folder / "groups.csv", index=False)
    others = [sentence(generator, item % 3 % 2) for item in range(60)]
    overlap = [len(set(a.split()) & set(b.split())) for a, b in zip(texts, others, strict=True)]
    both = {"sentence1": texts, "sentence2": others}
    same = [int(item % 3 % 2 == topic) for item, topic in enumerate(topics)]
    pd.DataFrame(both | {"label": same}).to_csv(folder / "pairs.csv", index=False)
    scores = [count + generator.random() for count in overlap]
    pd.DataFrame(both | {"score": scores}).to_parquet(folder / "likeness.parquet")
    ranks = [
        {
            "query": sentence(generator, item % 2),
            "positive": [sentence(generator, item % 2) for _ in range(2)],
            "negative": [sentence(generator, 1 - item % 2) for _ in range(4)],
        }
        for item in range(12)
    ]
    (folder / "ranks.jsonl").write_text("\n".join(map(json.dumps, ranks)))
    return [
        str(folder / name)
        for name in (
            "topics.csv",
            "groups.csv:clustering",
            "pairs.csv",
            "ranks.jsonl",
            "likeness.parquet",
        )
    ]


@pytest.fixture(scope="module")
def search(tmp_path_factory) -> str:
    """A small retrieval task in the BEIR layout: texts of the query's topic are relevant."""
    folder = tmp_path_factory.mktemp("beir") / "search"
    (folder / "qrels").mkdir(parents=True)
    generator = random.Random(1)
    corpus = [
        {
            "_id": f"d{item}",
            "title": sentence(generator, item % 2) if item % 3 else "",
            "text": sentence(generator, item % 2),
        }
        for item in range(40)
    ]
    queries = [{"_id": f"q{item}", "text": sentence(generator, item % 2)} for item in range(15)]
    qrels = [
        f"q{item}\td{other}\t{1 + other % 3}"
        for item in range(12)  # nothing is known of the last three
        for other in range(item % 2, 40, 4)
    ]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    header = "query-id\tcorpus-id\tscore"
    (folder / "qrels" / "test.tsv").write_text("\n".join([header, *qrels]))
    return str(folder)


@pytest.fixture
def few(tables) -> list[str]:
    """The quickest two of them."""
    return [tables[2], tables[4]]


@pytest.fixture
def page():
    """Asked for by tests of the page: the others leave it out, it takes longer than they do."""


@pytest.fixture(autouse=True)
def _without_page(request, monkeypatch):
    if "page" not in request.fixturenames:
        monkeypatch.setattr(Evaluation, "page", lambda _: "")


class Counted:
    """Counts the texts that go through a loaded model."""

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


def evaluated(tasks, name="llama", **options) -> api.Evaluation:
    """A loaded model on some tables."""
    options = {"tokenizer": tiny_tokenizer()} | options
    return api.evaluate(tiny_model(name), tasks, **options)


# --- mteb's plain runs -------------------------------------------------------------------------


def plain_scores(folder: Path, tables: list[str], blocks: int | None = None) -> dict[str, float]:
    """What mteb gives a sentence-transformers model, cut to some blocks by its config."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling as Pool
        from sentence_transformers.sentence_transformer.modules import Transformer

        options = {} if blocks is None else {"config_kwargs": {"num_hidden_layers": blocks}}
        transformer = Transformer(str(folder), **options)
        model = SentenceTransformer(
            modules=[transformer, Pool(32, pooling_mode="mean")], device="cpu"
        )
        return mteb_scores(model, tables)


def mteb_scores(model, tables: list[str]) -> dict[str, float]:
    """What mteb gives a `SentenceTransformer` as it is."""
    import mteb

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            plan.name: float(
                mteb.evaluate(model, plan.build(), cache=None, show_progress_bar=False)
                .task_results[0]
                .scores["test"][0]["main_score"]
            )
            for plan in resolve(tables)
        }


def test_all_kinds_equal_mteb_at_the_last_and_a_middle_layer(tiny_folder, tables, search, tmp_path):
    tables = [*tables, search]
    found = api.evaluate(tiny_folder("bert"), tables, out=tmp_path / "run", **AS_PLAIN)
    assert {name: facts["type"] for name, facts in found.record["tasks"].items()} == KINDS
    assert found.record["failed_tasks"] == []
    scores = found.scores()
    assert list(scores.columns) == list(KINDS)
    assert list(scores.index) == [(layer, "block") for layer in range(5)]
    for blocks in (4, 2):
        plain = plain_scores(tiny_folder("bert"), tables, blocks)
        assert scores.loc[(blocks, "block")].to_dict() == pytest.approx(plain, abs=1e-6)
    # Layers that were mixed up, or one score kept for all, would show here.
    assert all(scores[task].nunique() >= 4 for task in ("topics", "pairs", "likeness", "search"))


def test_the_classifiers_of_mteb_have_one_thread(tables, tmp_path, monkeypatch):
    """Two threads on a few hundred rows take ten times the CPU of one."""
    found = []

    def fit(self, *given, fitted=LogisticRegression.fit, **named):
        blas = (each for each in threadpool_info() if each["user_api"] == "blas")
        found.append(max(each["num_threads"] for each in blas))
        return fitted(self, *given, **named)

    monkeypatch.setattr(LogisticRegression, "fit", fit)
    with threadpool_limits(limits=2, user_api="blas"):
        api.evaluate(
            tiny_model("llama"),
            tables[0],
            tokenizer=tiny_tokenizer(),
            layers=[0],
            show_progress=False,
        )
    assert found
    assert set(found) == {1}


def test_after_the_final_norm_equals_mteb(tiny_folder, tables, search, tmp_path):
    quick = [*tables[2:], search]
    found = api.evaluate(tiny_folder("llama"), quick, out=tmp_path / "run", **AS_PLAIN)
    scores = found.scores()
    assert list(scores.index[-2:]) == [(4, "block"), (4, "final_norm")]
    plain = plain_scores(tiny_folder("llama"), quick)
    assert scores.loc[(4, "final_norm")].to_dict() == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("kind", SERVED)
def test_the_last_row_is_what_mteb_gives_the_source_itself(kind, tables, search, tmp_path):
    given = [*tables, search]
    plain = mteb_scores(served(kind, tmp_path / "model"), given)
    found = api.evaluate(tmp_path / "model", given)
    assert found.record["failed_tasks"] == []
    assert found.scores().iloc[-1].to_dict() == pytest.approx(plain, abs=1e-6)


def test_a_layer_whose_vectors_are_all_equal_has_no_score_and_a_reason(tables, tmp_path):
    """The embedding of the first token is the same for every text; the other layers have scores."""
    served("cls at unit length", tmp_path / "model")
    found = api.evaluate(tmp_path / "model", tables[3:])
    scores = found.scores()
    assert scores["likeness"].isna().tolist() == [True, False, False, False, False]
    said = (
        "no score at block.0: mteb's cosine_spearman is not a number, because all vectors are equal"
    )
    assert found.record["tasks"]["likeness"]["notes"][-1] == f"{said} there."
    assert found.record["failed_tasks"] == []
    best = api.select(found, rule="last").labeled[0]
    assert best.score.value == best.score.value
    with pytest.raises(RunError, match=r"no task could be scored: likeness: at block.0: mteb's"):
        api.evaluate(tmp_path / "model", tables[4:], layers=[0])


# --- the table and its record ------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tables, tmp_path_factory) -> api.Evaluation:
    """Two tasks of a model with a final norm, in a folder."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    return evaluated([tables[2], tables[4]], out=out)


def test_rows_are_those_of_the_long_table(found):
    rows = found.task_rows()
    assert list(rows.columns) == list(COLUMNS)
    assert set(rows["level"]) == {"task"}
    assert set(rows["perturbation"]) == {"none"}
    assert list(dict.fromkeys(rows["metric"])) == [
        "mteb/pairs/max_ap",
        "mteb/likeness/cosine_spearman",
    ]
    assert set(rows["data"]) == {"pairs", "likeness"}
    assert set(rows["n"]) == {60}
    assert rows["low"].isna().all()
    one = rows[rows["data"] == "pairs"]
    assert one["depth"].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    assert one["stage"].tolist() == ["block"] * 5 + ["final_norm"]


def test_the_record_says_how_scores_were_made(found):
    facts = found.record["tasks"]["likeness"]
    assert (facts["type"], facts["metric"]) == ("STS", "cosine_spearman")
    assert (facts["split"], facts["subset"]) == ("test", "default")
    assert facts["revision"].startswith("local:")
    assert facts["mteb"] == found.record["evaluation"]["versions"]["mteb"]
    assert 100 < facts["texts"] <= 120
    evaluation = found.record["evaluation"]
    assert evaluation["settings"]["pooling"] == "mean"
    assert evaluation["settings"]["first_token"] == "keep"  # decided, not asked
    assert evaluation["encoded"]["texts"] == evaluation["bank"]["texts"]
    assert evaluation["times"]["total"] > 0
    assert found.record["model"]["blocks"] == 4


def test_the_folder_is_a_run_with_a_page(found):
    again = load_run(found.folder)
    pd.testing.assert_frame_equal(again.table, found.table())
    written = (found.folder / "page.html").read_text()
    assert "Charts of tasks" in written
    assert "likeness" in written
    assert not (found.folder / "parts").exists()
    api.load(found.folder)


def test_saving_elsewhere_writes_the_same(found, tmp_path):
    saved = found.save(tmp_path / "copy")
    pd.testing.assert_frame_equal(load_run(saved.folder).table, found.table())


# --- one pass ----------------------------------------------------------------------------------


def test_each_distinct_text_goes_through_the_model_once(tables, counted, tmp_path):
    first = evaluated(tables[1:], bank=tmp_path / "bank", layers=[0, 1])
    sample = 16  # the texts on which the first token is judged
    texts = first.record["evaluation"]["bank"]["texts"]
    assert counted.texts == texts + sample
    assert first.record["evaluation"]["encoded"]["texts"] == texts


def test_a_retrieval_encodes_the_texts_of_its_corpus_and_the_judged_queries_once(
    search, counted, tmp_path
):
    found = evaluated((), tables=search, bank=tmp_path / "bank", layers=[0, 1])
    texts = 40 + 12
    assert counted.texts == texts + 16  # the texts on which the first token is judged
    assert found.record["tasks"]["search"]["texts"] == texts
    rows = found.task_rows()
    assert set(rows["metric"]) == {"mteb/search/ndcg_at_10"}
    assert set(rows["n"]) == {12}
    assert rows["value"].between(0.01, 0.99).all()


def test_another_pooling_or_task_on_the_same_texts_runs_no_model(tables, counted, tmp_path):
    bank = tmp_path / "bank"
    mean = evaluated(tables[2:4], bank=bank)
    done = counted.texts
    others = [
        evaluated(tables[2:4], bank=bank, pooling="last"),
        evaluated(tables[3:4], bank=bank, normalize=True),
        evaluated(tables[4:], bank=bank),  # the texts of the pairs, with a score
    ]
    assert counted.texts == done
    assert [each.record["evaluation"]["encoded"]["texts"] for each in others] == [0, 0, 0]
    assert (others[0].scores() != mean.scores()).any(axis=None)


def test_a_prompt_is_part_of_the_text(few, tmp_path):
    plain = evaluated(few, bank=tmp_path / "bank")
    prompted = evaluated(few, bank=tmp_path / "bank", prompt="seven quiet ")
    assert prompted.record["evaluation"]["encoded"]["texts"] > 0
    assert (prompted.scores() != plain.scores()).any(axis=None)


def test_a_prompt_for_queries_is_theirs_alone(tables, tmp_path):
    backbone = backbone_module.backbone_of(tiny_model("llama"), tiny_tokenizer())
    source = BankEncoder(backbone, open_bank(tmp_path, backbone, TokenPolicy()), Pooling.MEAN)
    settings = EvaluateConfig(prompt="river ", query_prompt="ocean ")
    encoder = LayerEncoder(source, Site(2), settings)
    batches = [{"text": ["stone", "light"]}]
    document = encoder.encode(batches, prompt_type="document")
    query = encoder.encode(batches, prompt_type="query")
    np.testing.assert_array_equal(document, source.vectors(Site(2), ["river stone", "river light"]))
    np.testing.assert_array_equal(query, source.vectors(Site(2), ["ocean stone", "ocean light"]))


def test_vectors_at_unit_length():
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]])
    assert found.dtype == np.float32


def test_layers_are_experiments_of_one_model_for_mteb(tmp_path):
    backbone = backbone_module.backbone_of(
        tiny_model("llama"), tiny_tokenizer(), name="some/odd model"
    )
    source = BankEncoder(backbone, open_bank(tmp_path, backbone, TokenPolicy()), Pooling.MEAN)
    metas = [
        LayerEncoder(source, site, EvaluateConfig(normalize=normalize)).mteb_model_meta
        for site in source.sites
        for normalize in (False, True)
    ]
    assert len({meta.model_name_with_experiment for meta in metas}) == len(metas)
    assert {meta.name for meta in metas} == {"some/odd-model"}
    assert {meta.revision for meta in metas} == {backbone.info.weights_fingerprint}
    kwargs = [meta.experiment_kwargs for meta in metas]
    assert [each["layer"] for each in kwargs] == [site.layer for site in source.sites for _ in "ab"]
    assert all(None not in each.values() for each in kwargs)
    choices = [EvaluateConfig(prompt=prompt) for prompt in ("", "river ")]
    assert len({layer_meta(backbone.info, Site(0), each).experiment_name for each in choices}) == 2


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("BAAI/bge-small-en", "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a", None),
        ("BAAI/bge-small-en", "main", "xxh3"),
        ("mine", "", "xxh3"),
    ],
)
def test_mteb_reads_the_name_and_the_commit_of_the_hub(name, revision, expected):
    backbone = backbone_module.backbone_of(
        tiny_model("llama"), tiny_tokenizer(), name=name, revision=revision
    )
    meta = layer_meta(backbone.info, Site(1), EvaluateConfig())
    assert meta.name == (name if "/" in name else f"layerscope/{name}")
    assert meta.revision.startswith(expected or revision)


# --- mteb's own results ------------------------------------------------------------------------


def experiments_in(folder: Path):
    import mteb

    return mteb.ResultCache(folder).load_results(load_experiments="match_name").model_results


def test_mteb_reads_each_layer_as_an_experiment_with_its_scores(few, search, tmp_path):
    import mteb

    found = evaluated(few, tables=search, mteb_results=tmp_path / "mteb")
    loaded = experiments_in(tmp_path / "mteb")
    scores = found.scores()
    assert len(loaded) == len(scores) == 6
    assert len({(each.model_name, each.model_revision) for each in loaded}) == 1
    for each in loaded:
        made = each.model_meta.experiment_kwargs
        expected = scores.loc[(made["layer"], made["stage"])].to_dict()
        got = {result.task_name: result.get_score() for result in each.task_results}
        assert got == pytest.approx(expected, abs=1e-6)
        assert (made["pooling"], made["first_token"]) == ("mean", "keep")  # decided, not asked
        searched = next(each for each in each.task_results if each.task_name == "search")
        assert {"ndcg_at_10", "recall_at_100", "mrr_at_10"} <= searched.scores["test"][0].keys()
        assert searched.dataset_revision.startswith("local:")
    cache = mteb.ResultCache(tmp_path / "mteb")
    assert cache.load_results().model_results == []  # a layer is no result of the model itself
    [one] = cache.load_results(experiment_kwargs=loaded[2].model_meta.experiment_kwargs)
    assert one.experiment_name == loaded[2].experiment_name
    assert sorted(one.to_dataframe(format="long")["task_name"]) == ["likeness", "pairs", "search"]


def test_another_run_adds_its_results_beside_those_that_are_there(few, tmp_path):
    out, folder = tmp_path / "run", tmp_path / "mteb"
    evaluated(few[:1], mteb_results=folder, layers=[0, 1])
    evaluated(few[:1], mteb_results=folder, layers=[0, 1], pooling="max")
    evaluated(few, out=out, mteb_results=folder, layers=[1])
    loaded = experiments_in(folder)
    assert sorted(len(each.task_results) for each in loaded) == [1, 1, 1, 2]


def test_scores_without_a_result_of_mteb_are_made_again_from_the_bank(
    few, tmp_path, counted, monkeypatch
):
    out, folder = tmp_path / "run", tmp_path / "mteb"
    first = evaluated(few[:1], out=out, layers=[0, 1])
    done = counted.texts
    again = evaluated(few[:1], out=out, layers=[0, 1], mteb_results=folder)
    assert counted.texts == done
    pd.testing.assert_frame_equal(again.table(), first.table())
    files = list(folder.rglob("pairs.json"))
    assert len(files) == 2
    files[0].write_text(files[0].read_text()[:50])  # as a kill in the middle leaves it
    scored = []
    score = run_module._score
    monkeypatch.setattr(
        run_module, "_score", lambda *given: scored.append(given[2]) or score(*given)
    )
    evaluated(few[:1], out=out, layers=[0, 1], mteb_results=folder)
    assert len(scored) == 1
    assert [len(each.task_results) for each in experiments_in(folder)] == [1, 1]


def test_subsets_of_a_task_share_a_file(few, tmp_path):
    (plan,) = resolve(few[:1])
    info = backbone_module.backbone_of(tiny_model("llama"), tiny_tokenizer()).info
    kept = Experiments(tmp_path, info, EvaluateConfig())
    for subset, value in (("default", 0.5), ("de", 0.25)):
        scores = {subset: {"max_ap": value, "main_score": value}}
        kept.write(plan, Site(0), plan.build(), scores, 1.0)
        assert kept.holds(replace(plan, subset=subset), Site(0))
    assert not kept.holds(replace(plan, subset="fr"), Site(0))
    assert not kept.holds(replace(plan, revision="other"), Site(0))
    assert not kept.holds(plan, Site(1))
    [result] = experiments_in(tmp_path)[0].task_results
    assert {each["hf_subset"]: each["main_score"] for each in result.scores["test"]} == {
        "default": 0.5, "de": 0.25,
    }  # fmt: skip


def test_a_place_for_results_that_cannot_be_written_to_is_refused(few, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match="expected a folder for mteb's results, '.*file' is a file"
    ):
        evaluated(few, mteb_results=tmp_path / "file")
    monkeypatch.setattr(
        "mteb.cache.ResultCache.save_to_cache",
        lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
    )
    with pytest.raises(RunError, match="no space left on the disk"):
        evaluated(few, mteb_results=tmp_path / "mteb")


def test_only_the_layers_asked_for_are_scored(few):
    found = evaluated(few, layers=[0, 4])
    assert list(found.scores().index) == [(0, "block"), (4, "block"), (4, "final_norm")]


# --- resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [0, 1, 5, 9])
def test_an_interrupted_sweep_goes_on_and_gives_the_same_table(
    few, found, tmp_path, monkeypatch, counted, scores
):
    out = tmp_path / "run"
    left = iter(range(scores))
    keep = run_module._keep

    def interrupted(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        keep(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(few, out=out)
    assert len(list((out / "parts").glob("score-*"))) == scores
    done = counted.texts
    resumed = evaluated(few, out=out)
    pd.testing.assert_frame_equal(resumed.table(), found.table())
    # All texts of the first task were encoded before its first score.
    assert counted.texts - done <= (0 if scores > 6 else 60)
    assert not (out / "parts").exists()


KILLED = """
import time
from layerscope import cli
from layerscope.states import bank
from layerscope.evaluation import run as runner
bank.VectorBank.BUDGET = 0
flush, keep = bank.VectorBank.flush, runner._keep
def slowly(function):
    def slow(*arguments):
        function(*arguments); time.sleep(0.2)
    return slow
bank.VectorBank.flush, runner._keep = slowly(flush), slowly(keep)
cli.main()
"""


def test_a_killed_sweep_goes_on(tiny_folder, few, tmp_path):
    options = {"batch_tokens": 300}
    whole = api.evaluate(tiny_folder("bert"), few, out=tmp_path / "whole", **options)
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, "evaluate", str(tiny_folder("bert")), "--tasks", ",".join(few),
         "--out", str(out), "--batch-tokens", "300", "--threads", "1"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 120
    while len(list(out.glob("parts/score-*"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "the moment never came"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = api.evaluate(tiny_folder("bert"), few, out=out, **options)
    pd.testing.assert_frame_equal(resumed.table(), whole.table())
    encoded = resumed.record["evaluation"]["encoded"]["texts"]
    assert encoded < whole.record["evaluation"]["encoded"]["texts"]


def test_unfinished_work_of_other_settings_is_refused(few, tmp_path, monkeypatch):
    out = tmp_path / "run"
    calls = iter(range(3))
    keep = run_module._keep
    with monkeypatch.context() as patch:

        def stop(*arguments):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            keep(*arguments)

        patch.setattr(run_module, "_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluated(few, out=out)
    with pytest.raises(
        InputError, match=r"unfinished run with other pooling \(mean there, max now\)"
    ):
        evaluated(few, out=out, pooling="max")
    evaluated(few, out=out, pooling="max", overwrite=True)


def test_scores_that_are_there_are_not_made_again(few, tmp_path, monkeypatch):
    out = tmp_path / "run"
    evaluated(few[:1], out=out, layers=[0, 1])
    scored = []
    score = run_module._score
    monkeypatch.setattr(
        run_module,
        "_score",
        lambda *given: scored.append((given[1].name, given[2])) or score(*given),
    )
    both = evaluated(few, out=out, layers=[0, 1, 2])
    assert scored == [("pairs", Site(2)), *(("likeness", Site(layer)) for layer in range(3))]
    assert both.scores().notna().all(axis=None)
    scored.clear()
    evaluated(few[1:], out=out, layers=[0], overwrite=True)
    assert scored == [("likeness", Site(0))]


def test_scores_of_other_settings_do_not_stand_in_one_run(few, tmp_path):
    out = tmp_path / "run"
    evaluated(few, out=out)
    with pytest.raises(InputError, match=r"made with another pooling \(mean there, max now\)"):
        evaluated(few[:1], out=out, pooling="max")
    replaced = evaluated(few[:1], out=out, pooling="max", overwrite=True)
    assert list(replaced.scores().columns) == ["pairs"]
    assert list(replaced.record["tasks"]) == ["pairs"]


def test_scores_on_other_data_of_the_same_name_are_made_again(few, tmp_path):
    out = tmp_path / "run"
    table = tmp_path / "likeness.parquet"
    pd.read_parquet(few[1]).to_parquet(table)
    first = evaluated([str(table)], out=out)
    pd.read_parquet(few[1]).iloc[:40].to_parquet(table)
    second = evaluated([str(table)], out=out)
    assert set(second.task_rows()["n"]) == {40}
    assert len(second.table()) == len(first.table())
    assert (
        second.record["tasks"]["likeness"]["revision"]
        != first.record["tasks"]["likeness"]["revision"]
    )


# --- beside a scan -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scanned(tiny_folder, text_file, tmp_path_factory) -> Path:
    """A finished scan."""
    out = tmp_path_factory.mktemp("scanned") / "run"
    api.scan(tiny_folder("llama"), text_file, out=out, views=0, metrics="curvature")
    return out


@pytest.fixture
def scan_copy(scanned, tmp_path) -> Path:
    """A finished scan of one's own."""
    return Path(shutil.copytree(scanned, tmp_path / "run"))


def test_scores_stand_beside_the_measures_of_a_scan(tiny_folder, few, scan_copy, page):
    before = load_run(scan_copy)
    api.evaluate(tiny_folder("llama"), few, out=scan_copy)
    after = load_run(scan_copy)
    measures = after.table[after.table["level"] != "task"].reset_index(drop=True)
    pd.testing.assert_frame_equal(measures, before.table)
    pd.testing.assert_frame_equal(after.contributions, before.contributions)
    assert set(after.table.loc[after.table["level"] == "task", "model"]) == set(
        before.table["model"]
    )
    kept = {key: value for key, value in after.record.items() if key in before.record}
    assert kept == before.record
    assert set(after.record["tasks"]) == {"pairs", "likeness"}
    written = (scan_copy / "page.html").read_text()
    assert "Charts of tasks" in written
    assert "curvature" in written.lower()
    assert api.load(scan_copy).select() is not None


def test_a_kill_while_writing_leaves_the_scan_whole(tiny_folder, few, scan_copy, monkeypatch):
    before = load_run(scan_copy)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "update", killed)
        with pytest.raises(KeyboardInterrupt):
            api.evaluate(tiny_folder("llama"), few, out=scan_copy)
    pd.testing.assert_frame_equal(load_run(scan_copy).table, before.table)
    assert len(api.evaluate(tiny_folder("llama"), few, out=scan_copy).scores()) == 6


def test_a_run_of_another_model_is_refused(tiny_folder, few, scan_copy):
    with pytest.raises(
        InputError, match=r"holds a run of .*, whose weights or dtype are others than"
    ):
        api.evaluate(tiny_folder("qwen3"), few, out=scan_copy, overwrite=True)


def test_a_fine_tuned_copy_gets_nothing_of_the_original(text_file, few, tmp_path):
    original = save_tiny(tiny_model("bert"), tmp_path / "original" / "mine")
    copied = save_tiny(with_column_changed(tiny_model("bert")), tmp_path / "copied" / "mine")
    out = tmp_path / "run"
    api.scan(original, text_file, out=out, views=0, metrics="curvature")
    with pytest.raises(InputError, match=r"holds a run of mine, whose weights or dtype are others"):
        api.evaluate(copied, few, out=out)
    api.evaluate(original, few[:1], bank=tmp_path / "bank")
    with pytest.raises(InputError, match=r"holds vectors of another weights fingerprint"):
        api.evaluate(copied, few[:1], bank=tmp_path / "bank")


@pytest.mark.parametrize(
    ("file", "change", "what"),
    [
        ("config.json", {"rms_norm_eps": 1e-3}, "config"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "tokenizer"),
    ],
)
def test_a_run_of_the_same_weights_with_another_config_or_tokenizer_is_refused(
    tiny_folder, few, scan_copy, tmp_path, file, change, what
):
    other = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "other"))
    content = json.loads((other / file).read_text()) | change
    (other / file).write_text(json.dumps(content))
    with pytest.raises(
        InputError, match=f"holds a run of .* with another {what}; choose another --out"
    ):
        api.evaluate(other, few, out=scan_copy)


def test_scores_of_a_table_halved_by_another_seed_are_made_again(tables, tmp_path):
    path = tables[0]
    out = tmp_path / "run"
    found = [
        evaluated((), tables=[read_table(path, seed=seed)], out=out, layers=[0]).record["tasks"]
        for seed in (0, 1, 0)
    ]
    revisions = [each["topics"]["revision"] for each in found]
    assert revisions[0] == revisions[2] != revisions[1]
    assert [str(each["topics"]["notes"]).count("seed 1") for each in found] == [0, 1, 0]


def test_probes_on_data_that_were_replaced_do_not_stay(tables, tmp_path):
    table, out = tmp_path / "topics.csv", tmp_path / "run"
    rows = pd.read_csv(tables[0])
    rows.to_csv(table, index=False)
    first = evaluated([str(table)], out=out, layers=[0], probes=["linear"])
    assert "topics" in first.record["probes"]
    again = evaluated([str(table)], out=out, layers=[0])
    assert "topics" in again.record["probes"]
    rows.iloc[:40].to_csv(table, index=False)
    replaced = evaluated([str(table)], out=out, layers=[0])
    assert "topics" not in replaced.record.get("probes", {})
    assert list(replaced.scores().columns) == ["topics"]


def test_a_run_of_an_older_layerscope_is_refused_with_the_reason(tiny_folder, few, scan_copy):
    record = json.loads((scan_copy / "run.json").read_text())
    record["model"]["weights_fingerprint"] = "28a10a12fe4cceb0"
    (scan_copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        InputError,
        match=r"holds a run made by an older layerscope .*apart; scan again into another --out folder",
    ):
        api.evaluate(tiny_folder("llama"), few, out=scan_copy)


def test_a_run_to_which_another_process_adds_scores_is_left_alone(tiny_folder, few, scan_copy):
    before = {path.name: path.read_bytes() for path in scan_copy.iterdir()}
    with (
        FileLock(scan_copy / ".layerscope.lock"),
        pytest.raises(InputError, match="another process is at work in"),
    ):
        api.evaluate(tiny_folder("llama"), few, out=scan_copy)
    (scan_copy / ".layerscope.lock").unlink()
    assert {path.name: path.read_bytes() for path in scan_copy.iterdir()} == before


def test_a_folder_with_other_files_is_refused(few, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        evaluated(few, out=tmp_path)


# --- what fails --------------------------------------------------------------------------------


def failing(monkeypatch, name: str, error: Exception, at: int = 0):
    """Make scoring a task fail at some layer."""
    build = tasks_module.TaskPlan.__getattribute__

    def patched(plan, attribute):
        value = build(plan, attribute)
        if attribute != "build" or build(plan, "name") != name:
            return value

        def broken():
            task = value()
            evaluate = task.evaluate

            def fail(encoder, *given, **named):
                if encoder._site.layer >= at:
                    raise error
                return evaluate(encoder, *given, **named)

            task.evaluate = fail
            return task

        return broken

    monkeypatch.setattr(tasks_module.TaskPlan, "__getattribute__", patched)


def test_a_task_that_fails_is_recorded_and_the_others_go_on(few, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing(patch, "pairs", ValueError("no positive pair\nmore"), at=2)
        found = evaluated(few, out=out)
    assert list(found.scores().columns) == ["likeness"]
    assert found.record["failed_tasks"] == [
        {"task": "pairs", "reason": "at block.2: ValueError: no positive pair"}
    ]
    mended = evaluated(few, out=out)
    assert mended.record["failed_tasks"] == []
    assert set(mended.scores().columns) == {"likeness", "pairs"}


def test_data_that_cannot_be_had_fail_their_task_alone(few, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = evaluated([*few, "STS12"])
    [failed] = found.record["failed_tasks"]
    assert failed["task"] == "STS12"
    assert "the data of STS12 could not be loaded" in failed["reason"]


def test_nothing_scored_is_a_failure(few, monkeypatch, tmp_path):
    failing(monkeypatch, "pairs", ValueError("no pairs"))
    with pytest.raises(
        RunError, match="no task could be scored: pairs: at block.0: ValueError: no pairs"
    ):
        evaluated(few[:1], out=tmp_path / "run")


def test_a_model_that_fails_stops_the_sweep(few, monkeypatch, tmp_path):
    monkeypatch.setattr(
        VectorBank, "flush", lambda _: (_ for _ in ()).throw(RunError("no space left on the disk"))
    )
    with pytest.raises(RunError, match="no space left"):
        evaluated(few, out=tmp_path / "run")


def test_a_score_that_is_no_number_fails_its_task(few, monkeypatch):
    score = LayerEncoder.encode

    def constant(encoder, *given, **named):
        return np.ones_like(score(encoder, *given, **named))

    monkeypatch.setattr(LayerEncoder, "encode", constant)
    found = evaluated(few)
    [failed] = found.record["failed_tasks"]
    assert failed == {
        "task": "likeness",
        "reason": "at block.0: mteb's cosine_spearman is not a number",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pooling": "meen"}, "unknown pooling 'meen'; did you mean 'mean'"),
        ({"poling": "mean"}, "unknown setting 'poling'; did you mean 'pooling'"),
        ({"bank_poolings": ["mean", "cls"]}, "unknown bank pooling 'cls'"),
        ({"probes": "lineal"}, "unknown probe 'lineal'; did you mean 'linear'"),
        ({"probes": "linear"}, "none of the tasks is a Classification"),
        ({"layers": []}, "expected at least one of layers, got none"),
        ({"layers": [9]}, "expected layers from 0 .* to 4 .*, got 9"),
        ({"batch_tokens": 0}, "expected batch_tokens of at least 1, got 0"),
        ({"task_data": "nowhere"}, "expected a folder with a folder for each task"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(few, given, said):
    with pytest.raises(InputError, match=said):
        evaluated(few, **given)


def test_no_task_at_all_is_refused():
    with pytest.raises(InputError, match="expected at least one task or table"):
        evaluated([])


def test_without_mteb_the_extra_is_named(few, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mteb" else real(name)
    )
    with pytest.raises(
        InputError, match=r"needs mteb; install with: pip install 'layerscope\[evaluate\]'"
    ):
        evaluated(few)


# --- probes ------------------------------------------------------------------------------------


def test_probes_are_rows_beside_the_scores(tables, tmp_path):
    out = tmp_path / "run"
    found = evaluated(tables[:1], out=out, probes=["linear"], layers=[0, 2])
    rows = found.table()[found.table()["metric"] == "probe/topics/linear_accuracy"]
    assert rows["layer"].tolist() == [0, 2]
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    facts = found.record["probes"]["topics"]
    assert facts["kinds"] == ["linear"]
    assert 0 < facts["majority"] < 1
    assert list(found.scores().columns) == ["topics", "probe/topics/linear_accuracy"]
    again = evaluated(tables[2:3], out=out, layers=[0, 2])
    assert "topics" in again.record["probes"]
    assert set(again.scores().columns) == {"topics", "probe/topics/linear_accuracy", "pairs"}


@pytest.mark.parametrize(
    "other", [{"name": "others"}, {"split": "validation"}, {"subset": "de"}, {"revision": "2"}]
)
def test_probes_of_one_task_are_not_those_of_another_on_the_same_data(
    tables, tmp_path, monkeypatch, other
):
    """Two tasks of mteb, or two subsets of one, may share a data set and its revision."""
    (first,) = resolve([tables[0]])
    second = replace(first, **other)
    trained = []

    def probe(_backbone, plan, *_, **__):
        trained.append(plan)
        share = 0.1 * len(trained)
        return [ProbeScore(0, "block", "linear", share, 0.0, 1.0, 30, 0.5)]

    monkeypatch.setattr(probes_module, "probe", probe)
    backbone = backbone_module.backbone_of(tiny_model("llama"), tiny_tokenizer())
    settings = EvaluateConfig(probes=("linear",))
    for plan, accuracy in ((first, 0.1), (second, 0.2), (first, 0.1)):
        found = probes_module.run_probes(
            backbone, [plan], [Site(0)], settings, TokenPolicy(), parts=tmp_path
        )
        assert found[plan.name].scores[0].accuracy == pytest.approx(accuracy)
    assert trained == [first, second]


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """The command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(run, monkeypatch, capsys)


def test_the_command_prints_layers_by_tasks(command, tiny_folder, few, page):
    finished = command("evaluate", tiny_folder("llama"), "--tasks", few[0], "--table", few[1])
    assert finished.code == 0, finished.err
    assert all(len(line) <= 80 for line in finished.out.splitlines() if "file://" not in line)
    for words in (
        "pairs",
        "likeness",
        "norm",
        "mean of 2 tasks: pairs, likeness",
        "middle",
        "page.html",
    ):
        assert words in finished.out
    assert [path.name for path in Path("runs").iterdir()] == [f"{tiny_folder('llama').name}--tasks"]
    run_folder = next(Path("runs").iterdir())
    assert (run_folder / "bank" / "bank.json").exists()


def test_the_command_scores_a_folder_of_beir_and_writes_results_of_mteb(
    command, tiny_folder, search
):
    given = ("--table", search, "--layers", "1", "--mteb-results", "results", "--out", "run")
    dry = command("evaluate", tiny_folder("bert"), *given, "--dry-run", "--json")
    assert json.loads(dry.out)["texts"] == 52
    assert not Path("results").exists()
    finished = command("evaluate", tiny_folder("bert"), *given, "--json")
    assert finished.code == 0, finished.err
    [row] = json.loads(finished.out)["table"]
    [result] = experiments_in(Path("results"))[0].task_results
    assert (row["metric"], row["value"]) == (
        "mteb/search/ndcg_at_10", pytest.approx(result.get_score(), abs=1e-6),
    )  # fmt: skip


def test_the_command_for_machines(command, tiny_folder, few):
    finished = command(
        "evaluate", tiny_folder("llama"), "--tasks", ",".join(few), "--out", "run", "--json"
    )
    assert finished.err == ""
    printed = json.loads(finished.out)
    assert len(printed["table"]) == 12
    assert printed["record"]["tasks"].keys() == {"pairs", "likeness"}
    assert (
        command("evaluate", tiny_folder("llama"), "--tasks", few[0], "--out", "run", "-q").out == ""
    )


@pytest.mark.parametrize(
    ("option", "facts"),
    [
        (("--pooling", "max"), {"pooling": "max"}),
        (("--normalize",), {"normalize": True}),
        (("--prompt", "river "), {"prompt": "river ", "query_prompt": "river "}),
        (("--query-prompt", "river "), {"prompt": "", "query_prompt": "river "}),
        (("--special-tokens", "include"), {"special_tokens": True}),
        (("--first-token", "drop"), {"first_token": "drop"}),
        (("--max-length", "6"), {"max_length": 6}),
    ],
)
def test_options_decide_what_they_say(command, tiny_folder, few, option, facts):
    finished = command(
        "evaluate", tiny_folder("llama"), "--tasks", few[1], "--layers", "0-1", *option,
        "--out", "run", "--bank", "elsewhere", "--json",
    )  # fmt: skip
    assert finished.code == 0, finished.err
    evaluation = json.loads(finished.out)["record"]["evaluation"]
    assert {name: evaluation["settings"][name] for name in facts} == facts
    assert evaluation["bank"]["folder"] == "elsewhere"
    assert not Path("run/bank").exists()


def test_a_dry_run_counts_and_writes_nothing(command, tiny_folder, few):
    finished = command(
        "evaluate", tiny_folder("llama"), "--tasks", ",".join(few), "--dry-run", "--json"
    )
    estimates = json.loads(finished.out)
    assert list(Path().iterdir()) == []
    whole = evaluated(few, out="run")
    encoded = whole.record["evaluation"]["encoded"]
    assert estimates["texts"] == estimates["forward_passes"] == encoded["texts"]
    assert estimates["tokens"] == encoded["tokens"]
    assert (estimates["tasks"], estimates["sites"], estimates["failing"]) == (2, 6, {})
    words = command(
        "evaluate", tiny_folder("llama"), "--tasks", ",".join(few), "--out", "run", "--dry-run"
    )
    assert "of them not in the bank yet" in words.out
    assert words.code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--tasks", "STSBenchmrk"), 2, "did you mean 'STSBenchmark'"),
        (("--tasks", "nowhere.csv"), 2, "there is no table"),
        ((), 2, "expected at least one task or table"),
        (("--tasks", "STS12", "--task-data", "nowhere"), 2, "expected a folder with a folder"),
        (("--tasks", "STS12"), 1, "no task could be scored: STS12: the data of STS12"),
        (("--tasks", "STS12", "--special-tokens", "no"), 2, "unknown special tokens 'no'"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(command, tiny_folder, arguments, code, said):
    finished = command("evaluate", tiny_folder("llama"), *arguments)
    assert finished.code == code
    assert said in finished.err
    assert finished.err.count("\n") == 1
    assert finished.out == ""
