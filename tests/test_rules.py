"""Rules are records; each scores one curve as it scores a thousand, and combinations do what they say."""

import numpy as np
import pytest
from scipy.stats import rankdata

from layerscope.decisions import rules
from layerscope.decisions.rules import RULES, Curves, Need, Rule, least, most
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE

NAN = np.nan


def curves(blocks=4, noise=None, **values):
    """Curves of measures by name."""
    found = {Need(name): np.asarray(value, dtype=float) for name, value in values.items()}
    layers = blocks + 1
    return Curves(blocks, found, lambda need: noise or np.zeros((2, layers, layers)))


def chosen(rule, **values):
    return int(np.nanargmax(rule.function(curves(**values))))


def random_curves(rule, resamples=None, blocks=6):
    generator = np.random.default_rng(0)
    shape = (blocks + 1,) if resamples is None else (resamples, blocks + 1)
    values = {need: generator.normal(size=shape) for need in rule.needs}
    for value in values.values():
        value[..., 0] = NAN
    noise = generator.uniform(0, 1, size=(2, blocks + 1, blocks + 1))
    return Curves(blocks, values, lambda _need: noise)


# --- every rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_scores_resampled_curves_as_it_scores_each(rule):
    many = random_curves(rule, resamples=5)
    scores = np.broadcast_to(rule.function(many), (5, 7))
    for resample in range(5):
        one = {need: value[resample] for need, value in many.values.items()}
        expected = rule.function(Curves(many.blocks, one, many.noise))
        np.testing.assert_allclose(scores[resample], expected, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_reads_what_it_declares_and_nothing_else(rule):
    seen = []

    class Watched(dict):
        def __getitem__(self, need):
            seen.append(need)
            return super().__getitem__(need)

    told = random_curves(rule)
    rule.function(Curves(told.blocks, Watched(told.values), told.noise))
    assert set(seen) == set(rule.needs)
    assert rule.fixed == (not rule.needs)


def test_names_are_distinct_and_needs_are_measures():
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    known = {measure.name for measure in CATALOGUE}
    assert {need.metric for rule in RULES for need in rule.needs} <= known
    assert all(rule.description.endswith(".") for rule in RULES)
    assert {rules.DEFAULT_RULE, rules.FALLBACK_RULE} <= set(names)


def test_every_measure_of_single_layers_can_be_asked_for_in_both_directions():
    for measure in CATALOGUE:
        if measure.level != "pair" and measure.name not in ("dime_standard_error", "retrieval"):
            assert rules.find(f"least {measure.name}").needs == (Need(measure.name),)
            assert rules.find(f"most {measure.name}").needs == (Need(measure.name),)


def test_the_paper_is_named_only_where_it_chooses_so():
    papers = {rule.name for rule in RULES if rule.reference == rules.LBL}
    assert papers == {
        "least prompt_entropy", "least curvature", "least dataset_entropy", "most effective_rank",
        "least infonce", "most lidar", "least dime",
    }  # fmt: skip


def test_of_many_rules_only_the_nearest_are_listed():
    with pytest.raises(InputError, match=r"none of the \d+ known is close, the nearest are") as got:
        rules.find("zzzz")
    assert len(str(got.value)) < 200
    assert str(got.value).count("'") == 2 * (1 + 3)


def test_an_unknown_rule_is_refused_with_the_closest():
    with pytest.raises(InputError, match="unknown rule 'least dim'; did you mean 'least dime'"):
        rules.find("least dim")


# --- fixed layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "middle", "two_thirds"),
    [(24, 12, 16), (6, 3, 4), (7, 3, 5), (30, 15, 20), (1, 0, 1)],
)
def test_baselines(blocks, middle, two_thirds):
    empty = Curves(blocks, {}, lambda _need: np.zeros(0))
    found = [int(rule.function(empty).argmax()) for rule in rules.BASELINES[:3]]
    assert found == [blocks, middle, two_thirds]
    assert len(set(rules.RANDOM.function(empty))) == 1
    assert rules.LAST.normed
    assert not rules.MIDDLE.normed


# --- scores over layers ---------------------------------------------------------------------------


def test_standing_is_the_share_of_rivals_beaten():
    scores = np.random.default_rng(1).integers(0, 4, size=(20, 9)).astype(float)
    scores[np.random.default_rng(2).random(scores.shape) < 0.2] = NAN
    for row, found in zip(scores, rules.standing(scores), strict=True):
        defined = ~np.isnan(row)
        expected = (rankdata(row[defined]) - 1) / (defined.sum() - 1)
        np.testing.assert_allclose(found[defined], expected)
        assert np.isnan(found[~defined]).all()


