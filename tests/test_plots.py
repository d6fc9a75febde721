import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fake_runs import fake_run
from layerscope.decisions import choose, evidence, rules
from layerscope.errors import InputError
from layerscope.render import charts, drawing, matplotlib, plotly
from layerscope.results.table import Run


def chosen(**options):
    table, contributions, record = fake_run(**options)
    (known,) = evidence.evidences(Run(table, contributions, record))
    return table, choose.preferred(known)


@pytest.fixture(scope="module")
def run():
    return chosen()


@pytest.fixture(scope="module")
def figure(run):
    return charts.describe(*run)


def lines_of(figure, metric):
    return {line.convention: line for p in figure.panels if p.metric == metric for line in p.lines}


def test_every_measure_and_convention_is_described_once(run, figure):
    table, _ = run
    described = [(p.metric, line.convention) for p in figure.panels for line in p.lines]
    assert len(set(described)) == len(described)
    assert set(described) == set(zip(table["metric"], table["convention"], strict=True))


def test_a_line_holds_the_tables_numbers(run, figure):
    table, choices = run
    rows = evidence.of_measure(table, "lidar", "normalized")
    line = lines_of(figure, "lidar")["normalized"]
    np.testing.assert_array_equal([point.value for point in line.points], rows["value"])
    np.testing.assert_array_equal([point.low for point in line.points], rows["low"])
    assert [point.layer for point in line.points] == list(range(8))
    choice = choices["lidar", "normalized", "characters p=0.3"]
    assert (line.preferred, line.near) == (choice.layer, choice.within_noise)


def test_the_final_norm_is_a_mark_at_the_last_layer_not_part_of_the_curve(figure):
    line = lines_of(figure, "lidar")["normalized"]
    assert (line.final.layer, line.final.stage) == (7, "final_norm")
    assert len(line.points) == 8


def test_undefined_layers_are_absent(figure):
    assert [p.layer for p in lines_of(figure, "curvature")["paper"].points] == list(range(1, 8))


def test_conventions_share_an_axis_only_where_neither_is_squeezed(figure):
    shared = [{line.convention for line in p.lines} for p in figure.panels if p.metric == "infonce"]
    assert shared == [{"normalized", "paper"}, {"reference"}]
    for panel in figure.panels:
        low, high = drawing.extent(panel.lines)
        for line in panel.lines[1:]:
            bottom, top = drawing.extent([line])
            assert high - low <= 2.5 * (top - bottom) * 1.0001


def test_the_first_line_is_the_one_to_decide_by(figure):
    panel = figure.panels[0]
    assert panel.lines[0].convention == "normalized"
    assert panel.preferred == panel.lines[0].preferred


def test_a_convention_looks_the_same_in_every_panel(figure):
    looks = {(line.convention, line.color, line.dash) for p in figure.panels for line in p.lines}
    assert len(looks) == len({convention for convention, _, _ in looks})
    assert len({look[1:] for look in looks if look[0]}) == 3


def test_the_middle_is_marked_where_selection_says(figure):
    assert figure.middle == rules.middle_layer(7) == 3


def test_a_point_in_words():
    point = drawing.Point(3, 0.5, 2.39812, 2.3, 2.5, 1000)
    assert point.words == "2.398 [2.3, 2.5], 1,000 texts"
    assert drawing.Point(3, 0.5, 2.0, None, None, None).words == "2"


@pytest.mark.parametrize("blocks", [0, 1, 6, 7, 12, 30, 80])
def test_ticks_are_few_and_hold_both_ends(figure, blocks):
    sized = drawing.Figure("", figure.panels, blocks)
    values, labels = sized.ticks
    assert (values[0], values[-1]) == (0, blocks)
    assert len(values) == len(labels) == len(set(values)) <= 9
    low, high = sized.x_range
    assert low < values[0]
    assert high > values[-1]


