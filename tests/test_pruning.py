"""Which blocks go, what that is held against, and the pruned model: tried, saved, read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import transformers as hf
from filelock import FileLock
from safetensors import safe_open
from safetensors.torch import save_file

import layerscope
from commands import run
from layerscope.api.evaluating import evaluate
from layerscope.data.tokens import tokenize
from layerscope.decisions import prune as prune_module
from layerscope.decisions.prune import Measured
from layerscope.decisions.subsets import random_subsets
from layerscope.errors import InputError
from layerscope.export import prune as export_prune
from layerscope.export import pruning as pruning_module
from layerscope.export import reload, verify
from layerscope.export import removal as removal_module
from layerscope.export.formats import MismatchError
from layerscope.export.request import notes_of
from layerscope.export.trial import Trial, comparisons, perplexity
from layerscope.models import backbone as backbone_module
from layerscope.models import loading, modes
from layerscope.models.blocks import remove_blocks
from layerscope.results.resampling import against
from layerscope.results.table import Run, conform, no_contributions
from tiny import CONFIGS, save_tiny, texts, tiny_model, tiny_tokenizer, unusual_model

# --- rules on a table whose orders can be read off -------------------------------------------------


def row(metric: str, layer: int, value: float, other: int | None = None, **more: str) -> dict:
    level = "dataset" if other is None else "pair"
    facts = {"model": "m", "data": "d", "perturbation": "none", "level": level, "stage": "block"}
    return facts | {
        "metric": metric, "layer": layer, "other_layer": other, "value": value,
        "depth": layer / 5, "convention": "",
    } | more  # fmt: skip


def made(*rows: dict, undefined: tuple = ()) -> Measured:
    table = conform(pd.DataFrame(list(rows)))
    return Measured(Run(table, no_contributions(), {"undefined": list(undefined)}), 5)


def test_a_rule_says_whether_it_is_our_reading_and_not_its_name():
    ours = {rule.name for rule in prune_module.RULES if rule.own_reading}
    assert ours == {
        "frenet", "nrs", "gfmi-gain", "gfmi-signed-gain", "gfmi-level-low", "gfmi-level-high",
    }  # fmt: skip
    for own, name in ((True, "cka"), (False, "nrs-of-another")):
        rule = replace(prune_module.rule("cka"), name=name, own_reading=own)
        asked = SimpleNamespace(rule=rule, scheme="one-shot", part=None)
        said = any("our reading of Jiang" in note for note in notes_of(asked, (), None))
        assert said is own


GFMI = (0.10, 0.40, 0.30, 0.50, 0.52)  # layers 0 to 4; the final layer is 1
BLOCKS = (2, 3, 4)


@pytest.fixture
def measured() -> Measured:
    steps = {
        "frenet_speed_k32": (0.9, 0.3, 0.2, 0.5, 0.1),
        "nrs_k10": (0.1, 0.5, 0.9, 0.7, 0.2),
        "block_influence": (0.5, 0.02, 0.03, 0.01, 0.5),
        "cka_unbiased": (0.1, 0.8, 0.9, 0.95, 0.2),
        "angular_distance": (0.5, 0.2, 0.1, 0.1, 0.5),
    }
    rows = [
        row(metric, block, value, block - 1)
        for metric, values in steps.items()
        for block, value in enumerate(values, start=1)
    ]
    rows += [row("gfmi_edge", layer, value, 5) for layer, value in enumerate(GFMI)]
    rows += [
        row("angular_matrix", low, 0.1 * (high - low) + 0.01 * low, high)
        for low in range(6)
        for high in range(low + 1, 6)
    ]
    rows += [
        row("dataset_entropy", layer, value, convention=convention)
        for convention, values in {
            "normalized": (1, 5, 4.9, 3, 2, 1),
            "paper": (1, 5, 3, 2.9, 2, 1),
        }.items()
        for layer, value in enumerate(values)
    ]
    return made(*rows)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("frenet", (3, 2, 4)),
        ("nrs", (3, 4, 2)),
        ("gfmi-gain", (4, 2, 3)),
        ("gfmi", (4, 2, 3)),
        ("gfmi-signed-gain", (2, 4, 3)),
        ("gfmi-level-low", (2, 3, 4)),
        ("gfmi-level-high", (4, 3, 2)),
        ("block-influence", (4, 2, 3)),
        ("angular", (4, 3, 2)),  # a tie of 3 and 4: the deeper goes first
        ("cka", (4, 3, 2)),
        ("deepest-first", (4, 3, 2)),
        ("dataset_entropy", (2, 4, 3)),
        ("dataset_entropy:paper", (3, 4, 2)),
    ],
)
def test_the_lowest_score_goes_first(measured, name, order):
    rule = prune_module.rule(name)
    assert rule.choose(measured, BLOCKS, 3, 0).blocks == order
    assert rule.choose(measured, BLOCKS, 1, 0).blocks == order[:1]


def test_gfmi_of_the_last_layer_with_itself_is_one(measured):
    scores = prune_module.rule("gfmi-gain").choose(measured, (1, 2, 3, 4, 5), 1, 0).scores
    assert scores[5] == pytest.approx(1 - 0.52)
    assert scores[1] == pytest.approx(0.3)


def test_a_span_goes_together(measured):
    found = prune_module.rule("angular-contiguous").choose(measured, BLOCKS, 2, 0)
    assert found.blocks == (2, 3)  # from layer 1 to 3, the least of the two spans
    assert found.scores == pytest.approx({2: 0.21, 3: 0.22})


def test_the_random_rule_follows_its_seed(measured):
    rule = prune_module.rule("random")
    eligible = tuple(range(2, 12))
    assert rule.choose(measured, eligible, 4, 1) == rule.choose(measured, eligible, 4, 1)
    assert len({rule.choose(measured, eligible, 4, seed).blocks for seed in range(9)}) > 5
    assert set(rule.choose(measured, eligible, 4, 1).blocks) < set(eligible)


def test_names_nobody_knows_are_refused():
    with pytest.raises(InputError, match="unknown rule 'frennet'; did you mean 'frenet'"):
        prune_module.rule("frennet")
    with pytest.raises(InputError, match="cka_matrix has no value at single layers"):
        prune_module.rule("cka_matrix")
    with pytest.raises(InputError, match="unknown convention of curvature 'papr'"):
        prune_module.rule("curvature:papr")
    with pytest.raises(InputError, match="unknown convention of two_nn 'paper'"):
        prune_module.rule("two_nn:paper")


def test_a_rule_without_a_value_says_why(measured):
    with pytest.raises(InputError, match="reads two_nn, which the run lacks; scan again"):
        prune_module.rule("two_nn").choose(measured, BLOCKS, 1, 0)
    why = {"metric": "nrs_k10", "layer": 3, "reason": "All vectors are equal."}
    holed = made(*(row("nrs_k10", b, 0.5, b - 1) for b in (1, 2, 4, 5)), undefined=(why,))
    with pytest.raises(InputError, match="no score for block 3: All vectors are equal; choose"):
        prune_module.rule("nrs").choose(holed, BLOCKS, 1, 0)


def test_a_run_of_several_data_sets_is_refused(measured):
    more = made(row("nrs_k10", 1, 0.5, 0), row("nrs_k10", 1, 0.5, 0, data="other"))
    with pytest.raises(InputError, match="one set of texts to prune by, the run holds 2: d, other"):
        prune_module.measured_by(more.run, 5)


def test_greedy_measures_what_is_left_and_keeps_the_first_names():
    asked = []

    def rescored(removed: tuple[int, ...]) -> Measured:
        asked.append(removed)
        # The second block of what is left is always the least; block 1 is protected.
        values = [0.9, 0.1, *([0.5] * (3 - len(removed)))]
        steps = (row("block_influence", b, v, b - 1) for b, v in enumerate(values, start=1))
        return Measured(made(*steps).run, 5 - len(removed))

    rule = prune_module.rule("block-influence")
    found = prune_module.one_by_one(rule, rescored, BLOCKS, 3, 0)
    assert found.blocks == (2, 3, 4)
    assert asked == [(), (2,), (2, 3)]
    assert found.scores == {2: 0.1, 3: 0.1, 4: 0.1}


# --- how many ---------------------------------------------------------------------------------------

LADDER = (0.05, 0.10, 0.15, 0.20)


@pytest.mark.parametrize(
    ("blocks", "counts"),
    [(6, [1]), (12, [1, 2]), (24, [1, 2, 4, 5]), (32, [2, 3, 5, 6]), (30, [2, 3, 5, 6])],
)
def test_counts_of_the_ladder_equal_ones_merged(blocks, counts):
    found = prune_module.budgets(LADDER, blocks)
    assert [budget.count for budget in found] == counts
    assert [name for budget in found for name in budget.asked] == list(map(str, LADDER))


def test_budgets_are_parts_percents_or_numbers():
    assert [str(b) for b in prune_module.budgets(["10%", "0.1", 2, "0.07"], 50)] == [
        "5/50",
        "2/50",
        "4/50",
    ]


@pytest.mark.parametrize("budget", ["0", 0, -1, "1.5", "100%", "half", "0%", "nan", "", 2.5])
def test_what_is_no_budget_is_refused(budget):
    with pytest.raises(InputError, match="expected a budget as a part of the blocks"):
        prune_module.parsed_budget(budget)


def test_protected_blocks_stay():
    assert prune_module.eligible_blocks(6) == (2, 3, 4, 5)
    assert prune_module.eligible_blocks(3, (0, 0)) == (1, 2, 3)
    with pytest.raises(InputError, match="leaves none of the model's 2 to remove"):
        prune_module.eligible_blocks(2)
    [budget] = prune_module.budgets(["5"], 6)
    with pytest.raises(InputError, match="removes 5 of 6 blocks, but only 4 may go"):
        prune_module.refuse_too_many(budget, (2, 3, 4, 5))


def a_sink_built_by_block_3(*_given) -> dict[int, float]:
    return {0: 1.0, 1: 1.1, 2: 1.0, 3: 50.0, 4: 45.0}


def test_the_block_that_builds_an_attention_sink_stays_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(removal_module, "sample_ratios", a_sink_built_by_block_3)
    prune = partial(
        layerscope.prune, tiny_model("llama"), "deepest-first", tokenizer=tiny_tokenizer()
    )
    kept = prune(1)
    assert (kept.eligible, kept.removed, kept.record["protect"]) == ((2,), (2,), "auto")
    assert (
        "block 3 stays: across it the first token's norm becomes 50 times the others'"
        in kept.notes[0]
    )
    free = prune(1, protect=(1, 1))
    assert (free.eligible, free.removed, free.record["protect"]) == ((2, 3), (3,), [1, 1])
    assert not any("stays" in note for note in free.notes)
    with pytest.raises(InputError, match="removes 2 of 4 blocks, but only 1 may go"):
        prune(2)


# --- the random baseline -----------------------------------------------------------------------------


def test_additive_losses():
    losses = dict(enumerate((5, 1, 2, 9, 3), start=1))
    subsets = random_subsets(list(losses), 2, draws=20)
    assert subsets.exhaustive
    assert subsets.total == 10
    others = [sum(losses[block] for block in subset) for subset in subsets.subsets]
    found = against(losses[2] + losses[3], others, exhaustive=True, lower=True)
    assert (found.mean, found.p, found.beats_random) == (8.0, 1 / 10, True)


def test_drawn_subsets_count_themselves_in():
    found = against(0.5, [0.1, 0.5, 0.7, 0.2], exhaustive=False)
    assert found.p == 3 / 5
    assert (found.mean, found.beats_random) == (pytest.approx(0.375), True)
    best = against(1.0, [0.0] * 20, exhaustive=False)
    assert best.p == 1 / 21


def test_subsets_are_different_and_uniform():
    subsets = random_subsets(range(2, 12), 3, draws=20, seed=4)
    assert len(set(subsets.subsets)) == 20
    assert (subsets.total, subsets.exhaustive) == (120, False)
    counts = pd.Series(
        [
            block
            for seed in range(50)
            for subset in random_subsets(range(2, 12), 3, seed=seed).subsets
            for block in subset
        ]
    ).value_counts()
    assert counts.between(240, 360).all()  # 300 each


def trial(removed: tuple[int, ...], perplexity: float | None = None, **scores: float) -> Trial:
    return Trial(removed, scores, perplexity, {})


def test_changes_are_in_percent_and_paired():
    full, pruned = trial((), 10.0, a=0.5, b=0.8), trial((2,), 12.0, a=0.4, b=0.88)
    others = [trial((3,), 11.0, a=0.45, b=0.8), trial((4,), 20.0, b=0.4)]
    found = {c.name: c for c in comparisons(full, pruned, others, exhaustive=True)}
    assert found["a"].change == pytest.approx(-20)
    assert found["b"].change == pytest.approx(10)
    assert found["mean of the tasks"].change == pytest.approx(-5)
    assert found["perplexity"].change == pytest.approx(20)
    assert found["b"].random.p == 0.0  # not one of them, as an exhaustive list would hold it
    assert found["perplexity"].random.beats_random
    assert found["perplexity"].random.p == 0.5
    # A subset without a score is left out and counted, and what is left is no full list.
    assert (found["a"].lacking, found["a"].random.subsets) == (1, 1)
    assert found["a"].random.p == 1.0
    assert not found["a"].random.exhaustive


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> Path:
    """A tiny model that writes text."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS["llama"]()).eval()
    return save_tiny(model, tmp_path_factory.mktemp("writer"))


