"""Measures against task scores: which curves meet, what is drawn again, and what readers are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerscope.decisions import curves as curves_module
from layerscope.decisions import dependence
from layerscope.decisions.correlate import correlate
from layerscope.errors import InputError
from layerscope.results.foreign import read_long
from layerscope.results.resampling import cluster_bootstrap
from layerscope.results.table import conform

PUBLISHED = Path(__file__).parents[2] / "shared" / "published" / "pythia-410m.parquet"
RISING = (1.0, 2.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0)


def rows(level, metric, values, *, model="a/model", data="letters.txt", convention="", **more):
    blocks = len(values) - 1
    return conform(
        pd.DataFrame(
            {
                "model": model, "revision": "main", "data": data, "perturbation": "none",
                "level": level, "layer": range(len(values)), "stage": "block", "metric": metric,
                "depth": [layer / blocks for layer in range(len(values))],
                "convention": convention, "value": values, **more,
            }
        )
    )  # fmt: skip


def measured(metric="curvature", values=RISING, convention="paper", **more):
    return rows("prompt", metric, values, convention=convention, **more)


def scored(task="Bank", values=RISING, **more):
    return rows("task", f"mteb/{task}/accuracy", values, data=task, **more)


def noise(seed, layers=8):
    return np.random.default_rng(seed).normal(size=layers)


def grid(models=3, tasks=2, layers=8, metrics=("curvature", "dime")):
    """Measures on one data set and scores of some tasks, for some models, all unrelated."""
    tables = []
    for place in range(models):
        name = f"model-{place}"
        for number, metric in enumerate(metrics):
            tables.append(measured(metric, noise(100 * place + number, layers), model=name))
        for number in range(tasks):
            values = noise(100 * place + 50 + number, layers)
            tables.append(scored(f"Task{number}", values, model=name))
    return tables


def summary_of(findings, metric):
    return next(each for each in findings.summaries if each.measure.metric == metric)


# --- one model, one task ---


def test_a_score_that_is_a_measure_upside_down():
    findings = correlate([measured(), scored(values=[1 - v / 10 for v in RISING])])
    (found,) = findings.associations
    assert (found.dcor, found.bias_corrected) == pytest.approx((1, 1))
    assert (found.spearman, found.kendall, found.partial) == pytest.approx((-1, -1, -1))
    assert found.p_shift == 1 / 8
    (summary,) = findings.summaries
    assert summary.p_shift == summary.p_shift_least == 1 / 8
    assert summary.p_walk <= 0.05
    assert summary.p_holm == max(summary.p_shift, summary.p_walk)
    assert summary.dcor_of_means == pytest.approx(1)
    assert (summary.low, summary.high, summary.positive, summary.p_sign) == (None,) * 4
    assert "one model on one task: nothing to draw again" in " ".join(findings.notes)


def test_the_coefficients_are_those_of_the_common_layers():
    measure, score = measured(values=noise(1)), scored(values=noise(2))
    findings = correlate([measure[measure.layer != 3], score[score.layer != 5]])
    (found,) = findings.associations
    kept = [0, 1, 2, 4, 6, 7]
    assert found.curve.layers == tuple(kept)
    assert found.curve.depths == pytest.approx([layer / 7 for layer in kept])
    x, y = noise(1)[kept], noise(2)[kept]
    assert found.dcor == dependence.distance_correlation(x, y)
    assert found.bias_corrected == dependence.bias_corrected(x, y)
    assert found.spearman == dependence.spearman(x, y)
    assert found.kendall == dependence.kendall(x, y)
    assert found.partial == pytest.approx(
        dependence.partial_spearman(x, y, np.column_stack([kept, np.square(kept)])).value
    )


def test_rows_in_any_order_give_the_same():
    tables = grid()
    shuffled = [table.sample(frac=1, random_state=3) for table in reversed(tables)]
    one, other = correlate(tables, resamples=200), correlate(shuffled, resamples=200)
    pd.testing.assert_frame_equal(one.table(), other.table())


def test_the_seed_draws_all_that_is_drawn():
    tables = grid()
    first, again, other = (correlate(tables, resamples=200, seed=k).table() for k in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert (first["dcor"] == other["dcor"]).all()
    assert (first["p_walk"] != other["p_walk"]).any()


# --- which texts ---


def test_the_only_data_set_serves_every_task():
    findings = correlate([measured(), scored("One"), scored("Two", noise(0))])
    assert {each.data for each in findings.associations} == {"letters.txt"}
    assert "the measures are of letters.txt, whatever the task" in findings.notes


def test_measures_of_the_tasks_own_texts_come_first():
    tables = [measured(), measured(data="One", values=noise(5)), scored("One"), scored("Two")]
    findings = correlate(tables)
    (found,) = findings.associations
    assert found.data == "One"
    assert found.curve.values == pytest.approx(noise(5))
    assert "left out: Two: no measures on the task's own texts" in findings.notes
    chosen = correlate(tables, data="letters.txt")
    assert [each.score.name for each in chosen.associations] == ["One", "Two"]
    own = correlate(tables, data="own")
    assert own.associations == findings.associations


def test_two_data_sets_are_a_question():
    tables = [measured(), measured(data="words.txt"), scored()]
    with pytest.raises(InputError, match=r"on 2 data sets: letters\.txt, words\.txt; .*--data"):
        correlate(tables)
    assert correlate(tables, data="words.txt").associations[0].data == "words.txt"
    with pytest.raises(InputError, match="unknown data set 'word.txt'; did you mean 'words.txt'"):
        correlate(tables, data="word.txt")


def test_a_model_without_measures_is_left_out_and_told():
    findings = correlate([measured(), scored(), scored(model="b/model")])
    (left,) = findings.left_out
    assert (left.model, left.reason) == ("b/model @ main", "no measures of this model")
    with pytest.raises(
        InputError, match="the scores are of b/model @ main, the measures of a/model @ main"
    ):
        correlate([measured(), scored(model="b/model")])


def test_two_scores_of_one_task_are_two_tasks():
    probe = rows("task", "probe/Bank/linear_accuracy", noise(3), data="Bank")
    findings = correlate([measured(), scored(), probe])
    names = [each.score.name for each in findings.associations]
    assert names == ["mteb/Bank/accuracy", "probe/Bank/linear_accuracy"]
    chosen = correlate([measured(), scored(), probe], scores=["probe/Bank/linear_accuracy"])
    assert [each.score.name for each in chosen.associations] == ["Bank"]


# --- which measures, which stage ---


def test_the_main_measures_and_unknown_ones_by_default():
    names = ["curvature", "dime", "dime_standard_error", "mine", "rankme", "rankme_null"]
    tables = [scored(), *(measured(name, noise(k)) for k, name in enumerate(names))]

    def chosen(**options):
        return sorted(
            s.measure.metric for s in correlate(tables, resamples=50, **options).summaries
        )

    assert chosen() == ["curvature", "dime", "mine"]
    assert chosen(measures=["all"]) == names[:-1]  # a level to compare with is no measure
    assert chosen(measures=["rankme_null"]) == ["rankme_null"]
    assert chosen(measures=["rankme"]) == ["rankme"]
    with pytest.raises(InputError, match="unknown measure in these runs 'rankm'; did you mean"):
        chosen(measures=["rankm"])


def test_others_of_the_family_stand_in_for_a_main_measure():
    findings = correlate([scored(), measured("lidar_log"), measured("dime", noise(0))])
    assert {s.measure.metric for s in findings.summaries} == {"lidar_log", "dime"}


def test_conventions_and_kinds_of_views_are_measures_of_their_own():
    tables = [
        scored(),
        measured("dime", noise(1), perturbation="characters p=0.3"),
        measured("dime", noise(2), perturbation="crops"),
        measured("dime", noise(3), convention="normalized", perturbation="crops"),
        measured("rankme", noise(4), convention=""),
    ]
    findings = correlate(tables, measures=["dime", "rankme"], resamples=50)
    names = curves_module.labels(sorted(summary.measure for summary in findings.summaries))
    assert list(names.values()) == [
        "dime (normalized)", "dime (paper), characters", "dime (paper), crops", "rankme",
    ]  # fmt: skip
    paper = correlate(tables, measures=["all"], conventions=["paper"], resamples=50)
    assert sorted(s.measure.words for s in paper.summaries) == ["dime (paper)"] * 2 + ["rankme"]
    with pytest.raises(InputError, match="unknown convention 'papr'"):
        correlate(tables, conventions=["papr"])


def test_other_layers_and_sub_blocks_take_no_part():
    extra = measured("step", noise(4), other_layer=0)
    inner = measured(values=noise(6), stage="attn")
    plain = correlate([measured(), scored()])
    assert correlate([measured(), scored(), extra, inner]).associations == plain.associations
    inside = correlate([measured(), inner, scored(), scored(stage="attn")], stage="attn")
    assert inside.associations[0].curve.values == pytest.approx(noise(6))
    with pytest.raises(InputError, match=r"unknown stage 'blck'; did you mean .*final_norm"):
        correlate([measured(), scored()], stage="blck")


def test_the_last_layer_may_be_the_one_after_the_final_norm():
    measure, score = measured(), scored()
    normed = [table.tail(1).assign(stage="final_norm", value=-1.0) for table in (measure, score)]
    findings = correlate([measure, score, *normed], stage="final_norm")
    (found,) = findings.associations
    assert found.curve.values == found.scores == (*RISING[:-1], -1.0)
    blocks = correlate([measure, score, *normed]).associations[0]
    assert blocks.curve.values == RISING


# --- what has no value ---


def test_a_flat_or_short_curve_is_left_out_with_its_reason():
    tables = [measured(), measured("flat", [1.0] * 8), measured("short", [1, 2, 3]), scored()]
    findings = correlate(tables, resamples=50)
    assert [each.measure.metric for each in findings.associations] == ["curvature"]
    assert {(each.measure, each.reason) for each in findings.left_out} == {
        ("flat (paper)", "a curve is the same at every point"),
        ("short (paper)", "3 points are too few, 4 are needed"),
    }
    assert "left out: short (paper) on Bank: 3 points are too few, 4 are needed" in findings.notes
    with pytest.raises(InputError, match="no measure can be compared .*: a curve is the same"):
        correlate(tables, measures=["flat"])


def test_a_curve_without_common_layers_is_left_out():
    measure, score = measured(), scored()
    with pytest.raises(InputError, match="0 points are too few"):
        correlate([measure[measure.layer < 4], score[score.layer >= 4]])


def test_a_measure_that_only_falls_has_no_partial():
    findings = correlate([measured(values=np.arange(8.0)[::-1]), scored(values=noise(2))])
    assert findings.associations[0].partial is None
    assert findings.summaries[0].partial is None
    assert findings.matrix("partial").isna().all(axis=None)


def test_missing_values_are_rows_that_are_not_there():
    measure = measured(values=noise(7))
    measure.loc[2, "value"] = pd.NA
    assert correlate([measure, scored()]).associations[0].curve.layers == (0, 1, 3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([], "expected at least one run to correlate, got none"),
        ([measured()], "found only measures; make scores of the same model with `layerscope eval"),
        ([scored()], "found only task scores; make measures of the same model with `layerscope sc"),
        ([measured(), measured(), scored()],
         "expected one value of 'curvature' a layer for a/model on letters.txt, got several"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_correlated(tables, message):
    with pytest.raises(InputError, match=message):
        correlate(tables)


def test_unknown_tasks_and_no_resamples():
    with pytest.raises(InputError, match="unknown task 'Banc'; did you mean 'Bank'"):
        correlate([measured(), scored()], scores=["Banc"])
    with pytest.raises(InputError, match="at least 1 resample, got 0"):
        correlate([measured(), scored()], resamples=0)


# --- over tasks and models ---


def test_the_summary_is_the_median_over_models_and_tasks():
    findings = correlate(grid(models=3, tasks=4), resamples=200)
    units = findings.units()
    assert len(units) == 2 * 3 * 4
    summary = summary_of(findings, "dime")
    own = units[units["metric"] == "dime"]
    assert (summary.units, summary.models, summary.tasks) == (12, 3, 4)
    for name in ("dcor", "bias_corrected", "spearman", "kendall", "partial"):
        assert getattr(summary, name) == pytest.approx(own[name].median())
    medians = own.groupby("model")["spearman"].median()
    assert summary.positive == pytest.approx((medians > 0).mean())
    assert own["spearman"].min() <= summary.low <= summary.spearman <= summary.high
    # closest first
    assert findings.table()["dcor"].is_monotonic_decreasing


def test_limits_draw_models_and_of_one_model_its_tasks():
    many = correlate(grid(models=3, tasks=2), resamples=200)
    units = many.units().query("metric == 'dime'")
    expected = cluster_bootstrap(units["spearman"], list(units["model"]), resamples=200)
    found = summary_of(many, "dime")
    assert (found.low, found.high) == pytest.approx(expected)
    assert "the limits draw whole models again, and 3 models are few" in many.notes
    one = correlate(grid(models=1, tasks=5), resamples=200)
    units = one.units().query("metric == 'dime'")
    expected = cluster_bootstrap(units["spearman"], list(units["task"]), resamples=200)
    found = summary_of(one, "dime")
    assert (found.low, found.high) == pytest.approx(expected)
    assert any("over its 5 tasks and speak of this model only" in note for note in one.notes)
    enough = correlate(grid(models=5, tasks=1), resamples=50)
    assert "the limits draw whole models again, each with all its tasks" in enough.notes


def test_tasks_of_a_model_lower_no_p_value_but_models_do():
    """Thirty copies of one task are one task."""
    one = [measured(), scored("Task0")]
    copies = [measured(), *(scored(f"Task{k}") for k in range(30))]
    models = [
        table
        for k in range(2)
        for table in (measured(model=f"m{k}"), scored("Task0", model=f"m{k}"))
    ]
    assert correlate(copies).summaries[0].p_shift == correlate(one).summaries[0].p_shift == 1 / 8
    assert correlate(models).summaries[0].p_shift == 1 / 64


def test_the_larger_p_is_corrected_over_all_measures():
    findings = correlate(grid(metrics=("curvature", "dime", "lidar", "infonce")), resamples=300)
    worse = [max(summary.p_shift, summary.p_walk) for summary in findings.summaries]
    assert [s.p_holm for s in findings.summaries] == pytest.approx(list(dependence.holm(worse)))
    assert [s.p_fdr for s in findings.summaries] == pytest.approx(
        list(dependence.benjamini_hochberg(worse))
    )
    assert "p Holm: the larger of both p, corrected for 4 measures" in findings.notes


def test_the_matrix_has_a_median_over_models_in_each_cell():
    findings = correlate(grid(models=3, tasks=2), resamples=50)
    units = findings.units()
    for statistic in curves_module.STATISTICS:
        matrix = findings.matrix(statistic)
        own = units.query("metric == 'dime' and task == 'Task1'")
        assert matrix.loc["dime (paper)", "Task1"] == pytest.approx(own[statistic].median())
    assert list(matrix.index) == [summary.measure.words for summary in findings.summaries]
    with pytest.raises(InputError, match="unknown coefficient 'pearson'"):
        findings.matrix("pearson")


# --- the published results ---


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    if not PUBLISHED.exists():
        pytest.skip("needs the published results beside the repository")
    return read_long(PUBLISHED).table


@pytest.mark.real
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("dime", 0.878),
        ("dataset_entropy", 0.871),
        ("lidar_log", 0.869),
        ("prompt_entropy", 0.861),
        ("infonce", 0.829),
    ],
)
def test_published_distance_correlations_are_those_of_mean_curves(published, metric, expected):
    """Mean score of all 32 tasks against the mean of the measure over the tasks that have it."""
    scores = published[published["level"] == "task"]
    own = published[
        (published["metric"] == metric) & published["data"].isin(scores["data"].unique())
    ]
    curves = (rows.groupby("layer")["value"].mean().astype(float) for rows in (own, scores))
    assert dependence.distance_correlation(*curves) == pytest.approx(expected, abs=6e-4)


@pytest.mark.real
def test_random_walks_reach_080_against_the_published_mean_score(published):
    scores = published[published["level"] == "task"].groupby("layer")["value"].mean()
    curve = scores.to_numpy(dtype=float)
    unit = dependence.Unit("pythia-410m", tuple(range(25)), curve, curve)
    assert np.quantile(dependence.walk_null([unit]), 0.95) == pytest.approx(0.80, abs=0.01)


@pytest.mark.real
def test_published_measures_within_each_task_are_hardly_beyond_random_walks(published):
    """What correlate says of them: same tasks on both sides, each on its own texts."""
    findings = correlate([published], resamples=2000)
    dime = summary_of(findings, "dime")
    assert (dime.units, dime.models) == (29, 1)
    assert dime.dcor == pytest.approx(0.700, abs=1e-3)
    assert dime.dcor_of_means == pytest.approx(0.878, abs=1e-3)
    assert dime.spearman < 0 < summary_of(findings, "infonce").spearman
    assert all(summary.p_holm > 0.05 for summary in findings.summaries)
    assert len({each.task for each in findings.left_out if not each.measure}) == 3
