from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fake_runs import fake_run
from layerscope.decisions import choose, evidence, rules
from layerscope.decisions.rules import Rule
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.results.table import Run

BY_NAME = {measure.name: measure for measure in CATALOGUE}


def measure(name, direction):
    return replace(BY_NAME[name], direction=type(BY_NAME[name].direction)(direction))


def table_of(values, metric="prompt_entropy", convention="normalized", stage="block", blocks=None):
    """A table with one value a layer; None leaves the layer out."""
    blocks = blocks or len(values) - 1
    frame = fake_run(blocks=blocks, texts=5)[0].iloc[: len(values)].reset_index(drop=True)
    frame["layer"] = list(range(len(values)))
    frame["depth"] = [layer / blocks for layer in range(len(values))]
    frame["metric"], frame["convention"], frame["stage"] = metric, convention, stage
    frame["value"] = values
    return frame[frame["value"].notna()]


def contributions_of(matrix, metric="prompt_entropy", convention="normalized"):
    """Per-text numbers from layers of texts; None leaves a text out."""
    return pd.DataFrame(
        [
            {
                "text": text,
                "perturbation": "none",
                "layer": layer,
                "stage": "block",
                "metric": metric,
                "convention": convention,
                "value": value,
            }
            for layer, row in enumerate(matrix)
            for text, value in enumerate(row)
            if value is not None
        ],
        columns=["text", "perturbation", "layer", "stage", "metric", "convention", "value"],
    )


NOTHING = contributions_of([])


def only(table, contributions=NOTHING, direction="least"):
    (choice,) = preferred(table, contributions, measure("prompt_entropy", direction)).values()
    return choice


def preferred(table, contributions=NOTHING, *measures):
    (known,) = evidence.evidences(Run(table, contributions, {}))
    return choose.preferred(known, measures or CATALOGUE)


def values(table, direction="least"):
    """The measure at the preferred layer, on the model's own output and at the middle layer."""
    ((key, choice),) = preferred(table, NOTHING, measure("prompt_entropy", direction)).items()
    return evidence.with_baselines(table, key, choice.layer)


@pytest.mark.parametrize(("direction", "layer", "value"), [("least", 1, 0.5), ("most", 2, 3.0)])
def test_direction_decides_which_layer_is_preferred(direction, layer, value):
    table = table_of([1.0, 0.5, 3.0, 2.0])
    choice = only(table, direction=direction)
    assert (choice.layer, values(table, direction)[0]) == (layer, value)
    assert choice.within_noise == (layer,)


def test_equal_values_prefer_the_shallower_layer():
    assert only(table_of([1.0, 0.5, 0.5, 2.0])).layer == 1


def test_undefined_layers_take_no_part():
    table = table_of([None, 0.9, 0.5, None], blocks=3)
    assert only(table).layer == 2
    assert values(table) == (0.5, None, 0.9)


def test_measure_without_direction_prefers_nothing():
    assert not preferred(table_of([1.0, 2.0]), NOTHING, measure("prompt_entropy", "none"))


def test_measure_defined_nowhere_prefers_nothing():
    table = table_of([1.0, 2.0])
    table["value"] = pd.NA
    assert not preferred(table)


@pytest.mark.parametrize(("blocks", "middle"), [(7, 3), (6, 3), (12, 6), (1, 0)])
def test_middle_is_half_rounded_down(blocks, middle):
    table = table_of([float(layer) for layer in range(blocks + 1)])
    assert (rules.middle_layer(blocks), values(table)[2]) == (middle, float(middle))


def test_last_is_the_final_norm_where_there_is_one():
    blocks = table_of([1.0, 2.0, 3.0])
    normed = table_of([9.0], stage="final_norm", blocks=2).assign(layer=2, depth=1.0)
    assert values(blocks)[1] == 3.0
    both = pd.concat([blocks, normed])
    assert (values(both)[1], only(both).layer) == (9.0, 0)


