"""A scan against a slow twin: text by text, the library's own states, the measures applied directly."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from layerscope.analysis import arrays as arrays_module
from layerscope.analysis import run as run_module
from layerscope.analysis import samples
from layerscope.analysis.reduce import call
from layerscope.analysis.run import scan_backbone
from layerscope.analysis.threads import one_thread
from layerscope.data import misspellings, tokens
from layerscope.data import views as data_views
from layerscope.data.misspellings import AugmentationConfig, View, views
from layerscope.data.texts import as_texts
from layerscope.data.views import SpanConfig, spans
from layerscope.errors import InputError, NonFiniteError, RunError, UndefinedError
from layerscope.metrics import views as views_module
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.metrics.inputs import SampleInputs, TokenInputs, ViewInputs
from layerscope.metrics.measure import Measure
from layerscope.models import processing
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.results.table import COLUMNS, CONTRIBUTION_COLUMNS, Run
from layerscope.settings import ScanConfig
from layerscope.states.extract import Site
from tiny import texts, tiny_model, tiny_tokenizer

COUNT = 10
ALL = ("paper", "normalized", "reference")
KEYS = ["layer", "stage", "metric", "convention"]
# Its permutations are drawn for places in the list of texts, so another order is another draw.
ORDERED = {"dime", "dime_standard_error"}


def tiny_backbone(name: str) -> Backbone:
    return backbone_of(tiny_model(name), tiny_tokenizer(), name=name)


def scan(backbone: Backbone, given: list[str] | None = None, **options) -> Run:
    quick = {"first_token": "keep", "resamples": 200, "augmentation": ("default",)}
    settings = ScanConfig(**quick | options)
    return scan_backbone(backbone, as_texts(given or texts(COUNT)), settings)


def values(run: Run) -> pd.Series:
    """All values but those of several layers, which have a test file of their own."""
    table = run.table[run.table["level"] != "pair"]
    return table.set_index(KEYS)["value"].astype(float).sort_index()


def assert_same(one: pd.Series, other: pd.Series, rel: float = 1e-5) -> None:
    assert list(one.index) == list(other.index)
    a, b = one.to_numpy(), other.to_numpy()
    apart = np.abs(a - b) > rel * np.abs(b) + 1e-7
    assert not apart.any(), list(zip(one.index[apart], a[apart], b[apart], strict=True))


# --- the twin -------------------------------------------------------------------------------------


def library_states(name: str, text: str) -> tuple[dict[Site, torch.Tensor], torch.Tensor]:
    """The states of one text as the library reports them, (token, dim), and which tokens count."""
    model, encoded = tiny_model(name), tiny_tokenizer()(text, return_special_tokens_mask=True)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        reported = [s[0] for s in model(input_ids=ids, output_hidden_states=True).hidden_states]
        embedded = model.get_input_embeddings()(ids)[0]
    if name == "mamba":  # its list leaves the embeddings out
        reported.insert(0, embedded)
        del reported[-2]  # and holds block L's raw output, which the others do not
    last = Site(4) if name == "bert" else Site(4, "final_norm")
    sites = [*(Site(layer) for layer in range(4)), last]
    counted = ~torch.tensor(encoded["special_tokens_mask"], dtype=torch.bool)
    return dict(zip(sites, reported, strict=True)), counted


def authors_mean(rows: torch.Tensor) -> torch.Tensor:
    rows = rows - rows.mean(0)
    return (rows / rows.norm(dim=1, keepdim=True)).mean(0)


def twin(name: str, given: list[str], count: int) -> pd.Series:
    """Every measure at every site that the library reports, written like the definitions."""
    plain = [library_states(name, text) for text in given]
    augmented = [
        [
            library_states(name, view.text)
            for view in views(text, count, settings=AugmentationConfig(), seed=0)
        ]
        for text in given
    ]
    found = {}
    for site in plain[0][0]:
        rows = [states[site][counted] for states, counted in plain]
        copies = [[states[site][counted] for states, counted in views] for views in augmented]
        for measure in CATALOGUE:
            if measure.level == "pair":
                continue
            for convention in measure.conventions or (None,):
                value = one_value(measure, convention, rows, copies)
                if value is not None:
                    key = (site.layer, site.stage, measure.name, str(convention or ""))
                    found[key] = value
    return pd.Series(found).sort_index()


def one_value(measure: Measure, convention, rows, copies) -> float | None:
    inputs: TokenInputs | SampleInputs | ViewInputs
    if measure.level == "prompt":
        inputs = [TokenInputs(r[None], torch.ones(1, len(r), dtype=torch.bool)) for r in rows]
        numbers = torch.cat([call(measure, each, convention, 1.0) for each in inputs])
        kept = numbers[~numbers.isnan()]
        return float(kept.mean()) if len(kept) else None
    if measure.level == "dataset":
        pooled = torch.stack([r.mean(0) for r in rows])
        inputs = SampleInputs(pooled, torch.stack([authors_mean(r) for r in rows]))
    else:
        inputs = ViewInputs(
            torch.stack([torch.stack([r.mean(0) for r in views]) for views in copies]),
            torch.stack([torch.stack([authors_mean(r) for r in views]) for views in copies]),
            seed=0,
        )
    try:
        return call(measure, inputs, convention, 1.0).value
    except UndefinedError:
        return None


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "mamba"])
def test_a_scan_equals_its_slow_twin(name):
    given = texts(COUNT)
    run = scan(tiny_backbone(name), given, conventions=ALL, views=3)
    expected = twin(name, given, 3)
    found = values(run)
    assert_same(found[found.index.isin(expected.index)], expected, rel=2e-5)
    beyond = found[~found.index.isin(expected.index)].reset_index()
    nulls = beyond["metric"].str.endswith("_null")
    raw_last = (beyond["layer"] == 4) & (beyond["stage"] == "block") & ~nulls
    assert (nulls | raw_last).all(), "the scan has rows that the twin knows nothing of"
    assert raw_last.any() == (name != "bert")


# --- what must not matter ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama_run() -> Run:
    return scan(tiny_backbone("llama"), conventions=ALL)


@pytest.mark.parametrize("batch_tokens", [1, 60, 100_000])
def test_batch_size_changes_nothing(llama_run, batch_tokens):
    run = scan(tiny_backbone("llama"), conventions=ALL, batch_tokens=batch_tokens)
    assert_same(values(run), values(llama_run))


def test_the_order_of_the_texts_changes_nothing(llama_run):
    run = scan(tiny_backbone("llama"), texts(COUNT)[::-1], conventions=ALL)

    def unordered(of: Run) -> pd.Series:
        return values(of).loc[lambda s: ~s.index.get_level_values("metric").isin(ORDERED)]

    assert_same(unordered(run), unordered(llama_run))


def test_the_number_of_threads_changes_nothing(llama_run):
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        run = scan(tiny_backbone("llama"), conventions=ALL)
    finally:
        torch.set_num_threads(before)
    assert_same(values(run), values(llama_run))


def test_the_same_scan_twice_is_the_same_to_the_last_bit(llama_run):
    again = scan(tiny_backbone("llama"), conventions=ALL)
    pd.testing.assert_frame_equal(again.table, llama_run.table, check_exact=True)
    pd.testing.assert_frame_equal(again.contributions, llama_run.contributions, check_exact=True)


def test_a_subset_of_layers_has_the_rows_of_the_whole(llama_run):
    part = scan(tiny_backbone("llama"), conventions=ALL, layers=(1, 3))
    whole = values(llama_run)
    assert_same(values(part), whole[whole.index.get_level_values("layer").isin([1, 3])])
    assert set(part.table["depth"]) == {0.25, 0.75}


SHORTENED = AugmentationConfig(first_words=40)


def test_fewer_texts_are_misspelled_than_measured():
    """They are drawn by the seed; what is measured of them is what they alone would give."""
    drawn = {}
    for seed in (0, 1):
        run = scan(tiny_backbone("bert"), view_texts=6, augmentation=("default",), seed=seed)
        of_views = run.contributions[run.contributions["metric"] == "infonce"]
        drawn[seed] = sorted(of_views["text"].unique())
        assert run.record["augmentation"][SHORTENED.label]["texts"] == len(drawn[seed]) == 6
        assert set(run.record["edit_distance_by_text"][SHORTENED.label]) == set(
            map(str, drawn[seed])
        )
        assert not any("too short" in note for note in run.record["notes"])
    assert drawn[0] != drawn[1]
    whole = scan(tiny_backbone("bert"), augmentation=("default",))
    alone = scan(
        tiny_backbone("bert"), [texts(COUNT)[place] for place in drawn[0]],
        augmentation=("default",),
    )  # fmt: skip
    some = scan(tiny_backbone("bert"), view_texts=6, augmentation=("default",))
    views_of = [run.table[run.table["level"] == "view"] for run in (some, alone, whole)]
    known = [each[each["metric"].str.startswith(("infonce", "lidar"))] for each in views_of]
    found = [each.set_index(KEYS)["value"] for each in known]
    assert_same(found[0], found[1])
    assert not np.allclose(found[0], found[2], rtol=1e-3)


def test_two_views_are_the_first_two_of_more():
    """InfoNCE and DiME, which compare two views, do not change when the others get more."""
    two, five = (scan(tiny_backbone("bert"), views=count) for count in (2, 5))
    table = two.table[~two.table["metric"].str.contains("lidar|retrieval")].set_index(KEYS)
    pairs = table[table["level"] == "view"].index
    assert len(pairs) > 20
    assert_same(values(five).loc[pairs], values(two).loc[pairs])
    for more in ((2, "block", "lidar", "paper"), (2, "block", "retrieval", "")):
        assert values(five).loc[more] != pytest.approx(values(two).loc[more])


def test_the_edit_distance_of_every_texts_views_is_recorded(llama_run):
    record = llama_run.record
    given, count = texts(COUNT), record["settings"]["views"]
    label = SHORTENED.label
    distances = record["edit_distance_by_text"][label]
    for place, text in enumerate(given):
        made = views(text, count, settings=AugmentationConfig(), seed=0)
        expected = sum(view.relative_distance for view in made) / count
        assert distances[str(place)] == pytest.approx(expected, abs=1e-4)
    mean = record["augmentation"][label]["mean_edit_distance"]
    assert mean == pytest.approx(sum(distances.values()) / len(given), abs=1e-4)


def test_every_model_gets_the_same_augmented_strings(monkeypatch):
    seen: list[list[str]] = []
    original = tokens.tokenize

    def listening(tokenizer, given, limit):
        seen.append(list(given))
        return original(tokenizer, given, limit)

    monkeypatch.setattr(processing, "tokenize", listening)
    for name in ("bert", "llama"):
        scan(tiny_backbone(name), layers=(0,))
    assert seen[0] == seen[2] == texts(COUNT)
    assert seen[1] == seen[3]
    assert len(seen[1]) == 2 * COUNT


def test_a_smaller_set_of_measures_has_the_same_values(llama_run):
    run = scan(tiny_backbone("llama"), metrics=("curvature", "lidar"), conventions=("paper",))
    whole = values(llama_run)
    assert_same(values(run), whole[whole.index.isin(values(run).index)])
    assert set(run.table["metric"]) == {"curvature", "lidar"}


# --- spans ----------------------------------------------------------------------------------------


LONG = [text for text in texts(60, longest=30) if len(text.split()) >= 8][:COUNT]
FOUR = {"augmentation": ("default", "crops", "halves", "cloze"), "span_words": 4}
CROPS = "crops of 4 words"


def test_measures_of_views_alone_do_not_read_the_texts(llama_run, monkeypatch):
    """A cut that chooses by crops would read every text for nothing."""
    read = []
    reduce = run_module.extract

    def counted(backbone, batches, *rest):
        kept = list(batches)
        read.extend(item for batch in kept for item in batch.items)
        return reduce(backbone, kept, *rest)

    monkeypatch.setattr(run_module, "extract", counted)
    alone = values(scan(tiny_backbone("llama"), metrics=("infonce", "lidar"), conventions=ALL))
    assert min(read) == COUNT
    whole = values(llama_run)
    wanted = whole[whole.index.get_level_values("metric").isin(("infonce", "lidar"))]
    assert len(alone) == len(wanted) > 0
    assert_same(alone, wanted)


def on(run: Run, perturbation: str) -> pd.Series:
    return values(Run(run.table[run.table["perturbation"] == perturbation], run.contributions, {}))


@pytest.fixture
def tiny_sample(monkeypatch) -> tuple[str, ...]:
    """A built-in sample that a tiny model can read."""
    corpus = as_texts(
        [text for text in texts(99, seed=3) if len(text.split()) >= 12], name="sample"
    )
    monkeypatch.setattr(samples, "read_texts", lambda *_args, **_options: corpus)
    return corpus.texts


@pytest.fixture(scope="module")
def spans_run() -> Run:
    return scan(tiny_backbone("bert"), LONG, **FOUR)


def test_every_view_measure_is_made_for_every_kind_of_views(spans_run):
    labels = [SHORTENED.label, CROPS, "halves", "inverse cloze of 4 words"]
    views_only = spans_run.table[spans_run.table["level"] == "view"]
    assert list(views_only["perturbation"].unique()) == labels
    kinds = [on(spans_run, label) for label in labels]
    for one in kinds[1:]:
        assert list(one.index) == list(kinds[0].index)
        assert not np.allclose(one, kinds[0], rtol=1e-3)
    assert not spans_run.table.duplicated([*KEYS, "other_layer", "perturbation"]).any()
    assert list(spans_run.record["augmentation"]) == labels
    assert spans_run.record["augmentation"][CROPS] == {"texts": COUNT, "views": 2}


@pytest.mark.parametrize("kind", ["crops", "halves", "cloze"])
def test_measures_on_spans_equal_their_slow_twin(spans_run, kind):
    style = SpanConfig(kind, 4)
    made = [spans(text, settings=style, seed=0) for text in LONG]
    states = [[library_states("bert", part) for part in pair] for pair in made]
    found = on(spans_run, style.label)
    for site in (Site(0), Site(2), Site(4)):
        rows = [[found[site][counted].mean(0) for found, counted in pair] for pair in states]
        inputs = ViewInputs(torch.stack([torch.stack(pair) for pair in rows]), seed=0)
        for measure in CATALOGUE:
            for convention in measure.conventions if measure.level == "view" else ():
                if convention != "reference":
                    expected = call(measure, inputs, convention, 1.0).value
                    key = (site.layer, site.stage, measure.name, str(convention))
                    assert found[key] == pytest.approx(expected, rel=2e-5, abs=1e-7), key
        retrieval = found[site.layer, site.stage, "retrieval", ""]
        assert retrieval == pytest.approx(views_module.retrieval(inputs).value, abs=1e-9)


def test_more_kinds_of_views_change_none_of_the_others(spans_run):
    copies, crops = (
        scan(tiny_backbone("bert"), LONG, augmentation=(kind,), span_words=4)
        for kind in ("default", "crops")
    )
    assert_same(on(spans_run, "none"), on(copies, "none"), rel=1e-6)
    assert_same(on(spans_run, "characters p=0.3"), on(copies, "characters p=0.3"))
    assert_same(on(spans_run, CROPS), on(crops, CROPS))
    assert set(crops.table["perturbation"]) == {"none", CROPS}
    assert crops.record["edit_distance_by_text"] == {}


def test_contributions_say_which_views_they_are_of(spans_run):
    by = ["perturbation", *KEYS]
    means = spans_run.contributions.groupby(by, observed=True)["value"].mean()
    table = spans_run.table[spans_run.table["level"] == "view"].set_index(by)["value"]
    table = table.drop("dime_standard_error", level="metric").astype(float)  # no mean over texts
    assert_same(means.reindex(table.index), table, rel=1e-9)


def test_several_draws_are_further_views(spans_run):
    label = f"{CROPS}, 3 draws"
    run = scan(tiny_backbone("bert"), LONG, augmentation=("crops",), span_words=4, draws=3)
    assert run.record["augmentation"][label]["views"] == 6
    one, three = on(spans_run, CROPS), on(run, label)
    infonce, retrieval = (2, "block", "infonce", "paper"), (2, "block", "retrieval", "")
    assert three[infonce] == pytest.approx(one[infonce], rel=1e-5)
    assert three[retrieval] != pytest.approx(one[retrieval])


SHORT = [text for text in texts(60) if len(text.split()) < 12][:8]


def test_spans_of_short_texts_are_those_of_the_sample_and_say_so(tiny_sample):
    run = scan(tiny_backbone("bert"), [*SHORT, *LONG[:3]], augmentation=("default", "crops"),
               span_words=6)  # fmt: skip
    plain = scan(tiny_backbone("bert"), [*SHORT, *LONG[:3]], augmentation=("default",))
    label = "crops of 6 words, built-in sample"
    rows = run.table[run.table["perturbation"] == label]
    assert set(rows["n"].dropna()) == {len(tiny_sample)}
    own = run.contributions["perturbation"] != label
    assert set(run.contributions.loc[~own, "text"]) == {-1 - k for k in range(len(tiny_sample))}
    # What is measured on the user's texts, and its limits, is as without the corpus.
    same = run.table[run.table["perturbation"] != label].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, plain.table, check_exact=False, rtol=1e-5)
    assert run.contributions.loc[own, "text"].min() == 0
    [note] = [note for note in run.record["notes"] if "sample" in note]
    assert "3 of 11 texts are long enough for crops of 6 words" in note
    facts = run.record["augmentation"][label]
    assert (facts["texts"], facts["corpus"]) == (len(tiny_sample), "sample")


def test_a_few_long_texts_among_many_are_enough(monkeypatch, tiny_sample):
    few = [*SHORT, *LONG[:3]]
    monkeypatch.setattr(samples, "ENOUGH", 3)
    run = scan(tiny_backbone("bert"), few, augmentation=("crops",), span_words=6)
    rows = run.table[run.table["perturbation"] == "crops of 6 words"]
    assert set(rows["n"].dropna()) == {3}
    assert any(
        "8 texts are too short for 2 distinct views (crops" in n for n in run.record["notes"]
    )


def test_spans_longer_than_any_text_are_refused(tiny_sample):
    with pytest.raises(
        InputError, match="neither the texts nor the built-in sample are long enough"
    ):
        scan(tiny_backbone("bert"), LONG, augmentation=("crops",), span_words=500)


def test_no_views_means_no_spans_either():
    run = scan(tiny_backbone("bert"), LONG, **FOUR, views=0)
    assert set(run.table["perturbation"]) == {"none"}


def test_a_corpus_text_with_states_that_are_not_finite_is_left_out(tiny_sample):
    lengths = {len(text.split()) for text in tiny_sample}
    bad = {4 + 2}  # every crop of 4 words, with [CLS] and [SEP]
    assert min(lengths) >= 8
    options = {"augmentation": ("crops",), "span_words": 4, "non_finite": "drop"}
    few = [text for text in texts(60) if len(text.split()) in (3, 5, 6, 7)][:8]
    run = scan(spoiled("bert", bad), few, **options)
    assert set(run.table["level"]) == {"prompt", "dataset", "pair"}
    assert run.record["data"]["texts"] == len(few)
    reasons = {e["reason"] for e in undefined(run, "retrieval")}
    assert reasons == {"no text has views whose states can be measured"}


# --- what the table holds ------------------------------------------------------------------------


def test_the_table_has_its_columns_and_no_nan(llama_run):
    table = llama_run.table
    assert list(table.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in table.dtypes.items()} == {
        name: kind if kind != "string" else str(table["model"].dtype)
        for name, kind in COLUMNS.items()
    }
    numbers = table[["value", "low", "high"]].astype(float)
    assert np.isfinite(numbers["value"]).all()
    assert np.isfinite(numbers[["low", "high"]].to_numpy()[table["low"].notna()]).all()
    assert not table.duplicated([*KEYS, "other_layer"]).any()
    assert list(llama_run.contributions.columns) == list(CONTRIBUTION_COLUMNS)


def test_limits_contain_the_value_nearly_always(llama_run):
    table = llama_run.table.dropna(subset=["low", "high"]).astype({"value": float})
    inside = (table["low"] <= table["value"]) & (table["value"] <= table["high"])
    assert inside.mean() > 0.97
    assert (table["low"] <= table["high"]).all()


def test_contributions_average_to_the_value(llama_run):
    means = llama_run.contributions.groupby(KEYS, observed=True)["value"].mean().sort_index()
    found = values(llama_run)
    shared = found[~found.index.get_level_values("metric").str.endswith("_null")]
    assert_same(means.reindex(shared.index), shared, rel=1e-9)
    counts = llama_run.contributions.groupby(KEYS, observed=True).size()
    table = llama_run.table.dropna(subset=["n"]).set_index(KEYS)
    assert (table["n"] == counts.reindex(table.index)).all()


def test_depth_stage_seed_and_labels(llama_run):
    table = llama_run.table
    assert (table["depth"] == table["layer"] / 4).all()
    assert set(table["stage"]) == {"block", "final_norm"}
    assert set(table.loc[table["stage"] == "final_norm", "layer"]) == {4}
    assert set(table["seed"]) == {0}
    assert set(table["model"]) == {"llama"}
    assert set(table.loc[table["level"] == "view", "perturbation"]) != {"none"}
    assert set(table.loc[table["level"] != "view", "perturbation"]) == {"none"}
    assert table.loc[table["level"] != "pair", "other_layer"].isna().all()


def test_a_model_without_a_final_norm_has_no_such_row():
    assert set(scan(tiny_backbone("bert")).table["stage"]) == {"block"}


def test_a_seed_changes_the_views_and_the_limits_but_no_other_value(llama_run):
    other = scan(tiny_backbone("llama"), conventions=ALL, seed=7)
    one, two = llama_run.table.set_index(KEYS), other.table.set_index(KEYS)
    plain = one[~one["level"].isin(["view", "pair"])].index
    assert_same(values(other).loc[plain], values(llama_run).loc[plain], rel=1e-12)
    assert (one.loc[plain, "low"].dropna() != two.loc[plain, "low"].dropna()).any()
    assert values(other)[2, "block", "infonce", "paper"] != pytest.approx(
        values(llama_run)[2, "block", "infonce", "paper"]
    )
    assert set(two["seed"]) == {7}


# --- settings that change what is said -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ({"special_tokens": True}, "prompt_entropy"),
        ({"special_tokens": True, "first_token": "drop"}, "prompt_entropy"),
        ({"pooling": "last"}, "dataset_entropy"),
        ({"pooling": "max"}, "dataset_entropy"),
        ({"alpha": 2.0}, "prompt_entropy"),
        ({"alpha": 2.0}, "dime"),
        ({"max_length": 6}, "curvature"),
        ({"augmentation": ["authors"]}, "infonce"),
    ],
)
def test_settings_change_the_numbers_and_stand_in_the_record(llama_run, options, metric):
    run = scan(tiny_backbone("llama"), **options)
    key = (2, "block", metric, "paper")
    assert values(run)[key] != pytest.approx(values(llama_run)[key], rel=1e-4)
    for name, value in options.items():
        assert run.record["settings"][name] == value


def sinking(name: str) -> Backbone:
    """A model whose first token's state is huge from block 2 on."""
    backbone = backbone_of(copy.deepcopy(tiny_model(name)), tiny_tokenizer())

    def swell(_module, _args, output):
        state = output[0] if isinstance(output, tuple) else output
        state = state.clone()
        state[:, 0] = 1e4
        return (state, *output[1:]) if isinstance(output, tuple) else state

    backbone.blocks[1].register_forward_hook(swell)
    return backbone


