"""Cells besides scans: questions, prunings, what needs no model; files with parts and tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

import layerscope
from commands import run
from layerscope.errors import InputError
from layerscope.evaluation.choices import likelihoods, read_questions
from layerscope.models import loading
from layerscope.studies.grid import read_declared
from tiny import CONFIGS, save_tiny, texts

study = partial(layerscope.study, workers=0, show_progress=False)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Twelve questions with four answers each."""
    path = tmp_path_factory.mktemp("questions") / "numbers.parquet"
    rows = [
        {"question": text, "choices": ["one", "two", "three", "four"], "answer": place % 4}
        for place, text in enumerate(texts(12))
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> Path:
    """The folder of a tiny causal model with its head."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]())
    return save_tiny(model, tmp_path_factory.mktemp("writer") / "tiny-writer")


# --- multiple choice -------------------------------------------------------------------------------


def test_a_likelihood_is_the_sum_over_the_tokens_of_the_answer(writer):
    backbone = loading.load(writer, head=True)
    prompt, answers = texts(1)[0], [" A", " B", " " + texts(2)[1]]
    found = likelihoods(backbone, prompt, answers, 512)

    def encoded(text: str) -> list[int]:
        return backbone.tokenizer(text)["input_ids"][:-1]  # [CLS] stays, [SEP] would end the text

    start = len(encoded(prompt))
    for answer, value in zip(answers, found, strict=True):
        ids = torch.tensor([encoded(prompt + answer)])
        with torch.no_grad():
            steps = backbone.whole(input_ids=ids).logits[0].log_softmax(-1)
        expected = sum(float(steps[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
        assert value == pytest.approx(expected, abs=1e-4)
    assert len({round(value, 6) for value in found}) > 1


def test_a_long_prompt_loses_its_beginning(writer):
    backbone = loading.load(writer, head=True)
    long = " ".join(texts(8))
    cut = likelihoods(backbone, long, [" A", " B"], 12)
    ids = backbone.tokenizer(long + " A")["input_ids"][:-1]
    with torch.no_grad():
        steps = backbone.whole(input_ids=torch.tensor([ids[:-1][-12:]])).logits[0].log_softmax(-1)
    assert cut[0] == pytest.approx(float(steps[-1, ids[-1]]), abs=1e-4)


def test_questions_are_a_study_of_accuracies(writer, questions, tmp_path):
    found = study(
        {
            "command": "choices", "models": [str(writer)], "data": [str(questions)],
            "settings": {"shots": 2},
        },
        out=tmp_path / "out",
    )  # fmt: skip
    assert not found.failures
    [row] = found.table().to_dict("records")
    numbers = found.contributions()
    assert (row["metric"], row["level"], row["n"]) == ("accuracy", "task", 10)
    assert set(numbers["value"]) <= {0.0, 1.0}
    assert sorted(numbers["text"]) == list(range(2, 12)), "the examples are not scored"
    assert row["value"] == numbers["value"].mean()
    assert row["low"] <= row["value"] <= row["high"]


def test_a_right_answer_is_one_that_the_model_finds_likeliest(writer, questions, tmp_path):
    """Each question gets the answer that the model prefers: all are right then, and none else."""
    backbone = loading.load(writer, head=True)
    rows = pd.read_parquet(questions)
    asked = [
        "The following are multiple choice questions (with answers).\n\n"
        f"{text}\nA. one\nB. two\nC. three\nD. four\nAnswer:"
        for text in rows["question"]
    ]
    best = [
        int(np.argmax(likelihoods(backbone, each, [" A", " B", " C", " D"], 512))) for each in asked
    ]
    for name, answers in (("right", best), ("wrong", [(each + 1) % 4 for each in best])):
        rows.assign(answer=answers).to_parquet(tmp_path / f"{name}.parquet")
    data = [str(tmp_path / f"{name}.parquet") for name in ("right", "wrong")]
    declared = {"command": "choices", "models": [str(writer)], "data": data}
    found = study(declared, out=tmp_path / "out").table()
    assert dict(zip(found["data"], found["value"], strict=True)) == {
        "right.parquet": 1.0, "wrong.parquet": 0.0,
    }  # fmt: skip


def test_what_is_no_question_is_refused(writer, tiny_folder, questions, tmp_path):
    rows = pd.read_parquet(questions)
    bad = {
        "no.parquet": (rows.drop(columns="answer"), "it lacks answer; found: question, choices"),
        "far.parquet": (rows.assign(answer=4), "row 0 of .* got 4 choices and the answer '4'"),
        "few.parquet": (rows.head(1), "at least 2 questions besides 0 examples, got 1"),
    }
    for name, (frame, said) in bad.items():
        frame.to_parquet(tmp_path / name)
        declared = {
            "command": "choices", "models": [str(writer)],
            "data": [str(tmp_path / name)],
        }  # fmt: skip
        [failure] = study(declared, out=tmp_path / f"{name}-out").failures
        with pytest.raises(InputError, match=said):
            raise InputError(failure.reason)
    letters = rows.assign(answer=["ABCD"[each] for each in rows["answer"]])
    letters.to_parquet(tmp_path / "letters.parquet")
    assert read_questions(tmp_path / "letters.parquet") == read_questions(questions)
    declared = {
        "command": "choices",
        "models": [str(tiny_folder("bert"))],
        "data": [str(questions)],
    }
    [failure] = study(declared, out=tmp_path / "bert").failures
    assert "has no head for it" in failure.reason
    assert "expected a model that predicts the next token" in failure.reason


# --- prunings, and what needs no model -------------------------------------------------------------


def test_prunings_are_lines_over_budgets(writer, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(texts(20)))
    (tmp_path / "held.txt").write_text("\n".join(texts(6, seed=1)))
    found = study(
        {
            "command": "prune", "models": [str(writer)],
            "data": [str(tmp_path / "texts.txt")],
            "settings": {
                "rule": "angular", "budget": ["1", "2"], "perplexity": str(tmp_path / "held.txt"),
                "draws": 3, "protect": [0, 0],
            },
            "plot": {"x": "budget", "by": "perturbation", "metric": "change of perplexity (%)"},
        },
        out=tmp_path / "out",
    )  # fmt: skip
    assert not found.failures
    assert not found.note
    table = found.table()
    assert set(table["perturbation"]) == {
        "angular 25 %",
        "angular 50 %",
        "random 25 %",
        "random 50 %",
    }
    assert table["value"].notna().all()
    assert (tmp_path / "out/figure.svg").is_file()


def test_power_laws_and_theorems_need_neither_model_nor_data(tmp_path):
    laws = study(
        {
            "command": "power-laws",
            "plot": {"x": "decay", "by": "perturbation", "metric": "entropy"},
        },
        out=tmp_path / "laws",
    )
    flat = laws.table()[laws.table()["perturbation"].str.startswith("decay 0,")]
    np.testing.assert_allclose(flat["value"], np.log(1000))  # 1,000 equal eigenvalues, any order
    assert (tmp_path / "laws/figure.svg").is_file()
    with pytest.raises(InputError, match="theorems reads no models; leave them out"):
        read_declared({"command": "theorems", "models": ["one"]})


# --- parts and tables ------------------------------------------------------------------------------


def declared(text: str, folder: Path):
    (folder / "s.yaml").write_text(text)
    return read_declared(folder / "s.yaml")


def test_parts_take_what_they_do_not_say_from_the_whole(tmp_path):
    found = declared(
        """
models: [one, two]
settings: {limit: 5}
parts:
  - data: [sample]
  - {command: evaluate, data: [Banking77Classification], settings: {max_length: 64}}
  - {models: [three], data: [x.txt]}
""",
        tmp_path,
    ).cells
    assert [(cell.command, cell.model, cell.data) for cell in found] == [
        ("scan", "one", "sample"), ("scan", "two", "sample"),
        ("evaluate", "one", "Banking77Classification"), ("evaluate", "two", "Banking77Classification"),
        ("scan", "three", "x.txt"),
    ]  # fmt: skip
    assert [cell.settings for cell in found] == [
        {"limit": 5}, {"limit": 5}, {"max_length": 64}, {"max_length": 64}, {"limit": 5},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "models: [a]\nparts:\n  - {data: [sample]}\n  - {dat: [x]}\n",
            "line 4: unknown key 'dat'",
        ),
        (
            "models: [a]\nparts:\n  - {data: [sample]}\n  - {data: [sample]}\n",
            "line 4: the cell a, sample comes twice",
        ),
        ("models: [a]\ndata: [x]\ntables:\n  - settlin\n", "line 4: unknown table 'settlin'; did"),
        ("models: [a]\nparts:\n  - {command: scn, data: [x]}\n", "line 3: unknown command 'scn'"),
        (
            "models: [a]\nparts:\n  - data: [x]\n    settings: {views: -1}\n",
            "line 4: expected views of at least 0, got -1",
        ),
    ],
)
def test_mistakes_in_parts_are_shown_with_their_line(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        declared(text, tmp_path)


def test_tables_are_files_and_are_printed(monkeypatch, capsys, writer, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(texts(30)))
    (tmp_path / "study.yaml").write_text(
        f"models: [{{model: {writer}, label: one}}]\ndata: [a.txt]\n"
        "settings: {metrics: [prompt_entropy], views: 0, resamples: 20}\n"
        "tables: [bimodality, settling]\nplot: {draw: distribution}\n"
    )
    done = run(
        monkeypatch,
        capsys,
        "study",
        tmp_path / "study.yaml",
        "--out",
        tmp_path / "out",
        "--workers",
        "0",
    )
    assert done.code == 0, done.err
    assert "bimodality" in done.out
    assert "p_corrected" in done.out
    assert "No table settling: expected a revision or a model named like step1000" in done.out
    saved = pd.read_csv(tmp_path / "out/bimodality.csv")
    assert list(saved["model"].unique()) == ["one"]
    assert not (tmp_path / "out/settling.csv").exists()
    assert (tmp_path / "out/figure.svg").is_file()