def test_number_of_blocks_is_known_where_the_pass_stopped_early():
    stopped = table_of([1.0, 2.0, 3.0], blocks=8)
    assert evidence.number_of_blocks(stopped) == 8
    assert values(stopped)[1] is None
    assert evidence.number_of_blocks(table_of([1.0], blocks=4)) == 0
    with pytest.raises(
        InputError, match="expected a results table with layers, got one without rows"
    ):
        evidence.number_of_blocks(stopped.iloc[:0])


def test_two_runs_in_one_table_are_refused():
    table = table_of([1.0, 2.0])
    with pytest.raises(InputError, match="got several: the table holds more than one model"):
        evidence.of_measure(
            pd.concat([table, table.assign(model="other")]), "prompt_entropy", "normalized"
        )


def test_layers_that_texts_cannot_tell_apart_are_within_noise():
    texts = 60
    sign = [(-1) ** text for text in range(texts)]
    matrix = [
        [5.0 + 0.1 * s for s in sign],
        [1.0 + 0.1 * s for s in sign],
        [1.001 - 0.1 * s for s in sign],  # differs by a hundredth of its spread
    ]
    choice = only(table_of([5.0, 1.0, 1.001]), contributions_of(matrix))
    assert (choice.layer, choice.within_noise) == (1, (1, 2))


def test_a_text_undefined_at_one_layer_is_left_out_of_the_comparison():
    matrix = [[5.0 + text / 9 for text in range(20)], [1.0 + text / 9 for text in range(20)]]
    matrix[0][3] = matrix[1][4] = None
    assert only(table_of([5.0, 1.0]), contributions_of(matrix)).within_noise == (1,)


@pytest.mark.parametrize(
    ("paper", "normalized", "expected"),
    [
        ((1, (1,)), (1, (1, 2)), "same"),
        ((1, (1, 2)), (3, (2, 3)), "within noise"),
        ((0, (0,)), (3, (2, 3)), "another"),
    ],
)
def test_agreement_is_the_same_layer_or_shared_noise(paper, normalized, expected):
    one, other = (
        replace(only(table_of([1.0, 0.5])), layer=layer, within_noise=near)
        for layer, near in (paper, normalized)
    )
    assert choose.agreement(one, other) == expected


def test_a_whole_run():
    table, contributions, _ = fake_run()
    choices = preferred(table, contributions)
    assert 0 not in choices["curvature", "normalized", "none"].within_noise
    named = {(metric, convention) for metric, convention, _ in choices}
    assert ("dime", "paper") not in named
    assert {(m.name, "normalized") for m in CATALOGUE if m.paper_seven} <= named
    assert {choice.layer for choice in choices.values()} <= set(range(8))


@pytest.mark.parametrize(
    ("layer", "stage", "name"), [(3, "block", "3"), (7, "final_norm", "final_norm")]
)
def test_layer_names(layer, stage, name):
    assert evidence.layer_name(layer, stage) == name


# --- several kinds of views -----------------------------------------------------------------------

CROPS, COPIES = "crops of 20 words", "characters p=0.3"


def on_views(values, perturbation, convention="normalized"):
    return table_of(values, "infonce", convention).assign(perturbation=perturbation, level="view")