@pytest.fixture(scope="module")
def likeness(tmp_path_factory) -> Path:
    pytest.importorskip("mteb")
    path = tmp_path_factory.mktemp("tables") / "likeness.csv"
    left, right = texts(30, seed=1), texts(30, seed=2)
    scores = [
        len(set(a.split()) & set(b.split())) + item / 100
        for item, (a, b) in enumerate(zip(left, right, strict=True))
    ]
    pd.DataFrame({"sentence1": left, "sentence2": right, "score": scores}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def compared(writer, likeness) -> layerscope.Pruning:
    return layerscope.prune(
        writer, "nrs", ["0.1", "25%", 2], data=texts(40), tables=[likeness],
        perplexity=texts(5, seed=3), first_token="keep",
    )  # fmt: skip


def test_budgets_that_mean_the_same_are_one_and_that_is_said(compared):
    assert [str(outcome.budget) for outcome in compared.outcomes] == ["1/4", "2/4"]
    assert compared.notes[0] == "budgets 0.1, 25% all remove 1/4 blocks."
    assert compared.outcomes[1].removed == (2, 3)
    assert compared.outcomes[1].total == 1


def test_scores_are_those_of_evaluate(compared, writer, likeness):
    """The full model's, and those of a model whose blocks are gone for good."""
    backbone = loading.load(writer)
    for outcome, removed in ((compared.full, ()), (compared.outcomes[1].trial, (2, 3))):
        shorter = remove_blocks(backbone, removed) if removed else backbone
        found = evaluate(
            shorter.model, tables=[likeness], tokenizer=tiny_tokenizer(), first_token="keep"
        )
        last = found.scores().iloc[-1]
        assert outcome.scores == {"likeness": pytest.approx(float(last["likeness"]), abs=1e-6)}


def test_perplexity_is_that_of_the_library(writer):
    backbone = loading.load(writer, head=True)
    given = tokenize(backbone.tokenizer, texts(4, seed=3), 64)
    losses = []
    for text in given:
        ids = torch.tensor([text.ids])
        with torch.inference_mode():
            loss = backbone.whole(input_ids=ids, labels=ids).loss
        losses.append((float(loss), len(text.ids) - 1))
    mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
    assert perplexity(backbone, given) == pytest.approx(math.exp(mean), rel=1e-5)


def test_every_subset_is_tried_beside_the_rule(compared):
    single = compared.outcomes[0]
    assert [found.name for found in single.comparisons] == ["likeness", "perplexity"]
    assert [each.removed for each in single.subsets] == [(2,), (3,)]
    assert single.trial in single.subsets
    assert single.comparisons[0].random.exhaustive
    table = compared.table()
    assert list(table["budget"]) == ["1/4", "1/4", "2/4", "2/4"]
    assert set(table["removed"]) == {str(single.removed[0]), "2,3"}
    assert compared.record["outcomes"][0]["subsets"][0]["removed"] == (2,)
    json.dumps(compared.record)


def test_the_model_is_given_back_as_it_was(likeness):
    model = tiny_model("gpt2")
    ids = torch.arange(1, 9)[None]
    before = model(input_ids=ids).last_hidden_state
    found = layerscope.prune(
        model, "cka", 1, data=texts(30), tables=[likeness], draws=1, tokenizer=tiny_tokenizer(),
        scheme="greedy",
    )  # fmt: skip
    assert len(found.outcomes[0].subsets) == 1
    assert not found.outcomes[0].comparisons[0].random.exhaustive
    assert torch.equal(model(input_ids=ids).last_hidden_state, before)


@pytest.mark.parametrize("rule", ["lidar", "curvature:reference", "random", "angular-contiguous"])
def test_any_rule_brings_its_own_measures(writer, rule):
    found = layerscope.prune(writer, rule, 1, data=texts(30), head=False)
    assert found.removed in {(2,), (3,)}
    assert found.full is None


def test_a_run_serves_in_place_of_a_scan_if_it_is_of_this_model(writer, tmp_path):
    scan = layerscope.scan(writer, texts(40), metrics=["nrs_k10"], views=0)
    found = layerscope.prune(writer, "nrs", 1, run=scan, protect=(0, 0))
    values = scan.run.table.query("metric == 'nrs_k10'").set_index("layer")["value"]
    assert found.removed == (int(values.astype(float).idxmax()),)
    with pytest.raises(InputError, match="the run is of another model or dtype"):
        layerscope.prune(tiny_model("gpt2"), "nrs", 1, run=scan, tokenizer=tiny_tokenizer())
    scan.record["model"]["weights_fingerprint"] = "28a10a12fe4cceb0"
    with pytest.raises(
        InputError, match=r"the run of .* was made by an older .*apart; scan again\."
    ):
        layerscope.prune(writer, "nrs", 1, run=scan, protect=(0, 0))


def test_saved_and_read_back_from_the_command_line(writer, likeness, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    said = run(
        monkeypatch, capsys, "prune", writer, "--rule", "block-influence", "--budget", "25%",
        "--data", "sample", "--limit", 12, "--table", likeness, "--out", out, "--heal", "off",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert max(map(len, said.out.splitlines())) <= 80
    for words in ("of 4: 1/4.", "likeness", "perplexity", "tokens a second", "without the cache"):
        assert words in said.out
    record = json.loads((out / "layerscope.json").read_text())
    [outcome] = record["outcomes"]
    assert outcome["kinds"] == ["LlamaDecoderLayer"]
    assert record["verified"]["generated"] is True
    assert record["costs"][1]["parameters"] < record["costs"][0]["parameters"]
    assert str(outcome["removed"][0]) in (out / "README.md").read_text()
    saved = hf.AutoModelForCausalLM.from_pretrained(out)
    assert saved.config.num_hidden_layers == 3
    with modes.evaluating(saved):
        shorter = remove_blocks(loading.load(writer, head=True), outcome["removed"])
        ids = torch.arange(1, 9)[None]
        assert torch.equal(saved(input_ids=ids).logits, shorter.whole(input_ids=ids).logits)
    again = run(monkeypatch, capsys, "prune", writer, "--budget", 1, "--out", out)
    assert again.code == 2
    assert "pass --overwrite" in again.err


def test_json_holds_the_blocks(writer, monkeypatch, capsys, text_file):
    said = run(
        monkeypatch, capsys, "prune", writer, "--rule", "deepest-first", "--budget", "2", "--json",
        "--data", text_file,
    )  # fmt: skip
    found = json.loads(said.out)
    assert (found["removed"], found["saved"]) == ([2, 3], None)
    assert found["outcomes"][0]["order"] == [3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "0"], "expected a budget as a part of the blocks above 0 and below 1"),
        (["--budget", "3"], "removes 3 of 4 blocks, but only 2 may go"),
        (["--rule", "gmfi"], "unknown rule 'gmfi'; did you mean 'gfmi'"),
        (
            ["--protect", "1"],
            "expected protect to be auto or two whole numbers of at least 0 like 1,1",
        ),
        (["--protect", "2,2"], "leaves none of the model's 4 to remove"),
        (["--scheme", "gready"], "unknown scheme 'gready'"),
        (["--rule", "angular-contiguous", "--scheme", "greedy"], "chooses all blocks at once"),
        (["--draws", "0"], "expected draws of at least 1, got 0"),
        (["--budget", "1,2", "--out", "new"], "the budgets mean 2 of them (1/4, 2/4 blocks)"),
        (["--format", "gguf", "--out", "new"], "unknown format 'gguf'"),
        (["--perplexity", "sample", "--no-head"], "predicts no next token"),
    ],
)
def test_bad_input_is_one_sentence(options, message, writer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = run(monkeypatch, capsys, "prune", writer, "--limit", 12, *options)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert not list(tmp_path.iterdir())


def test_a_folder_to_which_another_process_writes_is_left_alone(writer, tmp_path):
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(InputError, match="another process is at work in .*out'; wait until it ends"),
    ):
        layerscope.prune(writer, "deepest-first", 1, out=tmp_path / "out", data=texts(12))
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


