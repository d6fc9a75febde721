"""Rankings of made-up runs: orders and what is within noise, agreement with scores, refusals."""

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from layerscope.decisions import agreement, dependence, orders, predictors
from layerscope.decisions import rank as rank_module
from layerscope.decisions.agreement import (
    agreement_of,
    of_frame,
    permutation_p,
    top_recall,
    top_regret,
    top_weights,
)
from layerscope.decisions.predictors import Value
from layerscope.errors import InputError
from layerscope.render import terminal
from layerscope.render.correlations import ranking_view
from layerscope.results import resampling
from layerscope.results.table import COLUMNS, CONTRIBUTION_COLUMNS, Run

TEXTS = 60
FACTS = {"blocks": 4, "dim": 48, "parameters": 10**6, "architecture": "bert", "revision": ""}


def made_run(
    name,
    displacement=0.6,
    *,
    reach=0.02,
    nrs=0.5,
    noise=None,
    rankme=24.0,
    normed=None,
    scores=None,
    fingerprint="f1",
    settings=None,
    undefined=(),
    **facts,
):
    """A run with what a ranking needs; limits of d_0,L from `reach`, mean NRS from its texts."""
    model = FACTS | {"name": name, "weights_fingerprint": f"of {name}"} | facts
    end = model["blocks"]
    noise = np.random.default_rng(3).normal(size=TEXTS) * 0.1 if noise is None else noise
    parts = {"mean_nrs_k10": nrs + noise - noise.mean(), "rankme": np.full(TEXTS, rankme)}
    rows = [
        ("frenet_displacement_sample_k32", "", "block", displacement, reach),
        ("mean_nrs_k10", "", "block", nrs, 0.03),
        ("mean_gfmi_edge", "", "block", 0.2, 0.02),
        ("rankme", "", "block", rankme, 1.0),
        ("rankme", "", "final_norm", normed, 1.0),
        ("dataset_entropy", "normalized", "block", 2.0, 0.1),
        ("prompt_entropy_normalized", "normalized", "block", 0.7, 0.01),
    ]
    table = pd.DataFrame(
        [
            {"metric": metric, "convention": convention, "stage": stage, "value": value,
             "low": None if r is None else value - r, "high": None if r is None else value + r,
             "layer": end, "depth": 1.0, "level": "dataset", "model": name}
            for metric, convention, stage, value, r in rows
            if value is not None and metric not in {entry["metric"] for entry in undefined}
        ]
        + [
            {"metric": f"mteb/{task}/accuracy", "stage": stage, "value": value, "layer": end,
             "depth": 1.0, "level": "task", "model": name, "data": task}
            for task, (stage, value) in (scores or {}).items()
        ]
    )  # fmt: skip
    contributions = pd.concat(
        pd.DataFrame(
            {"text": range(TEXTS), "perturbation": "none", "layer": end, "stage": "block",
             "metric": metric, "convention": "", "value": values}
        )
        for metric, values in parts.items()
    )  # fmt: skip
    record = {
        "model": model,
        "data": {"name": "letters.txt", "fingerprint": fingerprint, "texts": TEXTS},
        "settings": {"pooling": "mean", "special_tokens": False, "max_length": 512, "alpha": 1.0}
        | (settings or {}),
        "undefined": list(undefined),
        "notes": [],
    }
    return Run(
        table.reindex(columns=list(COLUMNS)).astype(COLUMNS),
        contributions.astype(CONTRIBUTION_COLUMNS),
        record,
    )


def rank(*runs, by="d_0L", **options):
    given = [(run.record["model"]["name"], run) for run in runs]
    return rank_module.rank_runs(given, by, **options)


def scored(count, *, seed=0, **facts):
    """Runs of some models with the scores of two tasks."""
    generator = np.random.default_rng(seed)
    return [
        made_run(
            f"m{i}", 0.5 + 0.03 * i, nrs=float(generator.uniform()), dim=32 + 16 * (i % 3),
            blocks=2 + i, parameters=1000 * (i + 1) ** 2,
            scores={"A": ("block", float(generator.uniform())), "B": ("block", 0.1 * i)}, **facts,
        )
        for i in range(count)
    ]  # fmt: skip


