"""Measures of several layers inside a scan: against a slow twin, in the table, after a kill."""

from __future__ import annotations

import io
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from layerscope import api
from layerscope.analysis import measure as measure_module
from layerscope.analysis.arrays import scan_arrays
from layerscope.analysis.run import scan_backbone
from layerscope.data.texts import as_texts
from layerscope.errors import InputError
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.models.backbone import Backbone, backbone_of
from layerscope.render import charts, plotly, terminal
from layerscope.render.scans import run_view
from layerscope.results.table import Run
from layerscope.settings import ScanConfig
from tiny import texts, tiny_model, tiny_tokenizer

COUNT = 60
PAIRS = [record for record in CATALOGUE if record.level == "pair"]
# Tiny models are 32 wide, so k = 32 has no room in them; the twin takes 16.
K = 16


def tiny_backbone(name: str) -> Backbone:
    return backbone_of(tiny_model(name), tiny_tokenizer(), name=name)


def scan(name: str, count: int = COUNT, **options) -> Run:
    settings = ScanConfig(**{"first_token": "keep", "resamples": 50, "views": 0} | options)
    return scan_backbone(tiny_backbone(name), as_texts(texts(count)), settings)


@pytest.fixture(scope="module")
def bert_run() -> Run:
    return scan("bert")


def at(run: Run, metric: str) -> dict[tuple[int, int | None], float]:
    rows = run.table[run.table["metric"] == metric]
    return {
        (int(row.layer), None if pd.isna(row.other_layer) else int(row.other_layer)): row.value
        for row in rows.itertuples()
    }


# --- the twin -------------------------------------------------------------------------------------


def reported(text: str) -> tuple[list[np.ndarray], np.ndarray]:
    """The library's hidden states of one text, layers 0..L, and which tokens count."""
    encoded = tiny_tokenizer()(text, return_special_tokens_mask=True)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        states = tiny_model("bert")(input_ids=ids, output_hidden_states=True).hidden_states
    counted = ~np.array(encoded["special_tokens_mask"], dtype=bool)
    return [state[0].double().numpy() for state in states], counted


@pytest.fixture(scope="module")
def library() -> list[tuple[list[np.ndarray], np.ndarray]]:
    return [reported(text) for text in texts(COUNT)]


@pytest.fixture(scope="module")
def pooled(library) -> list[np.ndarray]:
    return [
        np.stack([states[layer][counted].mean(0) for states, counted in library])
        for layer in range(5)
    ]


def subspace(rows: np.ndarray) -> np.ndarray:
    return np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:K].T


def distance(one: np.ndarray, other: np.ndarray) -> float:
    cosines = np.linalg.svd(one.T @ other, compute_uv=False).clip(max=1)
    return math.sqrt((np.arccos(cosines) ** 2).sum()) / (math.pi / 2 * math.sqrt(min(K, 32 - K)))