def test_a_folder_with_other_files_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    said = run(monkeypatch, capsys, "prune", "no/such-model", "--out", tmp_path)
    assert said.code == 2
    assert "holds other files" in said.err


def test_shared_blocks_are_refused(tiny_folder, monkeypatch, capsys):
    said = run(monkeypatch, capsys, "prune", tiny_folder("albert"), "--budget", 1, "--limit", 12)
    assert said.code == 2
    assert "runs one block at several depths" in said.err


def test_layer_types_of_what_goes_are_recorded():
    found = layerscope.prune(
        tiny_model("gemma3"), "deepest-first", 2, data=texts(10), tokenizer=tiny_tokenizer()
    )
    assert len(found.outcomes[0].kinds) == 2
    assert set(found.outcomes[0].kinds) <= {"sliding_attention", "full_attention"}


@pytest.mark.parametrize("lacks_its_head", [False, True])
def test_a_model_is_loaded_once(tmp_path, monkeypatch, lacks_its_head):
    folder = save_tiny(
        tiny_model("bert") if lacks_its_head else hf.BertForMaskedLM(CONFIGS["bert"]()),
        tmp_path / "m",
    )
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(config))
    loads, told, real = [], [], loading.load

    def load(name, *arguments, **options):
        loads.append((name, options.get("head", False), len(told)))
        return real(name, *arguments, **options)

    def show(*step):
        told.append(step)

    monkeypatch.setattr(loading, "load", load)
    layerscope.prune(folder, "angular", 1, data=texts(30), out=tmp_path / "out", show_progress=show)
    assert [(name, head) for name, head, _ in loads] == [(folder, not lacks_its_head)]
    assert told[0] == ("loading the model", 0, 1)
    assert loads[0][2] > 0