def test_an_attention_sink_is_found_and_left_out():
    plain = {"special_tokens": True, "views": 0, "metrics": ("prompt_entropy",)}
    auto, kept, dropped = (
        scan(sinking("llama"), first_token=policy, **plain) for policy in ("auto", "keep", "drop")
    )
    key = (2, "block", "prompt_entropy", "paper")
    assert_same(values(auto), values(dropped))
    assert values(kept)[key] < 0.1 < values(auto)[key]
    assert auto.record["settings"]["first_token"] == "drop"
    assert auto.record["settings"]["first_token_ratio"] > 100
    assert any("attention sink" in note for note in auto.record["notes"])
    assert kept.record["notes"] == []


def test_no_sink_no_note():
    run = scan(tiny_backbone("llama"), first_token="auto", views=0)
    assert run.record["settings"]["first_token"] == "keep"
    assert run.record["settings"]["first_token_ratio"] < 10


def test_stages_are_rows_of_their_own(llama_run):
    run = scan(tiny_backbone("llama"), stages=("attn", "mlp", "block"), views=0)
    assert set(run.table["stage"]) == {"attn", "mlp", "block", "final_norm"}
    assert 0 not in set(run.table.loc[run.table["stage"] == "attn", "layer"])
    blocks = values(run).loc[:, "block"]
    key = (3, "prompt_entropy", "paper")
    assert blocks[key] == pytest.approx(values(llama_run)[3, "block", "prompt_entropy", "paper"])