def test_a_measure_of_several_kinds_of_views_prefers_a_layer_on_each():
    table = pd.concat([on_views([1.0, 0.5, 0.9], COPIES), on_views([3.0, 2.0, 1.0], CROPS)])
    assert evidence.perturbations(table, "infonce", "normalized") == (COPIES, CROPS)
    contributions = pd.concat(
        [
            contributions_of([[1, 1.1], [0.5, 0.5], [0.9, 0.9]], "infonce"),
            # The texts of a corpus: others, whatever their number.
            contributions_of([[3, 3, 3], [2, 0.1, 3.9], [0, 2, 1]], "infonce").assign(
                perturbation=CROPS, text=lambda frame: -1 - frame["text"]
            ),
        ]
    )
    contributions.loc[contributions["perturbation"] == "none", "perturbation"] = COPIES
    found = preferred(table, contributions, measure("infonce", "least"))
    one, other = (found["infonce", "normalized", views] for views in (COPIES, CROPS))
    key = ("infonce", "normalized", COPIES)
    assert (one.layer, evidence.with_baselines(table, key, one.layer)[0]) == (1, 0.5)
    assert (other.layer, other.within_noise) == (2, (1, 2))
    explicit = evidence.of_measure(table, "infonce", "normalized", perturbation=CROPS)
    assert explicit["value"].tolist() == [3.0, 2.0, 1.0]
    assert evidence.of_measure(table, "infonce", "normalized")["value"].tolist() == [1.0, 0.5, 0.9]


def test_conventions_agree_or_not_on_each_kind_of_views():
    tables = [
        on_views([1.0, 0.5, 0.9], COPIES),
        on_views([1.0, 0.5, 0.9], COPIES, "paper"),
        on_views([1.0, 0.5, 0.9], CROPS),
        on_views([1.0, 0.5, 0.2], CROPS, "paper"),
    ]
    choices = preferred(pd.concat(tables), NOTHING, BY_NAME["infonce"])
    found = {
        views: choose.agreement(
            choices["infonce", "paper", views], choices["infonce", "normalized", views]
        )
        for views in (COPIES, CROPS)
    }
    assert found == {COPIES: "same", CROPS: "another"}


# --- choices by rules ------------------------------------------------------------------------------

RULE = rules.least("prompt_entropy")


def run_of(table, contributions=NOTHING, record=None):
    return Run(table, contributions, record or {})


def test_wins_are_the_shares_of_resamples():
    generator = np.random.default_rng(0)
    own = generator.normal(size=400)
    near = [1.0 + own, 1.01 + own + 0.2 * generator.normal(size=400), 5.0 + own]
    values = [float(layer.mean()) for layer in near]
    run = run_of(table_of(values), contributions_of(near))
    choice = choose.choose(run, RULE)
    assert choice.layer == int(np.argmin(values))
    assert choice.within_noise == (0, 1)
    assert sum(choice.wins) == pytest.approx(1)
    assert choice.wins[2] == 0
    assert 0.5 < choice.won < 1
    again = choose.choose(run, RULE, seed=1)
    assert again.wins != choice.wins
    assert again.won == pytest.approx(choice.won, abs=0.1)


def test_without_numbers_for_each_text_a_choice_says_that_nobody_knows():
    choice = choose.choose(run_of(table_of([3.0, 1.0, 2.0])), RULE)
    assert (choice.layer, choice.wins, choice.within_noise) == (1, None, (1,))
    assert choose.sentence(choice).endswith("nobody knows how sure that is.")


def test_a_choice_tells_whether_conventions_agree():
    raw = table_of([1.0, 2.0, 3.0], convention="paper")
    same = run_of(pd.concat([table_of([1.0, 2.0, 3.0]), raw]))
    flipped = run_of(pd.concat([table_of([3.0, 2.0, 1.0]), raw]))
    assert choose.choose(same, RULE).agrees is True
    choice = choose.choose(flipped, RULE)
    assert (choice.layer, choice.convention, choice.agrees) == (2, "normalized", False)
    assert choice.conventions == (("normalized", 2), ("paper", 0))
    assert choose.sentence(choice).endswith("Another convention takes another layer: 0 (paper).")
    assert choose.choose(flipped, RULE, convention="paper").layer == 0
    assert choose.choose(run_of(raw), RULE).convention == "paper"
    assert choose.choose(run_of(raw), RULE).agrees is None


