"""What several runs say together, on tables made by hand, and how it is drawn."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import layerscope
from layerscope.decisions.comparisons import differences, with_spread
from layerscope.errors import InputError
from layerscope.render.distributions import distributions
from layerscope.render.drawing import Clouds
from layerscope.render.points import of_data, of_models
from layerscope.results.resampling import bootstrap_limits
from layerscope.results.table import CONTRIBUTION_COLUMNS, Run, conform, save_run
from layerscope.settings import PlotConfig

LAYERS = 4


def run_of(model: str, values: np.ndarray, *, data: str = "d", revision: str = "") -> Run:
    """A run of one measure with the given numbers (layer, text)."""
    rows, texts = [], []
    for layer, numbers in enumerate(values):
        site = {"layer": layer, "stage": "block", "metric": "prompt_entropy", "convention": "paper"}
        low, high = bootstrap_limits(numbers[None], 0)
        rows.append(
            site | {
                "model": model, "revision": revision, "data": data, "perturbation": "none",
                "level": "prompt", "depth": layer / (len(values) - 1), "value": numbers.mean(),
                "low": low[0], "high": high[0], "n": len(numbers), "seed": 0,
            }
        )  # fmt: skip
        texts += [
            site | {"text": text, "perturbation": "none", "value": number}
            for text, number in enumerate(numbers)
        ]
    record = {"model": {"name": model}, "data": {"name": data}}
    contributions = pd.DataFrame(texts)[list(CONTRIBUTION_COLUMNS)].astype(CONTRIBUTION_COLUMNS)
    return Run(conform(pd.DataFrame(rows)), contributions, record)


def noise(seed: int, texts: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(LAYERS, texts))


def test_a_difference_is_that_of_the_same_texts():
    one = noise(0)
    runs = layerscope.concat([run_of("base", one), run_of("tuned", one + 0.5)])
    found = runs.differences("base")
    assert list(found["model"].unique()) == ["tuned - base"]
    np.testing.assert_allclose(found["value"], 0.5)
    np.testing.assert_allclose(
        found["low"], 0.5
    )  # the same for every text: nothing is left to chance
    np.testing.assert_allclose(found["high"], 0.5)
    assert list(found["n"]) == [60] * LAYERS
    assert list(found["depth"]) == [0, 1 / 3, 2 / 3, 1]


def test_a_difference_has_the_limits_of_its_mean():
    one, other = noise(0), noise(1)
    table = layerscope.concat([run_of("a", one), run_of("b", other)])
    found = table.differences("a")
    low, high = bootstrap_limits(other - one, 0)
    np.testing.assert_allclose(found["value"], (other - one).mean(1))
    np.testing.assert_allclose(found[["low", "high"]].astype(float), np.stack([low, high], 1))


def test_models_that_cannot_be_subtracted_are_refused():
    one, deep = run_of("a", noise(0)), run_of("deep", np.vstack([noise(0), noise(1)]))
    with pytest.raises(InputError, match="unknown model of these runs 'aa'; did you mean 'a'"):
        layerscope.concat([one, run_of("b", noise(1))]).differences("aa")
    with pytest.raises(
        InputError, match="expected another model to compare 'a' with, got it alone"
    ):
        layerscope.concat([one]).differences("a")
    with pytest.raises(InputError, match="as many blocks as 'a' .3., 'deep' has 7"):
        layerscope.concat([one, deep]).differences("a")
    twice = [one, run_of("a", noise(2)), run_of("b", noise(1))]
    with pytest.raises(InputError, match="one run of each model on the same texts, got several"):
        layerscope.concat(twice).differences("a")


def test_a_layer_settles_when_it_stays_within_the_limits_of_its_end():
    """Layer 0 never moves, layer 1 arrives at step 100, layer 3 only with the last step."""
    base = noise(0, 400) * 0.1
    shifts = {1: (0, 5, 0, 1), 10: (0, 5, 0, 2), 100: (0, 0, 0, 3), 1000: (0, 0, 0, 9)}
    runs = [
        run_of("m", base + np.array(shift)[:, None], revision=f"step{step}")
        for step, shift in shifts.items()
    ]
    found = layerscope.concat(runs).settling().set_index("layer")
    assert found["settled"].to_dict() == {0: 1, 1: 100, 2: 1, 3: 1000}
    assert found["near"].to_dict() | {0: 1, 2: 1} == {0: 1, 1: 100, 2: 1, 3: 1000}
    np.testing.assert_allclose(found["change"].sort_index(), [0, -5, 0, 8], atol=1e-9)
    assert list(found.index[:2]) == [3, 1]  # those that change most come first
    assert list(found["steps"]) == [4] * LAYERS
    with pytest.raises(InputError, match="a revision or a model named like step1000"):
        layerscope.concat(run_of("m", base)).settling()


def test_the_spread_is_that_of_the_texts():
    runs = layerscope.concat([run_of("a", noise(0))])
    found = with_spread(runs.table(), runs.contributions())
    np.testing.assert_allclose(found["low"].astype(float), np.quantile(noise(0), 0.1, axis=1))
    np.testing.assert_allclose(found["high"].astype(float), np.quantile(noise(0), 0.9, axis=1))


def scored(model: str, data: str, score: float) -> Run:
    row = {
        "model": model, "data": data, "perturbation": "none", "level": "task", "layer": LAYERS - 1,
        "depth": 1.0, "stage": "block", "metric": "accuracy", "value": score, "seed": 0,
    }  # fmt: skip
    run = run_of(model, noise(0), data=data)
    return Run(conform(pd.DataFrame([row])), run.contributions.iloc[:0], run.record)


def sets(count: int = 8) -> list[Run]:
    """Data sets whose entropy at layer 1 rises with their score, and falls with it at layer 2."""
    found = []
    for place in range(count):
        shift = np.array([0, place, -place, 0])[:, None]
        values = noise(place) * 0.01 + shift
        found += [run_of("m", values, data=f"d{place}"), scored("m", f"d{place}", place / 10)]
    return found


def test_measures_go_with_scores_across_data_sets():
    runs = layerscope.concat(sets())
    found = runs.across_data().set_index("layer")
    assert found["spearman"].round(6).to_dict() | {0: 0, 3: 0} == {0: 0, 1: 1, 2: -1, 3: 0}
    assert found.loc[1, "p"] == pytest.approx(2 / 40320)  # this order and its reverse, of 8!
    assert (found["p_holm"] >= found["p"]).all()
    assert list(found["sets"]) == [8] * LAYERS
    with pytest.raises(InputError, match="at least 5 data sets of the same names, found fewer"):
        layerscope.concat(sets(4)).across_data()
    drawn = of_data(runs.table(), PlotConfig(layers=(1,)))
    [cloud] = drawn.panels
    assert isinstance(drawn, Clouds)
    assert [(dot.name, round(dot.x), dot.y) for dot in cloud.series[0].dots][3] == ("d3", 3, 0.3)
    assert "Spearman 1.00" in cloud.below


def test_distributions_say_which_layers_have_two_modes():
    apart = noise(0, 200) * 0.1
    apart[2, :100] += 3
    runs = layerscope.concat(
        [run_of("m", apart, data="two"), run_of("m", noise(1, 200), data="one")]
    )
    figure = distributions(runs.table(), runs.contributions(), PlotConfig(draw="distribution"))
    assert [line.name for line in figure.panels[2].lines] == ["two", "one"]
    p = {panel.title.split(";")[0]: panel.title for panel in figure.panels}
    assert "two 0.004" in p["layer 2"]  # 8 tests, each at the least that 2,000 samples give
    assert "two 1" in p["layer 1"]
    points = figure.panels[2].lines[0].points
    places, heights = (np.array([getattr(q, n) for q in points]) for n in ("at", "value"))
    total = np.trapezoid(heights, places)
    assert total == pytest.approx(1, abs=0.05)
    flat = layerscope.concat(run_of("m", np.ones((LAYERS, 30))))
    with pytest.raises(InputError, match="different values of several texts to draw"):
        distributions(flat.table(), flat.contributions(), PlotConfig())


def test_a_model_has_one_scan_in_a_ranking_or_selection():
    runs = layerscope.concat([run_of("a", noise(0)), run_of("a", noise(1), data="other")])
    with pytest.raises(InputError, match="expected one scan of 'a', got several; list one set"):
        runs.selection()


def test_models_without_scores_are_not_drawn_against_them():
    ranking = SimpleNamespace(scores=None, orders={})
    with pytest.raises(InputError, match="expected models with task scores to draw against"):
        of_models(ranking, PlotConfig())
    scored = SimpleNamespace(models=("a",), tasks=("t",), means=np.array([1.0]))
    with pytest.raises(
        InputError, match="the runs hold none of these predictors of a model's score"
    ):
        of_models(SimpleNamespace(scores=scored, orders={}), PlotConfig())


@pytest.mark.parametrize(
    "settings",
    [
        {"draw": "distribution"}, {"draw": "data"}, {"minus": "m"}, {"band": "spread"},
    ],
)  # fmt: skip
def test_each_form_is_drawn_to_a_file_and_in_plotly(settings, tmp_path):
    if settings.get("draw") == "data":
        runs = layerscope.concat(sets())
    else:
        runs = layerscope.concat([run_of("m", noise(0)), run_of("other", noise(1))])
    runs.save_plot(tmp_path / "figure.png", **settings)
    assert (tmp_path / "figure.png").stat().st_size > 5000
    json.loads(runs.plot(**settings).to_json())


def test_saved_runs_keep_all_that_comparisons_need(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        save_run(run_of(name, noise(seed)), tmp_path / name)
    runs = layerscope.concat([tmp_path / "a", tmp_path / "b"])
    expected = differences(runs.table(), runs.contributions(), "a")
    np.testing.assert_allclose(expected["value"], (noise(1) - noise(0)).mean(1))