def test_a_head_that_is_not_there_is_left_out_and_that_is_said(tmp_path):
    """Embedders are often saved without the head that their config names."""
    folder = save_tiny(tiny_model("bert"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    found = layerscope.prune(folder, "deepest-first", 1, data=texts(10))
    assert found.removed == (3,)
    assert found.notes[0].startswith("the config names a head that the checkpoint does not hold")


@pytest.mark.parametrize("limit", [10, 64])
def test_no_length_limit_cuts_the_texts_that_are_compared(limit):
    """A source's own limit may differ from ours."""
    backbone = backbone_module.backbone_of(tiny_model("bert"), tiny_tokenizer())
    how = export_prune.Saving("transformers", max_length=limit)
    found = export_prune.texts_to_compare(backbone, how, [" ".join(texts(40)), *texts(3)]).texts
    assert len(found) >= 2
    assert not any(tokens.truncated for _, tokens in found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": []}, "expected at least one of budget, got none"),
        (
            {"protect": (-1, 1)},
            "expected protect to be auto or two whole numbers of at least 0 like 1,1",
        ),
    ],
)
def test_what_only_python_can_ask_for_is_refused(writer, options, message):
    with pytest.raises(InputError, match=message):
        layerscope.prune(writer, "deepest-first", **options)


def test_another_text_with_the_cache_than_without_it_is_told(writer, tmp_path, monkeypatch):
    def other_text(request: Path, answer: Path) -> None:
        reload.main(str(request), str(answer))
        with safe_open(answer, framework="pt") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(file.metadata()["facts"])
        facts["generated"][1] = "something else"
        save_file(arrays, answer, metadata={"facts": json.dumps(facts)})

    monkeypatch.setattr(verify, "_run", other_text)
    prune = partial(layerscope.prune, writer, "deepest-first", 1, data=texts(10))
    with pytest.raises(MismatchError, match="writes other text with its cache than without it"):
        prune(out=tmp_path / "out")
    monkeypatch.setattr("layerscope.export.shorten.find_output", lambda *_: None)
    with pytest.raises(
        InputError,
        match="LlamaModel in transformers does not return the states that were measured",
    ):
        prune(out=tmp_path / "other")


def test_what_cannot_be_saved_is_refused_before_the_trial(writer, likeness, tmp_path, monkeypatch):
    monkeypatch.setattr("layerscope.export.pruning.attempt", lambda *_: pytest.fail("was tried"))
    with pytest.raises(InputError, match="sentence-transformers has no max pooling that leaves"):
        layerscope.prune(
            writer, "deepest-first", 1, data=texts(10), tables=[likeness], out=tmp_path / "out",
            format="sentence-transformers", pooling="max",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


# --- wrapped and unusual models --------------------------------------------------------------------


def pruned(name: str, tmp_path: Path, **options):
    source = save_tiny(unusual_model(name), tmp_path / "source")
    options = {"out": tmp_path / "out"} | options
    return layerscope.prune(source, "random", 1, data=texts(4), **options)


@pytest.fixture
def here(monkeypatch):
    """Read back in this process."""
    monkeypatch.setattr(
        verify, "_run", lambda request, answer: reload.main(str(request), str(answer))
    )


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("gemma3 with vision", "Gemma3ForConditionalGeneration"),
        ("llama4", "Llama4ForConditionalGeneration"),
        ("t5gemma", "T5GemmaForConditionalGeneration"),
        ("minicpm3", "MiniCPM3ForCausalLM"),
        ("bamba", "BambaForCausalLM"),
    ],
)
def test_unusual_models_are_pruned_with_all_that_they_are(name, reader, tmp_path, here):
    found = pruned(name, tmp_path)
    assert found.shipped.verification.reader == reader
    assert found.shipped.verification.largest <= 1e-6


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("diffllama", r"self_attn.lambda_init of block 3 is 0.47\d* and would become 0.35"),
        ("esm", "holds in contact_head.regression.weight a part for each block"),
    ],
)
def test_blocks_that_depend_on_their_number_stay(name, said, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning_module, "removals", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(InputError, match=said):
        pruned(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_perplexity_of_a_model_that_writes_nothing_is_refused_before_it_is_measured(
    monkeypatch,
):
    monkeypatch.setattr(pruning_module, "removals", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(InputError, match="predicts no next token"):
        layerscope.prune(
            tiny_model("bert"), "random", 1, data=texts(4), tokenizer=tiny_tokenizer(),
            perplexity=["river stone"],
        )  # fmt: skip


def test_a_model_that_could_not_write_text_any_more_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="without block 4 no block of Qwen3NextModel keeps a cache"
    ):
        pruned("qwen3_next", tmp_path, protect=(3, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_writes_otherwise_with_its_cache_is_no_reason(tmp_path, here):
    found = pruned("megatron-bert", tmp_path)
    assert found.shipped.verification.generated is None
    assert any("other text with its cache than without" in note for note in found.notes)


# --- a dry run and the pruning are one plan --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bert", {"perplexity": ["river stone"]}, "predicts no next token"),
        ("bert", {"rule": "gmfi"}, "gmfi"),
        ("bert", {"budget": 3}, "3"),
        ("albert", {}, "runs one block at several depths"),
        ("bart", {"format": "sentence-transformers"}, "is saved with its decoder"),
        ("bert", {"format": "sentence-transformers", "pooling": "max"}, "no max pooling"),
    ],
)
def test_a_dry_run_refuses_what_the_pruning_refuses(name, options, said, tmp_path, monkeypatch):
    monkeypatch.setattr(removal_module, "scan_backbone", lambda *_, **__: pytest.fail("scanned"))
    monkeypatch.setattr(pruning_module, "estimate", lambda *_: pytest.fail("a batch was timed"))
    asked = {"rule": "angular", "budget": 1, "out": tmp_path / "out"} | options
    rule, budget = asked.pop("rule"), asked.pop("budget")
    messages = []

    def planned():
        return layerscope.prune.plan(
            tiny_model(name), rule, budget, data=texts(4), tokenizer=tiny_tokenizer(), **asked
        )

    for way in (lambda: planned().run(), lambda: planned().estimate()):
        with pytest.raises(InputError, match=said) as found:
            way()
        messages.append(str(found.value))
    assert messages[0] == messages[1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rule", ["angular", "deepest-first"])
def test_a_dry_run_says_what_it_would_take(
    rule, tiny_folder, text_file, tmp_path, monkeypatch, capsys
):
    done = run(
        monkeypatch, capsys, "prune", tiny_folder("llama"), "--rule", rule, "--budget", 1,
        "--data", text_file, "--out", tmp_path / "o", "--dry-run",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "weights to write" in done.out
    assert "4, of which 2 may go" in done.out
    assert ("A scan that chooses them" in done.out) == (rule == "angular")
    assert not list(tmp_path.iterdir())
    found = layerscope.prune.plan(tiny_folder("llama"), rule, 1, data=text_file).estimate()
    assert found.removed == (() if rule == "angular" else ((3,),))
    assert found.healing_seconds is None  # nothing is tried or saved
    assert ("time to heal, about" in done.out) == (len(text_file.read_text().splitlines()) > 1)