def test_fixed_rules_need_no_measure():
    table = table_of([1.0, 2.0, 3.0, 4.0, 5.0])
    normed = table_of([9.0], stage="final_norm", blocks=4).assign(layer=4, depth=1.0)
    run = run_of(pd.concat([table, normed]))
    found = {rule.name: choose.choose(run, rule) for rule in rules.BASELINES}
    assert {name: choice.layer for name, choice in found.items()} == {
        "last": 4, "middle": 2, "two thirds": 3, "random": None,
    }  # fmt: skip
    assert {name: choice.stage for name, choice in found.items()} == {
        "last": "final_norm", "middle": "block", "two thirds": "block", "random": "block",
    }  # fmt: skip
    assert found["random"].reason == "the rule takes every layer alike"
    assert found["middle"].wins is None


@pytest.mark.parametrize(
    ("rule", "record", "message"),
    [
        (rules.least("lidar"), {}, "needs lidar, which this run does not have; scan with it"),
        (rules.least("lidar"), {"settings": {"views": 0}}, "scan with --views 2"),
        (rules.RETRIEVAL, {}, "needs retrieval on crops, which .* scan with --augmentation crops"),
        (
            rules.least("curvature"),
            {"undefined": [{"metric": "curvature", "reason": "two tokens"}]},
            "needs curvature, which is undefined here: two tokens.",
        ),
        (
            Rule(name="x", description="", function=lambda c: c["prompt_entropy"],
                 needs=(rules.Need("prompt_entropy", convention="reference"),)),
            {},
            "in the convention reference; scan with --convention reference",
        ),
    ],
)  # fmt: skip
def test_what_a_rule_lacks_is_named_with_the_way_to_get_it(rule, record, message):
    with pytest.raises(InputError, match=message):
        choose.choose(run_of(table_of([1.0, 2.0]), record=record), rule)


def test_a_run_without_measures_says_so():
    table = table_of([0.1, 0.2], metric="mteb/STS17/x").assign(level="task")
    assert choose.choose(run_of(table), rules.MIDDLE).layer == 0
    with pytest.raises(
        InputError, match="this run holds no measures; make them with layerscope scan"
    ):
        choose.choose(run_of(table), RULE)


def test_a_rule_names_the_views_that_it_means():
    def on(perturbation, values):
        return table_of(values, metric="dime").assign(level="view", perturbation=perturbation)

    spelled, crops = (
        on("characters p=0.3", [1.0, 2.0, 3.0]),
        on("crops of 20 words", [3.0, 2.0, 1.0]),
    )
    both = run_of(pd.concat([crops, spelled]))
    assert choose.choose(both, rules.least("dime")).layer == 0
    assert choose.choose(both, rules.least("dime", "crops")).layer == 2
    assert choose.choose(run_of(crops), rules.least("dime")).layer == 2
    capped = on("characters p=0.3 cap=10", [3.0, 1.0, 2.0])
    twice = run_of(pd.concat([spelled, capped]))
    assert choose.choose(twice, rules.least("dime", "characters p=0.3 cap=10")).layer == 1
    with pytest.raises(InputError, match="got several: characters p=0.3, characters p=0.3 cap"):
        choose.choose(twice, rules.least("dime", "characters"))
    similar = run_of(pd.concat([crops, on("crops by hand", [1.0, 2.0, 3.0])]))
    assert choose.choose(similar, rules.least("dime", "crops")).layer == 2
    with pytest.raises(InputError, match="scan with --augmentation default"):
        choose.choose(run_of(crops), rules.least("dime", "characters"))
    several = run_of(pd.concat([crops, on("halves", [1.0, 2.0, 3.0])]))
    with pytest.raises(InputError, match="expected one kind of views for 'dime', got several"):
        choose.choose(several, rules.least("dime"))
    _, lacking = choose.choose_all(evidence.evidences(several)[0], rules.RULES)
    assert "got several: crops of 20 words, halves" in lacking["least dime"]