# --- closed forms ---------------------------------------------------------------------------------


def test_regret_is_what_the_first_model_lacks_of_the_best():
    scores = np.array([0.5, 0.9, 0.7, 0.1])
    assert top_regret(np.array([3.0, 2, 1, 0]), scores) == pytest.approx(0.4)
    assert top_regret(np.array([0.0, 9, 1, 2]), scores) == 0
    assert top_regret(np.array([1.0, 1, 0, 0]), scores) == pytest.approx(0.2)  # half the time 0.4
    assert top_regret(np.zeros(4), scores) == pytest.approx(0.9 - scores.mean())


def test_recall_counts_the_three_best_among_the_first_three():
    scores = np.array([5.0, 4, 3, 2, 1, 0])
    assert top_recall(scores, scores) == 1
    assert top_recall(-scores, scores) == 0
    assert top_recall(np.array([9.0, 0, 8, 7, 1, 2]), scores) == pytest.approx(2 / 3)
    assert top_recall(np.zeros(6), scores) == pytest.approx(3 / 6)
    # the third place by lot between one of the best and another
    assert top_recall(np.array([9.0, 8, 1, 1, 0, 0]), scores) == pytest.approx(2.5 / 3)
    assert top_recall(np.arange(3.0), np.arange(3.0)) is None


@pytest.mark.parametrize("values", [[1, 2, 3, 4], [1, 1, 1, 1], [2, 2, 1, 1], [3, 1, 1, 1]])
def test_weights_of_the_top_are_the_mean_over_ways_to_break_ties(values):
    values = np.array(values, dtype=float)
    for k in (1, 2, 3):
        orders = [sorted(order, key=lambda i: -values[i])[:k] for order in permutations(range(4))]
        expected = [np.mean([i in top for top in orders]) for i in range(4)]
        assert top_weights(values, k) == pytest.approx(expected)


def test_partial_correlation_of_three_halves_is_a_third():
    x = np.arange(5.0)
    orders = [np.array(order, dtype=float) for order in permutations(range(5))]
    half = [order for order in orders if stats.spearmanr(x, order)[0] == pytest.approx(0.5)]
    y, z = next(
        (y, z) for y in half for z in half if stats.spearmanr(y, z)[0] == pytest.approx(0.5)
    )
    found = agreement_of("x", x, y[:, None], {"width": np.exp(z)}, resamples=10)
    assert found.spearman.value == pytest.approx(0.5)
    assert found.partial == {"width": pytest.approx(1 / 3)}


def test_given_all_sizes_where_the_models_are_enough():
    generator = np.random.default_rng(1)
    sizes = {name: generator.normal(size=9) for name in ("width", "depth", "parameters")}
    x, y = generator.normal(size=(2, 9))
    ranks = {name: stats.rankdata(size) for name, size in sizes.items()}
    design = np.column_stack([np.ones(9), *ranks.values()])
    rest = [
        r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in map(stats.rankdata, (x, y))
    ]
    found = agreement_of("x", x, y[:, None], sizes, resamples=10)
    assert found.partial["all"] == pytest.approx(np.corrcoef(*rest)[0, 1])
    few = agreement_of(
        "x", x[:5], y[:5, None], {name: size[:5] for name, size in sizes.items()}, resamples=10
    )
    assert few.partial["all"] is None
    assert few.partial["width"] is not None


def test_a_size_that_all_share_is_nothing_to_take_out():
    x, y = np.random.default_rng(2).normal(size=(2, 6))
    found = agreement_of("x", x, y[:, None], {"width": np.full(6, 768.0)}, resamples=10)
    assert found.partial == {}