def test_running_mean_is_that_of_the_defined_neighbors():
    scores = np.random.default_rng(1).normal(size=(4, 9))
    scores[np.random.default_rng(2).random(scores.shape) < 0.3] = NAN
    found = rules.running_mean(scores, 5)
    for row, column in np.argwhere(~np.isnan(scores)):
        window = scores[row, max(0, column - 2) : column + 3]
        assert found[row, column] == pytest.approx(np.nanmean(window))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(scores))


# --- rules of one measure, and of others ----------------------------------------------------------


def test_the_direction_is_in_the_name():
    values = {"dime": [3.0, 1.0, 2.0, 4.0, 3.5]}
    assert (least("dime").name, chosen(least("dime"), **values)) == ("least dime", 1)
    assert (most("dime").name, chosen(most("dime"), **values)) == ("most dime", 3)
    assert least("dime", "crops").needs == (Need("dime", "crops"),)


def test_between_and_without_leave_layers_out():
    values = {"dime": [5.0, 4.0, 3.0, 2.0, 1.0]}
    assert chosen(rules.between(most("dime"), 0.5), **values) == 2
    assert chosen(rules.between(least("dime"), 0, 0.5), **values) == 2
    assert chosen(rules.without(most("dime"), 0, 1), **values) == 2
    assert np.isnan(rules.without(most("dime"), 0).function(curves(**values))[0])


def test_smoothing_passes_over_a_lonely_peak():
    values = {"dime": [0.0, 9.0, 0.0, 6.0, 6.0]}
    assert chosen(most("dime"), **values) == 1
    assert chosen(rules.smoothed(most("dime")), **values) == 4
    with pytest.raises(InputError, match="expected an odd number of layers to smooth over, got 2"):
        rules.smoothed(most("dime"), 2)


def test_nearest_prefers_a_depth_among_the_nearly_best():
    values = {"dime": [10.0, 9.6, 9.7, 0.0, NAN]}
    rule = rules.nearest(most("dime"), depth=0.5, tolerance=0.05)
    scores = rule.function(curves(**values))
    assert int(np.nanargmax(scores)) == 2
    assert np.isnan(scores[4])
    assert chosen(rules.nearest(most("dime"), depth=0.5, tolerance=0.0), **values) == 0


def test_rank_rules_take_the_layer_that_stands_well_everywhere():
    values = {"dime": [4.0, 3.0, 1.0, 0.0, 2.0], "lidar": [0.0, 3.0, 1.0, 4.0, 2.0]}
    parts = (most("dime"), most("lidar"))
    assert chosen(rules.mean_rank(*parts), **values) == 1
    assert chosen(rules.borda(*parts), **values) == 1
    third = {"curvature": [9.0, 8.0, 0.0, 1.0, 2.0]}
    assert chosen(rules.median_rank(*parts, most("curvature")), **values, **third) == 0
    assert rules.mean_rank(*parts).needs == (Need("dime"), Need("lidar"))


def test_a_layer_undefined_for_one_measure_is_out_of_the_mean_rank_and_loses_points_in_borda():
    values = {"dime": [4.0, 3.0, 1.0, 0.0, 2.0], "lidar": [NAN, 0.0, 1.0, 4.0, 2.0]}
    parts = (most("dime"), most("lidar"))
    assert np.isnan(rules.mean_rank(*parts).function(curves(**values))[0])
    np.testing.assert_allclose(rules.borda(*parts).function(curves(**values)), [4, 3, 2, 3, 4])


def test_a_measure_votes_for_all_within_noise_of_its_best():
    noise = np.full((2, 5, 5), 0.5)
    rule = rules.vote(("dime", "least"), ("lidar", "most"))
    values = {"dime": [0.0, 0.4, 0.6, 2.0, NAN], "lidar": [1.0, 2.0, 2.0, 0.0, 2.4]}
    votes = rule.function(curves(noise=tuple(noise), **values))
    np.testing.assert_array_equal(votes, [1, 2, 1, 0, 1])


def test_curves_are_found_by_name_or_need():
    told = curves(dime=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert told["dime"] is told[Need("dime")]
    np.testing.assert_allclose(told.depth, [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(InputError, match="unknown measure of this rule 'dim'; did you mean 'dime'"):
        told["dim"]


def test_a_rule_of_ones_own_is_one_record():
    rule = Rule(
        name="mine",
        description="Straight and spread.",
        needs=(Need("curvature"), Need("lidar")),
        function=lambda seen: rules.standing(seen["lidar"]) - seen["curvature"],
    )
    values = {"curvature": [2.0, 1.0, 1.9, 2.0, 2.0], "lidar": [1.0, 4.0, 5.0, 2.0, 3.0]}
    assert chosen(rule, **values) == 1
    assert rules.find("mine", (rule,)) is rule