def test_a_rule_of_another_shape_is_refused():
    run = run_of(table_of([1.0, 2.0]), contributions_of([[1.0, 1.0], [2.0, 2.0]]))
    bad = Rule(name="bad", description="", function=lambda _curves: np.zeros(3))
    with pytest.raises(InputError, match=r"shape \(2,\) from the rule 'bad'.*got \(3,\)"):
        choose.choose(run, bad)
    flat = replace(RULE, name="flat", function=lambda _curves: np.arange(2))
    with pytest.raises(InputError, match=r"shape \(1000, 2\) from the rule 'flat'.*got \(2,\)"):
        choose.choose(run, flat)


def test_a_rule_without_any_score_has_no_layer():
    rule = Rule(name="none", description="", function=lambda c: np.full(c.blocks + 1, np.nan))
    choice = choose.choose(run_of(table_of([1.0, 2.0, 3.0])), rule)
    assert (choice.layer, choice.reason) == (None, "the rule has no score at any layer")
    assert (
        choose.sentence(choice)
        == "No layer by the rule 'none': the rule has no score at any layer."
    )


def test_several_sets_of_texts_are_chosen_for_one_by_one():
    one = table_of([1.0, 2.0, 3.0]).assign(data="one")
    two = table_of([3.0, 2.0, 1.0]).assign(data="two")
    run = run_of(pd.concat([one, two]))
    assert [e.data for e in evidence.evidences(run)] == ["one", "two"]
    assert choose.choose(run, RULE, data="two").layer == 2
    with pytest.raises(InputError, match="found: .* on one, .* on two"):
        choose.choose(run, RULE)
    with pytest.raises(
        InputError,
        match="'prompt_entropy' a layer, got several: the table holds more than one run; s",
    ):
        evidence.evidences(run_of(pd.concat([one, one])))
    with pytest.raises(InputError, match="got one without rows"):
        evidence.evidences(run_of(one.iloc[:0]))


@pytest.mark.parametrize("kept", [True, False], ids=["with numbers by text", "table alone"])
def test_a_measure_without_limits_has_no_vote(kept):
    limited = table_of([1.0, 9.0, 2.0])
    bare = table_of([9.0, 9.0, 1.0], metric="rankme", convention="").assign(low=None, high=None)
    numbers = contributions_of([[1.0, 1.1], [9.0, 9.1], [2.0, 2.1]]) if kept else NOTHING
    rule = rules.vote(("prompt_entropy", "least"), ("rankme", "least"))

    def votes(*tables):
        run = Run(pd.concat(tables), numbers, {})
        return choose.choose(run, rule).scores

    assert votes(limited, bare) == (1, 0, 0)
    if not kept:  # limits of none are known, so that each measure has a vote
        assert votes(limited.assign(low=None, high=None), bare) == (1, 0, 1)


def test_a_layer_undefined_for_some_resamples_still_has_limits():
    matrix = [[1.0 + text / 9 for text in range(6)], [None] * 5 + [0.5], [2.0] * 6]
    run = run_of(table_of([1.4, 0.5, 2.0]), contributions_of(matrix))
    choice = choose.choose(run, RULE)
    assert choice.layer == 1
    assert sum(choice.wins) == pytest.approx(1)


@pytest.mark.parametrize(
    ("near", "words"),
    [
        ((3,), "and these texts tell it from every other layer"),
        ((3, 4), "and these texts cannot tell it from layer 4"),
        ((1, 2, 3, 4), "and these texts cannot tell it from layers 1, 2 and 4"),
        ((0, 1, 2, 3, 4, 5), "and these texts cannot tell it from 5 other layers"),
    ],
)
def test_the_sentence_of_a_choice(near, words):
    choice = choose.Choice(
        "mine", "m", "d", "", 6, 3, "block", (0.0,) * 7, near, (0.125,) * 7, (), False
    )
    expected = f"Layer 3 of 6 by the rule 'mine': it wins in 12 % of resamples, {words}."
    assert choose.sentence(choice) == expected