# --- texts and states at the edge -----------------------------------------------------------------


def undefined(run: Run, metric: str) -> list[dict]:
    return [entry for entry in run.record["undefined"] if entry["metric"] == metric]


def test_short_texts_are_measured_where_a_measure_has_a_value_and_named_where_not():
    given = ["river", "stone paper", "river stone light", *texts(6)]
    run = scan(tiny_backbone("llama"), given, views=0)
    table = run.table.set_index(KEYS)
    assert table.loc[(2, "block", "prompt_entropy", "paper"), "n"] == 8
    assert table.loc[(2, "block", "curvature", "paper"), "n"] == 7
    [entry] = [
        e for e in undefined(run, "curvature") if (e["layer"], e["convention"]) == (2, "paper")
    ]
    assert entry["texts"] == 2
    assert "fewer than 3 tokens" in entry["reason"]
    assert np.isfinite(table["value"].astype(float)).all()


def test_texts_of_one_token_leave_prompt_measures_undefined_with_a_reason():
    given = ["river", "stone", "light", "engine", "paper", "green"]
    run = scan(tiny_backbone("llama"), given, views=0)
    assert set(run.table["level"]) == {"dataset", "pair"}
    reasons = {entry["reason"] for entry in undefined(run, "prompt_entropy")}
    assert len(reasons) == 1
    assert "fewer than 2 tokens" in reasons.pop()
    assert len(undefined(run, "curvature")) == 2 * 6