def test_p_is_the_share_of_orders_that_go_as_closely():
    x = np.arange(6.0)
    y = np.array([0.0, 2, 1, 3, 5, 4])
    rho = stats.spearmanr(x, y)[0]
    reached = [abs(stats.spearmanr(x, order)[0]) >= rho - 1e-9 for order in permutations(y)]
    assert permutation_p(x, y) == pytest.approx(np.mean(reached))
    drawn = np.random.default_rng(0).normal(size=(2, 12))
    assert permutation_p(*drawn) == pytest.approx(stats.spearmanr(*drawn)[1], abs=0.03)


def test_resampled_correlations_are_those_of_the_drawn_models():
    x, y = np.random.default_rng(4).integers(0, 5, size=(2, 7)).astype(float)
    drawn = agreement._draws(7, 0, 30)
    for fast, slow in (
        (agreement._spearmans, stats.spearmanr),
        (agreement._kendalls, stats.kendalltau),
    ):
        found = fast(x, y, drawn)
        for value, models in zip(found, drawn, strict=True):
            if np.ptp(x[models]) and np.ptp(y[models]):
                assert value == pytest.approx(slow(x[models], y[models])[0])
            else:
                assert math.isnan(value)


def test_limits_over_models_are_near_those_of_the_formula():
    generator = np.random.default_rng(0)
    x = generator.normal(size=60)
    y = x + generator.normal(size=60)
    found = agreement_of("x", x, y[:, None], {}, resamples=2000).spearman
    low, high = dependence.spearman_limits(found.value, 60)
    assert found.low == pytest.approx(low, abs=0.08)
    assert found.high == pytest.approx(high, abs=0.08)


def test_a_perfect_order_has_no_limits():
    x = np.arange(6.0)
    found = agreement_of("x", x, x[:, None], {}, resamples=50)
    assert (found.spearman.value, found.spearman.low) == (pytest.approx(1), None)
    assert found.p == pytest.approx(2 / math.factorial(6))


# --- orders ---------------------------------------------------------------------------------------


def test_models_stand_in_the_direction_of_the_predictor():
    runs = [made_run("a", 0.5, rankme=30), made_run("b", 0.7, rankme=10), made_run("c", 0.6)]
    found = rank(*runs)
    assert [model.name for model in found.models] == ["b", "c", "a"]
    assert found.first == "b"
    assert [place.model for place in found.orders["rankme"]] == ["a", "c", "b"]
    least = next(each for each in predictors.PREDICTORS if each.name == "dataset_entropy")
    assert least.direction == "least"
    deep = [made_run("deep", blocks=9), made_run("flat", blocks=3)]
    assert rank(*deep, by="depth").first == "deep"
    assert rank(*deep, by="frenet_displacement_sample_k32").by == "d_0L"


def test_equals_share_a_rank_and_the_undefined_stand_last():
    reason = {"metric": "frenet_displacement_sample_k32", "reason": "constant layer 0"}
    runs = [made_run("u", undefined=[reason]), made_run("a"), made_run("b"), made_run("c", 0.5)]
    found = rank(*runs)
    assert [(p.model, p.rank) for p in found.places] == [("a", 1), ("b", 1), ("c", 3), ("u", None)]
    assert found.places[-1].reason == "constant layer 0"
    assert "d_0L of u: constant layer 0" in found.notes


def test_smaller_subspaces_are_told_by_the_record_and_not_by_its_words():
    runs = [made_run("a"), made_run("b"), made_run("c")]
    lowered = runs[1].record["subspace_dimensions"] = {"frenet_displacement_sample_k32": 29}
    runs[2].record["notes"] = ["prose that says Frenet: k is 7, the least rank of a layer"]
    assert lowered.keys() <= set(predictors.needed("d_0L"))
    said = [note for note in rank(*runs).notes if "dimensions only" in note]
    assert said == ["b: d_0L is of 29 dimensions only, the least rank of a layer"]


def test_a_reason_in_the_words_of_a_missing_measure_is_still_a_reason():
    reason = {"metric": "frenet_displacement_sample_k32", "reason": "not measured in this run"}
    found = rank(made_run("u", undefined=[reason]), made_run("a"))
    assert found.places[-1].reason == "not measured in this run"