def log_map(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The textbook form, with its inverse."""
    across = other - one @ (one.T @ other)
    left, tangents, right = np.linalg.svd(
        across @ np.linalg.inv(one.T @ other), full_matrices=False
    )
    return left @ np.diag(np.arctan(tangents)) @ right


def cosines(rows: np.ndarray) -> np.ndarray:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units @ units.T


def listed(rows: np.ndarray, k: int) -> list[set[int]]:
    near = cosines(rows)
    np.fill_diagonal(near, -2)
    return [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in near]


def entropy(*shares: float) -> float:
    return -sum(share * math.log(share) for share in shares if share > 0)


def gfmi(one: np.ndarray, other: np.ndarray) -> float:
    pairs = list(combinations(range(COUNT), 2))
    near = [cosines(rows - rows.mean(0)) for rows in (one, other)]
    order = [sorted(range(len(pairs)), key=lambda p: -n[pairs[p]]) for n in near]
    scores, degree, total = [], 1, len(pairs)
    while degree <= (COUNT - 1) / 2:
        m = degree * COUNT // 2
        common = len(set(order[0][:m]) & set(order[1][:m]))
        alone = entropy(m / total, 1 - m / total)
        cells = (common, m - common, m - common, total - 2 * m + common)
        information = 2 * alone - entropy(*(cell / total for cell in cells))
        scores.append(information / alone if common * total >= m * m else 0)
        degree *= 2
    return float(np.mean(scores))


def test_a_scan_equals_its_slow_twin(bert_run, library, pooled):
    spaces = [subspace(rows) for rows in pooled]
    lists = [listed(rows, 10) for rows in pooled]
    speed = at(bert_run, f"frenet_speed_k{K}")
    turning = at(bert_run, f"frenet_turning_k{K}")
    nrs, edges = at(bert_run, "nrs_k10"), at(bert_run, "gfmi_edge")
    influence, angle = at(bert_run, "block_influence"), at(bert_run, "angular_distance")
    for layer in range(1, 5):
        step = (layer, layer - 1)
        assert speed[step] == pytest.approx(distance(spaces[layer - 1], spaces[layer]), rel=1e-4)
        shared = [len(a & b) / 10 for a, b in zip(lists[layer - 1], lists[layer], strict=True)]
        assert nrs[step] == pytest.approx(np.mean(shared), abs=0.004)  # of float32 ties
        assert edges[layer - 1, 4] == pytest.approx(gfmi(pooled[layer - 1], pooled[4]), abs=2e-3)
        tokens = [(s[layer - 1][c], s[layer][c]) for s, c in library]
        turned = np.concatenate(
            [
                (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
                for a, b in tokens
            ]
        )
        assert influence[step] == pytest.approx(1 - turned.mean(), abs=1e-6)
        x, y = pooled[layer - 1], pooled[layer]
        cos = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        assert angle[step] == pytest.approx((np.arccos(cos) / math.pi).mean(), abs=1e-6)
    for layer in range(1, 4):
        back, on = (log_map(spaces[layer], spaces[layer + step]) for step in (-1, 1))
        cos = -(back * on).sum() / np.linalg.norm(back) / np.linalg.norm(on)
        assert turning[layer, None] == pytest.approx(math.acos(cos), abs=1e-4)
    ends = at(bert_run, f"frenet_displacement_k{K}")[4, 0]
    assert ends == pytest.approx(distance(spaces[0], spaces[4]), rel=1e-4)
    arc = at(bert_run, f"frenet_arc_length_k{K}")[4, 0]
    assert arc == pytest.approx(sum(speed.values()))
    assert at(bert_run, f"frenet_straightness_k{K}")[4, 0] == pytest.approx(ends / arc)
    assert at(bert_run, "mean_nrs_k10")[4, 0] == pytest.approx(np.mean(list(nrs.values())))
    assert at(bert_run, "mean_gfmi_edge")[4, 0] == pytest.approx(np.mean(list(edges.values())))


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", PAIRS, ids=lambda record: record.name)
def test_every_measure_has_its_rows(bert_run, record):
    rows = bert_run.table[bert_run.table["metric"] == record.name]
    steps = {"step": 4, "final": 4, "matrix": 10, "model": 1}
    inner = record.name.startswith("frenet")
    assert len(rows) == steps.get(record.place, 3 if inner else 5)
    assert set(rows["level"]) == {"pair"}
    assert set(rows["stage"]) == {"block"}
    assert set(rows["n"]) == {COUNT}
    assert rows["other_layer"].isna().all() == (record.place == "layer")
    limited = rows["low"].notna().all()
    too_few = inner and record.name.endswith("_k32")  # for limits a half has too few texts
    assert limited == ("No limits" not in record.note and not too_few)
    if limited and not record.name.startswith("cka"):
        assert (rows["low"] <= rows["value"]).all()
        assert (rows["value"] <= rows["high"]).all()


def test_nulls_and_floors_are_rows(bert_run):
    found = set(bert_run.table["metric"])
    assert {
        "frenet_speed_k32_null",
        "frenet_speed_k16_floor",
        "frenet_displacement_k32_null",
    } <= found
    assert {"nrs_k10_null", "mean_nrs_k10_null", "gfmi_edge_null", "mean_gfmi_edge_null"} <= found
    assert {"frenet_straightness_k32_bound", "gfmi_edge_signed", "gride_n8"} <= found
    assert at(bert_run, "nrs_k10_null")[2, 1] == pytest.approx(10 / (COUNT - 1))


def test_contributions_are_kept_for_means_over_texts(bert_run):
    kept = bert_run.contributions
    for metric in ("nrs_k10", "block_influence", "cka_unbiased", "gfmi_knn", "two_nn"):
        means = kept[kept["metric"] == metric].groupby("layer")["value"].mean()
        found = {layer: value for (layer, _), value in at(bert_run, metric).items()}
        assert means.to_dict() == pytest.approx(found)


def test_shared_blocks_have_an_influence_at_each_of_their_layers():
    influence = at(scan("albert", 12), "block_influence")
    assert len(influence) == 4
    assert len(set(influence.values())) == 4


def test_cls_pooling_makes_layer_0_constant_and_the_record_says_so():
    run = scan("bert", 40, pooling="first", special_tokens=True)
    reasons = {
        entry["reason"]
        for entry in run.record["undefined"]
        if entry["metric"] == "frenet_displacement_k16"
    }
    assert reasons == {"constant layer 0 (CLS/EOS pooling?)"}
    assert set(at(run, f"frenet_speed_k{K}")) == {(2, 1), (3, 2), (4, 3)}
    assert set(at(run, "nrs_k10")) == {(2, 1), (3, 2), (4, 3)}


def test_four_texts_give_numbers_or_reasons():
    run = scan("bert", 4)
    assert np.isfinite(run.table["value"].astype(float)).all()
    reasons = {e["metric"]: e["reason"] for e in run.record["undefined"]}
    assert reasons["nrs_k10"] == "needs 10 neighbors, the lists hold 3"
    assert at(run, "cka_unbiased")
    assert any(note.startswith("Frenet: k is 3, the least rank") for note in run.record["notes"])
    dimensions = run.record["subspace_dimensions"]
    assert set(dimensions.values()) == {3}
    assert {f"frenet_displacement_sample_k{k}" for k in (16, 32, 64)} <= set(dimensions)


def test_some_layers_are_no_path():
    run = scan("bert", 12, layers=(1, 3))
    assert "pair" not in set(run.table["level"])
    assert any("they need every layer" in note for note in run.record["notes"])
    with pytest.raises(InputError, match="nrs_k10 need the output of every block, layers 0 to 4"):
        scan("bert", 12, layers=(1, 3), metrics=("nrs_k10",))


def test_one_measure_is_measured_alone():
    run = scan("bert", 12, metrics=("block_influence",))
    assert set(run.table["metric"]) == {"block_influence", "block_influence_null"}


def test_a_variant_is_a_name_too():
    run = scan("bert", 30, metrics=("nrs_k5",))
    assert {"nrs_k5", "nrs_k10"} <= set(run.table["metric"])


def test_a_finished_family_is_read_back(tmp_path, monkeypatch):
    settings = ScanConfig(first_token="keep", resamples=50, views=0)
    given = as_texts(texts(20))
    first = scan_backbone(tiny_backbone("bert"), given, settings, folder=tmp_path)
    assert (tmp_path / "measured-dynamics.safetensors").is_file()
    monkeypatch.setattr(measure_module, "LayerStack", None)  # nothing is computed again
    again = scan_backbone(tiny_backbone("bert"), given, settings, folder=tmp_path)
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    pd.testing.assert_frame_equal(first.contributions, again.contributions, check_exact=True)
    assert first.record["notes"] == again.record["notes"]
    assert first.record["undefined"] == again.record["undefined"]


def test_arrays_have_dynamics_but_no_tokens():
    vectors = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    run = scan_arrays(vectors, ScanConfig())
    assert set(at(run, "frenet_speed_k32")) == {(1, 0), (2, 1)}
    assert "block_influence" not in set(run.table["metric"])
    with pytest.raises(InputError, match="do not allow block_influence"):
        scan_arrays(vectors, ScanConfig(metrics=("block_influence",)))
    assert "pair" not in set(scan_arrays(vectors[:1], ScanConfig()).table["level"])


def test_selection_and_summary_take_no_part_of_them(bert_run):
    scan_found = api.Scan(bert_run)
    names = {metric for metric, _, _ in scan_found.preferred()}
    assert names.isdisjoint(record.name for record in PAIRS)


# --- what people see ------------------------------------------------------------------------------


def printed(run: Run, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal.drawn(run_view(run), verbose=True))
    return console.export_text()


def test_the_terminal_shows_blocks_and_the_model_in_80_columns(bert_run):
    shown = printed(bert_run)
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    table = shown[shown.index("Dynamics: what each block does") :]
    rows = [line.split() for line in table.splitlines()]
    influence = at(bert_run, "block_influence")
    assert next(row for row in rows if row[:1] == ["4"])[-1] == f"{influence[4, 3]:.3f}"
    null = at(bert_run, "mean_nrs_k10_null")[4, 0]
    value = at(bert_run, "mean_nrs_k10")[4, 0]
    assert ["mean", "NRS", f"{value:.3f}", f"{null:.3f}"] in rows


def test_without_the_family_the_terminal_has_no_such_part():
    assert "Dynamics" not in printed(scan("bert", 8, metrics=("rankme",)))


@pytest.mark.parametrize("metric", ["nrs_k10", "mean_nrs_k10", "cka_matrix"])
def test_the_family_alone_is_shown_too(metric):
    run = scan("bert", 30, metrics=(metric,))
    assert printed(run)
    assert metric in api.Scan(run).page()


def test_the_page_has_curves_scores_and_heatmaps(bert_run):
    page = api.Scan(bert_run).page()
    section = page[page.index('<section id="dynamics">') :]
    for record in PAIRS:
        assert f"{record.name}" in section, record.name
    assert 'id="heat-3"' in section


def test_curves_of_a_run_have_their_noise_floor_and_null(bert_run):
    figure = charts.describe(bert_run.table)
    panels = {panel.metric: panel for panel in figure.panels if panel.between}
    assert set(panels) == {r.name for r in PAIRS if r.place in charts.CURVES} - {
        name for name in panels if not at(bert_run, name)
    }
    speed = panels["frenet_speed_k32"]
    assert [line.name for line in speed.lines] == ["value", "noise floor"]
    assert [point.layer for point in speed.lines[0].points] == [1, 2, 3, 4]
    null = at(bert_run, "frenet_speed_k32_null")[1, 0]
    assert [level.value for level in speed.levels] == [null]
    assert plotly.to_plotly(figure)


def test_heatmaps_are_symmetric_with_an_empty_diagonal(bert_run):
    found = {heat.metric: heat for heat in charts.heatmaps(bert_run.table)}
    assert set(found) == {record.name for record in PAIRS if record.place == "matrix"}
    values = np.array(found["cka_matrix"].values, dtype=float)
    np.testing.assert_array_equal(values, values.T)
    assert np.isnan(values.diagonal()).all()
    assert values[1, 3] == at(bert_run, "cka_matrix")[1, 3]