def test_repeated_tokens_have_no_curvature_at_the_embeddings():
    given = ["river river river river", "stone stone stone", "light light light light light"]
    run = scan(tiny_backbone("llama"), given, views=0)
    found = values(run)
    assert (0, "block", "curvature", "paper") not in found.index
    assert {e["layer"] for e in undefined(run, "curvature")} >= {0}
    assert found[0, "block", "prompt_entropy", "paper"] == pytest.approx(0, abs=1e-5)


def test_identical_texts_are_dropped_and_counted():
    run = scan(tiny_backbone("bert"), [*texts(4), *texts(4)], views=0)
    assert run.record["data"]["texts"] == 4
    assert run.record["data"]["dropped_duplicates"] == 4
    with pytest.raises(InputError, match="at least 2 distinct texts"):
        scan(tiny_backbone("bert"), ["river stone"] * 5)


def test_two_texts_are_enough_and_what_needs_three_says_so():
    run = scan(tiny_backbone("bert"), texts(2))
    assert "3 texts" in undefined(run, "lidar")[0]["reason"]
    assert "15" in undefined(run, "alpha_req")[0]["reason"]
    assert np.isfinite(values(run)).all()


def constant(name: str, value: float) -> Backbone:
    """A model whose blocks 2 and later give the same vector for every token of every text."""
    backbone = backbone_of(copy.deepcopy(tiny_model(name)), tiny_tokenizer())

    def flatten(_module, _args, output):
        state = output[0] if isinstance(output, tuple) else output
        flat = torch.full_like(state, value)
        return (flat, *output[1:]) if isinstance(output, tuple) else flat

    for block in backbone.blocks[1:]:
        block.register_forward_hook(flatten)
    return backbone


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_layer_has_reasons_and_no_nan(value):
    run = scan(constant("bert", value), conventions=ALL)
    found = values(run)
    assert np.isfinite(found).all()
    at = {(metric, convention) for layer, _, metric, convention in found.index if layer == 3}
    for metric in ("prompt_entropy", "dataset_entropy", "effective_rank", "dime"):
        assert (metric, "normalized") not in at
    reasons = {e["reason"] for e in run.record["undefined"] if e["layer"] == 3}
    assert all(reasons)
    if value:
        assert found[3, "block", "prompt_entropy", "paper"] == pytest.approx(0, abs=1e-5)
        assert found[3, "block", "dataset_entropy", "paper"] == pytest.approx(0, abs=1e-5)
    else:
        assert ("prompt_entropy", "paper") not in at


