from dataclasses import replace

import pandas as pd
import pytest

from fake_runs import fake_run
from layerscope import selection
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE

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
    (choice,) = selection.preferences(
        table, contributions, measures=(measure("prompt_entropy", direction),)
    )
    return choice


@pytest.mark.parametrize(("direction", "layer", "value"), [("least", 1, 0.5), ("most", 2, 3.0)])
def test_direction_decides_which_layer_is_preferred(direction, layer, value):
    choice = only(table_of([1.0, 0.5, 3.0, 2.0]), direction=direction)
    assert (choice.layer, choice.value, choice.within_noise) == (layer, value, (layer,))


def test_equal_values_prefer_the_shallower_layer():
    assert only(table_of([1.0, 0.5, 0.5, 2.0])).layer == 1


def test_undefined_layers_take_no_part():
    choice = only(table_of([None, 0.9, 0.5, None]))
    assert choice.layer == 2
    assert choice.last_value is None
    assert choice.middle_value == 0.9


def test_measure_without_direction_prefers_nothing_and_says_why():
    choice = only(table_of([1.0, 2.0]), direction="none")
    assert (choice.layer, choice.within_noise) == (None, ())
    assert choice.reason == "the measure has no preferred direction"


def test_measure_defined_nowhere_says_so():
    table = table_of([1.0, 2.0])
    table["value"] = pd.NA
    assert only(table).reason == "the measure is defined at no layer"


@pytest.mark.parametrize(("blocks", "middle"), [(7, 3), (6, 3), (12, 6), (1, 0)])
def test_middle_is_half_rounded_down(blocks, middle):
    values = [float(layer) for layer in range(blocks + 1)]
    choice = only(table_of(values))
    assert (choice.middle_layer, choice.middle_value) == (middle, float(middle))


def test_last_is_the_final_norm_where_there_is_one():
    blocks = table_of([1.0, 2.0, 3.0])
    normed = table_of([9.0], stage="final_norm", blocks=2).assign(layer=2, depth=1.0)
    assert (only(blocks).last_stage, only(blocks).last_value) == ("block", 3.0)
    both = only(pd.concat([blocks, normed]))
    assert (both.last_stage, both.last_value, both.layer) == ("final_norm", 9.0, 0)


def test_number_of_blocks_is_known_where_the_pass_stopped_early():
    stopped = table_of([1.0, 2.0, 3.0], blocks=8)
    assert selection.number_of_blocks(stopped) == 8
    assert only(stopped).last_value is None
    assert selection.number_of_blocks(table_of([1.0], blocks=4)) == 0
    with pytest.raises(
        InputError, match="expected a results table with layers, got one without rows"
    ):
        selection.number_of_blocks(stopped.iloc[:0])


def test_two_runs_in_one_table_are_refused():
    table = table_of([1.0, 2.0])
    with pytest.raises(InputError, match="got several: the table holds more than one model"):
        only(pd.concat([table, table.assign(model="other")]))


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


def test_agreement_is_the_same_layer_or_shared_noise():
    def choice(metric, convention, layer, near):
        return replace(
            only(table_of([1.0, 0.5])),
            metric=metric,
            convention=convention,
            layer=layer,
            within_noise=near,
        )

    found = selection.agreement(
        [
            choice("a", "paper", 1, (1,)),
            choice("a", "normalized", 1, (1, 2)),
            choice("b", "paper", 1, (1, 2)),
            choice("b", "normalized", 3, (2, 3)),
            choice("c", "paper", 0, (0,)),
            choice("c", "normalized", 3, (2, 3)),
            choice("d", "", 3, (3,)),
            choice("e", "paper", None, ()),
            choice("e", "normalized", 3, (3,)),
        ]
    )
    assert [(item.metric, item.same, item.overlap) for item in found] == [
        ("a", True, True),
        ("b", False, True),
        ("c", False, False),
    ]


def votes(*choices):
    seven = [item for item in CATALOGUE if item.paper_seven]
    template = only(table_of([1.0, 0.5]))
    return selection.recommendation(
        [
            replace(
                template,
                metric=seven[index].name,
                convention=convention,
                layer=near[0],
                within_noise=near,
            )
            for index, convention, near in choices
        ]
    )


def test_most_votes_win_and_ties_go_to_the_shallower_layer():
    found = votes((0, "normalized", (2, 3)), (1, "normalized", (3,)), (2, "normalized", (2, 5)))
    assert (found.layer, found.voters) == (2, 3)
    assert [(vote.layer, len(vote.metrics)) for vote in found.votes] == [(2, 2), (3, 2), (5, 1)]
    assert found.sentence.startswith("Layer 2: 2 of 3 measures")