def test_limits_by_halves_are_taken_as_independent():
    runs = [made_run("a", 0.60, reach=0.03), made_run("b", 0.56, reach=0.03)]
    assert rank(*runs).places[0].tied == ("b",)  # 0.04 < sqrt(2) 0.03
    runs[1] = made_run("b", 0.55, reach=0.03)
    found = rank(*runs)
    assert found.places[0].tied == ()
    assert found.sentence == (
        "a comes first of 2 by d_0,L (most is better), told apart from all others on 60 texts of "
        "letters.txt."
    )


def test_models_are_compared_text_by_text_where_texts_are_known():
    shared = np.random.default_rng(0).normal(size=TEXTS)
    alike = [made_run("a", nrs=0.52, noise=shared), made_run("b", nrs=0.50, noise=shared)]
    assert rank(*alike, by="mean_nrs").places[0].tied == ()
    other = np.random.default_rng(1).normal(size=TEXTS)
    apart = [alike[0], made_run("b", nrs=0.50, noise=other)]
    assert rank(*apart, by="mean_nrs").places[0].tied == ("b",)


def test_without_limits_nobody_knows_how_sure_an_order_is():
    found = rank(made_run("a", 0.7, reach=None), made_run("b", 0.5, reach=None))
    assert found.places[0].unsure == ("b",)
    assert found.sentence == (
        "Nobody knows which model comes first of 2 by d_0,L (most is better): the runs hold no limits "
        "of it."
    )
    assert any("a new scan of the model makes them" in note for note in found.notes)


def test_a_bound_that_cuts_one_limit_does_not_shrink_the_other():
    one, other = Value(0.99, 0.9, 1.0), Value(0.95, 0.94, 0.96)
    assert orders.told_apart([one, other])[0, 1] is False


def test_the_paired_answer_is_that_of_differences_text_by_text():
    generator = np.random.default_rng(5)
    own = generator.normal(size=(4, TEXTS)) + generator.normal(size=TEXTS)
    own += np.linspace(0, 0.6, 4)[:, None]
    values = [Value(float(n.mean()), contributions=pd.Series(n)) for n in own]
    found = orders.told_apart(values, seed=3)
    for i in range(4):
        low, high = resampling.bootstrap_limits(own - own[i], seed=3)
        assert [found.get((i, j), False) for j in range(4)] == ((low > 0) | (high < 0)).tolist()


def test_only_texts_that_all_models_have_are_compared():
    numbers = np.random.default_rng(0).normal(size=TEXTS)
    whole = Value(0.0, contributions=pd.Series(numbers))
    cut = Value(0.0, contributions=pd.Series(numbers[:-5] + 0.01))
    assert orders.told_apart([whole, cut])[0, 1] is True  # 0.01 apart at every text


def test_no_model_is_named_first_that_the_texts_do_not_tell_from_the_next():
    two = rank(made_run("a", 0.60), made_run("b", 0.61), made_run("c", 0.3))
    assert two.sentence == (
        "No single model comes first of 3 by d_0,L (most is better): b and a cannot be told apart on 60 "
        "texts of letters.txt."
    )
    assert (two.first, two.leaders) == (None, ("b", "a"))
    three = rank(made_run("a", 0.60), made_run("b", 0.61), made_run("c", 0.59))
    assert "which of b, a and c is best cannot be told on 60 texts" in three.sentence
    equal = rank(made_run("a"), made_run("b"), made_run("c", dim=32), by="width")
    assert equal.sentence.endswith("by width (most is better): a and b are equal.")
    assert (equal.first, equal.as_dict()["leaders"]) == (None, ["a", "b"])