def spoiled(name: str, bad: set[int], value: float = math.nan) -> Backbone:
    """A model that gives NaN at block 2 for texts of some lengths in tokens."""
    backbone = backbone_of(copy.deepcopy(tiny_model(name)), tiny_tokenizer())
    lengths = torch.tensor(sorted(bad))
    masks: list[torch.Tensor] = []

    def listen(_module, _args, kwargs):
        masks.append(kwargs["attention_mask"])

    def spoil(_module, _args, output):
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[torch.isin(masks[-1].sum(1), lengths)] = value
        return (state, *output[1:]) if isinstance(output, tuple) else state

    backbone.model.register_forward_pre_hook(listen, with_kwargs=True)
    backbone.blocks[1].register_forward_hook(spoil)
    return backbone


GIVEN = [
    "river stone light",
    "stone light engine river",
    "paper green seven ocean river",
    "quiet market river stone light engine",
    "green green stone light paper engine ocean",
]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "bad", [5, 7, 9]
)  # the first, a middle and the last text, with [CLS], [SEP]
def test_texts_with_non_finite_states_are_dropped_on_request(value, bad):
    options = {"views": 0, "first_token": "auto"}
    run = scan(spoiled("bert", {bad}, value), GIVEN, non_finite="drop", **options)
    good = [text for text in GIVEN if len(text.split()) + 2 != bad]
    assert_same(values(run), values(scan(tiny_backbone("bert"), good, **options)))
    assert run.record["data"]["texts"] == 4
    assert run.record["settings"]["first_token"] == "keep"
    assert any("1 texts with states that are not finite" in n for n in run.record["notes"])
    assert set(run.contributions["text"]) == {i for i, t in enumerate(GIVEN) if t in good}