def test_a_table_without_known_measures_is_refused(run):
    table, _ = run
    with pytest.raises(InputError, match="expected a table with measures of the catalogue"):
        charts.describe(table.assign(metric="mteb/STS/cosine"))


def test_a_level_far_from_the_curves_is_told_not_drawn(figure):
    panel = figure.panels[0]
    low, high = drawing.extent(panel.lines)
    assert panel.is_near(drawing.Level((low + high) / 2, "near"))
    assert not panel.is_near(drawing.Level(high + 3 * (high - low), "far"))


def test_bands_break_where_a_layer_is_missing(figure):
    points = lines_of(figure, "lidar")["normalized"].points
    line = lines_of(figure, "lidar")["normalized"]
    broken = replace(line, points=points[:3] + points[4:])
    bands = plotly.bands_of(figure, broken)
    assert [len(band["x"]) for band in bands] == [6, 8]
    assert bands[0]["y"] == [p.high for p in points[:3]] + [p.low for p in reversed(points[:3])]


def test_plotly_draws_every_line(figure):
    drawing = plotly.to_plotly(figure)
    drawn = [trace for trace in drawing.data if trace.mode == "lines+markers"]
    assert len(drawn) == sum(len(panel.lines) for panel in figure.panels)
    assert [trace.name for trace in drawing.data if trace.showlegend].count("normalized") == 1


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf"])
def test_images_are_written(run, figure, tmp_path, ending):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    few = drawing.Figure(figure.title, figure.panels[:2], figure.blocks, figure.along)
    matplotlib.save(few, tmp_path / f"page{ending}")
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert (tmp_path / f"page{ending}").read_bytes().startswith(starts[ending])


def test_matplotlib_draws_every_panel(figure):
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    canvas = matplotlib.to_matplotlib(figure)
    titles = [axes.get_title(loc="left") for axes in canvas.axes]
    assert titles[: len(figure.panels)] == [panel.title for panel in figure.panels]


def test_another_ending_is_refused(figure, tmp_path):
    with pytest.raises(
        InputError, match=r"expected a file ending in \.png, \.svg, \.pdf, got 'a\.gif'"
    ):
        matplotlib.save(figure, tmp_path / "a.gif")


def test_without_matplotlib_the_error_says_what_to_install(figure, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'layerscope\[plots\]'"):
        matplotlib.to_matplotlib(figure)


# --- several kinds of views -----------------------------------------------------------------------


def test_every_kind_of_views_has_panels_of_its_own(run):
    table, choices = run
    crops = "crops of 20 words"
    views = table[table["metric"].isin(["infonce", "lidar"])].assign(perturbation=crops)
    views["value"] = 3 * views["value"]
    preferred = choices | {
        (metric, convention, crops): replace(choice, layer=1)
        for (metric, convention, _), choice in choices.items()
        if metric in ("infonce", "lidar")
    }
    both = pd.concat([table, views], ignore_index=True)
    figure = charts.describe(both, preferred)
    own = [panel for panel in figure.panels if not panel.on_spans]
    assert tuple(own) == charts.describe(table, choices).panels
    spans = [panel for panel in figure.panels if panel.on_spans]
    assert {panel.views for panel in spans} == {crops}
    titles = [panel.title for panel in spans]
    assert titles[0].startswith("InfoNCE on crops of 20 words")
    assert {panel.preferred for panel in spans if panel.lines[0].convention == "normalized"} == {1}
    expected = evidence.of_measure(both, "lidar", "normalized", perturbation=crops)["value"]
    (line,) = [
        line
        for panel in spans
        for line in panel.lines
        if (panel.metric, line.convention) == ("lidar", "normalized")
    ]
    assert [point.value for point in line.points] == expected.tolist()


def test_measures_not_of_views_name_none(figure):
    named = {panel.metric: panel.views for panel in figure.panels}
    assert named["rankme"] == ""
    assert named["dime"] == "characters p=0.3"
    assert not any(panel.on_spans for panel in figure.panels)