def test_one_value_is_no_order():
    reason = {"metric": "frenet_displacement_sample_k32", "reason": "constant layer 0"}
    undefined = made_run("u", undefined=[reason])
    found = rank(made_run("a"), undefined)
    assert found.sentence == "Only a has a value of d_0,L: there is no order."
    none = rank(undefined, made_run("v", undefined=[reason]))
    assert none.sentence == "No model has a value of d_0,L: constant layer 0."
    assert (none.first, none.leaders) == (None, ())


def test_the_default_is_the_best_of_those_tried():
    found = rank_module.rank_runs([("a", made_run("a")), ("b", made_run("b", rankme=30))])
    assert (found.by, found.first) == ("rankme", "b")
    assert predictors.needed() == ("rankme",)
    assert predictors.needed("width") == ("rankme",)
    assert predictors.needed("d_0L", ["rankme"]) == ("frenet_displacement_sample_k32", "rankme")
    assert len(predictors.needed("rankme", ["all"])) == len(predictors.PREDICTORS)


# --- what is compared -----------------------------------------------------------------------------


def test_the_last_layer_is_what_the_model_gives():
    plain, normed = made_run("plain", rankme=24), made_run("normed", rankme=24, normed=36)
    places = {place.model: place for place in rank(plain, normed).orders["rankme"]}
    assert places["normed"].raw == 36
    assert places["normed"].value == pytest.approx(36 / 48)
    assert places["plain"].value == pytest.approx(24 / 48)
    assert (places["plain"].low, places["plain"].high) == pytest.approx((23 / 48, 25 / 48))


def test_what_has_a_largest_value_is_shown_as_a_share_of_it():
    narrow, wide = made_run("narrow", dim=32, rankme=30), made_run("wide", dim=900, rankme=45)
    found = rank(narrow, wide, by="rankme")
    assert found.first == "narrow"  # 30 of 32, against 45 of 60 texts
    assert [place.value for place in found.places] == pytest.approx([30 / 32, 45 / 60])
    entropies = {place.model: place.value for place in found.orders["dataset_entropy"]}
    assert entropies["narrow"] == pytest.approx(2 / math.log(32))
    assert entropies["wide"] == pytest.approx(2 / math.log(59))


def test_models_of_one_name_are_told_apart_by_more():
    runs = [made_run("m", revision="step1"), made_run("m", 0.5, revision="step2")]
    assert {model.name for model in rank(*runs).models} == {"m @ step1", "m @ step2"}
    runs = [made_run("m"), made_run("m", weights_fingerprint="other")]
    found = rank_module.rank_runs([("runs/a/m", runs[0]), ("runs/b/m", runs[1])])
    assert {model.name for model in found.models} == {"a/m", "b/m"}


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        (
            [made_run("a"), made_run("b", fingerprint="f2")],
            {},
            "'a' and 'b' were scanned on different",
        ),
        ([made_run("a"), made_run("a")], {}, "expected each model once, got 'a' 2 times"),
        (
            [made_run("a"), made_run("b", settings={"pooling": "last"})],
            {},
            "were scanned with different pooling .mean and last.; scan one of them again",
        ),
        (
            [made_run("a"), made_run("b")],
            {"by": "d0L"},
            "unknown predictor 'd0L'; did you mean 'd_0L'",
        ),
        (
            [made_run("a", None), made_run("b")],
            {},
            "the run 'a' lacks frenet_displacement_sample_k32, by which --by d_0L orders; scan the",
        ),
        ([], {}, "expected at least 2 models to rank, got none; give more, or measure one with"),
        ([made_run("a")], {}, "expected at least 2 models to rank, got only 'a'; give more, or"),
        (
            [made_run("a"), made_run("c")],
            {"tables": [{"b": {"t": 0.5}}]},
            "the scores are of b, the models of the ranking are a, c; call them alike",
        ),
        (
            [made_run("a"), made_run("b")],
            {"tables": [{"a": {"t": 0.5}, "b": {"u": 0.5}}]},
            "expected a task that all scored models have",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, options, message):
    with pytest.raises(InputError, match=message):
        rank(*runs, **options)