def test_non_finite_states_stop_a_scan_with_one_sentence():
    with pytest.raises(
        RunError, match="NaN or infinite; try --dtype float64, or --non-finite drop"
    ):
        scan(spoiled("bert", {7}), GIVEN)
    with pytest.raises(RunError, match="only 1 of 5 texts have finite states"):
        scan(spoiled("bert", {5, 6, 7, 8}), GIVEN, views=0, non_finite="drop")


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (NonFiniteError("no number"), NonFiniteError, "that are NaN or infinite; try --dtype"),
        (RunError("a disk of NaN or infinite size"), RunError, "^a disk of NaN or infinite size$"),
    ],
)
def test_what_an_error_is_decides_what_is_said_and_not_its_words(raised, kind, said, monkeypatch):
    def failing(*_args):
        raise raised
        yield

    monkeypatch.setattr(run_module, "extract", failing)
    with pytest.raises(kind, match=said) as caught:
        scan(tiny_backbone("bert"), GIVEN)
    assert type(caught.value) is kind


def test_non_finite_states_of_views_alone_are_seen_too():
    with pytest.raises(RunError, match="NaN or infinite; try"):
        scan(spoiled("bert", set(range(10, 60))), GIVEN)


def test_a_view_without_a_token_that_counts_leaves_its_text_out_of_the_view_measures(monkeypatch):
    original = misspellings.views

    def emptied(text, count, **options):
        made = list(original(text, count, **options))
        if text == GIVEN[1]:
            made[0] = View(**{**made[0].__dict__, "text": " "})
        return made

    monkeypatch.setattr(data_views, "views", emptied)
    run = scan(tiny_backbone("bert"), GIVEN)
    table = run.table.set_index(KEYS)
    assert table.loc[(2, "block", "infonce", "paper"), "n"] == 4
    assert table.loc[(2, "block", "prompt_entropy", "paper"), "n"] == 5
    assert any("view" in note for note in run.record["notes"])


