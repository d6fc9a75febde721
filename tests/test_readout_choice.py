"""The family of readouts, its table, the choice from it, and the folder that serves it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from layerscope.analysis.readouts import (
    MAPS,
    Candidate,
    baselines,
    compare_readouts,
    family,
)
from layerscope.decisions.readouts import MARGIN, choose_readout
from layerscope.errors import InputError
from layerscope.metrics.readouts import Readout
from layerscope.results.readouts import ReadoutTable
from layerscope.results.resampling import sign_flip_lows, simultaneous_lows


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def crops(noise: dict[int, float], n: int = 120, dim: int = 12, seed: int = 0, rogue: float = 1.0):
    """Layers that hold the same topic under noise of their own; the first dimension may be rogue."""
    topic = normal(n, dim, seed=1000 + seed)
    scale = np.array([rogue] + [1.0] * (dim - 1))
    found = {}
    for site, level in noise.items():
        rows = topic + level * normal(2, n, dim, seed=seed + site)
        rows[..., 0] = normal(2, n, seed=seed + 50 + site) if rogue != 1 else rows[..., 0]
        found[site] = rows * scale
    return found


# --- the family -----------------------------------------------------------------------------------


def test_the_family_declares_every_site_and_set_once():
    found = family(range(13))
    assert len({readout.key for readout in found}) == len(found) == (13 + 5 * 2) * len(MAPS)
    names = {str(readout) for readout in found}
    assert {
        "0, z-score",
        "12",
        "0-12 unit",
        "9-12, abtt-1",
        "6-12",
        "4-12",
        "0+12 unit, whitening-0.5",
    } <= names


def test_baselines_have_names():
    found = {name: str(readout) for name, readout in baselines(range(13)).items()}
    assert found == {
        "last": "12",
        "middle": "6",
        "two thirds": "8",
        "mean of the last 4": "9-12",
        "WhiteningBERT": "0+12, whitening-1",
    }


def test_a_table_has_all_candidates_and_baselines():
    vectors = crops({0: 3.0, 1: 1.0, 2: 1.0, 3: 2.0})
    mine = Readout((1, 2), "abtt-4")
    table = compare_readouts(
        vectors, more=[mine], blocks={3: 2}, embedding=normal(40, 12), resamples=200
    )
    assert table.contributions.shape == (len(table.candidates), 120)
    assert table.candidates[table.own].name == "3"
    assert table.candidates[table.own].highest == 2
    assert table.candidates[table.index(mine)].readout == mine
    assert table.index("2+1, abtt-4") == table.index(mine)
    assert set(table.baselines) == {*baselines(range(4)), "LOES", "EmbedFilter"}
    for candidate, row in zip(table.candidates, table.contributions, strict=True):
        assert candidate.score == pytest.approx(np.nanmean(row))
        assert candidate.low < candidate.score < candidate.high
    assert table.galleries == (60, 60)
    with pytest.raises(InputError, match="the readout '0, abtt-9' was not scored; give it among"):
        table.index("0, abtt-9")


def test_sets_grow_while_layers_with_noise_of_their_own_are_joined():
    vectors = crops(dict.fromkeys(range(7), 1.5), n=300)
    table = compare_readouts(vectors, maps=("none", "z-score"), resamples=300)
    grown = [c for c in table.candidates if c.readout and c.readout.weighting == "unit"]
    most = max(len(c.readout.layers) for c in grown if c.readout.layers != tuple(range(7)))
    assert 3 <= most <= 6
    single = max(c.score for c in table.candidates if c.readout and len(c.readout.layers) == 1)
    assert max(c.score for c in grown) > single + 0.1


def test_sets_do_not_grow_of_layers_that_add_nothing():
    same = crops({0: 1.0})[0]
    table = compare_readouts(dict.fromkeys(range(5), same), maps=("none", "z-score"), resamples=200)
    declared = {readout.key for readout in family(range(5), ("none", "z-score"))}
    others = [c.readout for c in table.candidates if c.readout and c.readout.key not in declared]
    assert {len(readout.layers) for readout in others} <= {2}


def test_what_has_no_score_is_left_out_with_its_reason():
    vectors = crops({1: 1.0, 2: 1.0})
    constant = np.full_like(vectors[1], 0.3)
    table = compare_readouts({0: constant, **vectors}, resamples=100)
    assert table.left_out["0"] == "all of its vectors are equal"
    assert "nothing to fit z-score on" in table.left_out["0, z-score"]
    assert np.isfinite([c.score for c in table.candidates]).all()
    with pytest.raises(
        InputError, match="the vectors of the last site are all equal, so the output"
    ):
        compare_readouts({**vectors, 3: constant}, resamples=100)


def test_as_served_tells_centered_from_raw():
    vectors = crops({0: 1.0, 1: 1.0})
    vectors[1] = vectors[1] + 40
    table = compare_readouts(vectors, as_served=True, resamples=100)
    raw, centered = (table.candidates[table.index(name)].score for name in ("1", "1, center"))
    assert raw != centered


# --- limits for all together ----------------------------------------------------------------------


def test_one_rival_has_the_limit_of_its_paired_difference():
    rows = normal(2, 400)
    low = simultaneous_lows(rows, 0, seed=0, resamples=4000)
    error = (rows[1] - rows[0]).std() / 20
    assert low[0] == 0
    assert low[1] == pytest.approx((rows[1] - rows[0]).mean() - 1.96 * error, abs=0.05 * error * 2)


def test_many_rivals_widen_the_limit():
    rows = normal(200, 400)
    alone = simultaneous_lows(rows[:2], 0, seed=0)[1]
    together = simultaneous_lows(rows, 0, seed=0)[1]
    assert together < alone - 0.03


def test_limits_of_undefined_and_equal_rows():
    row = normal(30)
    rows = np.stack([row, row, row + 1, np.full(30, np.nan)])
    rows[2, 2:] += normal(28, seed=1) * 0.1
    low = simultaneous_lows(rows, 0, seed=0)
    assert low[:2].tolist() == [0, 0]
    assert 0.8 < low[2] < 1
    assert np.isnan(low[3])
    assert simultaneous_lows(np.stack([row, row + 2]), 0, seed=0)[1] == pytest.approx(2)


def test_signs_that_are_flipped_hold_for_few_right_or_wrong_answers():
    """Of 40 rows as good as the first one on 50 texts, some is called better in 2.5 % of draws."""
    found = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        rows = (draw.random((40, 50)) < 0.6).astype(float)
        found += bool((sign_flip_lows(rows, 0, seed=0, resamples=300) > 0).any())
    assert found <= 12
    better = np.zeros((2, 50))
    better[1, :20] = 1
    assert 0.05 < sign_flip_lows(better, 0, seed=0)[1] < 0.4
    assert sign_flip_lows(np.ones((3, 9)), 0, seed=0).tolist() == [0, 0, 0]


# --- the choice -----------------------------------------------------------------------------------


def table_of(scores: dict[str, float], spread: float = 0.05, n: int = 400, seed: int = 0):
    """A table with the own output first; texts share an effect, candidates have noise of their own."""
    common = normal(n, seed=seed)
    noise = normal(len(scores), n, seed=seed + 1)
    noise -= noise.mean(1, keepdims=True)  # the scores are as given
    common -= common.mean()
    rows = np.array(list(scores.values()))[:, None] + 0.1 * common + spread * noise
    readouts = [Readout.parse(name) for name in scores]
    candidates = tuple(
        Candidate(name, readout, max(readout.layers), float(row.mean()), 0.0, 1.0)
        for name, readout, row in zip(scores, readouts, rows, strict=True)
    )
    return ReadoutTable(candidates, rows, 0, {"last": 0}, (n // 2, n // 2), 0.02)


def chosen(scores: dict[str, float], **options: object) -> str:
    return str(choose_readout(table_of(scores), **options).readout)


def test_a_clear_gain_beats_the_own_output():
    assert chosen({"12": 0.40, "7": 0.50}) == "7"
    assert chosen({"12": 0.40, "7, z-score": 0.50}) == "7, z-score"


def test_a_gain_within_the_margin_does_not():
    """Sure or not: .004 is what a harmful readout of a trained embedder gained."""
    assert chosen({"12": 0.588, "11+12 unit, whitening-0.5": 0.592}) == "12"
    assert chosen({"12": 0.588, "11+12 unit, whitening-0.5": 0.588 * (1 + MARGIN)}) == "12"
    assert chosen({"12": 0.588, "11+12 unit, whitening-0.5": 0.650}) == "11+12 unit, whitening-0.5"
    assert chosen({"12": 0.588, "11, z-score": 0.600}, margin=0.0) == "11, z-score"
    assert chosen({"12": 0.060, "11, z-score": 0.080}) == "11, z-score"  # a share of a low score


def test_within_noise_the_simpler_kind_wins():
    scores = {"12": 0.30, "7": 0.500, "8, z-score": 0.502, "6+9 unit, z-score": 0.504}
    assert chosen(scores) == "7"
    assert chosen(scores | {"8, z-score": 0.60}) == "8, z-score"
    assert chosen(scores | {"8, z-score": 0.60, "6+9 unit, z-score": 0.601}) == "8, z-score"
    assert chosen(scores | {"8, z-score": 0.60, "6+9 unit, z-score": 0.70}) == "6+9 unit, z-score"


def test_of_one_kind_the_simplest_map_within_noise_wins_and_then_the_best_score():
    scores = {"30": 0.30, "29": 0.502, "10": 0.500, "11": 0.501, "3": 0.40}
    assert chosen(scores) == "29"
    assert chosen(scores, prefer="cheap") == "10"
    equal = {"30": 0.3, "20, whitening-0.5": 0.6, "20, z-score": 0.598, "6, z-score": 0.599}
    assert chosen(equal) == "6, z-score"


def test_full_whitening_is_shown_and_never_chosen():
    table = table_of({"30": 0.3, "0+30, whitening-1": 0.6, "20, whitening-0.5": 0.5})
    choice = choose_readout(table)
    assert str(choice.readout) == "20, whitening-0.5"
    assert choice.rows[0].candidate.name == "0+30, whitening-1"
    assert choice.rows[0].kind is None


def test_cheap_takes_the_lowest_highest_layer_within_noise_of_the_best():
    scores = {"30": 0.30, "29": 0.50, "10+12 unit, z-score": 0.601, "25, z-score": 0.600}
    assert chosen(scores) == "25, z-score"
    assert chosen(scores, prefer="cheap") == "10+12 unit, z-score"


def test_cheap_may_keep_less_than_the_own_output_but_only_without_a_map():
    scores = {"12": 0.500, "5": 0.499, "3, z-score": 0.501, "2": 0.40}
    assert chosen(scores) == "12"
    choice = choose_readout(table_of(scores), prefer="cheap")
    assert str(choice.readout) == "5"
    assert "none is clearly better at finding crops" in choice.sentence


def test_a_baseline_that_is_no_readout_is_shown_and_never_chosen():
    table = table_of({"12": 0.3, "5": 0.31})
    loes = Candidate("LOES: 1, 2 concatenated", None, 2, 0.9, 0.8, 1.0)
    rows = np.concatenate([table.contributions, np.full((1, 400), 0.9)])
    choice = choose_readout(
        ReadoutTable((*table.candidates, loes), rows, 0, {"LOES": 2}, (200, 200), 0.02)
    )
    assert str(choice.readout) == "12"
    assert choice.rows[0].candidate is loes
    assert choice.rows[0].kind is None
    assert not choice.rows[0].within_noise


def test_the_choice_says_what_it_saw():
    choice = choose_readout(table_of({"12": 0.40, "7": 0.50, "8, z-score": 0.501}))
    assert [row.candidate.name for row in choice.rows] == ["8, z-score", "7", "12"]
    assert [row.within_noise for row in choice.rows] == [True, True, False]
    assert [row.beats_own for row in choice.rows] == [True, True, False]
    assert [row.kind for row in choice.rows] == [2, 1, 0]
    assert choice.chosen.gain == pytest.approx(0.10)
    assert 0.08 < choice.chosen.gain_low < 0.10
    assert not choice.keeps_own


@pytest.mark.parametrize(
    ("scores", "first", "second"),
    [
        (
            {"12": 0.4, "7": 0.5},
            "Read layer 7, as it is: 7 blocks must run.",
            "On 400 texts it finds crops better: 0.500 against 0.400, at least 0.0",
        ),
        (
            {"12": 0.4, "3+12+6 unit, whitening-0.5": 0.6},
            "Read layers 3, 12 and 6, whitened by the power 0.5: 12 blocks must run.",
            "against 0.400, at least 0.1",
        ),
        ({"12": 0.4, "3+5": 0.6}, "Read layers 3 and 5, averaged: 5 blocks must run.", "0.600"),
        ({"12": 0.4, "0, z-score": 0.6}, "Read layer 0, dimensions scaled alike", "0.600"),
        ({"12": 0.4, "1": 0.6}, "Read layer 1, as it is: 1 block must run.", "0.600"),
        ({"12": 0.4, "0": 0.6}, "Read layer 0, as it is: no block must run.", "0.600"),
        ({"12": 0.4, "3, abtt-2": 0.6}, "Read layer 3, without the top 2 components: 3", "0.600"),
        (
            {"12": 0.588, "11, z-score": 0.592},
            "Keep the model's own output (layer 12).",
            "On 400 texts none of 1 others clearly finds crops better: 0.588, best 0.592.",
        ),
        (
            {"12": 0.588, "11": 0.5},
            "Keep the model's own output (layer 12).",
            "On 400 texts none of 1 others finds crops better (0.588).",
        ),
    ],
)
def test_two_lines_say_what_to_do_and_why(scores, first, second):
    lines = choose_readout(table_of(scores)).sentence.split("\n")
    assert len(lines) == 2
    assert len(lines[1]) <= 79
    assert lines[0].startswith(first)
    assert second in lines[1]


def test_halves_that_would_choose_otherwise_are_named():
    table = table_of({"12": 0.4, "7": 0.5, "5": 0.5})
    rows = table.contributions.copy()
    order = np.random.default_rng(0).permutation(400)
    rows[1, order[:200]] += 0.2  # one half of the texts speaks for 7, the other for 5
    rows[2, order[200:]] += 0.2
    rows[1] += 0.001
    scores = rows.mean(1).tolist()
    candidates = tuple(
        replace(each, score=score) for each, score in zip(table.candidates, scores, strict=True)
    )
    found = choose_readout(replace(table, candidates=candidates, contributions=rows))
    assert str(found.readout) == "7"
    assert found.sentence.endswith("\nOne half of the texts alone would choose '5'.")
    assert "half" not in choose_readout(table_of({"12": 0.4, "7": 0.5})).sentence


def test_wrong_settings_of_the_choice_are_refused():
    table = table_of({"12": 0.4, "7": 0.5})
    with pytest.raises(InputError, match="unknown preference 'fast'"):
        choose_readout(table, prefer="fast")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match="expected a margin of 0 or more, a share of the own score"
    ):
        choose_readout(table, margin=-0.1)


def test_of_pure_noise_the_own_output_wins_though_200_candidates_are_tried():
    """No candidate is better; the best of 200 looks better by three standard errors. No margin."""
    names = [f"{layer}, {name}" for layer in range(40) for name in MAPS[1:]]
    kept, plain = 0, 0
    for draw in range(60):
        rows = normal(len(names) + 1, 150, seed=draw) ** 2  # skewed, as reciprocal ranks are
        candidates = tuple(
            Candidate(name, Readout.parse(name), 1, float(row.mean()), 0.0, 0.0)
            for name, row in zip(["40", *names], rows, strict=True)
        )
        table = ReadoutTable(candidates, rows, 0, {}, (75, 75), 0.02)
        kept += choose_readout(table, margin=0.0, resamples=400, seed=draw).keeps_own
        best = rows[rows.mean(1).argmax()] - rows[0]
        plain += best.mean() < 2 * best.std() / np.sqrt(150)
    assert plain < 36  # what a paired difference alone would keep
    assert kept >= 57


def test_of_vectors_of_pure_noise_the_own_output_wins():
    """The whole way, sets grown included: crops share nothing at any layer. No margin."""
    kept = 0
    for draw in range(20):
        vectors = {site: normal(2, 60, 6, seed=100 * draw + site) for site in range(5)}
        table = compare_readouts(vectors, seed=draw, resamples=300)
        kept += choose_readout(table, margin=0.0, resamples=300).keeps_own
    assert kept >= 19


def test_a_rogue_dimension_is_seen_and_mended():
    """A base decoder in small: one dimension without meaning rules the cosines of the output."""
    vectors = crops({0: 2.0, 1: 1.2, 2: 1.2}, n=300, rogue=60.0)
    choice = choose_readout(compare_readouts(vectors, resamples=300))
    assert choice.readout.map != "none"
    assert choice.chosen.gain_low > 0.1


def test_a_good_own_output_is_kept():
    """A trained embedder in small: the last layer is best and nothing repairs what is not broken."""
    vectors = crops({0: 3.0, 1: 2.0, 2: 1.5, 3: 0.5}, n=300)
    assert choose_readout(compare_readouts(vectors, resamples=300)).keeps_own