def test_a_table_without_a_scan_is_refused():
    run = made_run("a")
    del run.record["data"]["fingerprint"]
    with pytest.raises(InputError, match="expected a scan in 'a'"):
        rank(run, made_run("b"))


def test_what_was_left_to_each_model_is_compared_and_what_was_chosen_is_not():
    asked = {"pooling": None, "special_tokens": None, "max_length": 512, "as_tokens": False}
    plain, served = (
        made_run("plain"),
        made_run(
            "served", settings={"pooling": "first", "special_tokens": True, "max_length": 256}
        ),
    )
    with pytest.raises(InputError, match="were scanned with different pooling"):
        rank(plain, served)
    for run in (plain, served):
        run.record["asked"] = dict(asked)
    said = "served: vectors as it is served, first pooling over all of at most 256 tokens"
    assert [note for note in rank(plain, served).notes if "as it is served" in note] == [said]
    served.record["asked"]["pooling"] = "first"
    with pytest.raises(InputError, match="were scanned with different pooling"):
        rank(plain, served)
    served.record["asked"] = asked | {"as_tokens": True}
    with pytest.raises(InputError, match="were scanned with different pooling"):
        rank(plain, served)


def test_a_predictor_that_no_run_has_is_not_shown(monkeypatch):
    runs = [made_run("a", rankme=30), made_run("b")]
    only = [
        Run(each.table[each.table["metric"] == "rankme"], each.contributions, each.record)
        for each in runs
    ]
    found = rank(*only, by="rankme")
    assert list(found.orders) == ["rankme", "width", "depth", "parameters"]
    out = lines(found, monkeypatch)
    assert "Other predictors" not in out
    assert "not measured" not in out
    mixed = rank(only[0], runs[1], by="rankme")
    assert mixed.place("a", "d_0L").reason == "not measured in this run"
    assert "d_0,L" in lines(mixed, monkeypatch)


def test_a_missing_measure_hides_only_its_own_column():
    run = made_run("a")
    kept = Run(run.table[run.table["metric"] != "rankme"], run.contributions, run.record)
    found = rank(kept, made_run("b", 0.9))
    assert found.orders["rankme"][-1].reason == "not measured in this run"
    assert found.first == "b"


# --- scores ---------------------------------------------------------------------------------------


def test_scores_come_from_runs_and_tables_over_tasks_that_all_have():
    a = made_run("a", scores={"A": ("block", 0.2), "B": ("block", 0.4), "C": ("block", 1)})
    b = made_run("b", scores={"B": ("final_norm", 0.8), "A": ("final_norm", 0.5)})
    found = rank(a, b, tables=[{"b": {"A": 0.6}}])
    assert found.scores.tasks == ("A", "B")
    assert found.scores.values == pytest.approx(np.array([[0.2, 0.4], [0.6, 0.8]]))
    assert "left out, as not every scored model has them: C" in found.scores.notes


def test_with_few_models_there_is_no_correlation_and_a_sentence_why():
    found = rank(*scored(4))
    assert all(each.spearman is None for each in found.agreements)
    assert any("no correlation with scores: 4 scored models, at least 5" in n for n in found.notes)
    assert found.agreement("d_0L").regret is not None


def test_every_predictor_is_held_against_scores_with_the_trivial_ones_and_chance():
    found = rank(*scored(7), draws=200)
    names = [each.predictor for each in found.agreements]
    assert names == [each.name for each in predictors.ALL] + ["random"]
    means = found.scores.means
    values = [found.place(name, "d_0L").value for name in found.scores.models]
    d = found.agreement("d_0L")
    assert d.spearman.value == pytest.approx(stats.spearmanr(values, means)[0])
    assert d.kendall.value == pytest.approx(stats.kendalltau(values, means)[0])
    by_task = [stats.spearmanr(values, task)[0] for task in found.scores.values.T]
    assert d.spearman_by_task == pytest.approx(np.mean(by_task))
    assert set(d.partial) == {"width", "depth", "parameters", "all"}
    assert set(found.agreement("width").partial) == {"depth", "parameters", "all"}
    lot = found.agreement("random")
    assert lot.regret == pytest.approx(means.max() - means.mean())
    assert (lot.recall, lot.spearman) == (pytest.approx(3 / 7), None)
    assert found.agreement("mean_gfmi").reason == "all models have the same value"
    assert len(found.agreement_table()) == len(names)


