import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from fake_runs import fake_run
from layerscope.analysis.run import Estimates
from layerscope.decisions import choose, evidence
from layerscope.metrics.catalogue import CATALOGUE
from layerscope.render import catalogue, estimates, measures, terminal, words
from layerscope.render.scans import run_view
from layerscope.render.view import Section, View
from layerscope.results.table import Run


def shown(view, encoding="utf-8", width=80, *, verbose=True):
    """What a terminal of that width prints, without color."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    console = Console(file=stream, width=width, color_system=None, legacy_windows=False)
    console.print(terminal.drawn(view, verbose=verbose))
    stream.flush()
    return raw.getvalue().decode(encoding)


def row(text, start):
    """The one line whose first word is `start`."""
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [start]]
    return line


@pytest.fixture(scope="module")
def run():
    return fake_run()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("blocks", [1, 7, 80])
def test_a_summary_fits_80_columns_and_any_encoding(blocks, encoding):
    table, contributions, record = fake_run(blocks=blocks, model="größe/模型")
    text = shown(run_view(Run(table, contributions, record)), encoding)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_a_row_per_layer_and_one_for_the_final_norm(run):
    table, _, _ = run
    text = shown(run_view(Run(*run)))
    entropy = evidence.of_measure(table, "prompt_entropy", "normalized")["value"]
    rows = [line.split() for line in text[text.index("layer ") :].splitlines()[:14]]
    layers = [cells for cells in rows if cells and cells[0].isdigit()]
    assert [cells[0] for cells in layers] == [str(k) for k in range(8)]
    assert [cells[2].strip("▼▲") for cells in layers] == [f"{value:.3f}" for value in entropy]
    assert len(row(text, "norm").split()) == 9


@pytest.mark.parametrize(
    ("encoding", "least", "greatest"), [("utf-8", "▼", "▲"), ("ascii", "v", "^")]
)
def test_least_and_greatest_are_marked_once_a_column(run, encoding, least, greatest):
    text = shown(run_view(Run(*run)), encoding)
    cells = [line for line in text.splitlines() if line.strip()[:1].isdigit() and "0." in line]
    for sign in (least, greatest):
        marks = sum(
            cell.strip(" |").endswith(sign)
            for line in cells
            for cell in line.replace("|", " ").split()
        )
        assert marks == 7


def test_undefined_is_a_dash_with_its_reason(run):
    text = shown(run_view(Run(*run)))
    assert "\N{EN DASH}" in row(text, "0")
    assert "curvature at layer 0: every step between tokens is zero" in text


def preferred(run):
    """The layer that each measure prefers."""
    (known,) = evidence.evidences(Run(*run))
    return choose.preferred(known)


def preferences(choices, table):
    """A view of the table of preferred layers alone."""
    return View("", (Section("", tuple(measures.preferred_tables(choices, table))),))


def test_the_preferences_show_both_conventions(run):
    choices = preferred(run)
    text = shown(preferences(choices, run[0]))
    for (metric, convention, _), choice in choices.items():
        if convention == "normalized":
            (line,) = [
                x
                for x in text.splitlines()
                if x.split() and x.strip().startswith(_title(metric) + " ")
            ]
            assert f" {choice.layer} " in line, line
            assert words.layer_ranges(choice.within_noise) in line
    assert row(text, "DiME").strip().endswith("\N{EN DASH}")  # not measured on raw states


def _title(metric):
    return next(measure.title for measure in CATALOGUE if measure.name == metric)


@pytest.mark.parametrize(
    ("normalized", "near", "sign"), [(2, (2,), "2 ✓"), (3, (2, 3), "2 ≈"), (4, (4,), "2 ✗")]
)
def test_agreement_has_three_signs(run, normalized, near, sign):
    (template, *_) = preferred(run).values()
    choices = {
        ("prompt_entropy", convention, "none"): replace(template, layer=layer, within_noise=noise)
        for convention, layer, noise in (("paper", 2, (2,)), ("normalized", normalized, near))
    }
    assert sign in shown(preferences(choices, run[0]))


def test_a_deep_model_shows_ends_and_marks_and_says_what_is_left_out():
    table, contributions, record = fake_run(blocks=80)
    text = shown(run_view(Run(table, contributions, record)))
    assert "of 81 layers shown" in text
    rows = [line for line in text.splitlines() if len(line.split()) == 9]
    assert sum(line.split()[0].isdigit() for line in rows) <= words.MAX_ROWS
    assert text.count("▲") == text.count("▼") == 8  # seven columns and the legend


def test_the_header_says_what_was_run(run):
    text = " ".join(shown(run_view(Run(*run))).split())
    for part in (
        "example/decoder-30m @ main",
        "GPTNeoXModel, 7 blocks",
        "200 texts of letters.txt, 51,230 tokens",
        "left out: 4 duplicates, 1 empty, 2 too short",
        "mean pooling, special",
        "special tokens left out, first token left out (norm 146 x the median)",
        "33.4 s",
        "! the first token's norm",
    ):
        assert part in text


def test_an_order_that_is_not_the_usual_one_is_told(run):
    table, contributions, record = run
    record = {**record, "settings": {**record["settings"], "alpha": 2.0}}
    text = shown(run_view(Run(table, contributions, record)))
    assert "mean pooling, entropies of order 2.0, special tokens" in text


def test_without_the_normalized_convention_another_is_shown(run):
    raw = {key: choice for key, choice in preferred(run).items() if key[1] == "paper"}
    text = shown(preferences(raw, run[0]))
    for metric, _, _ in raw:
        assert f"{_title(metric)} " in text


def test_an_empty_record_is_enough(run):
    table, contributions, _ = run
    text = shown(run_view(Run(table, contributions, {})))
    assert "example/decoder-30m" in text
    assert "Layer" in text


def test_a_name_with_markup_is_printed_as_it_is(run):
    table, contributions, record = run
    record = {**record, "model": {**record["model"], "name": "[red]x[/red]"}, "notes": ["[bold]"]}
    text = shown(run_view(Run(table, contributions, record)))
    assert "[red]x[/red] @ main" in text
    assert "! [bold]" in text


def test_measures_outside_the_paper_are_shown_where_alone(run):
    table, contributions, record = run
    rest = table[table["metric"] == "rankme"]
    assert [c.measure.name for c in measures.main_columns(rest)] == ["rankme"]
    text = " ".join(shown(run_view(Run(rest, contributions, record))).split())
    assert "Layer 3 of 7 by the rule 'middle', which looks at no measure. The default rule" in text
    assert "needs retrieval on crops" in text


def test_the_catalogue_fits_and_names_every_measure():
    text = shown(catalogue.catalogue_view())
    assert max(len(line) for line in text.splitlines()) <= 80
    for measure in CATALOGUE:
        assert f"{measure.name} " in text


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("measure", CATALOGUE, ids=lambda measure: measure.name)
def test_a_measures_page_holds_what_the_catalogue_knows(measure, encoding):
    text = shown(catalogue.measure_view(measure), encoding)
    assert measure.name in text
    assert str(measure.direction) in text
    assert "formula" in text


def test_shapes_are_binned_and_flat_ones_do_not_divide_by_zero():
    assert words.sparkline([1.0, 2.0]) == "▁█"
    assert words.sparkline([2.0, 2.0]).translate(terminal.ASCII) == "__"
    assert words.sparkline([float(k) for k in range(80)]) == "▁▂▃▄▅▆▇█"
    assert words.sparkline([]) == ""


def test_reasons_are_grouped_over_layers_and_conventions():
    entry = {
        "metric": "curvature",
        "convention": "paper",
        "layer": 0,
        "stage": "block",
        "reason": "r",
    }
    others = [
        {**entry, "convention": "normalized", "layer": 1},
        {**entry, "layer": 7, "stage": "final_norm"},
        {"metric": "dime"},
    ]
    record = {"undefined": [entry, *others]}
    assert words.undefined_reasons(record) == (
        ("curvature", "paper, normalized", "0, 1, final_norm", "r"),
        ("dime", "", "", "no reason was recorded"),
    )


def test_an_estimate_names_its_units():
    text = shown(estimates.scan_view(Estimates(10, 30, 4500, 8, 75.0, 2_500_000, 900)))
    for part in ("4,500", "1 min 15 s", "2.5 MB", "900 B"):
        assert part in text


# --- several kinds of views -----------------------------------------------------------------------

CROPS = "crops of 20 words, built-in sample"


def with_crops(run):
    """The run with its measures of views made on crops too, and retrieval on both."""
    table, contributions, record = run
    parts = []
    for frame in (table, contributions):
        views = frame[frame["metric"].isin(["infonce", "lidar", "dime"])].copy()
        views["value"] += 2
        found = views[(views["metric"] == "infonce") & (views["convention"] == "normalized")]
        found = found.assign(metric="retrieval", convention="")
        on_crops = pd.concat([views, found]).assign(perturbation=CROPS)
        parts.append(pd.concat([frame, found, on_crops], ignore_index=True))
    made = {"characters p=0.3": {"texts": 200, "views": 2}, CROPS: {"texts": 217, "views": 2}}
    undefined = {"metric": "lidar", "convention": "paper", "layer": 0, "stage": "block"}
    undefined |= {"reason": "singular", "perturbation": CROPS}
    more = {"augmentation": made, "undefined": [*record["undefined"], undefined]}
    return parts[0], parts[1], record | more


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_measures_on_parts_of_texts_stand_by_themselves(run, encoding):
    text = shown(run_view(Run(*with_crops(run))), encoding)
    assert max(len(line) for line in text.splitlines()) <= 80
    before, _, after = text.partition(f"on {CROPS}:")
    own = shown(run_view(Run(*run)), encoding)
    table = own[own.index("prompt S") : own.index("paper: layer on")]
    assert table.strip() in before, "the first two tables are as without"
    rows = [line.replace("|", " ").split() for line in after.splitlines()]
    heads = [row[0] for row in rows if row[1:2] in (["least"], ["most"])]
    assert heads == ["Retrieval", "InfoNCE", "LiDAR", "DiME"]
    assert "views: 200 x 2 characters p=0.3; 217 x 2 crops of 20 words, built-in sample" in text
    assert "by the rule 'most retrieval': it wins in" in text


def test_undefined_values_on_views_that_are_not_shown_are_not_told(run):
    table, contributions, record = with_crops(run)
    assert "singular" not in shown(run_view(Run(table, contributions, record)))
    reasons = words.undefined_reasons(record)
    assert (f"lidar on {CROPS}", "paper", "0", "singular") in reasons


def test_measures_stand_on_the_views_that_they_are_meant_for(run):
    table = with_crops(run)[0]
    columns = {item.measure.name: item.perturbation for item in measures.main_columns(table)}
    assert columns["infonce"] == "characters p=0.3"
    only = measures.main_columns(table[table["metric"] == "retrieval"])
    assert [item.perturbation for item in only] == [CROPS]
    crops = measures.main_columns(table[table["perturbation"] == CROPS])
    assert {item.perturbation for item in crops} == {CROPS}