# --- arrays ---------------------------------------------------------------------------------------


def arrays(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_plain_arrays_are_measured_layer_by_layer(make):
    vectors = arrays(3, 20, 8)
    run = arrays_module.scan_arrays(torch.as_tensor(make(vectors)), ScanConfig())
    assert set(run.table["level"]) == {"dataset", "pair"}
    assert sorted(set(run.table["depth"])) == [0, 0.5, 1]
    for measure in CATALOGUE:
        if measure.level == "dataset" and not measure.conventions and measure.name != "alpha_req":
            expected = measure.function(SampleInputs(torch.as_tensor(vectors[1]))).value
            found = values(run)[1, "block", measure.name, ""]
            assert found == pytest.approx(expected, rel=1e-12)


def test_arrays_of_views_give_the_view_measures():
    run = arrays_module.scan_arrays(torch.as_tensor(arrays(2, 10, 4, 8)), ScanConfig())
    assert set(run.table["level"]) == {"view"}
    assert set(run.table["convention"]) == {"paper", "normalized", ""}
    assert set(run.table["n"].dropna()) == {10}


def test_what_few_texts_do_to_limits_stands_in_the_record_once():
    vectors = np.random.default_rng(0).normal(size=(3, 10, 4))
    run = arrays_module.scan_arrays(
        torch.from_numpy(vectors), ScanConfig(metrics=("effective_rank",))
    )
    assert run.table["low"].isna().all()
    assert set(run.table["n"]) == {10}
    (note,) = (note for note in run.record["notes"] if "limits" in note)
    assert note == "with 10 texts only means over texts have limits: others need 16."


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 20), {}, "expected floating-point vectors .* got torch.float64 .3, 20."),
        ((3, 1, 4), {}, "at least 2 samples, got arrays of shape .3, 1, 4."),
        ((3, 5, 4), {"metrics": ("lidar",)}, "arrays .layer, sample, dim. do not allow lidar"),
        ((3, 5, 4), {"metrics": ("curvature",)}, "do not allow curvature"),
    ],
)
def test_arrays_that_cannot_be_measured_are_refused(shape, options, message):
    with pytest.raises(InputError, match=message):
        arrays_module.scan_arrays(torch.as_tensor(arrays(*shape)), ScanConfig(**options))


def test_arrays_with_nan_or_without_any_spread_are_refused():
    vectors = torch.as_tensor(arrays(3, 5, 4))
    with pytest.raises(InputError, match="finite numbers, got 10 NaN or infinite of 60"):
        arrays_module.scan_arrays(vectors.where(vectors < 1, torch.nan), ScanConfig())
    with pytest.raises(RunError, match="no measure has a value at any layer: all"):
        arrays_module.scan_arrays(torch.zeros(2, 5, 4), ScanConfig(metrics=("rankme",)))
    only = ScanConfig(metrics=("dataset_entropy",), conventions=("reference",))
    with pytest.raises(InputError, match="arrays have no convention 'reference'"):
        arrays_module.scan_arrays(vectors, only)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_library_has_several_threads_while_torch_has_one(threads):
    def most() -> int:
        blas = (each for each in threadpool_info() if each["user_api"] == "blas")
        return max(each["num_threads"] for each in blas)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=2, user_api="blas"):  # as NumPy has it where nothing is set
            assert most() == 2
            with one_thread() as given:
                assert (given, most(), torch.get_num_threads()) == (threads, 1, 1)
            assert (most(), torch.get_num_threads()) == (2, threads)
    finally:
        torch.set_num_threads(before)