def test_what_is_better_with_less_goes_with_scores_when_less_scores_more():
    runs = scored(6)
    for place, run in enumerate(runs):
        run.record["model"]["dim"] = 48
        run.table.loc[run.table["metric"] == "dataset_entropy", "value"] = 3.0 - 0.1 * place
    table = [{f"m{i}": {"A": 0.1 * i, "B": 0.1 * i} for i in range(6)}]
    assert rank(*runs, tables=table, draws=50).agreement("dataset_entropy").spearman.value == (
        pytest.approx(1)
    )


def test_a_table_of_scores_is_read_or_refused():
    frame = pd.DataFrame({"model": ["a", "b"], "score": [0.5, 0.25]})
    assert of_frame(frame) == {"a": {"score": 0.5}, "b": {"score": 0.25}}
    long = pd.DataFrame(
        {"model": "a", "metric": "mteb/T/accuracy", "layer": [0, 1], "value": [0.1, 0.3]}
    )
    assert of_frame(long) == {"a": {"T": 0.3}}
    with pytest.raises(InputError, match="expected the columns model and score"):
        of_frame(frame.rename(columns={"score": "points"}))
    with pytest.raises(InputError, match="expected a number as the score of 'b'"):
        of_frame(frame.assign(score=["0.5", "high"]))
    with pytest.raises(
        InputError, match="expected one score a model and task in .* 'a' on 'score'"
    ):
        of_frame(frame.assign(model="a"))


# --- for people -----------------------------------------------------------------------------------


def lines(found, monkeypatch, *, ascii_only=False):
    console = Console(width=80, force_terminal=False, legacy_windows=False)
    if ascii_only:
        monkeypatch.setattr(type(console), "encoding", property(lambda _self: "ascii"))
    with console.capture() as captured:
        console.print(terminal.drawn(ranking_view(found)))
    return captured.get()


@pytest.mark.parametrize("by", ["d_0L", "rankme", "parameters"])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_it_fits_80_columns(monkeypatch, count, by):
    reason = {"metric": "frenet_displacement_sample_k32", "reason": "constant layer 0"}
    runs = [
        made_run(
            f"an-organization-of-some-length/and-a-model-of-more-{i}", 0.5 + i / 99,
            parameters=7 * 10**i, scores={"A": ("block", 0.1 * (i - 2) ** 2)},
            undefined=[reason] * (i == 2),
        )
        for i in range(count)
    ]  # fmt: skip
    out = lines(rank(*runs, by=by, draws=50), monkeypatch)
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "and-a-model" in out


def test_a_terminal_without_utf8_gets_ascii(monkeypatch):
    lines(rank(*scored(5), draws=20), monkeypatch, ascii_only=True).encode("ascii")


def test_it_says_what_is_within_noise(monkeypatch):
    out = lines(rank(made_run("a", 0.6), made_run("b", 0.61), made_run("c", 0.3)), monkeypatch)
    words = " ".join(out.split())
    assert words.startswith(
        "No single model comes first of 3 by d_0,L (most is better) b and a cannot be told apart on 60 "
        "texts of letters.txt. "
    )
    assert "1 b 0.610 .590-.630 2 " in words
    assert "Spearman" not in words


def test_plain_values_hold_all_of_it():
    found = rank(*scored(5), draws=50).as_dict()
    assert found["models"][0].keys() >= {"name", "width", "depth", "parameters", "texts"}
    assert found["orders"]["d_0L"][0]["rank"] == 1
    assert found["scores"]["m1"].keys() == {"A", "B"}
    assert found["agreements"][-1]["predictor"] == "random"
