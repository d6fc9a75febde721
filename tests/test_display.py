"""Results are short where Python prints them, tables in a notebook, and never raise when compared."""

from __future__ import annotations

import pytest

import layerscope
from fake_runs import fake_run
from layerscope.results.table import Run
from tiny import texts, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def results() -> dict[str, object]:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    scan = layerscope.scan(model, texts(12), tokenizer=tokenizer, metrics=["lidar", "curvature"])
    others = [Run(*fake_run(seed=seed, texts=20)) for seed in (0, 1)]
    return {
        "scan": scan,
        "selection": layerscope.select(others[0]),
        "pruning": layerscope.prune(model, "random", 1, data=texts(12), tokenizer=tokenizer),
        "diagnosis": layerscope.doctor(
            model, texts(4), tokenizer=tokenizer, skip=["cut", "reload", "encode", "memory"]
        ),
    }


@pytest.mark.parametrize("name", ["scan", "selection", "pruning", "diagnosis"])
def test_a_result_is_short_in_python_and_a_table_in_a_notebook(results, name):
    result = results[name]
    assert len(repr(result)) < 500
    assert "\n" not in repr(result)
    assert repr(result).startswith(f"<{type(result).__name__}: ")
    page = result._repr_html_()
    assert "<table" in page
    assert page.startswith("<p>")
    assert result == result
    assert result != object()
    assert {result: 1}[result] == 1


def test_two_results_of_one_kind_are_compared_without_an_error(results):
    scan = results["scan"]
    assert scan != layerscope.Scan(scan.run)
    assert scan.run == scan.run
    assert len(repr(scan.run)) < 300


def test_text_that_looks_like_html_is_shown_as_it_is():
    run = Run(*fake_run(seed=0, texts=20))
    run.record["model"] = {"name": "<b>bold</b>"}
    run.record["data"] = {"name": "mine", "texts": 20}
    page = layerscope.Scan(run)._repr_html_()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