def test_measures_that_do_not_agree_are_said_not_to():
    found = votes(*((index, "normalized", (index,)) for index in range(5)))
    assert found.sentence.startswith("Layer 0: only 1 of 5 measures")
    assert "do not agree on a layer" in found.sentence


def test_only_the_normalized_convention_of_the_seven_votes():
    found = votes((0, "normalized", (2,)), (1, "paper", (6,)), (2, "paper", (6,)))
    assert (found.layer, found.voters, found.paper_layer) == (2, 1, 6)
    assert "(paper convention) the same vote picks layer 6" in found.sentence
    other = replace(only(table_of([1.0, 0.5])), metric="mteb/STS/cosine")
    assert selection.recommendation([other]).layer is None


def test_the_sentence_says_that_it_is_a_hint_and_why():
    sentence = votes((0, "normalized", (2,))).sentence
    assert "48.60, middle layer 49.49" in sentence
    assert "Evaluate" in sentence


def test_without_votes_there_is_no_layer():
    found = selection.recommendation([])
    assert (found.layer, found.votes) == (None, ())
    assert found.sentence.startswith("No layer is recommended: none of the paper's measures")


def test_a_whole_run():
    table, contributions, _ = fake_run()
    choices = selection.preferences(table, contributions)
    by_key = {(choice.metric, choice.convention): choice for choice in choices}
    curvature = by_key["curvature", "normalized"]
    assert 0 not in curvature.within_noise
    assert curvature.last_stage == "final_norm"
    assert ("dime", "paper") not in by_key
    assert selection.recommendation(choices).layer in range(8)


@pytest.mark.parametrize(
    ("layer", "stage", "name"), [(3, "block", "3"), (7, "final_norm", "final_norm")]
)
def test_layer_names(layer, stage, name):
    assert selection.layer_name(layer, stage) == name


# --- several kinds of views -----------------------------------------------------------------------

CROPS, COPIES, CAPPED = "crops of 20 words", "characters p=0.3", "characters p=0.3 cap=10"


def on_views(values, perturbation, convention="normalized"):
    return table_of(values, "infonce", convention).assign(perturbation=perturbation, level="view")


def test_a_measure_of_several_kinds_of_views_prefers_a_layer_on_each():
    table = pd.concat([on_views([1.0, 0.5, 0.9], COPIES), on_views([3.0, 2.0, 1.0], CROPS)])
    assert selection.perturbations(table, "infonce", "normalized") == (COPIES, CROPS)
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
    one, other = selection.preferences(
        table, contributions, measures=(measure("infonce", "least"),)
    )
    assert (one.perturbation, one.layer, one.value) == (COPIES, 1, 0.5)
    assert (other.perturbation, other.layer, other.within_noise) == (CROPS, 2, (1, 2))
    explicit = selection.of_measure(table, "infonce", "normalized", perturbation=CROPS)
    assert explicit["value"].tolist() == [3.0, 2.0, 1.0]
    assert selection.of_measure(table, "infonce", "normalized")["value"].tolist() == [1.0, 0.5, 0.9]


def test_conventions_agree_or_not_on_each_kind_of_views():
    tables = [
        on_views([1.0, 0.5, 0.9], COPIES),
        on_views([1.0, 0.5, 0.9], COPIES, "paper"),
        on_views([1.0, 0.5, 0.9], CROPS),
        on_views([1.0, 0.5, 0.2], CROPS, "paper"),
    ]
    choices = selection.preferences(pd.concat(tables), NOTHING, measures=(BY_NAME["infonce"],))
    found = {item.perturbation: item.same for item in selection.agreement(choices)}
    assert found == {COPIES: True, CROPS: False}


def test_the_papers_vote_takes_its_own_views():
    tables = [
        on_views([1.0, 0.5, 0.9], CROPS),
        on_views([1.0, 0.5, 0.1], COPIES),
        on_views([0.1, 0.5, 0.9], CAPPED),
    ]
    choices = selection.preferences(pd.concat(tables), NOTHING, measures=(BY_NAME["infonce"],))
    advice = selection.recommendation(choices)
    assert (advice.layer, advice.voters) == (2, 1)
    assert advice.votes[0].metrics == ("infonce",)
    spans = [choice for choice in choices if choice.perturbation == CROPS]
    assert selection.recommendation(spans).layer is None
