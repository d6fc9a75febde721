"""Gains are paired within tasks and named by them; the published results give the known figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerscope.decisions import choose, evidence, gains, rules
from layerscope.decisions.gains import Interval, Unit, gain_of, labeled, scores_of, summarize
from layerscope.decisions.rules import Rule
from layerscope.decisions.select import decide
from layerscope.errors import InputError
from layerscope.results.foreign import from_long, read_long

PUBLISHED = Path(__file__).parents[2] / "shared" / "published" / "pythia-410m.parquet"

# tasks by layers 0..4; after the final norm; a measure of one set of texts
TASKS = {
    "A": [0.1, 0.5, 0.3, 0.38, 0.2],
    "B": [0.2, 0.3, 0.6, 0.5, 0.1],
    "C": [0.3, 0.2, 0.5, 0.8, 0.7],
}
NORMED = {"A": 0.25, "B": 0.15, "C": 0.9}
MEASURE = [5.0, 1.0, 2.0, 3.0, 4.0]
STRAIGHT = rules.least("curvature")


def rows(values, metric, data, **more):
    layers = range(len(values))
    return pd.DataFrame({"metric": metric, "data": data, "layer": layers, "value": values, **more})


def frame(tasks=TASKS, normed=NORMED, measure=MEASURE, model="m"):
    parts = [rows(values, f"mteb/{name}/accuracy", name) for name, values in tasks.items()]
    parts += [
        rows([value], f"mteb/{name}/accuracy", name, stage="final_norm").assign(layer=4)
        for name, value in (normed or {}).items()
    ]
    if measure is not None:
        parts.append(rows(measure, "curvature", "texts"))
    return pd.concat(parts, ignore_index=True).assign(model=model)


def gain(rule, table=None, tasks=None, **options):
    run = from_long(frame() if table is None else table)
    choices, _ = choose.choose_all(evidence.evidences(run)[0], (rule,))
    return gain_of(rule.name, choices, scores_of(run, tasks), **options)


# --- scores ---------------------------------------------------------------------------------------


def test_the_last_layer_is_what_the_model_gives():
    (scores,) = scores_of(from_long(frame()))
    assert (scores.tasks, scores.blocks, scores.last_stage) == (("A", "B", "C"), 4, "final_norm")
    np.testing.assert_allclose(scores.last, [0.25, 0.15, 0.9])
    np.testing.assert_allclose(scores.values[0], TASKS["A"])
    (raw,) = scores_of(from_long(frame(normed=None)))
    assert raw.last_stage == "block"
    np.testing.assert_allclose(raw.last, [0.2, 0.1, 0.7])


def test_tasks_are_chosen_by_name_and_probes_only_so():
    probe = rows([0.5] * 5, "probe/mood.csv/linear_accuracy", "mood.csv", model="m")
    both = from_long(pd.concat([frame(), probe]))
    assert scores_of(both)[0].tasks == ("A", "B", "C")
    assert scores_of(both, ["C", "probe/mood.csv/linear_accuracy"])[0].tasks == (
        "C", "probe/mood.csv/linear_accuracy",
    )  # fmt: skip
    assert scores_of(from_long(probe))[0].tasks == ("probe/mood.csv/linear_accuracy",)
    with pytest.raises(InputError, match="unknown task 'STS'; .*Known: A, B, C"):
        scores_of(from_long(frame()), ["STS"])
    nothing = from_long(rows(MEASURE, "curvature", "texts"))
    assert scores_of(nothing) == ()
    with pytest.raises(
        InputError, match="expected task scores, found none; run layerscope evaluate"
    ):
        scores_of(nothing, ["A"])
    with pytest.raises(InputError, match="expected one score a task and layer of 'm', got several"):
        scores_of(from_long(pd.concat([frame(), frame()])))


# --- gains ----------------------------------------------------------------------------------------


def test_a_gain_is_the_mean_of_paired_differences():
    found = gain(STRAIGHT)  # layer 1 of 4
    assert found.tasks == ("A", "B", "C")
    assert found.score.value == pytest.approx(np.mean([0.5, 0.3, 0.2]))
    over = {name: interval.value for name, interval in found.over.items()}
    last, middle, two_thirds = [0.25, 0.15, 0.9], [0.3, 0.6, 0.5], [0.38, 0.5, 0.8]
    anywhere = [np.mean(values) for values in TASKS.values()]
    for name, baseline in zip(over, (last, middle, two_thirds, anywhere), strict=True):
        assert over[name] == pytest.approx(found.score.value - np.mean(baseline)), name
    assert found.best == pytest.approx(np.mean([0.5, 0.6, 0.9]))
    assert [unit.best_layer for unit in found.units] == [1, 2, 4]


def test_the_share_of_the_best_is_per_task_and_of_means():
    found = gain(STRAIGHT)
    expected = [(0.5 - 0.25) / (0.5 - 0.25), (0.3 - 0.15) / (0.6 - 0.15), None]
    shares = [unit.share for unit in found.units]
    assert shares[:2] == pytest.approx(expected[:2])
    assert shares[2] is None  # nothing is better than what the model gives
    of_means = (1.0 - 1.3) / (2.0 - 1.3)
    assert found.share.value == pytest.approx(of_means)
    flat = frame(tasks={"A": [0.5] * 5, "B": [0.2] * 5}, normed=None)
    assert gain(STRAIGHT, flat).share is None


def test_a_random_layer_scores_the_mean_of_all():
    found = gain(rules.RANDOM)
    assert found.over["random"] == Interval(0.0, 0.0, 0.0)
    assert found.score.value == pytest.approx(np.mean(list(TASKS.values())))
    assert [unit.layer for unit in found.units] == [None] * 3


def test_the_last_layer_gains_nothing_over_itself():
    found = gain(rules.LAST)
    assert found.score.value == pytest.approx(np.mean(list(NORMED.values())))
    assert found.over["last"] == Interval(0.0, 0.0, 0.0)
    assert found.share.value == 0


def test_only_the_tasks_named_are_counted():
    assert gain(STRAIGHT, tasks=["B"]).tasks == ("B",)
    assert gain(STRAIGHT, tasks=["B"]).score == Interval(pytest.approx(0.3), None, None)


def test_a_task_without_the_scores_to_compare_is_left_out_of_every_mean():
    table = frame()
    partial = table[~((table["data"] == "B") & (table["layer"] == 2))]
    found = gain(STRAIGHT, partial)
    assert found.tasks == ("A", "C")
    assert found.over["middle"].value == pytest.approx(np.mean([0.5, 0.2]) - np.mean([0.3, 0.5]))


def test_a_choice_on_a_tasks_own_texts_is_for_that_task():
    own = {"A": [3.0, 2.0, 1.0, 4.0, 5.0], "C": [3.0, 2.0, 4.0, 1.0, 5.0], "elsewhere": [1.0] * 5}
    measured = [rows(values, "curvature", name, model="m") for name, values in own.items()]
    run = from_long(pd.concat([frame(measure=None), *measured]))
    found = decide(run, STRAIGHT, rules=(STRAIGHT,))
    assert found.layer is None
    assert "takes another layer for each of 3 sets of texts" in found.sentence
    assert [(unit.task, unit.layer) for unit in found.gain(STRAIGHT.name).units] == [
        ("A", 2), ("C", 3),
    ]  # fmt: skip
    middle = decide(run, "middle")
    assert middle.layer == 2
    assert middle.gain("middle").tasks == ("A", "B", "C")


# --- layers that only labels find -----------------------------------------------------------------


def test_layers_found_with_labels():
    found = {gain.rule: gain for gain in labeled(scores_of(from_long(frame())))}
    best = found[gains.BEST_SINGLE]
    assert {unit.layer for unit in best.units} == {3}
    assert best.score.value == pytest.approx(np.mean([0.38, 0.5, 0.8]))
    assert found[gains.ORACLE].score.value == pytest.approx(np.mean([0.5, 0.6, 0.9]))
    assert found[gains.ORACLE].share.value == 1
    # without A or B layer 3 is best, without C layer 2
    others = found[gains.LEAVE_ONE_OUT]
    assert [(u.layer, u.score) for u in others.units] == [
        (3, pytest.approx(0.38)), (3, pytest.approx(0.5)), (2, pytest.approx(0.5)),
    ]  # fmt: skip
    one = labeled(scores_of(from_long(frame()), ["A"]))
    assert [gain.rule for gain in one] == [gains.BEST_SINGLE, gains.ORACLE]


# --- intervals ------------------------------------------------------------------------------------


def unit(task, score, model="m", last=0.0):
    return Unit(model, task, 1, score, last, 0.0, 0.0, 0.0, 1.0, 1)


def test_limits_are_those_of_the_normal_theory_over_tasks():
    scores = np.random.default_rng(0).normal(0.5, 0.1, size=200)
    found = summarize("x", [unit(str(i), s) for i, s in enumerate(scores)], resamples=4000)
    error = 1.96 * scores.std() / np.sqrt(200)
    assert found.score.low == pytest.approx(scores.mean() - error, abs=0.002)
    assert found.score.high == pytest.approx(scores.mean() + error, abs=0.002)
    assert found.over["last"] == found.score
    assert (found.share.value, found.share.low) == pytest.approx(
        (found.score.value, found.score.low), abs=1e-9
    )


def test_models_are_resampled_whole():
    generator = np.random.default_rng(0)
    of_models = [0.1, 0.3, 0.5, 0.7]  # what a model adds to each of its tasks
    units = [
        unit(str(task), own + 0.01 * generator.normal(), f"model {own}")
        for own in of_models
        for task in range(50)
    ]
    found = summarize("x", units, resamples=4000)
    assert len(found.models) == 4
    error = np.std(of_models) / np.sqrt(4)
    assert found.score.high - found.score.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    alone = summarize("x", [u for u in units if u.model == "model 0.3"])
    assert alone.score.high - alone.score.low < 0.01


def test_models_are_compared_over_the_tasks_that_all_have():
    units = [unit("A", 0.2, "one"), unit("B", 0.9, "one"), unit("A", 0.4, "two")]
    found = summarize("x", units)
    assert (found.tasks, found.score.value) == (("A",), pytest.approx(0.3))
    with pytest.raises(InputError, match="at least one task that every model has, got none"):
        summarize("x", [unit("A", 0.2, "one"), unit("B", 0.9, "two")])


# --- decisions ------------------------------------------------------------------------------------


def test_the_default_rule_is_followed_where_it_can_be():
    crops = rows([1.0, 2.0, 5.0, 9.0, 4.0], "retrieval", "texts", model="m")
    run = from_long(
        pd.concat([frame(), crops.assign(level="view", perturbation="crops of 5 words")])
    )
    found = decide(run)
    assert (found.rule, found.layer) == (rules.DEFAULT_RULE, 3)


def test_without_its_measures_the_middle_is_taken_and_said_so():
    found = decide(from_long(frame()))
    assert (found.rule, found.layer) == (rules.FALLBACK_RULE, 2)
    assert "The default rule, 'most retrieval', needs retrieval on crops" in found.sentence
    only = decide(from_long(frame()), rules=(STRAIGHT,))
    assert {choice.rule for choice in only.choices} == {"least curvature", "middle"}
    assert set(only.lacking) == {rules.DEFAULT_RULE}


def test_a_rule_asked_for_is_followed_or_refused():
    assert decide(from_long(frame()), "least curvature").layer == 1
    with pytest.raises(
        InputError, match="the rule 'least dime' needs dime, which this run does not"
    ):
        decide(from_long(frame()), "least dime")
    with pytest.raises(InputError, match="unknown rule 'lest curvature'; did you mean"):
        decide(from_long(frame()), "lest curvature")
    with pytest.raises(InputError, match="unknown convention 'raw'"):
        decide(from_long(frame()), convention="raw")
    with pytest.raises(InputError, match="expected at least 1 resample, got 0"):
        decide(from_long(frame()), resamples=0)


def test_a_rule_of_ones_own_stands_first():
    rule = Rule(
        name="mine",
        description="",
        needs=(rules.Need("curvature"),),
        function=lambda c: c["curvature"],
    )
    found = decide(from_long(frame()), rule)
    assert (found.layer, found.rules[0].name) == (0, "mine")
    assert found.gain("mine").score.value == pytest.approx(0.2)
    table = found.table()
    row = table[table["rule"] == "mine"].iloc[0]
    assert (row["layer"], row["tasks"], row["over_last"]) == (0, 3, pytest.approx(0.2 - 1.3 / 3))
    assert table["layer"].dtype == "Int64"


# --- the published results ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    if not PUBLISHED.is_file():
        pytest.skip("needs the published results beside the repository")
    return decide(read_long(PUBLISHED), resamples=200)


@pytest.mark.parametrize(
    ("rule", "tasks", "score"),
    [
        ("last", 32, 46.82),
        ("random", 32, 49.15),
        ("middle", 32, 50.09),
        ("two thirds", 32, 50.74),
        ("least dime", 29, 48.60),
        ("least infonce", 29, 46.88),
        ("most infonce", 29, 49.48),
    ],
)
def test_published_rules_score_as_known(published, rule, tasks, score):
    found = published.gain(rule)
    assert len(found.tasks) == tasks
    assert 100 * found.score.value == pytest.approx(score, abs=0.01)


def test_published_choices_lose_to_the_middle_on_their_own_tasks(published):
    dime = published.gain("least dime")
    middle = dime.score.value - dime.over["middle"].value
    assert 100 * middle == pytest.approx(49.49, abs=0.01)
    assert dime.over["middle"].value < 0 < dime.over["last"].low


@pytest.mark.parametrize(
    ("name", "score", "layers"),
    [
        (gains.BEST_SINGLE, 51.92, {17}),
        (gains.LEAVE_ONE_OUT, 51.92, {17}),
        (gains.ORACLE, 53.39, None),
    ],
)
def test_published_layers_found_with_labels(published, name, score, layers):
    (found,) = [gain for gain in published.labeled if gain.rule == name]
    assert 100 * found.score.value == pytest.approx(score, abs=0.01)
    assert layers is None or {unit.layer for unit in found.units} == layers


def test_published_results_recommend_the_middle(published):
    assert (published.rule, published.layer) == (rules.FALLBACK_RULE, 12)


# --- what the scores say --------------------------------------------------------------------------


def verdict(tasks: dict[str, list[float]], normed: dict[str, float] | None = None) -> list[str]:
    return decide(from_long(frame(tasks, normed))).answer.split("\n")


def test_scores_that_agree_name_their_layer():
    tasks = {f"T{n}": [0.1, 0.3, 0.5 + n / 100, 0.4, 0.3] for n in range(6)}
    lead, evidence = verdict(tasks)
    assert lead == "Read layer 2 of 4."
    assert evidence == (
        "On 6 tasks it scores 52.50, the model's own output 30.00; chosen on the other tasks, a layer "
        "gains +22.50 (+21.17 to +23.67)."
    )


def test_scores_that_do_not_agree_keep_the_own_output():
    lead, evidence = verdict(TASKS, NORMED)
    assert lead == "Keep the model's own output: layer 3 of 4 is not clearly better."
    assert evidence.startswith(
        "On 3 tasks it scores 56.00, the model's own output 43.33; but chosen"
    )
    lead, evidence = verdict({"A": [0.1, 0.2, 0.3, 0.4, 0.5]})
    assert (lead, evidence) == (
        "Keep the model's own output.", "On A it scores 50.00, and no layer more.",
    )  # fmt: skip


def test_one_task_speaks_for_itself_alone():
    lead, evidence = verdict({"A": TASKS["A"]})
    assert (lead, evidence) == (
        "Read layer 1 of 4.",
        "On A it scores 50.00, the model's own output 20.00; what another task would say is unknown.",
    )


def test_without_the_last_layer_nothing_is_compared():
    table = frame(TASKS, None)
    table = table[~(table["metric"].str.startswith("mteb") & (table["layer"] == 4))]
    assert decide(from_long(table)).answer == (
        "Read layer 3 of 4.\nOn 3 tasks it scores 56.00; the last layer was not scored."
    )


def test_a_rule_that_is_asked_for_answers_itself():
    found = decide(from_long(frame()), STRAIGHT)
    assert found.answer.startswith("Layer 1 of 4 by the rule 'least curvature'")
    assert not found.scored


def test_a_choice_says_that_it_was_judged_on_the_built_in_sample():
    crops = rows([1.0, 2.0, 5.0, 9.0, 4.0], "retrieval", "texts", model="m")
    label = "crops of 20 words, built-in sample"
    run = from_long(crops.assign(level="view", perturbation=label))
    texts = "paragraphs of the built-in sample (your texts are too short for crops)"
    choice = decide(run).chosen[0]
    assert texts in choose.sentence(replace(choice, wins=(0, 0, 0, 1, 0)), texts)
