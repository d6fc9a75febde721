"""Prefixes: what is measured of the first tokens of a text, from one pass over all of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import layerscope
from layerscope.errors import InputError
from tiny import texts, tiny_model, tiny_tokenizer

study = partial(layerscope.study, workers=0, show_progress=False)
MEASURES = ("prompt_entropy", "curvature")


def declared(model, path, **settings):
    return {
        "command": "prefixes", "models": [str(model)], "data": [str(path)],
        "settings": {"metrics": list(MEASURES), "every": 4, "resamples": 20, **settings},
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefixes") / "texts.txt"
    path.write_text("\n".join(texts(12)))
    return path


def test_a_prefix_is_measured_as_if_the_text_ended_there(tiny_folder, data, tmp_path):
    found = study(declared(tiny_folder("llama"), data), out=tmp_path / "out")
    assert not found.failures
    numbers = found.contributions()
    labels = list(dict.fromkeys(found.table()["perturbation"]))
    assert labels[:2] == ["first 4 tokens", "first 8 tokens"]
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(12)]
    for count in (4, 8):
        long = [place for place, ids in enumerate(whole) if len(ids) >= count]
        cut = [tokenizer.decode(whole[place][:count]) for place in long]
        again = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in cut]
        assert again == [whole[place][:count] for place in long]
        alone = layerscope.scan(
            model, cut, tokenizer=tokenizer, metrics=MEASURES, views=0, show_progress=False,
            first_token="keep",
        ).run.contributions  # fmt: skip
        own = numbers[numbers["perturbation"] == f"first {count} tokens"]
        names = ["metric", "convention", "layer", "stage"]
        left, right = (
            each.astype(dict.fromkeys(names, str)).groupby(names) for each in (own, alone)
        )
        assert set(left.groups) == set(right.groups)
        for key, part in left:
            expected = right.get_group(key)["value"].to_numpy()
            np.testing.assert_allclose(part["value"], expected, rtol=2e-4, atol=2e-5)


def test_a_prefix_counts_only_the_texts_that_are_so_long(tiny_folder, data, tmp_path):
    found = study(declared(tiny_folder("llama"), data), out=tmp_path / "out")
    table = found.table()
    counts = table[table["metric"] == "prompt_entropy"].groupby("perturbation")["n"].first()
    order = sorted(counts.index, key=lambda label: int(label.split()[1]))
    assert counts[order].is_monotonic_decreasing
    assert counts[order[0]] == 12 > counts[order[-1]]
    found.save_plot(tmp_path / "figure.svg", x="position", metric="prompt_entropy")


def test_a_model_that_reads_both_ways_has_no_prefixes(tiny_folder, data, tmp_path):
    found = study(declared(tiny_folder("bert"), data), out=tmp_path / "out")
    [failure] = found.failures
    assert "later tokens change the states of earlier ones" in failure.reason
    assert "prefixes need a causal model" in failure.reason


@pytest.mark.parametrize("model", ["mamba", "gpt2"])
def test_causal_models_of_other_kinds_have_prefixes(tiny_folder, data, tmp_path, model):
    assert not study(declared(tiny_folder(model), data), out=tmp_path / "out").failures


def test_too_short_texts_and_other_measures_are_refused(tiny_folder, data, tmp_path):
    found = study(declared(tiny_folder("llama"), data, every=80), out=tmp_path / "out")
    assert "expected texts of at least 80 tokens that count" in found.failures[0].reason
    with pytest.raises(
        InputError, match="measures of the tokens of one text for prefixes, got rankme"
    ):
        study(declared(tiny_folder("llama"), data, metrics=["rankme"]), out=tmp_path / "no")
